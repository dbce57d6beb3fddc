"""The units that are scored: single weights, or groups of weights."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PyTree

from metastep.checks import integer, is_count
from metastep.types import Outer

Chosen = Sequence[Any] | np.ndarray | Array
"""The units to leave out: rows of booleans, or one array of indices for each removal."""


class Units(eqx.Module):
    """Weights of training examples, and their groups.

    Attributes:
        weights: the weights at which scores are taken, a tree of arrays.
        groups: the group number of every weight, an array that begins with the axes of the
            weights; None if each weight is a unit.
        count: the number of units; for trees, those of all leaves.
    """

    weights: Outer
    groups: Array | None
    count: int = eqx.field(static=True)

    def collect(self, grad: Outer) -> PyTree[Array]:
        """Return the derivative by the units: by the weights, or by a factor for each group."""
        if self.groups is None:
            return grad
        # Chain rule: a group's factor multiplies all its weights, whatever they are.
        products = (grad * self.weights).reshape(*self.groups.shape, -1).sum(axis=-1)
        # The sum of a large group in 16 bits would stop growing.
        products = products.astype(jnp.promote_types(products.dtype, jnp.float32))
        return jnp.zeros(self.count, products.dtype).at[self.groups].add(products)

    def without(self, left_out: Bool[Array, " units"]) -> Outer:
        """Return the weights with those of the given units set to zero."""
        if self.groups is None:
            flat, unflatten = ravel_pytree(self.weights)
            return unflatten(jnp.where(left_out, 0, flat))
        gone = left_out[self.groups]
        # A group may be given for whole rows of the weights.
        gone = gone.reshape(gone.shape + (1,) * (self.weights.ndim - gone.ndim))
        return jnp.where(gone, 0, self.weights)

    def predicted(self, scores: PyTree, left_out: np.ndarray) -> np.ndarray:
        """Return the change of every query that the scores predict for removals, in float64.

        It is minus the sum of the scores of the removed units, shape (removals, queries).
        """
        return -left_out.astype(np.float64) @ self.as_rows(scores).T

    def as_rows(self, scores: PyTree) -> np.ndarray:
        """Return the effect of each whole unit on each query, shape (queries, units), float64."""
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(scores)]
        flat = [leaf.reshape(len(leaf), -1) for leaf in leaves if leaf.ndim]
        if not flat or sum(leaf.shape[1] for leaf in flat) != self.count:
            shapes = ", ".join(str(leaf.shape) for leaf in leaves)
            raise ValueError(
                f"scores has the shape {shapes or '()'}; allowed is (queries, {self.count}), one "
                "column for every weight or group."
            )
        rows = np.concatenate(flat, axis=1)
        if self.groups is not None:
            return rows
        # A unit loses its whole weight, while its score is the derivative by the weight.
        return rows * np.asarray(ravel_pytree(self.weights)[0], np.float64)


def as_units(examples: Any, groups: Any) -> Units:
    """Check the weights, or a number of examples that all have the weight one, and the groups."""
    if is_count(examples):
        examples = jnp.ones(integer(examples))
    leaves = jax.tree.leaves(examples)
    kinds = [jnp.result_type(x) if _is_array(x) else type(x).__name__ for x in leaves]
    if not leaves or not all(
        _is_array(x) and jnp.issubdtype(x.dtype, jnp.floating) for x in leaves
    ):
        raise ValueError(
            f"examples holds {', '.join(map(str, kinds)) or 'nothing'}; allowed are the number of "
            "examples, and floating-point arrays of weights."
        )
    weights = jax.tree.map(jnp.asarray, examples)
    if groups is None:
        return Units(weights, None, sum(leaf.size for leaf in jax.tree.leaves(weights)))
    if not _is_array(weights):
        raise ValueError(
            "groups are given, and examples is a tree; allowed is one array with them."
        )
    ids = np.asarray(groups)
    if not np.issubdtype(ids.dtype, np.integer) or ids.shape != weights.shape[: ids.ndim]:
        raise ValueError(
            f"groups is of {ids.dtype}{list(ids.shape)}; allowed are integers, one for each weight "
            f"or for each row of the weights, whose shape is {list(weights.shape)}."
        )
    # Of 8 bits, the largest number plus one would be 0.
    if ids.size == 0 or not np.array_equal(np.unique(ids), np.arange(int(ids.max()) + 1)):
        raise ValueError(
            f"groups has ids from {ids.min(initial=0)} to {ids.max(initial=0)}, of which "
            f"{len(np.unique(ids))} occur; allowed are 0, 1, 2 and so on without a gap. "
            "numpy.unique(groups, return_inverse=True)[1] numbers any ids so."
        )
    return Units(weights, jnp.asarray(ids, jnp.int32), int(ids.max()) + 1)


def as_masks(left_out: Chosen, count: int) -> np.ndarray:
    """Return removals as booleans of shape (removals, units); refuse what is neither."""
    allowed = (
        f"allowed are booleans of shape (removals, {count}), and one array of indices from 0 to "
        f"{count - 1} for each removal."
    )
    if not len(left_out):
        raise ValueError(f"left_out is empty; {allowed}")
    rows = [np.asarray(row) for row in left_out]
    masks = np.zeros((len(rows), count), bool)
    for mask, row in zip(masks, rows, strict=True):
        if row.ndim != 1 or (row.dtype == bool and row.size != count):
            raise ValueError(f"left_out has a row of {row.dtype}{list(row.shape)}; {allowed}")
        if row.dtype != bool and row.size:
            if not np.issubdtype(row.dtype, np.integer) or row.min() < 0 or row.max() >= count:
                raise ValueError(f"left_out holds {row.min()} to {row.max()}; {allowed}")
            # A row of zeros and ones would leave out units 0 and 1, whatever it means.
            if len(np.unique(row)) < row.size:
                raise ValueError(f"left_out has a row that repeats an index; {allowed}")
        # NumPy gives an empty row the dtype float64; it leaves nothing out.
        mask[row.astype(int) if row.dtype != bool else row] = True
    return masks


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array)
