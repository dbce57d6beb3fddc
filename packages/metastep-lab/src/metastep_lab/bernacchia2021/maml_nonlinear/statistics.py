"""Means, paired differences and standard errors over the runs of `maml-nonlinear`.

Losses have the shape (runs, train rates, test rates); every run shares its draws over the rates.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

Row = tuple

# A descent that diverged leaves infinities in its rows, and they say so.
_infinities = np.errstate(over="ignore", invalid="ignore")


@_infinities
def mean_rows(
    train_rates: Sequence[float], test_rates: Sequence[float], losses: np.ndarray
) -> list[Row]:
    """Return train_rate, test_rate, mean, standard_error and runs for every pair of rates."""
    means, errors = losses.mean(axis=0), standard_error(losses)
    return [
        (train, test, means[i, j], errors[i, j], len(losses))
        for (i, train), (j, test) in product(enumerate(train_rates), enumerate(test_rates))
    ]


def standard_error(values: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over the first axis; NaN for one run."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


@_infinities
def difference_rows(
    train_rates: Sequence[float],
    test_rates: Sequence[float],
    losses: np.ndarray,
    control: np.ndarray | None = None,
) -> list[Row]:
    """Return the paired differences to train rate 0.

    Args:
        train_rates: 0 among them.
        test_rates: of the last axis.
        losses: shape (runs, train rates, test rates).
        control: losses of the same runs with which they are correlated.

    Returns:
        Rows train_rate, test_rate, difference, standard_error, z, runs, correlation.
    """
    zero = train_rates.index(0)
    rows = []
    for (i, train), (j, test) in product(enumerate(train_rates), enumerate(test_rates)):
        if i == zero:
            continue
        apart = losses[:, i, j] - losses[:, zero, j]
        mean, error = apart.mean(), standard_error(apart)
        correlation = np.nan
        if control is not None:
            correlation = _correlation(apart, control[:, i, j] - control[:, zero, j])
        rows.append((train, test, mean, error, mean / error, len(losses), correlation))
    return rows


@_infinities
def controlled_rows(
    train_rates: Sequence[float],
    test_rates: Sequence[float],
    losses: np.ndarray,
    control: np.ndarray,
) -> list[Row]:
    """Return the differences to train rate 0, with a control variate known from more runs.

    The regression estimator: mean(y) + slope (mean of all x - mean of the same runs' x). Its
    variance is s_y^2 [(1 - r^2) / n + r^2 / N] for n of N runs and their correlation r; its bias is
    of order 1 / n of its standard error.

    Args:
        train_rates: 0 among them.
        test_rates: of the last axis.
        losses: of the first n runs, from 4; fewer give no rows.
        control: of all N runs.

    Returns:
        Rows as those of `difference_rows`.

    Reference:
        Cochran (1977), Sampling techniques, sections 7.3 and 12.6.
    """
    zero, runs = train_rates.index(0), len(losses)
    rows = []
    if runs < 4:
        return rows
    for (i, train), (j, test) in product(enumerate(train_rates), enumerate(test_rates)):
        if i == zero:
            continue
        y, x = (values[:, i, j] - values[:, zero, j] for values in (losses, control))
        correlation = _correlation(y, x[:runs])
        slope = correlation * y.std() / x[:runs].std()
        mean = y.mean() + slope * (x.mean() - x[:runs].mean())
        left = (1 - correlation**2) * (runs - 1) / (runs - 2) / runs
        error = y.std(ddof=1) * np.sqrt(left + correlation**2 / len(x))
        rows.append((train, test, mean, error, mean / error, runs, correlation))
    return rows


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3:
        return np.nan
    spread = first.std() * second.std()
    return float(np.mean((first - first.mean()) * (second - second.mean())) / spread)
