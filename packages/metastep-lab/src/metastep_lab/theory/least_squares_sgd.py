r"""The exact expectation of stochastic gradient descent on one least squares task.

Setting: n < d examples (x_i, y_i), inner loss sum_i (x_i . w - y_i)^2 / (2 n), and t steps
w <- w - eta (x_i . w - y_i) x_i from w = 0 with i uniform over the examples. With the thin
singular value decomposition X = U S V^T all iterates are w_t = V (s_0 - s_t), where
s_0 = S^{-1} U^T y is the interpolating solution in coordinates of the row space, and

    s <- s - eta (z_i . s) z_i,      z_i = V^T x_i.

So E s_t = (1 - eta S^2 / n)^t s_0, and M = E s s^T obeys a linear recursion,

    M <- M - (eta / n) (S^2 M + M S^2) + (eta^2 / n) sum_i (z_i^T M z_i) z_i z_i^T,

which is self-adjoint for the inner product tr(A B): in orthonormal coordinates of the symmetric
matrices, n (n + 1) / 2 in number, it is 1 - eta (D - eta C), D diagonal and C of rank n. One
eigenvalue decomposition per step size then gives every horizon, at a cost that does not depend on
its length. Everything is NumPy in float64.

Reference:
    Wang, Yuan, Wu and Ge (2021), Guarantees for tuning the step size using a learning-to-learn
    approach, Appendix D. They bound these expectations; here they are computed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SMOOTHNESS = 100
"""L of the paper: with high probability it bounds the eigenvalues of X^T X / n."""


@dataclass(frozen=True)
class ExpectedLosses:
    """Expectations over the noise of stochastic gradient descent on one task.

    Attributes:
        train: E sum_i (x_i . w_t - y_i)^2 / (2 n), the training loss.
        mean_squared_error: E |w_t - w*|^2. The population loss is half of it plus half the
            variance of the noise in the targets.
    """

    train: NDArray[np.float64]
    mean_squared_error: NDArray[np.float64]


def expected_losses(
    step_size: ArrayLike,
    *,
    inputs: ArrayLike,
    targets: ArrayLike,
    truth: ArrayLike,
    horizon: ArrayLike,
) -> ExpectedLosses:
    """Return the expected training loss and distance to the truth after t steps from w = 0.

    The expectation is exact; large weights are not truncated (as in Theorem 9; the
    paper's Theorem 10 truncates at |w| = 40 sigma, whose effect is not measured). For
    n examples each step size costs the eigenvalues of a matrix with n (n + 1) / 2 rows; all
    horizons together cost little more than one.

    Args:
        step_size: eta, a number or an array, none negative.
        inputs: X, one row x_i for each example, shape (n, d) with n < d and independent rows.
        targets: y, shape (n,).
        truth: w*, shape (d,).
        horizon: t, an integer or an array of integers from 0.

    Returns:
        Arrays of the shape of `step_size` followed by that of `horizon`; infinite where the second
        moment overflows.

    Raises:
        ValueError: for a negative step size or horizon, shapes that do not fit, or n >= d.

    Source: the definitions before Theorems 9 and 10.
    """
    steps, horizons = _step_sizes(step_size), _horizons(horizon)
    left, singular, right = _decompose(inputs)
    targets, truth = _vector("targets", targets, len(left)), _vector("truth", truth, right.shape[1])
    examples = len(targets)
    start = left.T @ targets / singular
    seen = right @ truth
    offset = start - seen
    constant = offset @ offset + truth @ truth - seen @ seen
    drift, noise = _recursion(left, singular)
    weights = np.stack([_coordinates(np.diag(singular**2)), _coordinates(np.eye(examples))])
    first = _coordinates(np.outer(start, start))
    # The rank-n matrix is formed once; adding it to a diagonal is cheap beside the eigenvalues.
    diffusion = noise @ noise.T
    train = np.empty((steps.size, horizons.size))
    error = np.empty_like(train)
    for row, eta in enumerate(steps.flat):
        rates, modes = np.linalg.eigh(np.diag(drift) - eta * diffusion)
        residual, spread = _apply((weights @ modes) * (first @ modes), eta * rates, horizons)
        (mean,) = _apply((offset * start)[None], eta * singular**2 / examples, horizons)
        train[row] = residual / (2 * examples)
        # The mean overflows only where the second moment has done so before.
        error[row] = spread - 2 * np.where(np.isfinite(spread), mean, 0) + constant
    shape = steps.shape + horizons.shape
    return ExpectedLosses(train.reshape(shape), error.reshape(shape))


def divergence_step_size(inputs: ArrayLike) -> float:
    """Return the step size above which the second moment of the iterates grows without bound.

    The recursion maps positive matrices to positive ones, so that its eigenvalue of largest modulus
    is positive, and it passes 1 where D - eta C becomes singular: at the inverse of the largest
    eigenvalue of D^{-1/2} C D^{-1/2}, which has the rank n. The cost is of order n^4.

    Args:
        inputs: X, shape (n, d) with n < d and independent rows.

    Returns:
        The step size; 2 / |x|^2 for a single example.

    Raises:
        ValueError: if `inputs` is no such matrix.

    Source: the recursion in the description of this module; the paper requires 1 / (2 L^3 d).
    """
    left, singular, _ = _decompose(inputs)
    drift, noise = _recursion(left, singular)
    return float(1 / np.linalg.eigvalsh((noise.T / drift) @ noise)[-1])


def train_by_train_range(dim: int) -> float:
    """Return 1 / (2 L^3 d) with L = 100, the largest step size that Theorem 9 allows.

    Args:
        dim: d.

    Raises:
        ValueError: if `dim` is below 2.
    """
    return 1 / (2 * SMOOTHNESS**3 * _dim(dim))


def train_by_validation_range(dim: int) -> float:
    """Return 1 / (d^2 ln^2 d), the largest step size that Theorem 10 allows.

    The theorem divides by a constant c_5 that it does not give; here c_5 = 1.

    Args:
        dim: d.

    Raises:
        ValueError: if `dim` is below 2.
    """
    return float(1 / (_dim(dim) * np.log(dim)) ** 2)


def _decompose(inputs: ArrayLike) -> tuple[Matrix, Vector, Matrix]:
    inputs = np.asarray(inputs, np.float64)
    if inputs.ndim != 2 or not 0 < inputs.shape[0] < inputs.shape[1]:
        raise ValueError(
            f"inputs has the shape {inputs.shape}; allowed: (n, d) with n from 1 to d - 1"
        )
    left, singular, right = np.linalg.svd(inputs, full_matrices=False)
    if not singular[-1] > 1e-10 * singular[0]:
        raise ValueError(
            f"inputs has the smallest singular value {singular[-1]:.3g}; allowed: independent rows"
        )
    return left, singular, right


def _recursion(left: Matrix, singular: Vector) -> tuple[Vector, Matrix]:
    """The diagonal of D and a factor F with C = F F^T, shape (n (n + 1) / 2, n)."""
    rotated = left * singular
    rows, columns = np.triu_indices(singular.size)
    drift = (singular[rows] ** 2 + singular[columns] ** 2) / singular.size
    outer = rotated[:, :, None] * rotated[:, None, :]
    return drift, _coordinates(outer).T / np.sqrt(singular.size)


def _coordinates(symmetric: Matrix) -> Matrix:
    """Coordinates of (a stack of) symmetric matrices in an orthonormal basis for tr(A B)."""
    rows, columns = np.triu_indices(symmetric.shape[-1])
    return np.where(rows == columns, 1.0, np.sqrt(2)) * symmetric[..., rows, columns]


def _apply(weights: Matrix, rates: Vector, horizons: NDArray[np.int64]) -> Matrix:
    """Return sum_k weights_k (1 - rates_k)^t for each row and horizon, infinite on overflow.

    Computed by logarithms: 1 - rate loses the digits of a small rate, which a long horizon needs.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        small = np.log1p(-np.minimum(rates, 0.5))
        log_size = np.where(rates < 0.5, small, np.log(np.abs(1 - rates)))
        powers = np.exp(np.multiply.outer(log_size, horizons.reshape(-1)))
        odd = horizons.reshape(-1) % 2 == 1
        powers = np.where((rates > 1)[:, None] & odd, -powers, powers)
        powers[:, horizons.reshape(-1) == 0] = 1
        total = weights @ powers
    return np.where(np.isfinite(total), total, np.inf)


def _step_sizes(step_size: ArrayLike) -> NDArray[np.float64]:
    steps = np.asarray(step_size, np.float64)
    if not np.all((steps >= 0) & np.isfinite(steps)):
        raise ValueError(f"step_size is {step_size}; allowed are finite numbers from 0")
    return steps


def _horizons(horizon: ArrayLike) -> NDArray[np.int64]:
    horizons = np.asarray(horizon)
    if horizons.dtype.kind not in "iu" or np.any(horizons < 0):
        raise ValueError(f"horizon is {horizon}; allowed are integers from 0")
    return horizons.astype(np.int64)


def _vector(name: str, values: ArrayLike, size: int) -> Vector:
    vector = np.asarray(values, np.float64)
    if vector.shape != (size,):
        raise ValueError(f"{name} has the shape {vector.shape}; allowed: ({size},), as in inputs")
    return vector


def _dim(dim: int) -> int:
    if dim < 2:
        raise ValueError(f"dim is {dim}; allowed are integers from 2")
    return dim
