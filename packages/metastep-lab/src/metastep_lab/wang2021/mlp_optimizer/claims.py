"""The claims of `mlp-optimizer`, statements of the paper, and its answer."""

from collections.abc import Callable, Iterable

from metastep_lab.claims import Numbers, Statement, lacking
from metastep_lab.tables import Frame, Record, where

TRAINED, VALIDATED = "train-by-train", "train-by-validation"
DOUBLE = "train-by-train-2n"
NOISY = 0.2  # the papers' noise
# "significantly outperforms" (section 5), in numbers of ours; Figures 4 and 5 print none.
GAP = 0.10
MEMORIZED = 0.97
PAPER_STEPS = 4000


def by_seed(
    record: Record, noise: float, split: str = "test clean", samples: int | None = None
) -> Frame:
    """Return the mean accuracy over tests at the last step: a row for each meta-seed, by mode.

    None takes the number of samples that the configuration calls so.
    """
    rows = record.frames["accuracy"]
    # Zero is no number of samples: without `samples` the frame is empty, and its claims undecided.
    rows = where(rows, samples=record.config.samples or 0 if samples is None else samples)
    last = where(rows, noise=noise, split=split, step=rows["step"].max())
    # The best weights of learned optimizers, and the tuned baselines, which have one checkpoint.
    last = last[last["checkpoint"] != "final"]
    return last.pivot_table(index="meta_seed", columns="mode", values="accuracy")


def _ran(*modes: str, noise: float = NOISY) -> Callable[[Record], bool]:
    return lambda record: {*modes} <= {*by_seed(record, noise)}


def _lacks(*modes: str, noise: float = NOISY) -> Callable[[Record], str | None]:
    words = f"needs {' and '.join(modes)} at noise {noise}, on `samples` examples"
    return lacking(words, _ran(*modes, noise=noise))


def answer(record: Record) -> str:
    """Say the difference of both optimizers on new images, and their training accuracy."""
    noise = NOISY if NOISY in record.config.noise else max(record.config.noise)
    if lacking := _lacks(VALIDATED, TRAINED, noise=noise)(record):
        return f"This run cannot tell: it {lacking}."
    found = _gap(record, VALIDATED, TRAINED, noise)
    gap, fitted = found["gap"], by_seed(record, noise, "train").mean()
    opening = {None: "This run cannot tell", True: "Yes", False: "No"}[above(gap, 0.0)]
    difference = f"a difference of {gap.mean():.3f}±{gap.sem():.3f} over {gap.size} meta-trainings"
    if gap.size == 1:
        difference = "with one meta-training of each, so that chance cannot be told apart"
    return (
        f"{opening}. With {noise:.0%} of the training labels made wrong, networks trained by the "
        f"optimizer of the validation loss are right on {found['better'].mean():.3f} of new "
        f"images, those of the training loss on {found['worse'].mean():.3f}: {difference}. On the "
        f"training labels, wrong ones included, {fitted[TRAINED]:.3f} are fitted with the training "
        f"loss and {fitted[VALIDATED]:.3f} with the validation loss."
    )


def _gap(record: Record, better: str, worse: str, noise: float = NOISY) -> Numbers:
    """Return the test accuracies of two modes and their differences, by meta-seed."""
    found = by_seed(record, noise)
    words = ", ".join(f"{mode} {_with_spread(found[mode])}" for mode in (better, worse))
    return {
        "better": found[better],
        "worse": found[worse],
        "gap": found[better] - found[worse],
        "words": f"test accuracy at noise {noise:g}: {words}",
    }


def _with_spread(values: Frame) -> str:
    if values.size == 1:
        return f"{values.item():.3f} (one meta-seed)"
    return f"{values.mean():.3f} (sd over {values.size} meta-seeds {values.std():.3f})"


UNSURE = (
    "The difference is within two standard errors over meta-seeds, or there is one meta-seed: more "
    "of them decide."
)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def above(gap: Frame, least: float) -> bool | None:
    """Whether a mean reaches `least`; None where two standard errors do not tell it from zero."""
    if gap.size < 2 or abs(gap.mean()) <= 2 * gap.sem():
        return None
    return bool(gap.mean() >= least)


def _growth(record: Record) -> Numbers:
    """Return the advantage of train-by-validation with and without noise, by meta-seed."""
    noisy, clean = (_gap(record, VALIDATED, TRAINED, noise)["gap"] for noise in (NOISY, 0.0))
    return {"noisy": noisy, "clean": clean, "growth": noisy - clean}


