"""The figures of `step-size-guarantees`."""

from collections.abc import Mapping

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record, where
from metastep_lab.wang2021.step_size_guarantees.claims import LEVEL, TRAIN, VALIDATION, intervals


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw probabilities by m, step sizes by t, the excess of Theorem 6, and k_0 of Theorem 4."""
    return {
        "probabilities": _probabilities(record),
        "theorems-4-and-6": _rates(record),
    }


def _probabilities(record: Record) -> tuple[Figure, str]:
    dim, noise, horizon = record.config.base()
    rows = record.frames["samples"].sort_values("tasks")
    series, bands = {}, {}
    levels = [(TRAIN, noise), *((VALIDATION, sigma) for sigma in record.config.noises)]
    for mode, sigma in levels:
        part = where(rows, mode=mode, dim=dim, noise=sigma, horizon=horizon)
        name = f"{mode}, sigma = {sigma:g}"
        series[name] = part["tasks"], part["held"] / part["repeats"]
        bands[name] = intervals(part)
    tasks = rows["tasks"].min(), rows["tasks"].max()
    series[f"promised: {LEVEL:g}"] = tasks, (LEVEL, LEVEL)
    shares = Lines(
        series,
        "training tasks m",
        "share of draws as stated",
        "Theorems 7 and 8",
        x_log=True,
        bands=bands,
    )
    steps, spread = {}, {}
    for mode in (TRAIN, VALIDATION):
        part = where(rows, mode=mode, dim=dim, noise=noise).sort_values("horizon")
        # The base has more tasks than the other cells: all points are at the m that every cell
        # has.
        part = where(part, tasks=part.groupby("horizon")["tasks"].max().min())
        scale = part["horizon"] if mode == VALIDATION else 1.0
        steps[mode] = part["horizon"], part["median"] / scale
        spread[mode] = part["low"] / scale, part["high"] / scale
    sizes = Lines(
        steps,
        "inner steps t",
        "chosen step size",
        "Median, and 90 % of the draws",
        x_log=True,
        y_log=True,
        bands=spread,
    )
    text = (
        "Left: in how many independent draws of m training tasks the tuned step size and its error "
        "are as the theorems say, with 95 % intervals; the theorems promise 0.99 for m large "
        "enough. Right: the tuned step size against the number of inner steps: constant for "
        "train-by-train, falling like 1 / t for train-by-validation."
    )
    return line_figure(shares, sizes), text


def _rates(record: Record) -> tuple[Figure, str]:
    many = record.frames["many"].sort_values("ratio")
    ratio, dim = many["ratio"], record.config.many_dim
    excess = Lines(
        {"measured": (ratio, many["excess"])},
        "n / d",
        "error / (d sigma² / n) - 1",
        "Theorem 6",
        y_log=True,
        # The error of least squares is d sigma^2 / (n - d - 1) (inverse Wishart), over d sigma^2 /
        # n minus 1.
        dashed={"measured": (ratio, (dim + 1) / ((ratio - 1) * dim - 1))},
        dashed_label="least squares",
    )
    rows, series = record.frames["settling"], {}
    for start, part in rows.groupby("start"):
        counts = part.groupby("distance")["updates"].median()
        series[f"{start:g}"] = counts.index, counts
    settled = Lines(
        series,
        "distance epsilon · L",
        "updates k₀ (median)",
        "Theorem 4",
        x_log=True,
        y_log=True,
        legend_title="first step size · alpha",
    )
    text = (
        "Left: by how much the error of train-by-train exceeds d sigma² / n, against the number of "
        "examples per unknown; dashed, the exact excess of the least-squares solution. Right: the "
        "number of updates after which meta-gradient descent on a random quadratic stays within a "
        "distance of its best step size, for several first step sizes."
    )
    return line_figure(excess, settled), text
