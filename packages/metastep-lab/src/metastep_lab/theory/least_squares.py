r"""Population objectives of a step size on least squares, by the Marchenko-Pastur law.

Setting: w* uniform on the unit sphere in d dimensions, n examples x ~ N(0, I_d), y = <w*, x> + xi
with xi ~ N(0, sigma^2); T steps of gradient descent from 0 on |X w - y|^2 / (2 n). As d and n grow
with d / n fixed, the eigenvalues of X^T X / n follow the Marchenko-Pastur law, and averages over
tasks become integrals. They are exact in this limit; at d = 1000 they are within the noise of 300
simulated tasks. Runs that diverge are not truncated here: above 2 / lambda_+, these objectives
are not those of the paper. Everything is NumPy in float64; step sizes may have any shape.

Reference:
    Wang, Yuan, Wu and Ge (2021), Guarantees for tuning the step size using a learning-to-learn
    approach, section 4; the closed forms are ours.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import fminbound

FloatArray = NDArray[np.float64]
# Integrands have a degree of 2 T + 1 at most: the rule is exact for horizons below 2000.
NODES = 4000


def marchenko_pastur(ratio: float, nodes: int = NODES) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights that integrate over the eigenvalues of X^T X / n, for d / n > 0.

    The midpoint rule in the angle theta of x = 1 + ratio + 2 sqrt(ratio) cos(theta), where the
    density is smooth and periodic. Its only singularity is a pole at x = 0, close by when the ratio
    is near 1. The weight of the eigenvalue 0 is therefore what is missing from 1: the rule is then
    exact to rounding for polynomials up to the degree of `nodes`, whatever the ratio.

    Both have the shape (nodes + 1,); the last entry is the atom at 0, of weight max(0, 1 - 1 /
    ratio) but for the correction. The weights sum to 1, the mean eigenvalue is 1.

    Raises:
        ValueError: for a ratio that is not positive and finite.

    Reference:
        Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of random matrices.
    """
    if not (np.isfinite(ratio) and ratio > 0):
        raise ValueError(f"ratio is {ratio!r}; allowed are positive numbers (dim / samples).")
    angles = (np.arange(nodes) + 0.5) * np.pi / nodes
    eigenvalues = 1 + ratio + 2 * np.sqrt(ratio) * np.cos(angles)
    # The density sqrt((l+ - x) (x - l-)) / (2 pi ratio x) times |dx / d theta| is
    # 2 sin^2(theta) / (pi x).
    weights = 2 * np.sin(angles) ** 2 / (nodes * eigenvalues)
    atom, missing = max(0.0, 1 - 1 / ratio), 1 - weights.sum()
    # No rounding errors if nothing is to be corrected: the training loss cancels the atom.
    atom = atom if abs(missing - atom) < 1e-12 else missing
    return np.append(eigenvalues, 0.0), np.append(weights, atom)


def _check(step_size: ArrayLike, noise: float, horizon: int) -> FloatArray:
    if isinstance(horizon, bool) or int(horizon) != horizon or horizon < 1:
        raise ValueError(f"horizon is {horizon!r}; allowed are the integers from 1.")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise!r}; allowed are numbers from 0.")
    steps = np.asarray(step_size, np.float64)
    if not np.all(np.isfinite(steps) & (steps >= 0)):
        raise ValueError(f"step_size is {step_size!r}; allowed are finite numbers from 0.")
    return steps


def mean_squared_error(
    step_size: ArrayLike, *, ratio: float, noise: float, horizon: int
) -> FloatArray:
    """Return M(eta) = E |w_T - w*|^2, signal not yet learned plus noise learned.

    E (1 - eta l)^{2T} + sigma^2 ratio E (1 - (1 - eta l)^T)^2 / l, with `ratio` = d / n, `noise` =
    sigma and `horizon` = T. It is 1 at step size 0.

    Raises:
        ValueError: for an argument outside its range.
    """
    steps = _check(step_size, noise, horizon)
    eigenvalues, weights = marchenko_pastur(ratio)
    left = (1 - steps[..., None] * eigenvalues) ** horizon
    # At the eigenvalue 0 the limit is 0: 1 - (1 - eta l)^T is of order l.
    fitted = np.divide((1 - left) ** 2, eigenvalues, out=np.zeros_like(left), where=eigenvalues > 0)
    return left**2 @ weights + noise**2 * ratio * (fitted @ weights)


