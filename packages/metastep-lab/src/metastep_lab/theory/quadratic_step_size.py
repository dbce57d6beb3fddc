r"""Tuning the step size of gradient descent on a quadratic: closed forms that never overflow.

Setting: f(w) = w^T H w / 2 with H symmetric positive definite, T steps w <- w - eta H w from w_0.
With eigenvalues lambda_i (L the largest, alpha the smallest) and c_i the coordinates of w_0 in the
eigenbasis, f(w_T) = sum_i c_i^2 lambda_i (1 - eta lambda_i)^{2T} / 2. The meta-objective is
F(eta) = (1/T) log f(w_T); Eqs. 1 and 2 of the paper are its derivative. Everything is NumPy in
float64; step sizes may have any shape, and results have it too. The paper takes |w_0| = 1; here w_0
has any length, on which F' does not depend. The arguments `hessian`, `start` and `horizon` are H,
w_0 and T, from 1; step sizes are from 0.

Reference:
    Wang, Yuan, Wu and Ge (2021), Guarantees for tuning the step size using a learning-to-learn
    approach, section 3 and appendix A.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root_scalar

FloatArray = NDArray[np.float64]


def spectrum(hessian: ArrayLike, start: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return lambda_i in ascending order and the coordinates c_i of w_0; cost O(dim^3).

    Raises:
        ValueError: if H is not a finite symmetric positive definite matrix, if all its eigenvalues
            are equal, or if w_0 has another length than H, is zero, or is orthogonal to an
            eigenvector of the largest or the smallest eigenvalue.
    """
    matrix, vector = np.asarray(hessian, np.float64), np.asarray(start, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(
            f"hessian has shape {matrix.shape}; allowed are finite square matrices (dim, dim)."
        )
    if np.abs(matrix - matrix.T).max() > 1e-6 * np.abs(matrix).max():
        raise ValueError("hessian is not symmetric; allowed are symmetric matrices.")
    if vector.shape != matrix.shape[:1] or not np.isfinite(vector).all():
        raise ValueError(
            f"start has shape {vector.shape}; allowed are finite vectors of shape "
            f"{matrix.shape[:1]}, to fit hessian."
        )
    eigenvalues, eigenvectors = np.linalg.eigh((matrix + matrix.T) / 2)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    # `eigh` errs by about this much: a smaller one may have the other sign.
    if smallest <= np.finfo(np.float64).eps * abs(largest):
        raise ValueError(
            f"hessian has the eigenvalue {smallest:.3g}; allowed are positive definite matrices."
        )
    if largest - smallest <= 1e-12 * largest:
        raise ValueError(
            f"hessian has the one eigenvalue {largest:.6g}; allowed are matrices whose largest and "
            "smallest eigenvalues differ."
        )
    coordinates = eigenvectors.T @ vector
    length = np.linalg.norm(vector)
    if length == 0:
        raise ValueError("start is the zero vector; allowed are vectors of positive length.")
    for name, index in (("smallest", 0), ("largest", -1)):
        near = np.abs(eigenvalues - eigenvalues[index]) <= 1e-12 * largest
        if np.linalg.norm(coordinates[near]) <= 1e-12 * length:
            raise ValueError(
                f"start is orthogonal to the eigenvector of the {name} eigenvalue of hessian; "
                "allowed are vectors with a component along it."
            )
    return eigenvalues, coordinates


def _check(step_size: ArrayLike, horizon: int) -> FloatArray:
    if isinstance(horizon, bool) or int(horizon) != horizon or horizon < 1:
        raise ValueError(f"horizon is {horizon!r}; allowed are the integers from 1.")
    steps = np.asarray(step_size, np.float64)
    if not np.all(np.isfinite(steps) & (steps >= 0)):
        raise ValueError(f"step_size is {step_size!r}; allowed are finite numbers from 0.")
    return steps


def _scaled(
    step_size: FloatArray, hessian: ArrayLike, start: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return lambda, c^2, the factors (1 - eta lambda) / scale and the scale max |1 - eta lambda|.

    The factors have a last axis over eigenvalues and lie in [-1, 1], so that their powers
    underflow where they do not matter and never overflow.
    """
    eigenvalues, coordinates = spectrum(hessian, start)
    factors = 1 - step_size[..., None] * eigenvalues
    scale = np.abs(factors).max(axis=-1)
    return eigenvalues, coordinates**2, factors / scale[..., None], scale


def meta_objective(
    step_size: ArrayLike, hessian: ArrayLike, start: ArrayLike, horizon: int
) -> FloatArray:
    """Return F(eta) = (1/T) log f(w_T), in nats per inner step, for H, w_0 and the horizon T.

    Exact to rounding for every T; cost O(dim^3).

    Raises:
        ValueError: as `spectrum`; for a horizon below 1 or a negative step size.
    """
    steps = _check(step_size, horizon)
    eigenvalues, squares, factors, scale = _scaled(steps, hessian, start)
    loss = np.sum(squares * eigenvalues * factors ** (2 * horizon), axis=-1) / 2
    # The factors were divided by the scale, and the loss by its power 2 T.
    return np.log(loss) / horizon + 2 * np.log(scale)


def meta_gradient(
    step_size: ArrayLike, hessian: ArrayLike, start: ArrayLike, horizon: int
) -> FloatArray:
    """Return F'(eta) (Eqs. 1 and 2): numerator and denominator are divided by the largest factor.

    Per unit of step size; exact to rounding for every T; cost O(dim^3). Arguments and errors are
    those of `meta_objective`.
    """
    steps = _check(step_size, horizon)
    eigenvalues, squares, factors, scale = _scaled(steps, hessian, start)
    odd, even = factors ** (2 * horizon - 1), factors ** (2 * horizon)
    numerator = np.sum(squares * eigenvalues**2 * odd, axis=-1)
    return -2 * numerator / (scale * np.sum(squares * eigenvalues * even, axis=-1))


def meta_curvature(
    step_size: ArrayLike, hessian: ArrayLike, start: ArrayLike, horizon: int
) -> FloatArray:
    """Return F''(eta). Descent with step sizes mu_k settles at eta* once mu_k F''(eta*) < 2.

    Arguments, cost and errors are those of `meta_objective`.
    """
    steps = _check(step_size, horizon)
    eigenvalues, squares, factors, scale = _scaled(steps, hessian, start)
    # With S_p for moment(p): F' = -2 S_1 / S_0, and d S_p / d eta = -(2 T - p) S_{p+1}.
    moment = lambda power: np.sum(
        squares * eigenvalues ** (power + 1) * factors ** (2 * horizon - power), axis=-1
    )
    denominator = moment(0)
    curved = 2 * (2 * horizon - 1) * moment(2) / denominator
    return (curved - 4 * horizon * (moment(1) / denominator) ** 2) / scale**2


def optimal_step_size(hessian: ArrayLike, start: ArrayLike, horizon: int) -> float:
    """Return eta*, the only stationary point of F (Claim 1), by root finding in the eigenbasis.

    It lies between 1 / L and 1 / alpha and tends to 2 / (L + alpha) as the horizon grows. Its
    relative error is about 1e-15.

    Example:
        >>> from metastep_lab.theory.quadratic_step_size import optimal_step_size
        >>> round(optimal_step_size([[3.0, 0.0], [0.0, 1.0]], [1.0, 1.0], 1000), 4)
        0.4999

    Raises:
        ValueError: as `spectrum`; for a horizon below 1.
    """
    _check(0.0, horizon)
    eigenvalues, coordinates = spectrum(hessian, start)
    diagonal = np.diag(eigenvalues)
    slope = lambda eta: float(meta_gradient(eta, diagonal, coordinates, horizon))
    # At 1 / L no factor 1 - eta lambda is negative, at 1 / alpha none is positive: F' changes sign.
    edges = 1 / eigenvalues[-1], 1 / eigenvalues[0]
    # The smallest relative tolerance that `brentq` takes; the absolute one must be positive.
    accuracy = 4 * np.finfo(np.float64).eps
    return root_scalar(slope, bracket=edges, method="brentq", xtol=1e-300, rtol=accuracy).root


def log_plain_gradient(
    step_size: ArrayLike, hessian: ArrayLike, start: ArrayLike, horizon: int
) -> tuple[FloatArray, FloatArray]:
    """Return sign and log magnitude of d f(w_T) / d eta, which explodes or vanishes (Theorem 3).

    Arguments and errors are those of `meta_objective`.
    """
    steps = _check(step_size, horizon)
    eigenvalues, squares, factors, scale = _scaled(steps, hessian, start)
    total = -np.sum(squares * eigenvalues**2 * factors ** (2 * horizon - 1), axis=-1)
    with np.errstate(divide="ignore"):
        magnitude = np.log(np.abs(total)) + np.log(horizon) + (2 * horizon - 1) * np.log(scale)
    return np.sign(total), magnitude


def log_plain_gradient_bound(
    step_size: ArrayLike, hessian: ArrayLike, start: ArrayLike, horizon: int
) -> FloatArray:
    """Return the logarithm of Theorem 3's bound on |d f(w_T) / d eta|.

    For eta < 2 / L it is an upper bound that vanishes with T, for eta > 2 / L a lower bound that
    explodes; -inf where the lower bound is not positive and hence trivial, NaN at 2 / L. Arguments
    and errors are those of `meta_objective`.
    """
    steps = _check(step_size, horizon)
    eigenvalues, coordinates = spectrum(hessian, start)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    length = np.sum(coordinates**2)
    common = np.log(horizon) + 2 * np.log(largest)
    slowest = np.maximum(np.abs(1 - steps * smallest), np.abs(1 - steps * largest))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        above = common + np.log(length) + (2 * horizon - 1) * np.log(slowest)
        grown = np.log(coordinates[-1] ** 2) + (2 * horizon - 1) * np.log(steps * largest - 1)
        # log(a - b) = log a + log(1 - b / a), where a overflows for long horizons.
        below = common + grown + np.log1p(-np.minimum(1, length * np.exp(-grown)))
    edge = 2 / largest
    return np.where(steps < edge, above, np.where(steps > edge, below, np.nan))


def _smallest_square(coordinates: FloatArray) -> float:
    """Return c_min^2 for a start of unit length."""
    return float(min(coordinates[0] ** 2, coordinates[-1] ** 2) / np.sum(coordinates**2))


def meta_gradient_bound(hessian: ArrayLike, start: ArrayLike) -> float:
    """Return Claim 2's upper bound 4 L^3 / (c_min^2 alpha (L - alpha)) on |F'(eta)|, eta >= 0.

    True but loose, by factors of 10^2 to 10^7 on random problems.

    Raises:
        ValueError: as `spectrum`.
    """
    eigenvalues, coordinates = spectrum(hessian, start)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    return float(4 * largest**3 / (_smallest_square(coordinates) * smallest * (largest - smallest)))


def meta_gradient_floor(
    distance: float, largest_step_size: float, hessian: ArrayLike, start: ArrayLike
) -> float:
    """Return Claim 3's lower bound on |F'| for step sizes at least `distance` away from eta*.

    2 epsilon c_min^2 min(alpha^3 / L, 1 / M^2) on [0, eta* - epsilon] and [eta* + epsilon, M], for
    a distance epsilon below 1 / L and a largest step size M of at least 2 / alpha.

    Raises:
        ValueError: as `spectrum`; for a distance or a largest step size outside its range.
    """
    eigenvalues, coordinates = spectrum(hessian, start)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    if not 0 < distance < 1 / largest:
        raise ValueError(
            f"distance is {distance!r}; allowed are numbers above 0 and below 1 / L = "
            f"{1 / largest:.6g}."
        )
    if not largest_step_size >= 2 / smallest:
        raise ValueError(
            f"largest_step_size is {largest_step_size!r}; allowed are numbers from 2 / alpha = "
            f"{2 / smallest:.6g}."
        )
    slope = min(smallest**3 / largest, 1 / largest_step_size**2)
    return float(2 * distance * _smallest_square(coordinates) * slope)
