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
    """Expectations over the noise of stochastic gradient descent, on one task or on several.

    Attributes:
        train: E sum_i (x_i . w_t - y_i)^2 / (2 n), the training loss.
        mean_squared_error: E |w_t - w*|^2. The population loss is half of it plus half the
            variance of the noise in the targets.
        validation: the loss on the validation examples; None without such examples.
    """

    train: NDArray[np.float64]
    mean_squared_error: NDArray[np.float64]
    validation: NDArray[np.float64] | None = None


def expected_losses(
    step_size: ArrayLike,
    *,
    inputs: ArrayLike,
    targets: ArrayLike,
    truth: ArrayLike,
    horizon: ArrayLike,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
) -> ExpectedLosses:
    """Return the expected training loss and distance to the truth after t steps from w = 0.

    The expectation is exact; large weights are not truncated (as in Theorem 9; the
    paper's Theorem 10 truncates at |w| = 40 sigma, which no run in its range of step sizes reaches:
    `metastep run step-size-guarantees`, claim `sgd-is-not-truncated`). For
    n examples each step size costs the eigenvalues of a matrix with n (n + 1) / 2 rows; all
    horizons together cost little more than one. All arrays of a task may have the same leading
    axes, for several tasks.

    Args:
        step_size: eta, a number or an array, none negative.
        inputs: X, one row x_i for each example, shape (n, d) with n < d and independent rows.
        targets: y, shape (n,).
        truth: w*, shape (d,).
        horizon: t, an integer or an array of integers from 0.
        validation: inputs, shape (v, d), and targets, shape (v,), of further examples.

    Returns:
        Arrays of the shape of the leading axes, followed by that of `step_size` and by that of
        `horizon`; infinite where the second moment overflows.

    Raises:
        ValueError: for a negative step size or horizon, shapes that do not fit, or n >= d.

    Source: the definitions before Theorems 9 and 10.
    """
    steps, horizons = _step_sizes(step_size), _horizons(horizon)
    left, singular, right = _decompose(inputs)
    batch, (examples, dim) = left.shape[:-2], right.shape[-2:]
    targets = _vector("targets", targets, (*batch, examples))
    truth = _vector("truth", truth, (*batch, dim))
    start = _times(np.swapaxes(left, -1, -2), targets) / singular
    seen = _times(right, truth)
    # E |A s_t - r|^2 / scale of each (A, r, scale), where r is what interpolation misses.
    measured = [
        (left * singular[..., None, :], np.zeros(targets.shape), 2 * examples),
        (np.broadcast_to(np.eye(examples), left.shape), start - seen, 1),
    ]
    unseen = np.sum(truth**2, axis=-1) - np.sum(seen**2, axis=-1)
    constants = [np.zeros(batch), unseen]
    if validation is not None:
        tested = np.asarray(validation[0], np.float64)
        if tested.ndim != len(batch) + 2 or tested.shape[-1] != dim:
            raise ValueError(
                f"validation has inputs of the shape {tested.shape}; allowed: (v, {dim})"
            )
        answers = _vector("validation targets", validation[1], tested.shape[:-1])
        tested = tested @ np.swapaxes(right, -1, -2)
        measured.append((tested, _times(tested, start) - answers, 2 * tested.shape[-2]))
        constants.append(np.zeros(batch))
    found = _second_moments(steps, horizons, left, singular, start, measured)
    shape = batch + steps.shape + horizons.shape
    both = zip(found, constants, strict=True)
    return ExpectedLosses(*((part + c[..., None, None]).reshape(shape) for part, c in both))


def _second_moments(
    steps: Vector,
    horizons: NDArray[np.int64],
    left: Matrix,
    singular: Vector,
    start: Vector,
    measured: list[tuple[Matrix, Vector, int]],
) -> list[Matrix]:
    """Return E |A s_t - r|^2 / scale of each, shape (..., steps, horizons)."""
    drift, noise = _recursion(left, singular)
    # The rank-n matrix is formed once; adding it to a diagonal is cheap beside the eigenvalues.
    diffusion = noise @ np.swapaxes(noise, -1, -2)
    diagonal = drift[..., None] * np.eye(drift.shape[-1])
    turned = [(np.swapaxes(a, -1, -2), a, r) for a, r, _ in measured]
    # |A s - r|^2 = tr(A^T A s s^T) - 2 r^T A s + |r|^2: linear in M = E s s^T and in E s.
    weights = np.stack([_coordinates(b @ a) for b, a, _ in turned], axis=-2)
    along = np.stack([_times(b, r) * start for b, _, r in turned], axis=-2)
    first = _coordinates(start[..., :, None] * start[..., None, :])
    columns = []
    for eta in steps.flat:
        rates, modes = np.linalg.eigh(diagonal - eta * diffusion)
        begin = _times(np.swapaxes(modes, -1, -2), first)[..., None, :]
        second = _apply((weights @ modes) * begin, eta * rates, horizons)
        mean = _apply(along, eta * singular**2 / start.shape[-1], horizons)
        # The mean overflows only where the second moment has done so before.
        columns.append(second - 2 * np.where(np.isfinite(second), mean, 0))
    together = np.stack(columns, axis=-2)  # (..., measured, steps, horizons)
    return [
        (together[..., i, :, :] + np.sum(r**2, axis=-1)[..., None, None]) / scale
        for i, (_, r, scale) in enumerate(measured)
    ]


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
    # F^T D^{-1} F has the same positive eigenvalues and n rows in place of n (n + 1) / 2.
    return float(1 / np.linalg.eigvalsh((noise.T / drift) @ noise)[-1])


