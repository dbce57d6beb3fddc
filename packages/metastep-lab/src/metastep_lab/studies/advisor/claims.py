"""The claims of `advisor`, and its answer."""

from collections.abc import Callable

import numpy as np

from metastep_lab.claims import Numbers, Statement, yes_or_no
from metastep_lab.tables import Frame, Record

RIGHT = 0.95
AGREEMENT = 1e-3  # of cosines: float32, summed in another order
COST = 4.0
WORK = 5.0
WRONG = 0.1  # relative error of implicit differentiation that needs a warning
DIGITS = 1.0
SIZES = 0.2
SMALL = 2**20  # bytes: below this, memory does not matter
SHARE = 0.95
MOST = 22 / 24


def compared(record: Record) -> Frame:
    """Return the rows of `advice` whose recommended estimator has a meaningful exact gradient."""
    rows = record.frames["advice"]
    sampled = rows["recommended"].astype(str).str.startswith("EvolutionStrategies")
    return rows[(rows["recommended"] != "none") & ~sampled]


def shares(record: Record) -> Frame:
    """Return the recommended estimator's fraction of the best improvement, by problem.

    The mean over seeds. Problems on which no estimator improves anything are left out.
    """
    rows = record.frames["outcomes"]
    keys = ["problem", "seed"]
    best = rows.groupby(keys)["improvement"].max()
    own = rows[rows["recommended"] == 1].set_index(keys)["improvement"]
    return (own / best)[best > 0].groupby("problem", sort=False).mean()


def untuned(record: Record) -> str | None:
    """Say why a run cannot compare outcomes, or return None."""
    if record.config.outer_steps:
        return None
    return "this run has outer_steps=0, which omits tuning"


def costs(record: Record) -> Frame:
    """Return the cost of a diagnosis in first gradients, by problem: the median over seeds."""
    return record.frames["advice"].groupby("problem", sort=False)["cost"].median()


def apart(record: Record) -> Frame:
    """Return the error of the diagnosis in digits, by problem: the largest over seeds."""
    rows = record.frames["advice"]
    errors = (rows["digits_lost"] - rows["true_digits_lost"]).abs()
    return errors.groupby(rows["problem"], sort=False).max().dropna()


def answer(record: Record) -> str:
    """Say which share of the best improvement the recommended estimator reaches, and the cost."""
    reached, cost = shares(record), costs(record)
    if len(reached):
        good = reached >= SHARE
        opening = (
            f"{yes_or_no(good)}. On {good.sum()} of {len(reached)} problems it reaches at least "
            f"{SHARE:.0%} of the improvement that the best estimator reaches in the same time; the "
            f"lowest share is {reached.min():.2f}."
        )
    else:
        reason = untuned(record) or "on none of its problems does an estimator improve anything"
        opening = f"This run cannot tell which estimator is best: {reason}."
    return (
        f"{opening} Of {len(record.frames['advice'])} diagnoses {_wrong_verdicts(record)} are "
        f"wrong about chaos. A diagnosis takes {cost.min():.1f} to {cost.max():.1f} times as long "
        f"as the first exact gradient, at most {COST:.0f} on {(cost <= COST).sum()} of "
        f"{len(cost)} problems."
    )


def _wrong_verdicts(record: Record) -> int:
    rows = record.frames["advice"]
    return int((rows["chaotic"] != rows["truly_chaotic"]).sum())


def _verdicts(truly: int) -> Callable[[Record], Numbers]:
    """Return a function that counts wrong diagnoses of chaotic problems, or of the others."""

    def measure(record: Record) -> Numbers:
        rows = record.frames["advice"].query("truly_chaotic == @truly")
        return _counted(rows, rows["chaotic"] != truly)

    return measure


def _counted(rows: Frame, wrong: Frame) -> Numbers:
    """Return the number of rows, the number of wrong ones, and their names."""
    names = [f"{row.problem} (seed {row.seed:g})" for row in rows[wrong].itertuples()]
    return {"rows": len(rows), "wrong": len(names), "names": ", ".join(names) or "none"}


