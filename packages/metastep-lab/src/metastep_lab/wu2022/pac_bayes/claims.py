"""What the tables of `pac-bayes` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import rankdata

from metastep_lab.claims import Claim, yes_or_no
from metastep_lab.figures.style import MARKERS, Figure, Lines, line_figure, new_figure, style
from metastep_lab.tables import Record, select

NAMES = {"base": "BASE", "appr": "APPR", "iter": "ITER", "iter-m": "ITER.M"}
OURS = ("appr", "iter", "iter-m")
FEWEST_SEEDS = 3
MARGIN = 0.01  # of an error rate; the thesis's own gaps are 0.003 to 0.2


def answer(record: Record) -> str:
    """Say by how much the bound is lower than with independent weights, and how far from errors."""
    ours = tuple(method for method in OURS if method in record.config.methods)
    if not ours or "base" not in record.config.methods or "true" not in record.config.labels:
        return "This run cannot tell: it needs true labels, base, and an eigenbasis among methods."
    base = _bounds(record, "base")
    best = np.min([_bounds(record, method) for method in ours], axis=0)
    lower = base - best > MARGIN
    opening = yes_or_no(lower)
    spread = ""
    if len(base) >= FEWEST_SEEDS:
        spread = f"±{np.std(base - best, ddof=1) / np.sqrt(len(base)):.3f}"
    else:
        opening = f"This run cannot tell: it has fewer than {FEWEST_SEEDS} seeds"
    errors = select(record.tables["bounds"], labels="true")["test_error"]
    return (
        f"{opening}. After {record.config.epochs} epochs of lowering it, the guaranteed error is "
        f"{best.mean():.3f} in the eigenbasis of the Hessian and {base.mean():.3f} with "
        f"independent weights, a difference of {np.mean(base - best):.3f}{spread} over {len(base)} "
        f"seeds; held-out errors are {errors.min():.3f} to {errors.max():.3f}. A part of it may be "
        "how fast the bound is lowered."
    )


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold the thesis's statements against the run."""
    return (
        _lower_claim(
            record,
            "ours-below-base",
            "Table 4.1: at equal steps the best of the posteriors in the Hessian's eigenbasis has "
            f"a bound below that of independent weights (here: by more than {MARGIN} for every "
            "seed).",
            OURS,
        ),
        _lower_claim(
            record,
            "iter-below-base",
            "Table C.8: the same for eigenvectors computed repeatedly (ITER).",
            ("iter",),
        ),
        _iterated_claim(record),
        _bounds_claim(record),
        _lower_claim(
            record,
            "random-labels",
            "Table C.8, R-600: with random labels, too, the best of the posteriors in the "
            "Hessian's eigenbasis has a bound below that of independent weights (here: by more "
            f"than {MARGIN} for every seed).",
            OURS,
            "random",
        ),
        _variance_claim(record),
    )


def _bounds(record: Record, method: str, labels: str = "true") -> np.ndarray:
    table = select(record.tables["bounds"], labels=labels, method=method)
    return table["bound"][np.argsort(table["seed"])]


def _lower_claim(
    record: Record, name: str, text: str, ours: tuple[str, ...], labels: str = "true"
) -> Claim:
    ours = tuple(method for method in ours if method in record.config.methods)
    if not ours or not {"base"} <= set(record.config.methods):
        return Claim(name, text, None, "needs base and one of ours among the methods")
    if labels not in record.config.labels:
        return Claim(name, text, None, f"needs {labels} labels")
    base = _bounds(record, "base", labels)
    best = np.min([_bounds(record, method, labels) for method in ours], axis=0)
    evidence = (
        f"{len(base)} seeds, {record.config.epochs} epochs each: base {_listed(base)}, ours "
        f"{_listed(best)}. So many steps may be too few to come to rest (see the figure history): "
        "a part of the gap may be speed of optimization"
    )
    decided = len(base) >= FEWEST_SEEDS
    holds = bool(np.all(base - best > MARGIN)) if decided else None
    return Claim(name, text, holds, evidence if decided else f"{evidence}; needs {FEWEST_SEEDS}")


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _iterated_claim(record: Record) -> Claim:
    text = "Table C.8: eigenvectors computed repeatedly give a lower bound than once (mean)."
    if not {"appr", "iter"} <= set(record.config.methods) or "true" not in record.config.labels:
        return Claim("iter-below-appr", text, None, "needs appr, iter and true labels")
    once, repeatedly = _bounds(record, "appr"), _bounds(record, "iter")
    decided = len(once) >= FEWEST_SEEDS
    return Claim(
        "iter-below-appr",
        text,
        bool(repeatedly.mean() < once.mean()) if decided else None,
        f"appr {_listed(once)}; iter {_listed(repeatedly)}",
    )


def _bounds_claim(record: Record) -> Claim:
    table = record.tables["bounds"]
    slack = table["bound"] - table["test_error"]
    return Claim(
        "bounds-hold",
        "Theorem 4.6.1: every bound is above the error on held-out examples, and every "
        "certificate passes its check.",
        bool(np.all(slack > 0) and np.all(table["holds"] == 1)),
        f"{len(slack)} bounds, smallest distance {slack.min():.4f}",
    )


