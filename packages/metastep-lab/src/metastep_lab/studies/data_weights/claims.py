"""The claims of `data-weights`, and its answer."""

from metastep_lab.claims import Numbers, Statement, beyond, mean_and_error, yes_or_no
from metastep_lab.tables import Frame, Record

METHODS = ("all", "random", "rated", "clean")
FINDS = 0.9
CLEAR = 2.0
"""A mean over seeds is decided from this many standard errors."""


def losses(record: Record, width: int) -> Frame:
    """Return the test loss by seed and method, for models of one width."""
    rows = record.frames["training"].query("width == @width")
    return rows.pivot(index="seed", columns="method", values="test_loss")


def _lead(record: Record, width: int) -> Numbers:
    """Return the fall of the test loss by ratings, compared with dropping as many at random."""
    table = losses(record, width)
    lead, error = mean_and_error(table["random"] - table["rated"])
    return {"lead": lead, "error": error, **table.mean().to_dict()}


def _area(record: Record) -> Numbers:
    """Return the area under the ROC curve; by seed it differs by several hundredths."""
    areas = record.frames["ratings"]["roc_auc"]
    mean, error = mean_and_error(areas)
    return {"mean": mean, "error": error, "least": areas.min()}


def _finds(found: Numbers) -> bool | None:
    return beyond(found["mean"] - FINDS, CLEAR * found["error"])


def _leads(found: Numbers) -> bool | None:
    return beyond(found["lead"], CLEAR * found["error"])


def _needs_seeds(record: Record) -> str | None:
    return None if record.config.seeds > 1 else "needs at least two seeds"


def answer(record: Record) -> str:
    """Say which corrupted examples the ratings find, and the gain in training."""
    if (lacking := _needs_seeds(record)) is not None:
        return f"This run cannot tell: it {lacking}."
    config, means = record.config, losses(record, record.config.width).mean()
    wide = losses(record, 2 * config.width).mean()
    kept = record.frames["ratings"]["kept_corrupted"].mean()
    opening = yes_or_no([_finds(_area(record)), _leads(_lead(record, config.width))])
    return (
        f"{opening}. "
        f"{100 * config.corruption:.0f} % of the training examples are corrupted. Without the "
        f"{100 * config.drop:.0f} % that are rated lowest, {100 * kept:.0f} % of what is left are. "
        f"Trained on these for {config.horizon} steps, the model has a test loss of "
        f"{means['rated']:.3f} nats: all examples give {means['all']:.3f}, a random part as large "
        f"{means['random']:.3f}, the clean ones alone {means['clean']:.3f}. With twice the width, "
        f"which the ratings have not seen, it is {wide['rated']:.3f} against {wide['random']:.3f}."
    )


EVIDENCE = (
    "test loss {rated:.4f} without what is rated lowest, {random:.4f} without a random part, "
    "{all:.4f} with all, {clean:.4f} with the clean ones; lead over random dropping "
    "{lead:.4f}±{error:.4f} over {config.seeds} seeds"
)

CLAIMS = (
    Statement(
        "finds-corruption",
        "Here: ratings tuned through training find the corrupted examples, with a mean area under "
        f"the ROC curve above {FINDS} by {CLEAR:g} standard errors.",
        lacks=_needs_seeds,
        measure=_area,
        verdict=_finds,
        evidence="mean area {mean:.3f}±{error:.3f} over {config.seeds} seeds, smallest "
        "{least:.3f}; guessing has 0.5",
        reasons={
            None: "The mean is within its margin of the bar, which is ours; the preset `full` "
            "reaches .99.",
        },
    ),
    Statement(
        "lower-loss",
        "Calian et al. (2025): at equal compute, training without what is rated lowest ends with "
        "a lower held-out loss. Here: than random dropping of as much, by "
        f"{CLEAR:g} standard errors.",
        lacks=_needs_seeds,
        measure=lambda record: _lead(record, record.config.width),
        verdict=_leads,
        evidence=EVIDENCE,
    ),
    Statement(
        "ratings-transfer",
        "Calian et al. (2025): ratings that were tuned with a small model help a larger one. "
        f"Here: one of twice the width, by {CLEAR:g} standard errors.",
        lacks=_needs_seeds,
        measure=lambda record: _lead(record, 2 * record.config.width),
        verdict=_leads,
        evidence=EVIDENCE,
    ),
)
