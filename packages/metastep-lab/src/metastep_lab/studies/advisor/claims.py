"""What the tables of `advisor` say: its answer, claims and figures."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.claims import Claim, yes_or_no
from metastep_lab.figures.comparison import Point, comparison_figure
from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Column, Record, Table, select

RIGHT = 0.95
COST = 4.0
WORK = 5.0
WRONG = 0.1  # relative error of implicit differentiation that deserves a warning
LONG = 1000  # inner steps: there truncation pays
ROUNDING = 1e-7
AGREEMENT = 1e-3  # float32, summed in another order


def answer(record: Record) -> str:
    """Say how often the recommended estimator is right, how nearly, and what the advice costs."""
    table = record.tables["advice"]
    advised = _comparable(table)
    cosines, cost = table["cosine"][advised], table["cost"]
    if not cosines.size:
        return "This run cannot tell: on none of its problems is an estimator recommended."
    right = int(np.sum(cosines >= RIGHT))
    opening = yes_or_no(cosines >= RIGHT)
    cheap = int(np.sum(cost <= COST))
    return (
        f"{opening}. On {cosines.size} of {cost.size} problems it recommends an estimator for a "
        f"meaningful gradient, and {right} of these {cosines.size} point nearly along the exact "
        f"gradient (cosine from {RIGHT}; the lowest is {cosines.min():.3f}). It takes "
        f"{cost.min():.1f} to {cost.max():.1f} times as long as the first exact gradient, at "
        f"most {COST:.0f} on {cheap} problems."
    )


def _comparable(table: Table) -> np.ndarray:
    """Tell where an estimator is recommended that has a gradient to be held against."""
    return (table["recommended"] != "none") & ~_sampled(table)


def _sampled(table: Table) -> np.ndarray:
    """Tell where evolution strategies are recommended: no gradient is meaningful there."""
    return np.char.startswith(table["recommended"].astype(str), "EvolutionStrategies")


def claims(record: Record) -> tuple[Claim, ...]:
    """Hold what the advisor says against what is true."""
    table = record.tables["advice"]
    advised = _comparable(table)
    warned = lambda kind: np.array([kind in text.split() for text in table["warnings"]])
    name = table["problem"]
    difference = np.abs(table["cosine"] - table["cosine_predicted"])
    wrong = table["implicit_error"] > WRONG
    lowest = np.min(table["cosine"][advised], initial=1.0)
    chaos, ascent = name == "logistic-map", name == "counter-example"
    return (
        Claim(
            "advice-is-right",
            f"The recommended estimator has a cosine of at least {RIGHT} with the exact "
            "hypergradient, or none is recommended or meaningful.",
            _all(table["cosine"] >= RIGHT, advised),
            f"{len(name)} problems, lowest cosine {lowest:.3f}; none to hold it against: "
            f"{', '.join(name[~advised]) or 'nowhere'}",
        ),
        Claim(
            "as-predicted",
            "The cosine is the one that the diagnosis predicted.",
            _all(difference < AGREEMENT, advised),
            f"largest difference {np.max(difference[advised], initial=0.0):.1e}",
        ),
        *_costs(table),
        Claim(
            "counter-example",
            "Where one-step truncation is no descent direction, the advisor says so (Shaban et "
            "al. 2019, section 3).",
            _all(warned("not-descent"), ascent),
            f"warnings: {' '.join(table['warnings'][ascent])}",
        ),
        Claim(
            "chaos",
            "Where no gradient is meaningful, the advisor recommends none that is exact.",
            _all(warned("chaotic") & _sampled(table), chaos),
            f"warnings: {' '.join(table['warnings'][chaos])}",
        ),
        Claim(
            "implicit-warned",
            f"Wherever implicit differentiation is off by more than {WRONG:.0%}, the advisor "
            "warns of it.",
            _all(warned("implicit-wrong"), wrong),
            f"off on {int(wrong.sum())} problems, warned on "
            f"{int((wrong & warned('implicit-wrong')).sum())} of them",
        ),
    )


def _costs(table: Table) -> tuple[Claim, Claim]:
    name, seconds = table["problem"], table["seconds"]
    return (
        Claim(
            "cheap",
            f"The first diagnosis takes at most {COST:.0f} times the processor time of the first "
            "exact hypergradient of reverse mode, compilation included in both.",
            bool(np.all(table["cost"] <= COST)),
            _listed(name, table["cost"])
            + f"; the diagnoses took {seconds.min():.0f} to {seconds.max():.0f} s",
        ),
        Claim(
            "few-products",
            f"Nor does it make more than {WORK:.0f} times as many inner steps and products with "
            "their Jacobians, of which an exact hypergradient makes three per inner step.",
            bool(np.all(table["work"] <= WORK)),
            f"at most {_listed(name, table['work'])}",
        ),
    )


def _listed(names: Column, values: Column) -> str:
    return "; ".join(f"{name} {value:.1f}" for name, value in zip(names, values, strict=True))


def _all(good: np.ndarray, where: np.ndarray) -> bool | None:
    """Whether all are good where it matters; None if that is nowhere."""
    return bool(np.all(good[where])) if where.any() else None


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw error against time of every estimator, and bias against window."""
    found = {}
    if len(record.tables["comparison"]["problem"]):
        found["estimators"] = (
            _trade(record.tables["comparison"]),
            "For each problem every estimator as a point: its relative error against the time of "
            "one hypergradient, and against the memory that it takes.",
        )
    if np.max(record.tables["windows"]["window"]) >= LONG:
        found["windows"] = (
            _windows(record.tables["windows"]),
            "Relative error of truncated back-propagation against the window for the problems of "
            "at least a thousand steps, with bound (10) of the paper dashed. Errors below rounding "
            "are not drawn.",
        )
    return found


def _trade(table: Table) -> Figure:
    panels = {}
    for problem in dict.fromkeys(table["problem"].tolist()):
        rows = select(table, problem=problem)
        names = ("estimator", "relative_error", "seconds", "memory")
        panels[problem] = [
            Point(name, error, seconds, None if np.isnan(memory) else int(memory * 2**20))
            for name, error, seconds, memory in zip(*(rows[key] for key in names), strict=True)
        ]
    return comparison_figure(panels)


def _windows(table: Table) -> Figure:
    measured, bounds = {}, {}
    for problem in dict.fromkeys(table["problem"].tolist()):
        rows = select(table, problem=problem)
        if rows["window"].max() >= LONG:
            measured[problem] = rows["window"], _above(rows["relative_error"])
            bounds[problem] = rows["window"], _above(rows["bound"])
    return line_figure(
        Lines(
            measured,
            "window K (inner steps)",
            "relative error of the hypergradient",
            x_log=True,
            y_log=True,
            dashed=bounds,
            dashed_label="bound (10)",
        )
    )


def _above(values: Column) -> Column:
    """Leave out what is below rounding."""
    return np.where(values > ROUNDING, values, np.nan)