def _largest(values: Frame, bound: float, form: str) -> Numbers:
    """Return the values, and the names of those beyond a bound."""
    # Negated, so that NaN is beyond.
    beyond = values[~(values <= bound)]
    names = ", ".join(f"{name} {value:{form}}" for name, value in beyond.items())
    return {"of": len(values), "good": len(values) - len(beyond), "names": names or "none"}


def _right(record: Record) -> Numbers:
    rows = compared(record)
    # Negated, so that NaN counts as wrong.
    return {**_counted(rows, ~(rows["cosine"] >= RIGHT)), "lowest": rows["cosine"].min()}


def _predicted(record: Record) -> Numbers:
    rows = compared(record)
    differences = (rows["cosine"] - rows["cosine_predicted"]).abs()
    return {**_counted(rows, ~(differences < AGREEMENT)), "largest": differences.max()}


def _regret(record: Record) -> Numbers:
    reached = shares(record)
    below = reached[~(reached >= SHARE)]
    names = ", ".join(f"{name} {share:.2f}" for name, share in below.items())
    good = len(reached) - len(below)
    part = good / len(reached) if len(reached) else np.nan
    return {"of": len(reached), "good": good, "part": part, "names": names or "none"}


def _sizes(record: Record) -> Numbers:
    rows = record.frames["sizes"]
    with np.errstate(all="ignore"):
        errors = (rows["predicted"] / rows["true"] - 1).abs()
    good = errors <= SIZES
    near = good | ((rows["predicted"] - rows["true"]).abs() <= SMALL)
    parts = good.groupby(rows["what"], sort=False).agg(["sum", "size"])
    kinds = ", ".join(f"{what} {row['sum']} of {row['size']}" for what, row in parts.iterrows())
    bad = rows["problem"][~good].value_counts(sort=False)
    names = ", ".join(f"{name} ({count})" for name, count in bad.items())
    counts = {"of": len(rows), "good": int(good.sum()), "near": int(near.sum())}
    return {**counts, "names": names or "none", "kinds": kinds}


def _warned(kind: str, where: Callable[[Frame], Frame]) -> Callable[[Record], Numbers]:
    """Return a function that counts the rows without a warning."""

    def measure(record: Record) -> Numbers:
        rows = record.frames["advice"]
        rows = rows[where(rows)]
        given = rows["warnings"].astype(str).str.split().map(lambda kinds: kind in kinds)
        return _counted(rows, ~given.astype(bool))

    return measure


def _smoothed(record: Record) -> Numbers:
    """Count the chaotic problems for which something other than smoothing is recommended."""
    rows = record.frames["advice"].query("truly_chaotic == 1")
    sampled = rows["recommended"].astype(str).str.startswith("EvolutionStrategies")
    return _counted(rows, ~sampled)


def _none_wrong(found: Numbers) -> bool | None:
    return found["wrong"] == 0 if found["rows"] else None


def _all_good(found: Numbers) -> bool | None:
    return found["good"] == found["of"] if found["of"] else None


