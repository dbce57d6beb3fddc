"""Curves of a simulated loss over learning rates: means, errors, extrema. Shared by `maml-*`."""

from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicSpline

from metastep_lab.figures.style import Lines
from metastep_lab.tables import Table

GROUPS = 20
"""Parts of the runs that the jackknife leaves out in turn."""


def rate_grid(limit: float, count: int) -> np.ndarray:
    """Return learning rates from `-limit` to `limit`, the middle one exactly 0.

    Args:
        limit: the largest.
        count: how many, odd.

    Returns:
        The rates, shape (count,).
    """
    half = count // 2
    return limit * np.arange(-half, half + 1) / half


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over runs and its standard error.

    Args:
        values: one row for each run, at least two.

    Returns:
        Both without the first axis.
    """
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def jackknife(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """Return a statistic of the mean over runs, and its standard error.

    Args:
        values: one row for each run, at least two.
        statistic: of the mean row.

    Returns:
        The statistic and its error by the grouped jackknife.
    """
    parts = np.array_split(values, min(GROUPS, len(values)))
    total = values.sum(axis=0)
    others = [(total - part.sum(axis=0)) / (len(values) - len(part)) for part in parts]
    found = np.array([statistic(mean) for mean in others])
    error = np.sqrt((len(parts) - 1) * np.mean((found - found.mean()) ** 2))
    return statistic(total / len(values)), float(error)


def best_rate(rates: np.ndarray, losses: np.ndarray, largest: bool = False) -> float:
    """Return where a curve is smallest, by a cubic spline through its points.

    Args:
        rates: increasing.
        losses: at these rates.
        largest: where it is largest instead.

    Returns:
        The rate, within the range of `rates`.
    """
    spline = CubicSpline(rates, -losses if largest else losses)
    inside = spline.derivative().roots(extrapolate=False)
    candidates = np.concatenate([inside, rates[[0, -1]]])
    return float(candidates[np.argmin(spline(candidates))])


def theory_errors(table: Table) -> np.ndarray:
    """Return how far the theory is from the simulation, in percent of the simulation.

    Args:
        table: rows of `loss.csv`.

    Returns:
        One number for each row, positive where the theory is too high.
    """
    return 100 * (table["theory"] / table["simulated"] - 1)


def loss_panel(table: Table, along: str, title: str) -> Lines:
    """Return a panel of theory and simulation along one of the learning rates.

    Args:
        table: rows of `loss.csv` of one panel.
        along: `train_rate` or `test_rate`.
        title: of the panel.

    Returns:
        The panel, with two standard errors shaded.
    """
    rates, mean, error = table[along], table["simulated"], 2 * table["standard_error"]
    symbol = {"train_rate": "train rate alpha_t", "test_rate": "test rate alpha_r"}[along]
    return Lines(
        series={"simulation": (rates, mean), "theory": (rates, table["theory"])},
        x_label=symbol,
        y_label="test loss",
        title=title,
        bands={"simulation": (mean - error, mean + error)},
    )


def gain_panel(paired: Table, losses: Table, title: str) -> Lines:
    """Return a panel of the gain of every train rate over train rate 0, in percent of the loss.

    Args:
        paired: rows of `paired.csv` of one panel.
        losses: rows of `loss.csv` of the same panel; train rate 0 is among them.
        title: of the panel.

    Returns:
        The panel, with two standard errors shaded.
    """
    at_zero = losses["train_rate"] == 0
    theory, simulated = (losses[name][at_zero][0] for name in ("theory", "simulated"))
    gain, error = (100 / simulated * paired[name] for name in ("difference", "standard_error"))
    return Lines(
        series={
            "simulation": (paired["train_rate"], gain),
            "theory": (losses["train_rate"], 100 * (losses["theory"] / theory - 1)),
        },
        x_label="train rate alpha_t",
        y_label="loss minus loss at 0 (%)",
        title=title,
        bands={"simulation": (gain - 2 * error, gain + 2 * error)},
    )
