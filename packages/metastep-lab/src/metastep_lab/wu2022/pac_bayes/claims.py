"""The claims of `pac-bayes`, statements of the thesis, and its answer."""

from collections.abc import Callable

from metastep_lab.claims import Numbers, Statement, every, lacking, mean_and_error, yes_or_no
from metastep_lab.tables import Frame, Record

NAMES = {"appr": "APPR", "iter": "ITER", "iter-d": "ITER(D)", "iter-m": "ITER.M"}
PRINTED_FOR_RANDOM = ("appr", "iter-d", "iter-m")  # the thesis has no row for ITER
FEWEST_SEEDS = 5
ERRORS = 2  # standard errors of a mean over seeds
LARGEST_DIFFERENCE = 0.0166  # between ITER(D) and ITER in Table C.8, T-200-200 with ten classes
CEILING = 0.5  # an error rate


def _bounds(record: Record, labels: str = "true") -> Frame:
    rows = record.frames["bounds"].query("labels == @labels")
    return rows.pivot(index="seed", columns="method", values="bound")


def _gain(bounds: Frame, better: str, worse: str) -> Numbers:
    """Return the mean difference of two methods over seeds, and its standard error."""
    # Paired: a seed's methods start from the same trained network.
    mean, error = mean_and_error(bounds[worse] - bounds[better])
    few = "" if len(bounds) >= FEWEST_SEEDS else f"; needs {FEWEST_SEEDS}"
    shown = f"{mean:.4f}±{error:.4f}" if len(bounds) > 1 else f"{mean:.4f}"
    means = {"better": bounds[better].mean(), "worse": bounds[worse].mean()}
    found = {"gain": mean, "error": error, "shown": shown, "seeds": len(bounds), "few": few}
    return {**found, **means}


def answer(record: Record) -> str:
    """Say the gain of each method over independent weights, and the distance to the errors."""
    ours = [method for method in NAMES if method in record.config.methods]
    if not ours or "base" not in record.config.methods or "true" not in record.config.labels:
        return "This run cannot tell: it needs true labels, base, and an eigenbasis among methods."
    bounds = _bounds(record)
    gains = {method: _gain(bounds, method, "base") for method in ours}
    opening = yes_or_no([one["gain"] > ERRORS * one["error"] for one in gains.values()])
    if len(bounds) < FEWEST_SEEDS:
        opening = f"This run cannot tell: it has fewer than {FEWEST_SEEDS} seeds"
    each = "; ".join(
        f"{NAMES[method]} {one['better']:.3f}, lower by {one['shown']}"
        for method, one in gains.items()
    )
    errors = record.frames["bounds"].query("labels == 'true'")["test_error"]
    return (
        f"{opening}. After {record.config.epochs} epochs of lowering it, the guaranteed error is "
        f"{bounds['base'].mean():.3f} with independent weights, and in the eigenbasis of the "
        f"Hessian: {each} (means and standard errors over {len(bounds)} seeds). Held-out errors "
        f"are {errors.min():.3f} to {errors.max():.3f}. A part of it may be how fast the bound is "
        "lowered."
    )


NO_GAIN = "The mean gain is too near 0, or negative; Table C.8 has one run of each and no errors."
NO_SIGNAL = (
    "Coins have nothing to learn: the bound is least where the network keeps the error of a guess, "
    "and the gain of a basis is the KL that it saves on the way there."
)


def _lower(
    id: str, text: str, better: str, worse: str, labels: str = "true", reason: str = NO_GAIN
) -> Statement:
    """Return the statement that the bounds of one method are below those of another."""
    here = f" (here: the mean gain is above {ERRORS} standard errors, {FEWEST_SEEDS} seeds)."
    # The table has random labels for two classes only, network R-600.
    classes = " of two classes" if labels == "random" else ""
    return Statement(
        id,
        text + here,
        lacks=lacking(
            f"needs {better}, {worse} and {labels} labels{classes}",
            lambda record: (
                {better, worse} <= {*record.config.methods}
                and labels in record.config.labels
                and (not classes or record.config.classes == 2)
            ),
        ),
        measure=lambda record: _gain(_bounds(record, labels), better, worse),
        verdict=lambda found: None if found["few"] else found["gain"] > ERRORS * found["error"],
        evidence="{seeds} seeds, {config.epochs} epochs each: "
        f"{better} {{better:.4f}}, {worse} {{worse:.4f}}, "
        "gain {shown}. So many steps may be too few to come to rest "
        "(see the figure history): a part of the gap may be speed of optimization{few}",
        reasons={False: reason},
    )