def _against_sgd(record: Record) -> Numbers:
    found = by_seed(record, NOISY)
    # SGD has no meta-seed and stands at 0: NaN in the other rows of the pivot.
    return {"learned": found[VALIDATED], "tuned": found["SGD"].dropna().item()}


def _at_the_end(record: Record) -> Numbers:
    ran = _ran(VALIDATED, TRAINED)(record)
    gap = _gap(record, VALIDATED, TRAINED)["gap"] if ran else None
    steps = record.rows("accuracy", samples=record.config.samples or 0)["step"]
    return {"steps": int(steps.max()) if len(steps) else 0, "gap": gap}


CLAIMS = (
    Statement(
        "validation-beats-training",
        "Figure 4(b); 2020, Figure 6: at 20 % noise and few samples train-by-validation "
        "generalizes much better (here: by at least 10 points, and two standard errors over "
        "meta-seeds).",
        lacks=_lacks(VALIDATED, TRAINED),
        measure=lambda record: _gap(record, VALIDATED, TRAINED),
        verdict=lambda found: above(found["gap"], GAP),
        evidence=lambda found: (
            f"{found['words']}; differences by meta-seed {_numbers(found['gap'])}"
        ),
        reasons={None: UNSURE},
    ),
    Statement(
        "training-memorizes-noise",
        "Figure 5: at 20 % noise train-by-train fits the noisy labels (here: training accuracy "
        f"of at least {MEMORIZED}).",
        lacks=_lacks(TRAINED),
        measure=lambda record: by_seed(record, NOISY, "train")[TRAINED],
        verdict=lambda fitted: fitted.mean() >= MEMORIZED if fitted.size > 1 else None,
        evidence=lambda fitted: f"training accuracy {_with_spread(fitted)}",
    ),
    Statement(
        "validation-resists-noise",
        "Figure 5: train-by-validation does not fit the noisy labels (here: training accuracy "
        "below 0.95, and below that of train-by-train).",
        lacks=_lacks(VALIDATED, TRAINED),
        measure=lambda record: by_seed(record, NOISY, "train"),
        verdict=lambda found: (
            found[VALIDATED].mean() < min(0.95, found[TRAINED].mean()) if len(found) > 1 else None
        ),
        evidence=lambda found: (
            f"training accuracy {_with_spread(found[VALIDATED])} against "
            f"{_with_spread(found[TRAINED])}"
        ),
    ),
    Statement(
        "noise-widens-the-gap",
        "Figure 4(a, b): the advantage of train-by-validation grows with the noise.",
        lacks=lambda record: (
            _lacks(VALIDATED, TRAINED, noise=0.0)(record) or _lacks(VALIDATED, TRAINED)(record)
        ),
        measure=_growth,
        verdict=lambda found: above(found["growth"], 0.0),
        evidence=lambda found: (
            f"gap at noise {NOISY}: {_numbers(found['noisy'])}; without: "
            f"{_numbers(found['clean'])} by meta-seed"
        ),
        reasons={None: UNSURE},
    ),
    Statement(
        "more-samples-do-not-help-training",
        "2020, Figure 6: also with 2 n samples train-by-train stays behind.",
        lacks=_lacks(VALIDATED, DOUBLE),
        measure=lambda record: _gap(record, VALIDATED, DOUBLE),
        verdict=lambda found: above(found["gap"], 0.0),
        evidence="{words}",
        reasons={None: UNSURE},
    ),
    Statement(
        "better-than-tuned-sgd",
        "2020, Figure 6: at 20 % noise train-by-validation is better than SGD whose step size "
        "was tuned on validation loss.",
        lacks=_lacks(VALIDATED),
        measure=_against_sgd,
        verdict=lambda found: above(found["learned"] - found["tuned"], 0.0),
        evidence=lambda found: (
            f"test accuracy {_with_spread(found['learned'])} against {found['tuned']:.3f}"
        ),
        reasons={
            None: UNSURE,
            False: "Tuned SGD is better here, by more than two standard errors over meta-seeds.",
        },
    ),
    Statement(
        "paper-steps",
        f"Figure 4: the difference stands after {PAPER_STEPS} steps.",
        measure=_at_the_end,
        verdict=lambda found: (
            None
            if found["steps"] < PAPER_STEPS or found["gap"] is None
            else above(found["gap"], GAP)
        ),
        evidence="tested for {steps} steps; trajectories of meta-training have at most "
        "{config.horizon}, beyond which learned optimizers may undo their work",
        reasons={
            None: f"It takes a test of {PAPER_STEPS} steps, and a difference of more than two "
            "standard errors over meta-seeds, to decide.",
        },
    ),
)