def _variance_claim(record: Record) -> Claim:
    text = (
        "Figure C.27: in the Hessian's eigenbasis the posterior's variance is smaller along the "
        "directions of large eigenvalues (here: rank correlation with the index above 0.5; below "
        "for independent weights, whose directions have no order)."
    )
    if "iter" not in record.config.methods or "true" not in record.config.labels:
        return Claim("variance-follows-curvature", text, None, "needs iter and true labels")
    correlations = {}
    for method in record.config.methods:
        table = select(record.tables["variances"], labels="true", method=method)
        correlations[method] = _rank_correlation(table["index"], table["log_variance"])
    others = [abs(correlations["base"])] if "base" in correlations else []
    return Claim(
        "variance-follows-curvature",
        text,
        bool(correlations["iter"] > 0.5 and all(other < 0.5 for other in others)),
        ", ".join(f"{method} {value:.2f}" for method, value in correlations.items()),
    )


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


METHODS = (
    "BASE draws every weight for itself; APPR, ITER and ITER.M draw along the eigenvectors of the "
    "layers' Hessians, computed once, repeatedly, or repeatedly in part from the weights."
)
"""What the names in the figures mean."""


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the bounds, their way down, and the variances by eigenvalue."""
    drawn = {
        "bounds": (
            _bounds_figure(record),
            "For each method the bound on the error of a network whose weights are drawn at "
            "random around the trained ones, its error on training and on held-out examples, mean "
            f"and range over seeds, after equally many steps. {METHODS}",
        ),
        "history": (
            _history_figure(record),
            "The two parts of what is minimized, against the epoch, first seed: the loss of the "
            "random network, and the penalty sqrt(B_RE / 2) for how far its distribution is from "
            f"the prior one, on a log scale. {METHODS}",
        ),
        "thesis": (
            _thesis_figure(record),
            "Bounds computed again from the other columns of Table C.8, less the printed ones. "
            "All agree to rounding but those at the ceiling of the prior variance, the largest "
            "that the bound allows, which are printed too low.",
        ),
    }
    if len(record.tables["variances"]["index"]):
        drawn["variances"] = (
            _variance_figure(record),
            "Logarithm of the posterior's variance in the first layer against the index of the "
            f"input eigenvector, the largest eigenvalue first. {METHODS}",
        )
    return drawn


def _bounds_figure(record: Record) -> Figure:
    labels, methods = record.config.labels, record.config.methods
    figure, axes = new_figure(columns=len(labels))
    shown = {
        "bound": "bound",
        "train_error": "training error",
        "test_error": "test error",
    }
    for panel, kind in zip(axes, labels, strict=True):
        for index, (name, label) in enumerate(shown.items()):
            values = [
                select(record.tables["bounds"], labels=kind, method=method)[name]
                for method in methods
            ]
            means = np.array([value.mean() for value in values])
            low = means - [value.min() for value in values]
            high = [value.max() for value in values] - means
            panel.errorbar(
                np.arange(len(methods)) + 0.12 * (index - 1),
                means,
                yerr=[low, high],
                linestyle="none",
                marker=MARKERS[index],
                markersize=6,
                capsize=3,
                color=style(index)["color"],
                label=label,
            )
        panel.set_xticks(range(len(methods)), [NAMES[method] for method in methods])
        panel.axhline(0.5, color="#777777", linewidth=1, linestyle=":", label="guessing")
        panel.set(ylabel="error rate", title=f"{kind} labels", ylim=(0, None))
        panel.set_xlim(-0.5, len(methods) - 0.5)
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=4)
    return figure


def _history_figure(record: Record) -> Figure:
    kind, panels = record.config.labels[0], []
    for name, label in (("loss", "mean cross-entropy in bits"), ("penalty", "sqrt(B_RE / 2)")):
        series = {}
        for method in record.config.methods:
            table = select(record.tables["history"], labels=kind, seed=0, method=method)
            series[NAMES[method]] = table["epoch"], table[name]
        panels.append(Lines(series, "epoch", label, title=name, y_log=name == "penalty"))
    return line_figure(*panels, shared_legend=True)


def _variance_figure(record: Record) -> Figure:
    kind, series = record.config.labels[0], {}
    for method in record.config.methods:
        table = select(record.tables["variances"], labels=kind, method=method)
        series[NAMES[method]] = table["index"], table["log_variance"]
    return line_figure(
        Lines(
            series,
            "index of the input direction (for BASE: of the pixel)",
            "log variance, mean over outputs",
        )
    )


def _thesis_figure(record: Record) -> Figure:
    figure, axes = new_figure()
    for index, (ceiling, label) in enumerate(((0, "below the ceiling"), (1, "at the ceiling c"))):
        table = select(record.tables["thesis"], ceiling=ceiling)
        axes[0].plot(
            table["printed"],
            1e4 * table["difference"],
            linestyle="none",
            marker=MARKERS[index],
            color=style(index)["color"],
            label=f"prior variance {label}",
        )
    axes[0].axhspan(-1, 1, color="#cccccc", alpha=0.5, label="1e-4", linewidth=0)
    axes[0].set(xlabel="bound printed in Table C.8", ylabel="recomputed - printed, in 1e-4")
    axes[0].legend()
    return figure
