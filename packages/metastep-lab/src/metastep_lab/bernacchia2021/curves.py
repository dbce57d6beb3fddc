"""Curves of a simulated loss over learning rates: means, errors, extrema."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from annotated_types import Ge, Predicate
from scipy.interpolate import CubicSpline

GridSize = Annotated[int, Ge(5), Predicate(lambda count: count % 2 == 1), "odd integers from 5"]
"""How many rates a grid has."""
GROUPS = 20
"""Parts of the runs that the jackknife leaves out in turn."""


def rate_grid(limit: float, count: int) -> np.ndarray:
    """Return an odd number of rates from `-limit` to `limit`, the middle one exactly 0."""
    # Not np.linspace, which may leave a rounding error in place of the 0.
    half = count // 2
    return limit * np.arange(-half, half + 1) / half


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over runs, the first axis, and its standard error; NaN for one run."""
    if len(values) < 2:
        return values.mean(axis=0), np.full(values.shape[1:], np.nan)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def jackknife(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """Return a statistic of the mean over runs, and its standard error by the grouped jackknife.

    `values` has one row for each run, at least two; `statistic` is a function of the mean row.
    """
    # Groups, not single runs: the statistic of a spline, thousands of times, would take longer
    # than the simulation.
    parts = np.array_split(values, min(GROUPS, len(values)))
    total = values.sum(axis=0)
    others = [(total - part.sum(axis=0)) / (len(values) - len(part)) for part in parts]
    found = np.array([statistic(mean) for mean in others])
    # (g - 1) / g times the sum of squares.
    error = np.sqrt((len(parts) - 1) * np.mean((found - found.mean()) ** 2))
    return statistic(total / len(values)), float(error)


def best_rate(rates: np.ndarray, losses: np.ndarray, largest: bool = False) -> float:
    """Return the rate at which a cubic spline through a curve is smallest, or largest.

    It is within the range of the rates.
    """
    spline = CubicSpline(rates, -losses if largest else losses)
    inside = spline.derivative().roots(extrapolate=False)
    # A curve may fall up to the end of the range, where no derivative is zero.
    candidates = np.concatenate([inside, rates[[0, -1]]])
    return float(candidates[np.argmin(spline(candidates))])
