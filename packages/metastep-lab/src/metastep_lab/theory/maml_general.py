"""The test loss of MAML on mixed linear regression with any covariances: Theorem 3.

Reference:
    Bernacchia (2021), Meta-learning with negative learning rates, section 5.3.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metastep_lab.theory.maml_checks import (
    check_counts,
    check_scales,
    checked_covariance,
    checked_rates,
    equations_of,
)
from metastep_lab.theory.maml_moments import fourth_moments

FloatArray = NDArray[np.float64]


def expected_test_loss_general(
    train_rate: ArrayLike,
    test_rate: ArrayLike,
    *,
    covariance: ArrayLike,
    task_covariance: ArrayLike,
    train_samples: int,
    validation_samples: int,
    target_samples: int,
    tasks: int,
    noise: float,
    fourth_moment: ArrayLike | None = None,
) -> FloatArray:
    """Return the expected test loss for any covariances, p > N, and omega_0 = w_0 = 0 (Theorem 3).

    Leading order as the sizes grow in proportion; 1.4 to 3.7 % too low at p = 60, N = 6 with
    Wishart covariances. Inputs and coefficients need not be normal.

    Example:
        >>> import numpy as np
        >>> from metastep_lab.theory.maml import expected_test_loss_general
        >>> sizes = dict(train_samples=30, validation_samples=2, target_samples=20, tasks=3)
        >>> eye = np.eye(60)
        >>> loss = expected_test_loss_general(
        ...     -0.9, 0.2, covariance=eye, task_covariance=0.25 / 60 * eye, noise=1.0, **sizes
        ... )
        >>> print(loss.round(6))
        0.683763

    Args:
        train_rate: alpha_t, any shape.
        test_rate: alpha_r, any shape that broadcasts against it.
        covariance: Sigma of the inputs, shape (dim, dim).
        task_covariance: Sigma_w of the coefficients, shape (dim, dim).
        train_samples: n_t.
        validation_samples: n_v.
        target_samples: n_r.
        tasks: m.
        noise: sigma, from 0.
        fourth_moment: F = E (x^T Sigma x) x x^T, shape (dim, dim), from `fourth_moments`;
            that of normal inputs for None.

    Returns:
        The loss, shape of the broadcast rates.

    Raises:
        ValueError: as `expected_test_loss` does; for matrices that are not symmetric, not positive
            semi-definite or of other shapes, and for dim not above validation_samples * tasks.

    Reference:
        Bernacchia (2021), Eqs. 14 to 16, the trace of H_t in the denominator squared.
    """
    sigma = checked_covariance("covariance", covariance)
    spread = checked_covariance("task_covariance", task_covariance, sigma.shape)
    fourth = fourth_moments(sigma) if fourth_moment is None else fourth_moment
    fourth = checked_covariance("fourth_moment", fourth, sigma.shape)
    check_counts(train_samples=train_samples, target_samples=target_samples)
    check_scales(noise=noise)
    equations = equations_of(len(sigma), validation_samples, tasks)
    if equations > len(sigma):
        raise ValueError(
            f"validation_samples * tasks is {equations} at dim {len(sigma)}; allowed are numbers "
            "below dim."
        )
    square = sigma @ sigma
    cube = square @ sigma
    # H is quadratic in its rate: the coefficients' traces serve all rates.
    terms = lambda samples: np.stack([sigma, -2 * square, cube + (fourth - cube) / samples])
    ours, theirs = terms(train_samples), terms(target_samples)
    powers = lambda name, rate: checked_rates(name, rate)[..., None] ** np.arange(3)
    a, b = powers("train_rate", train_rate), powers("test_rate", test_rate)
    trace = lambda matrices, other: np.einsum("kpq,qp->k", matrices, other)
    products = np.einsum("kpq,lqp->kl", ours, theirs)
    size, moved = a @ trace(ours, np.eye(len(sigma))), a @ trace(ours, spread)
    noisy = lambda powers, samples: noise**2 * (1 + powers[..., 2] * np.trace(square) / samples)
    # Tr(H_r H_t) of two quadratics is a bilinear form of the powers of their rates.
    learned = equations * np.sum((a @ products) * b, axis=-1) / size**2
    drawn = moved + noisy(a, train_samples)
    return (b @ trace(theirs, spread) + noisy(b, target_samples) + learned * drawn) / 2
