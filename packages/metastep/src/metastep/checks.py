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
    if isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Refuse the value of an argument unless a condition holds; `allowed` names what is allowed.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if not condition:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}.")


def is_count(value: object) -> bool:
    """Whether `value` is an integer from 1."""
    value = integer(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require_count(name: str, value: object, none: str | None = None) -> None:
    """Refuse values other than integers from 1; None is allowed if `none` states its meaning.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if none is not None and value is None:
        return
    if not is_count(value):
        also = f"None ({none}) and " if none else ""
        raise ValueError(f"{name} is {value!r}; allowed are {also}the integers from 1.")


def require_key(key: Any) -> None:
    """Refuse anything but a JAX random key.

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
    """Return a function's result if it is one real number; a Python number becomes an array.

    `value` is the result of the function `name`, or its shape and dtype.

    Raises:
        ValueError: with the result of the function and what to change.
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