def _decayed(record: Record) -> Numbers:
    """Return the mean difference of ITER(D) and ITER, and whether the seeds are enough."""
    return _gain(_bounds(record), "iter-d", "iter")


def _needs(*methods: str) -> Callable[[Record], str | None]:
    return lacking(
        f"needs {', '.join(methods)} and true labels",
        lambda record: {*methods} <= {*record.config.methods} and "true" in record.config.labels,
    )


def _correlations(record: Record) -> Frame:
    """Return the rank correlation of the posterior's log variance with the index, by method."""
    rows = record.frames["variances"].query("labels == 'true'")
    ranks = rows.groupby("method")[["index", "log_variance"]].corr("spearman")
    return ranks.xs("index", level=1)["log_variance"].loc[list(record.config.methods)]


CLAIMS = (
    *(
        _lower(
            f"{method}-below-base",
            f"Table C.8: at equal steps {name} has a lower bound than independent weights",
            method,
            "base",
        )
        for method, name in NAMES.items()
    ),
    _lower(
        "iter-below-appr",
        "Table C.8: eigenvectors computed repeatedly give a lower bound than once",
        "iter",
        "appr",
    ),
    Statement(
        "decay-changes-little",
        "Appendix C.8: with a decaying interval results are similar (here: the mean bound of "
        f"ITER(D) is within {LARGEST_DIFFERENCE} of ITER's, the largest difference in Table C.8).",
        lacks=_needs("iter", "iter-d"),
        measure=_decayed,
        verdict=lambda found: None if found["few"] else abs(found["gain"]) <= LARGEST_DIFFERENCE,
        evidence="{seeds} seeds: iter {worse:.4f}, iter-d {better:.4f}, difference {shown}{few}",
        reasons={
            False: "A basis that is computed more rarely follows the network less while it moves; "
            "the epochs of the schedule decide how far."
        },
    ),
    Statement(
        "below-one-half",
        "Section 4.6: bounds in the Hessian's eigenbasis are not vacuous (here: each is below "
        f"{CEILING}, for true labels, every method and every seed).",
        lacks=lacking(
            "needs an eigenbasis among the methods, and true labels",
            lambda record: {*NAMES} & {*record.config.methods} and "true" in record.config.labels,
        ),
        measure=lambda record: record.frames["bounds"].query(
            "labels == 'true' and method != 'base'"
        ),
        verdict=every(f"bound < {CEILING}"),
        evidence=lambda rows: ", ".join(
            f"{method} at most {value:.4f}"
            for method, value in rows.groupby("method", sort=False)["bound"].max().items()
        ),
        reasons={
            False: "The complexity is KL / n: with fewer examples than the 60000 of the thesis, or "
            "fewer steps, a bound is larger."
        },
    ),
    Statement(
        "bounds-hold",
        "Theorem 4.6.1: every bound is above the error on held-out examples, and every "
        "certificate passes its check.",
        measure=lambda record: record.frames["bounds"].eval("slack = bound - test_error"),
        verdict=every("slack > 0 and holds == 1"),
        evidence=lambda rows: f"{len(rows)} bounds, smallest distance {rows['slack'].min():.4f}",
        reasons={
            False: "A bound may fail with probability 0.035; more than a few, or a check that "
            "fails, is an error of the program."
        },
    ),
    *(
        _lower(
            f"{method}-below-base-random",
            f"Table C.8, R-600: with random labels, too, {NAMES[method]} has a lower bound than "
            "independent weights",
            method,
            "base",
            "random",
            NO_SIGNAL,
        )
        for method in PRINTED_FOR_RANDOM
    ),
    Statement(
        "variance-follows-curvature",
        "Figure C.27: with APPR, ITER and ITER.M the posterior's variance is smaller along the "
        "directions of large eigenvalues (here: rank correlation with the index above 0.5 for each "
        "basis, and below for independent weights, whose directions have no order).",
        lacks=_needs("iter"),
        measure=_correlations,
        verdict=lambda found: (
            (found.drop("base", errors="ignore") > 0.5).all() and abs(found.get("base", 0.0)) < 0.5
        ),
        evidence="{:.2f}",
        reasons={
            False: "A variance that no step has moved yet is w^2 of its weight, whatever the "
            "eigenvalue: after few steps the order is not there."
        },
    ),
)
