"""MAML at train rate 0: the test loss and its slope are known exactly for finite sizes.

The setting is that of `maml`.

Reference:
    Bernacchia (2021), Meta-learning with negative learning rates; the exact values are not in it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metastep_lab.theory.maml_checks import check_counts, check_scales, checked_rates, equations_of
from metastep_lab.theory.maml_new_task import contraction, loss_given_variance

FloatArray = NDArray[np.float64]


def slope_at_zero(
    test_rate: ArrayLike,
    *,
    dim: int,
    validation_samples: int,
    target_samples: int,
    tasks: int,
    noise: float,
) -> FloatArray:
    """Return the derivative of the expected test loss by the train rate at train rate 0.

    h_r sigma^2 N / (p - N - 1) for p > N + 1 and h_r sigma^2 p / (N - p - 1) for N > p + 1. Exact
    for finite sizes, and never negative: a small negative train rate is better than none. The
    paper's leading order has no `- N - 1` and `- p - 1`: 3 to 13 % too low in its Figures 2, 3, 6a
    and 6d, half the slope in 6b and 6c. Arguments and errors are those of `loss_at_zero`.

    Returns:
        The slope, shape of `test_rate`. It depends on neither n_t nor nu nor omega_0.

    Reference:
        Finite-size version of Bernacchia (2021), Eq. 10, with its factor h_r.
    """
    check_counts(target_samples=target_samples)
    check_scales(noise=noise)
    gain = noise**2 * _inverse_trace(dim, equations_of(dim, validation_samples, tasks))
    return contraction(checked_rates("test_rate", test_rate), dim, target_samples) * gain


def loss_at_zero(
    test_rate: ArrayLike,
    *,
    dim: int,
    validation_samples: int,
    target_samples: int,
    tasks: int,
    noise: float,
    variability: float,
    init_distance: float = 0.0,
) -> FloatArray:
    """Return the expected test loss at train rate 0. Exact for finite sizes.

    Args:
        test_rate: alpha_r, any shape.
        dim: p.
        validation_samples: n_v.
        target_samples: n_r.
        tasks: m.
        noise: sigma, from 0.
        variability: nu, from 0.
        init_distance: Euclidean norm of omega_0 - w_0; no effect for p < N.

    Returns:
        The loss, shape of `test_rate`.

    Raises:
        ValueError: for an argument outside its range, or |p - N| < 2, where the expectation does
            not exist.

    Reference:
        Bernacchia (2021), Eq. 65, with E|omega* - w_0|^2 of ordinary regression on N examples.
    """
    equations = equations_of(dim, validation_samples, tasks)
    check_scales(noise=noise, variability=variability, init_distance=init_distance)
    p, n, m, nv = float(dim), float(equations), float(tasks), float(validation_samples)
    variance = noise**2 * _inverse_trace(dim, equations)
    if dim > equations:
        variance += (1 - n / p) * init_distance**2
        # E Tr (B B^T)^-1 diag(B_i B_i^T) with the tasks' blocks B_i of B: the Schur complement of a
        # block is a Wishart matrix of p - (n - n_v) degrees of freedom, independent of the rest.
        variance += variability**2 * n / p * (p - nv - 1) / (p - n - 1)
    else:
        # Second moments of squared norms of a task's rows of a random orthogonal frame.
        c2 = nv * (n - nv) / (n * (n + 2) * (n - 1))
        c1 = nv * (nv + 2) / (n * (n + 2)) - 2 * c2
        own = (c1 + c2) * p + c2 * p * (n * p - 2) / (n - p - 1)
        variance += variability**2 / p * m * own
    return loss_given_variance(
        variance,
        test_rate,
        dim=dim,
        target_samples=target_samples,
        noise=noise,
        variability=variability,
    )


def _inverse_trace(dim: int, equations: int) -> float:
    """E Tr (B B^T)^-1, or of (B^T B)^-1 for p < N, with B standard normal of shape (N, p)."""
    if abs(dim - equations) < 2:
        raise ValueError(
            f"dim is {dim} and validation_samples * tasks is {equations}; allowed are numbers at "
            "least 2 apart: nearer ones have no finite expectation."
        )
    return min(dim, equations) / (abs(dim - equations) - 1)
