"""Checks of arguments, with one message for each kind of wrong use."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def integer(value: Any) -> Any:
    """Return an integer of any kind (NumPy's, a JAX scalar) as a Python int, other values as is.

    It is the converter of integer fields: a Python int is static when a problem or an estimator is
    compiled, an integer array is not.
    """
    if isinstance(value, bool):  # an index of Python, too
        return value
    try:
        # A traced integer raises a TypeError, too, and stays an argument of the program.
        return operator.index(value)
    except TypeError:
        return value


def require(condition: bool | np.bool_, name: str, value: object, allowed: str) -> None:
    """Raise a `ValueError` that names an argument, its value and what is allowed."""
    if not condition:
        # Quotes for text only: the `repr` of a NumPy number is `np.float64(0.1)`.
        shown = repr(value) if isinstance(value, str) else value
        raise ValueError(f"{name} is {shown}; allowed are {allowed}.")


def is_count(value: object, least: int = 1, most: int | None = None) -> bool:
    """Whether `value` is an integer from `least` to `most`."""
    value = integer(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return value >= least and (most is None or value <= most)


def require_count(
    name: str, value: object, none: str | None = None, *, least: int = 1, most: int | None = None
) -> None:
    """Refuse values other than integers in a range; None is allowed if `none` says its meaning."""
    if value is not None or none is None:
        also = f"None ({none}) and " if none else ""
        upper = "" if most is None else f" to {most}"
        allowed = f"{also}the integers from {least}{upper}"
        require(is_count(value, least, most), name, value, allowed)


def require_key(key: Any) -> None:
    """Refuse anything but a JAX random key."""
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
        # A key of the old style has two words for threefry, and four for rbg.
        if typed or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
        key = f"of {key.dtype}{list(key.shape)}"
    raise ValueError(f"key is {key}; allowed is one random key of JAX, such as jax.random.key(0).")


def scalar(name: str, value: Any) -> Any:
    """Return a function's result if it is one real number; a Python number becomes an array.

    `value` is the result of the function `name`, or its shape and dtype. A `ValueError` says what
    the function returned and what to change.
    """
    if isinstance(value, tuple):
        raise ValueError(
            f"{name} returned a tuple of {len(value)}; it must return one real scalar and nothing "
            f"beside it. A function that returns (value, auxiliary output) is given as "
            f"`lambda *arguments: {name.rpartition('.')[2]}(*arguments)[0]`."
        )
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        if not isinstance(value, float | int):
            raise ValueError(
                f"{name} returned a {type(value).__name__}; it must return a real scalar array."
            )
        value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        advice = "Take the squared modulus or the real part of what it returns now."
    elif value.shape == ():
        advice = "Make it a floating-point number."
    else:
        advice = "Take a mean or a sum over what it returns now."
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{name} returned {value.dtype}{list(value.shape)}; it must return one real scalar. "
            f"{advice}"
        )
    return value


def require_finite(name: str, matrix: np.ndarray) -> None:
    """Refuse a matrix with an entry that is infinite or NaN, and name the first one."""
    finite = np.isfinite(matrix)
    if not np.all(finite):
        row, column = np.argwhere(~finite)[0].tolist()
        raise ValueError(
            f"{name} has the entry {matrix[row, column]} in row {row}, column {column} (from 0); "
            "allowed are finite numbers"
        )
