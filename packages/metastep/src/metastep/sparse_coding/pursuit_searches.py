"""The searches of matching pursuit: which atom has the largest correlation with a residual.

For each of the two forms there is one search for NumPy, in parts that stay in the cache and without
temporary arrays, and one for compiled JAX arrays.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

SEARCHED = 128
"""The number of signals that NumPy searches at a time, so that correlations stay in the cache."""


def search_residuals(
    dictionary: np.ndarray, buffer: np.ndarray, parts: list[slice], residual: np.ndarray
) -> np.ndarray:
    """Return the atoms with the largest correlations with the residuals."""
    latest = np.empty(len(residual), int)
    for part in parts:
        products = residual[part].dot(dictionary, buffer[: part.stop - part.start])
        latest[part] = np.abs(products, out=products).argmax(axis=1)
    return latest


def search_gram(
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
        # The negative of the correlations, whose magnitudes are the same: one pass less.
        remaining = fitted @ gram
        remaining -= correlations[part]
        latest[part] = np.abs(remaining, out=remaining).argmax(axis=1)
    return latest


def parts_of(count: int) -> list[slice]:
    """Divide into parts of equal size; the last two may overlap."""
    # Of equal size, since `search_gram` reuses one sparse matrix for all of them.
    size = max(1, -(-count // max(1, -(-count // SEARCHED))))
    starts = (min(start, count - size) for start in range(0, count, size))
    return [slice(start, start + size) for start in starts]


def search_residuals_compiled(dictionary: jax.Array, residual: jax.Array) -> jax.Array:
    """Return the same as `search_residuals`, compiled."""
    return _largest(residual @ dictionary)


def search_gram_compiled(
    correlations: jax.Array, gram: jax.Array, chosen: list[jax.Array], weights: list[jax.Array]
) -> jax.Array:
    """Return the same as `search_gram`, compiled."""
    pairs = zip(chosen, weights, strict=True)
    return _largest(sum((-weight[:, None] * gram[index] for index, weight in pairs), correlations))


def _largest(correlations: jax.Array) -> jax.Array:
    """Return the first index of the largest magnitude in every row, to rounding."""
    # jnp.argmax processes one number at a time on a CPU.
    size = jnp.abs(correlations)
    places, top = jnp.arange(size.shape[1]), size.max(axis=1, keepdims=True)
    # XLA may compute a magnitude twice, rounded differently: none might equal the largest.
    reached = size >= top * (1 - 4 * jnp.finfo(size.dtype).eps)
    return jnp.min(jnp.where(reached, places, size.shape[1] - 1), axis=1)


def choices_as_matrix(chosen: np.ndarray, weights: np.ndarray, atoms: int) -> sparse.csr_array:
    """Return chosen atoms and coefficients, both (k, n), as a sparse matrix of codes (n, atoms)."""
    k, n = chosen.shape
    entries = weights.T.ravel(), chosen.T.ravel(), k * np.arange(n + 1)
    return sparse.csr_array(entries, shape=(n, atoms))
