"""Data as pairs of inputs and targets: checked, told apart, and named by a digest."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, PyTree

from metastep.pac_bayes.errors import Error, misclassified

Data = tuple[PyTree, PyTree]


def require_data(name: str, data: Data) -> None:
    """Raise a `ValueError` unless there are examples, and all of their numbers are finite."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(data)]
    if not leaves or any(leaf.ndim == 0 or len(leaf) == 0 for leaf in leaves):
        raise ValueError(f"{name} has no examples; allowed are inputs and targets of at least one.")
    if not all(np.all(np.isfinite(leaf)) for leaf in leaves):
        raise ValueError(f"{name} has infinite or NaN entries; allowed are finite numbers.")


def count(data: PyTree) -> int:
    """Return the number of examples; a `ValueError` where arrays disagree about it."""
    lengths = {len(leaf) for leaf in jax.tree.leaves(data)}
    if len(lengths) != 1:
        raise ValueError(
            f"data has arrays of {sorted(lengths)} examples; allowed is the same number in all."
        )
    return lengths.pop()


def select(data: PyTree, chosen: Bool[np.ndarray, " examples"]) -> PyTree:
    """Return the examples where `chosen` is true, in their order."""
    rows = np.flatnonzero(chosen)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)


def repeats(part: PyTree, other: PyTree) -> int:
    """Return how many examples of `part` are, bit by bit, also examples of `other`."""
    seen = set(_digests(other))
    return sum(one in seen for one in _digests(part))


def digest(data: PyTree) -> str:
    """Return the SHA-256 of dtypes, shapes and bytes of arrays."""
    total = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(data)):
        # Shape and dtype as well, since the same bytes may be other examples.
        total.update(f"{leaf.dtype.str}{leaf.shape}".encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def _digests(data: PyTree) -> list[bytes]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(data)]
    # Both sides are parts of one data set, so that joined bytes begin and end at the same places.
    together = lambda row: b"".join(leaf[row].tobytes() for leaf in leaves)
    return [hashlib.sha256(together(row)).digest() for row in range(count(data))]


def trivial_error(targets: PyTree, error: Error = misclassified) -> float:
    """Return how often the most frequent class is wrong, for one label for each example.

    For other targets, and for errors of another kind, no constant answer is known: 1.
    """
    leaves = jax.tree.leaves(targets)
    if error is not misclassified or len(leaves) != 1 or np.ndim(leaves[0]) != 1:
        return 1.0
    counts = np.unique(leaves[0], return_counts=True)[1]
    return float(1 - np.max(counts) / np.sum(counts))
