"""Orthogonal matching pursuit of many signals at once, for NumPy and for JAX arrays.

The algorithm has two forms. Each of its `n_nonzero` rounds takes the atom with the largest
correlation with the residual, and fits all chosen atoms by least squares.

- The *residual form* keeps the residuals and an orthonormal basis of the chosen atoms (QR): every
  round is one product of the residuals with the dictionary.
- The *Gram form* computes the products of all atoms with each other once, updates the correlations
  from them, and solves by Cholesky factors: cheaper rounds after a more expensive start.

Both work on whole arrays, in the namespace of the given arrays. On a CPU the NumPy form is faster
and needs no compilation; JAX arrays are compiled for each new shape.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy import sparse
from threadpoolctl import ThreadpoolController

from metastep.compilation import compiled
from metastep.sparse_coding.finite import require_finite

Real = TypeVar("Real", np.ndarray, jax.Array)

BLOCK = 1024
"""The number of signals that NumPy processes at a time, which bounds the memory."""

SEARCHED = 128
"""The number of signals that NumPy searches at a time, so that correlations stay in the cache."""

SHORT = 2**22
"""Multiply-adds of one search up to which BLAS gets one thread; a fraction of a millisecond."""

INDEPENDENT = 32
"""The number of units of rounding above which an atom counts as independent of the chosen ones."""


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
    if not 1 <= n_nonzero <= dictionary.shape[1]:
        raise ValueError(
            f"n_nonzero is {n_nonzero}; allowed are integers from 1 to the number of atoms, "
            f"{dictionary.shape[1]}"
        )
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
    parts = _parts(len(signals))
    if gram is None:
        search = partial(_search_residuals_compiled, dictionary)
        if xp is np:
            # Allocated once: new memory in every round would cost as much as the search.
            buffer = np.empty((SEARCHED, len(atoms)), atoms.dtype)
            search = partial(_search_residuals, dictionary, buffer, parts)
        return _residual_form(xp, search, signals, atoms, rounds)
    correlations = signals @ dictionary
    search = partial(_search_gram_compiled, correlations, gram)
    if xp is np:
        search = partial(_search_gram, correlations, gram, parts)
    return _gram_form(xp, search, correlations, gram, rounds)


def _residual_form(
    xp: Any, search: Callable[..., Any], signals: Any, atoms: Any, rounds: int
) -> tuple[list, list]:
    """Orthogonalize the atoms by modified Gram-Schmidt; the basis stays unnormalized."""
    residual, rounding = xp.array(signals, copy=True), _rounding(xp, signals)
    scratch = np.empty(signals.shape, signals.dtype) if xp is np else None
    chosen, basis, inverses, triangle, target = [], [], [], [], []
    for _ in range(rounds):
        if basis:
            residual = _without(residual, target[-1], basis[-1], scratch)
        chosen.append(search(residual))
        direction, column = atoms[chosen[-1]], []
        square = whole = xp.vecdot(direction, direction)
        for earlier, inverse in zip(basis, inverses, strict=True):
            column.append(xp.vecdot(earlier, direction) * inverse)
            direction = _without(direction, column[-1], earlier, scratch)
        if basis:
            square = xp.vecdot(direction, direction)
        inverses.append(_inverse(xp, square, rounding * whole))
        target.append(xp.vecdot(direction, residual) * inverses[-1])
        basis.append(direction)
        triangle.append(column)
    return chosen, _back_substitute(triangle, target)


def _gram_form(
    xp: Any, search: Callable[..., Any], correlations: Any, gram: Any, rounds: int
) -> tuple[list, list]:
    """Factorize the chosen atoms' Gram matrix as L D L'."""
    rows, rounding = xp.arange(len(correlations)), _rounding(xp, correlations)
    squares, flat = xp.diagonal(gram), xp.ravel(gram)
    chosen, inverses, triangle, target, weights = [], [], [], [], []
    for _ in range(rounds):
        latest = search(chosen, weights)
        square = whole = squares[latest]
        projection = correlations[rows, latest]
        column, products = [], []
        for place, earlier in enumerate(chosen):
            product = xp.take(flat, earlier * len(gram) + latest)  # faster than by two indices
            for above, other in zip(triangle[place], products, strict=True):
                product = product - above * other
            products.append(product)
            column.append(product * inverses[place])
            square = square - product * column[-1]
            projection = projection - product * target[place]
        inverses.append(_inverse(xp, square, rounding * whole))
        target.append(projection * inverses[-1])
        triangle.append(column)
        chosen.append(latest)
        weights = _back_substitute(triangle, target)
    return chosen, weights


def _without(rows: Any, amounts: Any, directions: Any, scratch: np.ndarray | None) -> Any:
    """Subtract multiples of directions from rows, in place if there is scratch memory."""
    if scratch is None:
        return rows - amounts[:, None] * directions
    np.multiply(amounts[:, None], directions, out=scratch)
    rows -= scratch
    return rows


def _search_residuals(
    dictionary: np.ndarray, buffer: np.ndarray, parts: list[slice], residual: np.ndarray
) -> np.ndarray:
    """Return the atoms with the largest correlations with the residuals."""
    latest = np.empty(len(residual), int)
    for part in parts:
        products = residual[part].dot(dictionary, buffer[: part.stop - part.start])
        latest[part] = np.abs(products, out=products).argmax(axis=1)
    return latest


def _search_gram(
    correlations: np.ndarray,
    gram: np.ndarray,
    parts: list[slice],
    chosen: list[np.ndarray],
    weights: list[np.ndarray],
) -> np.ndarray:
    """Return the atoms with the largest correlations, from those of signals and chosen atoms."""
    latest = np.empty(len(correlations), int)
    if not chosen:
        for part in parts:
            latest[part] = np.abs(correlations[part]).argmax(axis=1)
        return latest
    indices, values = np.stack(chosen), np.stack(weights)
    fitted = choices_as_matrix(indices[:, parts[0]], values[:, parts[0]], len(gram))
    for part in parts:
        # The sparse matrix is reused: a new one would cost as much as its product.
        fitted.indices[:] = indices[:, part].T.ravel()
        fitted.data[:] = values[:, part].T.ravel()
        remaining = fitted @ gram
        remaining -= correlations[part]
        latest[part] = np.abs(remaining, out=remaining).argmax(axis=1)
    return latest


def _parts(count: int) -> list[slice]:
    """Divide into parts of equal size; the last two may overlap."""
    size = max(1, -(-count // max(1, -(-count // SEARCHED))))
    starts = (min(start, count - size) for start in range(0, count, size))
    return [slice(start, start + size) for start in starts]


def _search_residuals_compiled(dictionary: jax.Array, residual: jax.Array) -> jax.Array:
    return _largest(residual @ dictionary)


def _search_gram_compiled(
    correlations: jax.Array, gram: jax.Array, chosen: list[jax.Array], weights: list[jax.Array]
) -> jax.Array:
    pairs = zip(chosen, weights, strict=True)
    return _largest(sum((-weight[:, None] * gram[index] for index, weight in pairs), correlations))


def _largest(correlations: jax.Array) -> jax.Array:
    """Return the first index of the largest magnitude in every row."""
    # jnp.argmax processes one number at a time on a CPU.
    size = jnp.abs(correlations)
    places, top = jnp.arange(size.shape[1]), size.max(axis=1, keepdims=True)
    return jnp.min(jnp.where(size >= top, places, size.shape[1] - 1), axis=1)


def _rounding(xp: Any, numbers: Any) -> Any:
    """Return the relative rounding error of a square."""
    return INDEPENDENT * xp.finfo(numbers.dtype).eps


def _inverse(xp: Any, square: Any, lost: Any) -> Any:
    """Return 1 / `square`: 0 if its rounding error exceeds it, NaN if it overflowed."""
    independent = square > lost
    return independent / xp.where(independent, square, square - square + 1)


def _back_substitute(triangle: list[list], target: list) -> list:
    """Solve the unit triangular systems of all signals; `triangle[j]` is column j above the 1."""
    solved = list(target)
    for place in reversed(range(len(solved))):
        for above, entry in enumerate(triangle[place]):
            solved[above] = solved[above] - entry * solved[place]
    return solved


def weighted_rows(chosen: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weighted sums of rows, (n, m), for choices and weights (k, n) and rows (p, m).

    One pass without temporary arrays.
    """
    return choices_as_matrix(chosen, weights, len(rows)) @ rows


def choices_as_matrix(chosen: np.ndarray, weights: np.ndarray, atoms: int) -> sparse.csr_array:
    """Return the result of `pursue` as a sparse matrix of codes (n, atoms)."""
    k, n = chosen.shape
    entries = weights.T.ravel(), chosen.T.ravel(), k * np.arange(n + 1)
    return sparse.csr_array(entries, shape=(n, atoms))
