"""Orthogonal matching pursuit of many signals at once, for NumPy and for JAX arrays.

Each of its `n_nonzero` rounds takes the atom with the largest correlation with the residual, and
fits all chosen atoms by least squares, in one of two forms (see `pursuit_forms`). On a CPU NumPy is
faster and needs no compilation; JAX arrays are compiled for each new shape.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from threadpoolctl import ThreadpoolController

from metastep.checks import require_count, require_finite
from metastep.compilation import compiled
from metastep.sparse_coding.pursuit_forms import gram_form, residual_form
from metastep.sparse_coding.pursuit_searches import (
    SEARCHED,
    parts_of,
    search_gram,
    search_gram_compiled,
    search_residuals,
    search_residuals_compiled,
)

Real = TypeVar("Real", np.ndarray, jax.Array)

BLOCK = 1024
"""The number of signals that NumPy processes at a time, which bounds the memory."""


SHORT = 2**22
"""Multiply-adds of one search up to which BLAS gets one thread; a fraction of a millisecond."""


def orthogonal_matching_pursuit(signals: Real, dictionary: Real, n_nonzero: int) -> Real:
    """Represent every signal by few atoms of a dictionary, chosen greedily.

    The search is greedy, so the support is not optimal in general. On the support the coefficients
    solve the least squares problem, up to rounding (in the Gram form times the squared condition
    number of the chosen atoms). An atom that depends linearly on those chosen before it, such as a
    duplicate, has the coefficient 0. Cost: `n_nonzero` products of the signals with the dictionary
    in the residual form; one, and the dictionary's Gram matrix, in the Gram form. For NumPy arrays
    BLAS is limited to one thread, in the whole process, while its products are short (up to
    d p = 131072).

    Example:
        >>> import numpy as np
        >>> dictionary = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]])
        >>> signals = np.array([[3.0, 0.5], [0.6, 0.8]])
        >>> orthogonal_matching_pursuit(signals, dictionary, 1).round(2)
        array([[3., 0., 0.],
               [0., 0., 1.]])

    Args:
        signals: (n, d), float32 or float64; NumPy or JAX.
        dictionary: (d, p), with the atoms as columns. They are not normalized; usually they have
            unit norm.
        n_nonzero: the largest number of atoms for each signal, from 1 to p. More than d are never
            needed.

    Returns:
        Codes (n, p) of the same dtype and kind of array as the inputs (JAX if one of them is), such
        that `codes @ dictionary.T` approximates the signals. Under `jax.jit` and `jax.vmap` values
        cannot be checked: an infinite or NaN entry of a signal or of the dictionary makes the codes
        that depend on it NaN.

    Raises:
        ValueError: if the shapes do not fit, `n_nonzero` is not allowed, an entry is infinite or
            NaN, or squares of the entries overflow. The check waits for the codes of JAX arrays.

    Reference:
        Pati, Rezaiifar and Krishnaprasad (1993); Rubinstein, Zibulevsky and Elad (2008).
    """
    if signals.ndim != 2 or dictionary.ndim != 2 or signals.shape[1] != dictionary.shape[0]:
        raise ValueError(
            f"signals and dictionary have the shapes {signals.shape} and {dictionary.shape}; "
            "allowed are (n, d) and (d, p)"
        )
    if np.iscomplexobj(signals) or np.iscomplexobj(dictionary):
        dtypes = f"{signals.dtype} and {dictionary.dtype}"
        raise ValueError(f"signals and dictionary are {dtypes}; allowed are real numbers")
    require_count("n_nonzero", n_nonzero, most=dictionary.shape[1])
    # d independent atoms represent a signal exactly; further rounds would fit rounding.
    rounds = min(n_nonzero, signals.shape[1])
    if isinstance(signals, np.ndarray) and isinstance(dictionary, np.ndarray):
        chosen, weights = pursue(signals, dictionary, rounds)
        if not (weights.size and np.all(np.isfinite(weights))):
            _refuse_non_finite(signals, dictionary, weights)
        rows = np.arange(len(signals))
        codes = np.zeros((rows.size, dictionary.shape[1]), weights.dtype)
        # In reverse, so that the first coefficient of an atom that is chosen twice remains.
        for index, weight in zip(chosen[::-1], weights[::-1], strict=True):
            codes[rows, index] = weight
        return codes
    codes, finite = _pursue_compiled(jnp.asarray(signals), jnp.asarray(dictionary), rounds)
    if not (isinstance(finite, Tracer) or finite):
        _refuse_non_finite(np.asarray(signals), np.asarray(dictionary), np.asarray(codes))
    return codes


def _refuse_non_finite(signals: np.ndarray, dictionary: np.ndarray, found: np.ndarray) -> None:
    """Raise an error that names the input behind an infinite or NaN coefficient.

    An entry that is not finite always affects a coefficient, and checking the few coefficients is
    faster than checking all entries of the inputs.
    """
    require_finite("signals", signals)
    require_finite("dictionary", dictionary)
    if found.size:
        raise ValueError(
            f"signals and dictionary have entries up to {np.abs(signals).max():.3g} and "
            f"{np.abs(dictionary).max():.3g}, whose products overflow; divide them by constants"
        )


def _uses_gram(n: int, d: int, p: int, rounds: int) -> bool:
    """Choose the form: Gram if its start is cheap and used often enough (measured)."""
    return p <= 5 * d and p <= rounds * n


def pursue(
    signals: np.ndarray, dictionary: np.ndarray, n_nonzero: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the choices of `orthogonal_matching_pursuit` for NumPy arrays.

    These are the chosen atoms and their coefficients, both (n_nonzero, n); `n_nonzero` is at most
    the smaller of d and p. A signal may choose an atom again, with the coefficient 0. An infinite
    or NaN entry of a signal or of an atom makes a coefficient of every affected signal infinite or
    NaN.
    """
    # Integers become floats, and BLAS has no half precision.
    dtype = np.result_type(signals, dictionary, np.float32)
    signals, dictionary = signals.astype(dtype, copy=False), dictionary.astype(dtype, copy=False)
    n, (d, p) = len(signals), dictionary.shape
    chosen, weights = np.empty((n_nonzero, n), int), np.empty((n_nonzero, n), dtype)
    # The caller detects overflow and NaN in the coefficients.
    with _threads(d, p), np.errstate(invalid="ignore", over="ignore"):
        gram = dictionary.T @ dictionary if _uses_gram(n, d, p, n_nonzero) else None
        atoms = np.ascontiguousarray(dictionary.T)
        for start in range(0, n, BLOCK):
            block = slice(start, start + BLOCK)
            found = _pursue(np, signals[block], dictionary, atoms, gram, n_nonzero)
            for place, (index, weight) in enumerate(zip(*found, strict=True)):
                chosen[place, block], weights[place, block] = index, weight
    return chosen, weights