COUNT = "{wrong} of {rows}: {names}"
CLAIMS = (
    Statement(
        "no-false-alarms",
        "No training whose hypergradient is meaningful is called chaotic.",
        measure=_verdicts(0),
        verdict=_none_wrong,
        evidence=COUNT,
    ),
    Statement(
        "no-misses",
        "Every training whose hypergradient is rounding error is called chaotic: float32 and "
        "float64 differ by more than a tenth, or float64 and its central differences do.",
        measure=_verdicts(1),
        verdict=_none_wrong,
        evidence=COUNT,
    ),
    Statement(
        "chaos",
        "Where no gradient is meaningful, the advisor recommends none that is exact.",
        measure=_smoothed,
        verdict=_none_wrong,
        evidence=COUNT,
    ),
    Statement(
        "digits-lost",
        f"The decimal digits that rounding costs are right within {DIGITS:g}, held against "
        "float64.",
        measure=lambda record: _largest(apart(record), DIGITS, ".2f"),
        verdict=_all_good,
        evidence="{good} of {of} problems; beyond: {names}",
        reasons={
            False: "`diagnose` simulates the rounding of the state; it does not see errors of "
            "constants, such as those of Adam's bias correction in float32."
        },
    ),
    Statement(
        "regret",
        f"The recommended estimator reaches at least {SHARE:.0%} of the improvement that the best "
        "one reaches in equal time, on at least 22 of 24 problems.",
        measure=_regret,
        verdict=lambda found: found["part"] >= MOST if found["of"] else None,
        evidence="{good} of {of} problems; below: {names}",
        reasons={
            False: "`diagnose` asks for a cosine of 0.95 with the exact gradient; in few outer "
            "steps of Adam, more steps in a worse direction can go further. In chaos no "
            "estimator has a meaningful gradient, and the ranking is random."
        },
        lacks=untuned,
    ),
    Statement(
        "cheap",
        f"The first diagnosis takes at most {COST:.0f} times the processor time of the first "
        "exact hypergradient of reverse mode, compilation included in both.",
        measure=lambda record: _largest(costs(record), COST, ".1f"),
        verdict=_all_good,
        evidence="{good} of {of} problems; beyond: {names}",
        reasons={
            False: "A problem that compiles in a fraction of a second leaves little time for "
            "three more programs; a busy machine adds to it."
        },
    ),
    Statement(
        "few-products",
        f"Nor does it make more than {WORK:.0f} times as many inner steps and products with "
        "their Jacobians, of which an exact hypergradient makes three per inner step.",
        measure=lambda record: _largest(
            record.frames["advice"].groupby("problem", sort=False)["work"].max(), WORK, ".1f"
        ),
        verdict=_all_good,
        evidence="{good} of {of} problems; beyond: {names}",
        reasons={
            False: "Where no step is smooth, up to seven training runs look for one that is; with "
            "one, three do."
        },
    ),
    Statement(
        "sizes",
        f"Memory and the size of the inner state are right within {SIZES:.0%}, held against the "
        "compiler, for every estimator.",
        measure=_sizes,
        verdict=_all_good,
        evidence="{good} of {of} ({kinds}), {near} of {of} within that or 1 MiB; wrong: {names}",
        reasons={
            False: "Programs of a few kilobytes consist of copies of data and constants, which "
            "only the compiler knows; to ask it for each estimator would double the cost."
        },
    ),
    Statement(
        "advice-is-right",
        f"The recommended estimator has a cosine of at least {RIGHT} with the hypergradient in "
        "float64, where one is recommended and the gradient is meaningful.",
        measure=_right,
        verdict=_none_wrong,
        evidence="lowest cosine {lowest:.3f}; wrong " + COUNT,
    ),
    Statement(
        "as-predicted",
        "The cosine is the one that the diagnosis predicted.",
        measure=_predicted,
        verdict=_none_wrong,
        evidence="largest difference {largest:.1e}; wrong " + COUNT,
    ),
    Statement(
        "counter-example",
        "Where one-step truncation is no descent direction, the advisor says so (Shaban et al. "
        "2019, section 3).",
        measure=_warned("not-descent", lambda rows: rows["problem"] == "counter-example"),
        verdict=_none_wrong,
        evidence="not warned: " + COUNT,
    ),
    Statement(
        "implicit-warned",
        f"Wherever implicit differentiation is off by more than {WRONG:.0%}, the advisor warns "
        "of it.",
        measure=_warned("implicit-wrong", lambda rows: rows["implicit_error"] > WRONG),
        verdict=_none_wrong,
        evidence="not warned: " + COUNT,
    ),
)
