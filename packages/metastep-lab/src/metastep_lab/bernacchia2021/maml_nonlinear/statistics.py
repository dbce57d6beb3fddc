"""Means, paired differences and standard errors over the runs of `maml-nonlinear`.

Losses have the shape (runs, train rates, test rates); every run shares its draws over the rates. 0
is among the train rates.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from metastep_lab.bernacchia2021.curves import mean_and_error

Row = tuple
Rates = Sequence[float]

# A descent that diverged has infinities in its rows, which show the divergence.
_infinities = np.errstate(over="ignore", invalid="ignore")


@_infinities
def mean_rows(train_rates: Rates, test_rates: Rates, losses: np.ndarray) -> list[Row]:
    """Return train_rate, test_rate, mean, standard_error and runs for every pair of rates."""
    numbers = (part.ravel() for part in mean_and_error(losses))
    pairs = zip(product(train_rates, test_rates), *numbers, strict=True)
    return [(*rates, mean, error, len(losses)) for rates, mean, error in pairs]


def _paired(
    train_rates: Rates, test_rates: Rates, losses: np.ndarray
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yield every pair of rates with its differences to train rate 0, run by run."""
    zero = train_rates.index(0)
    for (i, train), (j, test) in product(enumerate(train_rates), enumerate(test_rates)):
        if i != zero:
            yield train, test, losses[:, i, j] - losses[:, zero, j]


@_infinities
def difference_rows(
    train_rates: Rates, test_rates: Rates, losses: np.ndarray, control: np.ndarray | None = None
) -> list[Row]:
    """Return the paired differences to train rate 0.

    Args:
        train_rates: of the second axis.
        test_rates: of the last axis.
        losses: of all runs.
        control: losses of the same runs with which they are correlated.

    Returns:
        Rows train_rate, test_rate, difference, standard_error, z, runs, correlation.
    """
    rates, rows = (train_rates, test_rates), []
    others = _paired(*rates, losses if control is None else control)
    for (train, test, apart), (*_, other) in zip(_paired(*rates, losses), others, strict=True):
        mean, error = mean_and_error(apart)
        correlation = np.nan if control is None else _correlation(apart, other)
        rows.append((train, test, mean, error, mean / error, len(losses), correlation))
    return rows


@_infinities
def controlled_rows(
    train_rates: Rates, test_rates: Rates, losses: np.ndarray, control: np.ndarray
) -> list[Row]:
    """Return the differences to train rate 0, with a control variate known from more runs.

    The regression estimator: mean(y) + slope (mean of all x - mean of the same runs' x). Its
    variance is s_y^2 [(1 - r^2) / n + r^2 / N] for n of N runs and their correlation r; its bias is
    of order 1 / n of its standard error.

    Args:
        train_rates: of the second axis.
        test_rates: of the last axis.
        losses: of the first n runs, from 4; fewer give no rows.
        control: of all N runs.

    Returns:
        Rows as those of `difference_rows`.

    Reference:
        Cochran (1977), Sampling techniques, sections 7.3 and 12.6.
    """
    rates, runs, rows = (train_rates, test_rates), len(losses), []
    if runs < 4:
        return rows
    both = zip(_paired(*rates, losses), _paired(*rates, control), strict=True)
    for (train, test, y), (*_, x) in both:
        correlation = _correlation(y, x[:runs])
        # Of the least squares line; n or n - 1 in the deviations cancels.
        slope = correlation * y.std() / x[:runs].std()
        mean = y.mean() + slope * (x.mean() - x[:runs].mean())
        # Mean and slope are both fitted: n - 2 degrees of freedom.
        left = (1 - correlation**2) * (runs - 1) / (runs - 2) / runs
        error = y.std(ddof=1) * np.sqrt(left + correlation**2 / len(x))
        rows.append((train, test, mean, error, mean / error, runs, correlation))
    return rows


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 3:
        return np.nan
    spread = first.std() * second.std()
    return float(np.mean((first - first.mean()) * (second - second.mean())) / spread)
