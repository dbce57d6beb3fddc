"""Checks of arguments: one message for each kind of wrong use, naming argument and value."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def integer(value: Any) -> Any:
    """Return an integer of any kind (NumPy's, a JAX scalar) as a Python int, all else as it is.

    The converter of fields that count: a Python int is static where a problem or an estimator is
    compiled, an integer array is not.
    """
    if isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def is_count(value: object) -> bool:
    """Whether `value` is an integer from 1."""
    value = integer(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require_count(name: str, value: object, none: str | None = None) -> None:
    """Refuse everything but the integers from 1, and None where `none` says what it means.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if none is not None and value is None:
        return
    if not is_count(value):
        also = f"None ({none}) and " if none else ""
        raise ValueError(f"{name} is {value!r}; allowed are {also}the integers from 1.")


def require_key(key: Any) -> None:
    """Refuse everything but a random key of JAX.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
        if typed or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
        key = f"of {key.dtype}{list(key.shape)}"
    raise ValueError(f"key is {key}; allowed is one random key of JAX, such as jax.random.key(0).")


def scalar(name: str, value: Any) -> Any:
    """Return what a function returned, if it is one real number; a Python number as an array.

    Args:
        name: of the function, for the message.
        value: what it returned, or the shape and dtype of that.

    Raises:
        ValueError: saying what the function returned, and what to do about it.
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
