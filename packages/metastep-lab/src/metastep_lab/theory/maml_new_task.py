"""The exact part of the theory of MAML: the loss on a new task, given V = E|omega - w_0|^2.

The setting is that of `maml`.

Reference:
    Bernacchia (2021), Meta-learning with negative learning rates.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metastep_lab.theory.maml_checks import check_counts, check_scales, checked_rates

FloatArray = NDArray[np.float64]


def loss_given_variance(
    variance: ArrayLike,
    test_rate: ArrayLike,
    *,
    dim: int,
    target_samples: int,
    noise: float,
    variability: float,
) -> FloatArray:
    """Return the expected test loss of any meta-parameters with V = E|omega - w_0|^2.

    (sigma^2 / 2) (1 + alpha_r^2 p / n_r) + (h_r / 2) (nu^2 + V). Exact in any regime.

    Args:
        variance: V, any shape, from 0.
        test_rate: alpha_r, any shape that broadcasts against it.
        dim: p.
        target_samples: n_r.
        noise: sigma, from 0.
        variability: nu, from 0.

    Returns:
        The loss, shape of the broadcast arguments.

    Raises:
        ValueError: for an argument outside its range.

    Reference:
        Bernacchia (2021), Eq. 65.
    """
    check_counts(dim=dim, target_samples=target_samples)
    check_scales(noise=noise, variability=variability)
    rate, spread = checked_rates("test_rate", test_rate), np.asarray(variance, np.float64)
    floor = noise**2 / 2 * (1 + rate**2 * dim / target_samples)
    return floor + contraction(rate, dim, target_samples) / 2 * (variability**2 + spread)


def optimal_test_rate(
    variance: ArrayLike, *, dim: int, target_samples: int, noise: float, variability: float
) -> FloatArray:
    """Return the test rate of the smallest loss, between 0 and 1 / (1 + (p + 1) / n_r).

    n_r (nu^2 + V) / [(n_r + p + 1) (nu^2 + V) + sigma^2 p]. Exact given V; NaN where noise,
    variability and V are all 0. Arguments and errors are those of `loss_given_variance`.

    Reference:
        The minimum of Bernacchia (2021), Eq. 65.
    """
    check_counts(dim=dim, target_samples=target_samples)
    check_scales(noise=noise, variability=variability)
    signal = variability**2 + np.asarray(variance, np.float64)
    with np.errstate(invalid="ignore"):
        total = (target_samples + dim + 1) * signal + noise**2 * dim
        return np.asarray(target_samples * signal / total)


def contraction(rate: FloatArray, dim: int, samples: int) -> FloatArray:
    """Eqs. 6 and 7: the factor by which an inner step scales squared distances to the task."""
    # E (I - a S)^2 with S = X^T X / n, by E S = 1 and E S^2 = 1 + (p + 1) / n (Eqs. 31 and 32).
    return (1 - rate) ** 2 + rate**2 * (dim + 1) / samples
