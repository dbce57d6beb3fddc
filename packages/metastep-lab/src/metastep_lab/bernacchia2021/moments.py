"""Random numbers of mean 0 and variance 1 with given third and fourth moments."""

from typing import NamedTuple

import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.optimize import root


class Shape(NamedTuple):
    """The distribution of a polynomial of a standard normal number.

    Attributes:
        coefficients: of the powers 0 to 3, shape (4,).
        kurtosis: the fourth moment.
    """

    coefficients: NDArray[np.float64]
    kurtosis: float


def shape(skewness: float, kurtosis: float) -> Shape:
    """Return a distribution with these moments that has a density.

    Example:
        >>> from metastep_lab.bernacchia2021.moments import shape
        >>> print(abs(shape(0.0, 3.0).coefficients).round(6))
        [0. 1. 0. 0.]

    Args:
        skewness: the third moment.
        kurtosis: the fourth moment, 3 for a normal distribution.

    Raises:
        ValueError: for moments that no cubic polynomial of a normal number has.

    Reference:
        Fleishman (1978), A method for simulating non-normal distributions.
    """

    def off(b: float, c: float, d: float) -> tuple[float, float, float]:
        square, mixed = c**2, b * d
        fourth = mixed + square * (1 + b**2 + 28 * mixed)
        fourth += d**2 * (12 + 48 * mixed + 141 * square + 225 * d**2)
        return (
            b**2 + 6 * mixed + 2 * square + 15 * d**2 - 1,
            2 * c * (b**2 + 24 * mixed + 105 * d**2 + 2) - skewness,
            24 * fourth - (kurtosis - 3),
        )

    found = root(lambda x: off(*x), (1.0, skewness / 6, (kurtosis - 3) / 72), tol=1e-12)
    if not (found.success and np.abs(found.fun).max() < 1e-8):
        raise ValueError(
            f"kurtosis is {kurtosis} at skewness {skewness}; allowed are pairs that a cubic "
            "polynomial of a normal number has, such as 0 and 2 to 20, or 2 and 10 to 20"
        )
    # Rounding errors in place of zeros would be numbers too small for fast arithmetic.
    b, c, d = np.where(np.abs(found.x) < 1e-12, 0.0, found.x)
    return Shape(np.array([-c, b, c, d]), kurtosis)


def shaped(normal: Array, shape: Shape) -> Array:
    """Turn standard normal numbers into numbers of a `Shape`, one into one."""
    constant, linear, square, cube = shape.coefficients
    return constant + normal * (linear + normal * (square + normal * cube))
