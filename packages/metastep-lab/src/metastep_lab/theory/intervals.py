"""Confidence intervals for what a simulation can say of a theorem: probabilities and exponents."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv
from scipy.stats import linregress, t

CONFIDENCE = 0.95


class Exponent(NamedTuple):
    """The exponent b of y ~ x^b, and the ends of its confidence interval."""

    value: float
    lower: float
    upper: float


def probability(successes: int, trials: int) -> tuple[float, float]:
    """Return the ends of the confidence interval of a probability, by independent trials.

    They cover it in at least `CONFIDENCE` of all samples, whatever it is.

    Raises:
        ValueError: for numbers out of range.

    Reference:
        Clopper and Pearson (1934), The use of confidence or fiducial limits.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes is {successes} of {trials}; allowed are 0 to trials, from 1")
    tail, failures = (1 - CONFIDENCE) / 2, trials - successes
    # Quantiles of beta distributions, which have none where a count is 0.
    lower = betaincinv(successes, failures + 1, tail) if successes else 0.0
    upper = betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(lower), float(upper)


def at_least(level: float, successes: int, trials: int) -> bool | None:
    """Return whether a probability is at least `level`: None if its interval holds both answers."""
    lower, upper = probability(successes, trials)
    return True if lower >= level else False if upper < level else None


def exponent(x: ArrayLike, y: ArrayLike, groups: int = 1) -> Exponent:
    """Fit y ~ x^b by least squares on logarithms; return b with its confidence interval.

    The entries of y, at least 3, are independent with equal relative errors; x has two values at
    least. With several groups, each has the same values of x, and its y were divided by their
    geometric mean. NaN if a number is not positive and finite, or there are too few.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    free = x.size - 1 - groups
    if free < 1 or not np.all(np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)):
        return Exponent(np.nan, np.nan, np.nan)
    fit: Any = linregress(np.log(x), np.log(y))
    # The slope and the mean of each group have taken degrees of freedom; `stderr` counts one mean.
    margin = t.ppf((1 + CONFIDENCE) / 2, free) * fit.stderr * np.sqrt((x.size - 2) / free)
    return Exponent(float(fit.slope), float(fit.slope - margin), float(fit.slope + margin))