def _threads(d: int, p: int) -> AbstractContextManager:
    """Limit BLAS to one thread for short products.

    A second thread saves little on free cores; on busy cores every product waits for it.
    """
    if SEARCHED * d * p > SHORT:
        return nullcontext()
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    # Cached, since its search of all loaded libraries takes longer than a small pursuit.
    return ThreadpoolController()


@compiled
def _pursue_compiled(
    signals: jax.Array, dictionary: jax.Array, rounds: int
) -> tuple[jax.Array, jax.Array]:
    """Return the codes, and whether all numbers are finite."""
    dtype = jnp.result_type(signals, dictionary, jnp.float32)
    signals, dictionary = signals.astype(dtype), dictionary.astype(dtype)
    n, (d, p) = len(signals), dictionary.shape
    gram = dictionary.T @ dictionary if _uses_gram(n, d, p, rounds) else None
    chosen, weights = _pursue(jnp, signals, dictionary, dictionary.T, gram, rounds)
    places, found = (jnp.arange(n)[:, None], jnp.stack(chosen, 1)), jnp.stack(weights, 1)
    # The search may skip an atom whose correlation is NaN.
    usable = jnp.all(jnp.isfinite(dictionary))
    codes = jnp.zeros((n, p), dtype).at[places].add(jnp.where(usable, found, jnp.nan))
    return codes, usable & jnp.all(jnp.isfinite(found))


def _pursue(
    xp: Any, signals: Any, dictionary: Any, atoms: Any, gram: Any, rounds: int
) -> tuple[list, list]:
    """Return the chosen atoms and their coefficients: one array over signals for each round."""
    parts = parts_of(len(signals))
    if gram is None:
        search = partial(search_residuals_compiled, dictionary)
        if xp is np:
            # Allocated once: new memory in every round would cost as much as the search.
            buffer = np.empty((SEARCHED, len(atoms)), atoms.dtype)
            search = partial(search_residuals, dictionary, buffer, parts)
        return residual_form(xp, search, signals, atoms, rounds)
    correlations = signals @ dictionary
    search = partial(search_gram_compiled, correlations, gram)
    if xp is np:
        search = partial(search_gram, correlations, gram, parts)
    return gram_form(xp, search, correlations, gram, rounds)
