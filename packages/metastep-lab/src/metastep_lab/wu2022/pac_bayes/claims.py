"""The claims of `pac-bayes`, statements of the thesis, and its answer."""

from collections.abc import Callable

import numpy as np

from metastep_lab.claims import Numbers, Statement, every, lacking, mean_and_error, yes_or_no
from metastep_lab.tables import Column, Frame, Record

OURS = ("appr", "iter", "iter-m")
FEWEST_SEEDS = 3
MARGIN = 0.01  # of an error rate; the thesis's own gaps are 0.003 to 0.2


def _bounds(record: Record, labels: str = "true") -> Frame:
    """Return the bounds by seed, one column for each method."""
    rows = record.frames["bounds"].query("labels == @labels")
    return rows.pivot(index="seed", columns="method", values="bound")


def _best(record: Record, ours: tuple[str, ...] = OURS, labels: str = "true") -> Frame:
    """Return the bounds by seed: that of independent weights, and the lowest of ours."""
    bounds = _bounds(record, labels)
    chosen = [method for method in ours if method in record.config.methods]
    best = bounds["base"].to_frame().assign(ours=bounds[chosen].min(axis=1))
    return best.assign(gain=best["base"] - best["ours"])


def answer(record: Record) -> str:
    """Say the gain over the bound with independent weights, and the distance to the errors."""
    methods = {*record.config.methods}
    if not methods & {*OURS} or "base" not in methods or "true" not in record.config.labels:
        return "This run cannot tell: it needs true labels, base, and an eigenbasis among methods."
    rows = _best(record)
    mean, error = mean_and_error(rows["gain"])
    opening, spread = yes_or_no(rows["gain"] > MARGIN), f"±{error:.3f}"
    if len(rows) < FEWEST_SEEDS:
        opening, spread = f"This run cannot tell: it has fewer than {FEWEST_SEEDS} seeds", ""
    errors = record.frames["bounds"].query("labels == 'true'")["test_error"]
    return (
        f"{opening}. After {record.config.epochs} epochs of lowering it, the guaranteed error is "
        f"{rows['ours'].mean():.3f} in the eigenbasis of the Hessian and {rows['base'].mean():.3f} "
        f"with independent weights, a difference of {mean:.3f}{spread} over {len(rows)} "
        f"seeds; held-out errors are {errors.min():.3f} to {errors.max():.3f}. A part of it may be "
        "how fast the bound is lowered."
    )


def _listed(values: Column) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _lower(id: str, text: str, ours: tuple[str, ...], labels: str = "true") -> Statement:
    """Return the statement that the best of our bounds is below that of independent weights."""

    def lacks(record: Record) -> str | None:
        methods = {*record.config.methods}
        if "base" not in methods or not methods & {*ours}:
            return "needs base and one of ours among the methods"
        return None if labels in record.config.labels else f"needs {labels} labels"

    def measure(record: Record) -> Numbers:
        rows = _best(record, ours, labels)
        few = "" if len(rows) >= FEWEST_SEEDS else f"; needs {FEWEST_SEEDS}"
        listed = {name: _listed(rows[name]) for name in ("base", "ours")}
        return {"gain": rows["gain"], "seeds": len(rows), "few": few, **listed}

    return Statement(
        id,
        text,
        lacks=lacks,
        measure=measure,
        verdict=lambda found: None if found["few"] else np.all(found["gain"] > MARGIN),
        evidence="{seeds} seeds, {config.epochs} epochs each: base {base}, ours {ours}. So many "
        "steps may be too few to come to rest (see the figure history): a part of the gap may be "
        "speed of optimization{few}",
    )


def _needs(*methods: str) -> Callable[[Record], str | None]:
    return lacking(
        f"needs {', '.join(methods)} and true labels",
        lambda record: {*methods} <= {*record.config.methods} and "true" in record.config.labels,
    )


def _correlations(record: Record) -> Frame:
    """Return the rank correlation of the posterior's log variance with the index, by method."""
    rows = record.frames["variances"].query("labels == 'true'")
    ranks = rows.groupby("method", sort=False)[["index", "log_variance"]].corr("spearman")
    return ranks.xs("index", level=1)["log_variance"].loc[list(record.config.methods)]


CLAIMS = (
    _lower(
        "ours-below-base",
        "Table 4.1: at equal steps the best of the posteriors in the Hessian's eigenbasis has "
        f"a bound below that of independent weights (here: by more than {MARGIN} for every "
        "seed).",
        OURS,
    ),
    _lower(
        "iter-below-base",
        "Table C.8: the same for eigenvectors computed repeatedly (ITER).",
        ("iter",),
    ),
    Statement(
        "iter-below-appr",
        "Table C.8: eigenvectors computed repeatedly give a lower bound than once (mean).",
        lacks=_needs("appr", "iter"),
        measure=_bounds,
        verdict=lambda bounds: (
            bounds["iter"].mean() < bounds["appr"].mean() if len(bounds) >= FEWEST_SEEDS else None
        ),
        evidence=lambda bounds: f"appr {_listed(bounds['appr'])}; iter {_listed(bounds['iter'])}",
    ),
    Statement(
        "bounds-hold",
        "Theorem 4.6.1: every bound is above the error on held-out examples, and every "
        "certificate passes its check.",
        measure=lambda record: record.frames["bounds"].eval("slack = bound - test_error"),
        verdict=every("slack > 0 and holds == 1"),
        evidence=lambda rows: f"{len(rows)} bounds, smallest distance {rows['slack'].min():.4f}",
    ),
    _lower(
        "random-labels",
        "Table C.8, R-600: with random labels, too, the best of the posteriors in the "
        "Hessian's eigenbasis has a bound below that of independent weights (here: by more "
        f"than {MARGIN} for every seed).",
        OURS,
        "random",
    ),
    Statement(
        "variance-follows-curvature",
        "Figure C.27: in the Hessian's eigenbasis the posterior's variance is smaller along the "
        "directions of large eigenvalues (here: rank correlation with the index above 0.5; below "
        "for independent weights, whose directions have no order).",
        lacks=_needs("iter"),
        measure=_correlations,
        verdict=lambda found: found["iter"] > 0.5 and abs(found.get("base", 0.0)) < 0.5,
        evidence="{:.2f}",
    ),
)