def train_by_validation(
    step_size: ArrayLike, *, ratio: float, noise: float, horizon: int
) -> FloatArray:
    """Return the population of Eq. 4: M(eta) / 2 + sigma^2 / 2.

    Arguments and errors are those of `mean_squared_error`; n are the examples that are trained on.
    The number of validation examples has no effect.
    """
    error = mean_squared_error(step_size, ratio=ratio, noise=noise, horizon=horizon)
    return (error + noise**2) / 2


def train_by_train(step_size: ArrayLike, *, ratio: float, noise: float, horizon: int) -> FloatArray:
    """Return the population of Eq. 3, the training loss at the end.

    E l (1 - eta l)^{2T} / 2 + sigma^2 (ratio E (1 - eta l)^{2T} + 1 - ratio) / 2. Arguments and
    errors are those of `mean_squared_error`.
    """
    steps = _check(step_size, noise, horizon)
    eigenvalues, weights = marchenko_pastur(ratio)
    left = (1 - steps[..., None] * eigenvalues) ** (2 * horizon)
    signal = left @ (weights * eigenvalues)
    # The atom at 0 and 1 - ratio cancel: subtracted here, they would leave only rounding.
    unfitted = ratio * (weights[-1] - max(0.0, 1 - 1 / ratio)) + max(0.0, 1 - ratio)
    fitted = ratio * (left[..., :-1] @ weights[:-1])
    return (signal + noise**2 * (fitted + unfitted)) / 2


def optimal_step_size(
    objective: Callable[..., FloatArray], *, ratio: float, noise: float, horizon: int
) -> float:
    """Return the step size in (0, 2 / lambda_+] that minimises a population objective.

    Train-by-train ends near 2 / (lambda_+ + lambda_-) = 1 / (1 + ratio), train-by-validation near c
    / T with noise (Theorem 5). With many examples the train-by-train objective is flat to 1e-8 over
    a factor of three, and the minimiser is badly determined; otherwise its relative error is about
    1e-8.

    Example:
        >>> from metastep_lab.theory import least_squares
        >>> setting = dict(noise=3.0, horizon=40)
        >>> best = least_squares.optimal_step_size
        >>> round(best(least_squares.train_by_train, ratio=2.0, **setting), 3)
        0.333
        >>> round(best(least_squares.train_by_validation, ratio=4.0, **setting), 5)
        0.00065

    Raises:
        ValueError: for an argument outside its range.
    """
    top = 2 / (1 + np.sqrt(ratio)) ** 2
    value = lambda log_step: objective(
        np.exp(log_step), ratio=ratio, noise=noise, horizon=horizon
    ).item()
    # `fminbound` finds some local minimum: the grid chooses the valley. By logarithms, since the
    # minimiser falls as 1 / T and its relative accuracy counts.
    grid = np.log(top) + np.linspace(np.log(1e-8), 0, 400)
    best = int(np.argmin(objective(np.exp(grid), ratio=ratio, noise=noise, horizon=horizon)))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    best = np.asarray(fminbound(value, *bounds, xtol=1e-10))
    return math.exp(best.item())


def least_squares_error(*, dim: int, samples: int, noise: float) -> float:
    """Return E |w_min - w*|^2 of the least-squares solution, the limit of Theorem 6.

    sigma^2 d / (n - d - 1), exact for every n > d + 1: d sigma^2 / n times a factor that tends to
    one as n / d grows.

    Raises:
        ValueError: for too few samples, where the expectation does not exist.
    """
    if dim < 1 or samples <= dim + 1:
        raise ValueError(
            f"samples is {samples!r} at dim {dim!r}; allowed are the integers above dim + 1."
        )
    _check(0.0, noise, 1)
    return noise**2 * dim / (samples - dim - 1)
