"""Checks of the arguments of the theory of MAML."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def check_counts(**counts: int) -> None:
    """Refuse numbers of examples, tasks or dimensions, by name, that are not integers from 1.

    Raises:
        ValueError: naming the first that is wrong.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or int(count) != count or count < 1:
            raise ValueError(f"{name} is {count!r}; allowed are the integers from 1.")


def checked_covariance(
    name: str, matrix: ArrayLike, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Return a matrix in float64, or refuse it if it is not symmetric positive semi-definite.

    `name` is that of the argument, `shape` the only one that is allowed; any square one for None.

    Raises:
        ValueError: naming the argument and what is wrong with it.
    """
    value = np.asarray(matrix, np.float64)
    if value.ndim != 2 or value.shape[0] != value.shape[1] or value.shape != (shape or value.shape):
        allowed = f"allowed is {shape}" if shape else "allowed are square matrices"
        raise ValueError(f"{name} has shape {value.shape}; {allowed}.")
    allowed = "allowed are symmetric positive semi-definite matrices."
    if not np.all(np.isfinite(value)):
        raise ValueError(f"{name} has entries that are not finite; {allowed}")
    # `eigvalsh` errs by some eps times the norm, at most rows times the largest entry. 1e-12 leaves
    # room for the rounding of the products that made the matrix.
    rounding = 1e-12 * len(value) * np.abs(value).max(initial=0.0)
    if np.abs(value - value.T).max(initial=0.0) > rounding:
        raise ValueError(f"{name} is not symmetric; {allowed}")
    lowest = np.linalg.eigvalsh(value).min(initial=0.0)
    if lowest < -rounding:
        raise ValueError(f"{name} has the eigenvalue {lowest:g}; {allowed}")
    return value


def equations_of(dim: int, validation_samples: int, tasks: int) -> int:
    """Return N = validation_samples * tasks, the number of equations of the outer problem.

    Raises:
        ValueError: for a count below 1, or N = p, where the outer problem is singular.
    """
    check_counts(dim=dim, validation_samples=validation_samples, tasks=tasks)
    equations = validation_samples * tasks
    if dim == equations:
        raise ValueError(
            f"dim is {dim}, as many as validation_samples * tasks; allowed are other numbers: "
            "there the outer problem is singular and its expected loss infinite."
        )
    return equations


def check_scales(**scales: float) -> None:
    """Refuse standard deviations and distances, by name, that are negative or not finite.

    Raises:
        ValueError: naming the first that is wrong.
    """
    for name, scale in scales.items():
        if not (np.isfinite(scale) and scale >= 0):
            raise ValueError(f"{name} is {scale!r}; allowed are finite numbers from 0.")


def checked_rates(name: str, rate: ArrayLike) -> FloatArray:
    """Return rates of any sign and shape in float64, or refuse them if they are not finite.

    Raises:
        ValueError: naming the argument and its value.
    """
    values = np.asarray(rate, np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name} is {rate!r}; allowed are finite numbers of any sign.")
    return values