def train_by_train_range(dim: int) -> float:
    """Return 1 / (2 L^3 d) with L = 100, the largest step size that Theorem 9 allows.

    Raises:
        ValueError: if `dim` is below 2.
    """
    return 1 / (2 * SMOOTHNESS**3 * _dim(dim))


def train_by_validation_range(dim: int) -> float:
    """Return 1 / (d^2 ln^2 d), the largest step size that Theorem 10 allows.

    The theorem divides by a constant c_5 that it does not give; here c_5 = 1.

    Raises:
        ValueError: if `dim` is below 2.
    """
    return float(1 / (_dim(dim) * np.log(dim)) ** 2)


def _times(matrix: Matrix, vector: Vector) -> Vector:
    """Return the product of (a stack of) matrices and vectors."""
    return (matrix @ vector[..., None])[..., 0]


def _decompose(inputs: ArrayLike) -> tuple[Matrix, Vector, Matrix]:
    inputs = np.asarray(inputs, np.float64)
    if inputs.ndim < 2 or not 0 < inputs.shape[-2] < inputs.shape[-1]:
        raise ValueError(
            f"inputs has the shape {inputs.shape}; allowed: (n, d) with n from 1 to d - 1"
        )
    left, singular, right = np.linalg.svd(inputs, full_matrices=False)
    if not np.all(singular[..., -1] > 1e-10 * singular[..., 0]):
        raise ValueError(
            f"inputs has the smallest singular value {singular[..., -1].min():.3g}; allowed: "
            "independent rows"
        )
    return left, singular, right


def _recursion(left: Matrix, singular: Vector) -> tuple[Vector, Matrix]:
    """The diagonal of D and a factor F with C = F F^T, shape (n (n + 1) / 2, n)."""
    rotated, examples = left * singular[..., None, :], singular.shape[-1]
    rows, columns = np.triu_indices(examples)
    drift = (singular[..., rows] ** 2 + singular[..., columns] ** 2) / examples
    # z_i z_i^T of every example, whose coordinates are the columns of F.
    outer = rotated[..., :, :, None] * rotated[..., :, None, :]
    return drift, np.swapaxes(_coordinates(outer), -1, -2) / np.sqrt(examples)


def _coordinates(symmetric: Matrix) -> Matrix:
    """Coordinates of (a stack of) symmetric matrices in an orthonormal basis for tr(A B)."""
    rows, columns = np.triu_indices(symmetric.shape[-1])
    # tr(A B) counts every entry off the diagonal twice.
    return np.where(rows == columns, 1.0, np.sqrt(2)) * symmetric[..., rows, columns]


def _apply(weights: Matrix, rates: Vector, horizons: NDArray[np.int64]) -> Matrix:
    """Return sum_k weights_k (1 - rates_k)^t for each row and horizon, infinite on overflow.

    Computed by logarithms: 1 - rate loses the digits of a small rate, which a long horizon needs.
    """
    times = horizons.reshape(-1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        small = np.log1p(-np.minimum(rates, 0.5))
        log_size = np.where(rates < 0.5, small, np.log(np.abs(1 - rates)))
        powers = np.exp(log_size[..., None] * times)
        odd = times % 2 == 1
        # Beyond rate 1 the factor 1 - rate is negative.
        powers = np.where((rates > 1)[..., None] & odd, -powers, powers)
        # The exponent is 0 times the logarithm of 0, NaN, where the rate is 1.
        powers[..., times == 0] = 1
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


def _vector(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Vector:
    vector = np.asarray(values, np.float64)
    if vector.shape != shape:
        raise ValueError(f"{name} has the shape {vector.shape}; allowed: {shape}, as in inputs")
    return vector


def _dim(dim: int) -> int:
    if dim < 2:
        raise ValueError(f"dim is {dim}; allowed are integers from 2")
    return dim
