"""The test loss of MAML on mixed linear regression, by train rate and test rate.

Setting: y = <w, x> + z with x ~ N(0, I_p), z ~ N(0, sigma^2) and w ~ N(w_0, (nu^2 / p) I_p) in each
task. One inner step of size alpha_t (the train rate) on n_t examples, an outer loss on n_v examples
in each of m tasks, minimized exactly from omega_0; then one inner step of size alpha_r (the test
rate) on n_r examples of a new task. With N = n_v m validation examples there are two regimes:
overparameterized, p > N (Theorem 1), and underparameterized, p < N (Theorem 2).

Two steps: `meta_parameter_variance` gives V = E|omega* - w_0|^2 to leading order, and the loss
given V is exact. At train rate 0 the loss and its slope are known exactly for finite sizes.
Everything is NumPy in float64; rates may have any sign and broadcast against each other.

The error of the leading order (theory minus simulation, over train rates up to 2.1 in size, 0.7 in
Figure 3; test rate 0.2):

    p  N     n_t  noise  variability  error of the loss
    60 6     30   1      0.5          -1.6 % to -0.5 % (Figure 2)
    30 1000  5    0.2    0.2          -0.1 % to +1.5 % (Figure 3)
    50 2     40   0.5    0.5          -0.2 % to +0.0 % (Figure 6a)
    50 25    40   0.5    0.5          -26 % to -13 %   (Figure 6b)
    50 100   40   0.5    0.5          -28 % to -14 %   (Figure 6c)
    50 400   40   0.5    0.5          -1.9 % to +1.4 % (Figure 6d)

Reference:
    Bernacchia (2021), Meta-learning with negative learning rates; its appendix for the proofs. The
    exact values at train rate 0 and the best test rate are not in the paper.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metastep_lab.theory.maml_at_zero import loss_at_zero as loss_at_zero
from metastep_lab.theory.maml_at_zero import slope_at_zero as slope_at_zero
from metastep_lab.theory.maml_checks import check_counts, check_scales, checked_rates, equations_of
from metastep_lab.theory.maml_general import (
    expected_test_loss_general as expected_test_loss_general,
)
from metastep_lab.theory.maml_moments import GramMoments as GramMoments
from metastep_lab.theory.maml_moments import fourth_moments as fourth_moments
from metastep_lab.theory.maml_moments import gram_moments as gram_moments
from metastep_lab.theory.maml_moments import sandwiched_gram as sandwiched_gram
from metastep_lab.theory.maml_moments import scaled_moments as scaled_moments
from metastep_lab.theory.maml_moments import weighted_gram as weighted_gram
from metastep_lab.theory.maml_new_task import contraction
from metastep_lab.theory.maml_new_task import loss_given_variance as loss_given_variance
from metastep_lab.theory.maml_new_task import optimal_test_rate as optimal_test_rate

FloatArray = NDArray[np.float64]


def expected_test_loss(
    train_rate: ArrayLike,
    test_rate: ArrayLike,
    *,
    dim: int,
    train_samples: int,
    validation_samples: int,
    target_samples: int,
    tasks: int,
    noise: float,
    variability: float,
    init_distance: float = 0.0,
) -> FloatArray:
    """Return the expected test loss of MAML: Theorem 1 for p > N, Theorem 2 for p < N.

    Leading order in the train rate, exact in the test rate given V. See the table of this module
    for the error: below 2 % where p and N are a factor of eight or more apart, up to 28 % too low
    where they are a factor of two apart. At train rate 0, `loss_at_zero` is exact.

    Example:
        >>> from metastep_lab.theory.maml import expected_test_loss
        >>> sizes = dict(dim=60, train_samples=30, validation_samples=2, target_samples=20, tasks=3)
        >>> expected_test_loss([-0.9, 0.0, 0.9], 0.2, **sizes, noise=1.0, variability=0.5).round(6)
        array([0.683763, 0.702875, 0.725018])

    Args:
        train_rate: alpha_t, any shape.
        test_rate: alpha_r, any shape that broadcasts against it.
        dim: p, parameters.
        train_samples: n_t, examples of the inner step in training.
        validation_samples: n_v, examples of the outer loss, in each task.
        target_samples: n_r, examples of the inner step on the new task.
        tasks: m.
        noise: sigma, from 0.
        variability: nu, from 0: the tasks' coefficients have the covariance nu^2 / p.
        init_distance: Euclidean norm of omega_0 - w_0; no effect for p < N.

    Returns:
        (1/2) E (y - <theta, x>)^2, shape of the broadcast rates.

    Raises:
        ValueError: for a count below 1, a rate that is not finite, negative noise, variability or
            distance, or dim equal to validation_samples * tasks, where the outer problem is
            singular.

    Reference:
        Bernacchia (2021), Eqs. 5 and 9, from Eqs. 65, 79 and 96.
    """
    variance = meta_parameter_variance(
        train_rate,
        dim=dim,
        train_samples=train_samples,
        validation_samples=validation_samples,
        tasks=tasks,
        noise=noise,
        variability=variability,
        init_distance=init_distance,
    )
    return loss_given_variance(
        variance,
        test_rate,
        dim=dim,
        target_samples=target_samples,
        noise=noise,
        variability=variability,
    )


def meta_parameter_variance(
    train_rate: ArrayLike,
    *,
    dim: int,
    train_samples: int,
    validation_samples: int,
    tasks: int,
    noise: float,
    variability: float,
    init_distance: float = 0.0,
) -> FloatArray:
    """Return V = E|omega* - w_0|^2, the squared distance of MAML's optimum from the tasks' center.

    Leading order: with sizes growing in proportion, the error falls as their inverse square for
    p > N and as the inverse square of the number of tasks for p < N. The part that comes from
    `init_distance` is exact. At p = 60, N = 6, n_t = 30 V is 10 to 12 % too low, at p = 120,
    N = 6, n_t = 60 5 to 6 %. Arguments and errors are those of `expected_test_loss`.

    Returns:
        V, shape of `train_rate`.

    Reference:
        Bernacchia (2021), Eqs. 79 and 96 to 101 (with nu^2 / p and g_4 as in Eq. 96).
    """
    check_counts(train_samples=train_samples)
    equations = equations_of(dim, validation_samples, tasks)
    check_scales(noise=noise, variability=variability, init_distance=init_distance)
    rate = checked_rates("train_rate", train_rate)
    h = contraction(rate, dim, train_samples)
    # Eq. 79: of the p directions N are fitted, in the others omega stays at omega_0.
    if dim > equations:
        drawn = variability**2 + noise**2 * (1 + rate**2 * dim / train_samples) / h
        part = equations / dim
        return (1 - part) * init_distance**2 + part * drawn
    g1, g2, g3, g4 = _polynomials(rate, scaled_moments(train_samples, dim))
    from_noise = h + rate**2 / train_samples * ((validation_samples + 1) * g1 + dim * g2)
    from_tasks = ((validation_samples + 1) * g3 + dim * g4) / dim
    return dim / (equations * h**2) * (noise**2 * from_noise + variability**2 * from_tasks)


def _polynomials(a: FloatArray, mu: GramMoments) -> tuple[FloatArray, ...]:
    """Eqs. 98 to 101."""
    return (
        1 - 2 * a * mu.m2 + a**2 * mu.m3,
        1 - 2 * a * mu.m11 + a**2 * mu.m21,
        1 - 4 * a + 6 * a**2 * mu.m2 - 4 * a**3 * mu.m3 + a**4 * mu.m4,
        1 - 4 * a + a**2 * (2 * mu.m2 + 4 * mu.m11) - 4 * a**3 * mu.m21 + a**4 * mu.m22,
    )


def optimal_train_rates(dim: int, train_samples: int) -> tuple[float, float]:
    """Return the train rates of the smallest and of the largest loss by Theorem 1 (p > N).

    The roots of p a^2 + (n_t + 1) a - n_t: the best is always negative. They depend on p and n_t
    only. Leading order: at p = 60 and N = 6 the simulated optimum agrees within a few percent, at
    p = 50 and N = 25 (-1.39) the simulation has its minimum near -1.56.

    Example:
        >>> from metastep_lab.theory.maml import optimal_train_rates
        >>> best, worst = optimal_train_rates(dim=60, train_samples=30)
        >>> round(best, 4), round(worst, 4)
        (-1.0112, 0.4945)

    Args:
        dim: p.
        train_samples: n_t.

    Returns:
        (argmin, argmax) over the train rate.

    Raises:
        ValueError: for a count below 1.

    Reference:
        Bernacchia (2021), Eq. 8.
    """
    check_counts(dim=dim, train_samples=train_samples)
    # The loss depends on the rate by (1 + a^2 p / n_t) / h(a), whose derivative has these roots.
    middle = -(train_samples + 1) / (2 * dim)
    width = math.sqrt(middle**2 + train_samples / dim)
    return middle - width, middle + width
