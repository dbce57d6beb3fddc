"""Batches from outside the compiled program, addressed by the index of the step.

A traced function of the step index needs its data as JAX arrays, which become constants of the
program or occupy the device as a whole. `Batches` leaves the data where they are and returns
batch t on request. A backward pass may request the same batch again.
"""

from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from metastep.checks import integer, require_count
from metastep.problems.base import AbstractProblem
from metastep.types import RandomKey, StepIndex


class Batches(eqx.Module):
    """The argument `batch` of `TrainingProblem` for data that stay outside the program.

    `driven_hypergradient` loads each batch in Python, passes it to the compiled step as an
    argument, and checks that the backward pass receives the same batch. Every other estimator
    loads it by a callback (`jax.pure_callback`): the same numbers, but slow for long runs.

    Example:
        >>> import numpy as np, metastep as ms
        >>> batches = ms.Batches({"x": np.arange(10.0)}, size=4)
        >>> batches.load(2)["x"].tolist()
        [8.0, 9.0, 0.0, 1.0]

    Args:
        source: where batches come from. One of: a function `t -> batch` of a Python integer; NumPy
            arrays (one, or a dictionary or tuple of them) with one entry per batch (with `size`:
            per example) along the first axis; anything else with `source[t]`, such as a list of
            batches, a Grain `MapDataset` or a Hugging Face data set. A batch is a pytree of arrays
            whose shapes are the same at every step. A function that is called from within a
            program must not compute with JAX.
        size: None if `source` returns batches. If it returns examples, the number per batch: batch
            t holds examples t * size, ..., t * size + size - 1, modulo their number.
            `source[rows]` must then accept a list. Shuffle beforehand, or in a function.

    Raises:
        ValueError: for a source that has no batch t or arrays of different lengths; when used, for
            a batch that is missing or is not made of arrays of numbers.
    """

    load: Callable[[int], PyTree] = eqx.field(static=True)
    count: int | None = eqx.field(static=True)

    def __init__(self, source: Any, size: SupportsIndex | None = None):
        require_count("size", size, none="the source gives batches")
        self.load, self.count = _loader(source, integer(size))

    def at(self, t: int) -> PyTree:
        """Return batch `t` with NumPy or JAX arrays as leaves.

        Raises:
            ValueError: if there is no such batch, or a leaf is not an array of numbers.
        """
        missing = f"batch {t} is missing"
        try:
            batch = self.load(t)
        except (LookupError, StopIteration) as error:
            raise ValueError(f"{missing}: the source raised {error!r}. {_ASKED}") from error
        if batch is None:
            raise ValueError(f"{missing}: the source returned None. {_ASKED}")
        convert = lambda path, leaf: _as_array(f"batch {t}{jax.tree_util.keystr(path)}", leaf)
        return jax.tree_util.tree_map_with_path(convert, batch)

    def __call__(self, t: StepIndex, key: RandomKey) -> PyTree:
        """Return batch `t` by a callback from within a compiled program."""
        del key
        # Batch 0 is loaded while tracing, since a callback must announce shapes and dtypes.
        like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, self.at(0)))
        # The dtypes are those of JAX, such as float32 for float64 of NumPy.
        halves = lambda x, one: _halves(np.asarray(x, one.dtype))
        load = lambda t: jax.tree.map(halves, self.at(int(t)), like)
        given = jax.tree.map(_shape_of_halves, like)
        # One call after the other under `vmap`: a source need not take several indices.
        found = jax.pure_callback(load, given, t, vmap_method="sequential")
        return jax.tree.map(_whole, found, like)


def _is_wide(dtype: np.dtype) -> bool:
    # complex64 has 8 bytes, but its two numbers have 32 bits each.
    return dtype.itemsize == 16 or (dtype.itemsize == 8 and dtype != np.complex64)


def _halves(x: np.ndarray) -> np.ndarray:
    """Return numbers of 64 bits as integers of 32 along a new last axis.

    XLA may ask for a batch in a thread of its own. There JAX does not know that the caller is
    inside of `jax.enable_x64()`, and rounds numbers of 64 bits that a callback returns to 32.
    """
    return np.ascontiguousarray(x[..., None]).view(np.uint32) if _is_wide(x.dtype) else x


def _shape_of_halves(like: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if not _is_wide(like.dtype):
        return like
    return jax.ShapeDtypeStruct((*like.shape, like.dtype.itemsize // 4), np.uint32)


def _whole(x: Array, like: jax.ShapeDtypeStruct) -> Array:
    """Undo `_halves`."""
    if not _is_wide(like.dtype):
        return x
    if like.dtype != np.complex128:
        return jax.lax.bitcast_convert_type(x, like.dtype)
    # XLA casts no bits to complex numbers, so both parts are cast, and joined.
    parts = jax.lax.bitcast_convert_type(x.reshape(*like.shape, 2, 2), np.float64)
    return jax.lax.complex(parts[..., 0], parts[..., 1])


_ASKED = (
    "A run of horizon T asks for the batches 0 to T - 1, and going back for each of them again."
)


def _loader(source: Any, size: int | None) -> tuple[Callable[[int], PyTree], int | None]:
    """Return the function that loads a batch, and the number of batches if it is known."""
    # `[]` of pandas takes labels or names of columns, `iloc` positions.
    indexed = getattr(getattr(source, "iloc", source), "__getitem__", None)
    if callable(source) and indexed is None:
        if size is not None:
            raise ValueError(f"size is {size} beside a function; a function returns whole batches.")
        return source, None
    # These can be indexed, too, but an index of a dictionary or a tuple gives a column, not a
    # batch.
    if isinstance(source, np.ndarray | jax.Array | dict | tuple):
        entry, count = _entry_of_arrays(source)
    elif indexed is not None:
        entry = lambda index: _with_arrays(indexed(index))
        length = getattr(source, "__len__", None)
        count = None if length is None else length()
    else:
        raise ValueError(
            f"source is a {type(source).__name__}, which has no batch t; allowed are a function "
            "t -> batch, arrays, and what can be indexed. A data set that can only be iterated "
            "over cannot be gone back through."
        )
    if size is None:
        return entry, count
    if not count:
        raise ValueError(f"size is {size}, and the source has no examples that can be counted.")
    return lambda t: _examples(entry, [(t * size + i) % count for i in range(size)]), None


def _examples(entry: Callable[[Any], PyTree], rows: list[int]) -> PyTree:
    """Return several examples of a source as one batch."""
    try:
        return entry(rows)
    except TypeError as error:
        raise ValueError(
            f"size is {len(rows)}, and the source does not take a list of rows ({error}). Let it "
            "return batches, and leave out size: a data set of Grain as "
            f"source.repeat().batch({len(rows)}), a list as a function t -> batch."
        ) from error


def _entry_of_arrays(arrays: PyTree) -> tuple[Callable[[Any], PyTree], int]:
    leaves = jax.tree.leaves(arrays)
    shapes = {np.shape(leaf)[:1] for leaf in leaves}
    if len(shapes) != 1 or shapes == {()}:
        raise ValueError(
            f"source has arrays of shapes {', '.join(str(np.shape(leaf)) for leaf in leaves)}; "
            "allowed are arrays of one length, each with one entry for each batch or example."
        )
    count = shapes.pop()[0]

    def entry(index: Any) -> PyTree:
        # JAX returns the last entry for an index beyond it, where NumPy raises an error.
        if np.max(index) >= count:
            raise IndexError(f"the arrays have {count} entries")
        rows = lambda x: x.iloc[index] if hasattr(x, "iloc") else x[np.asarray(index)]
        return jax.tree.map(rows, arrays)

    return entry, count


def _with_arrays(batch: Any) -> Any:
    """Return a batch of a data set, with each column that is a list turned into an array."""
    if isinstance(batch, Mapping):
        return {
            name: np.asarray(column) if isinstance(column, list) else column
            for name, column in batch.items()
        }
    return batch


def _as_array(name: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    array = np.asarray(leaf)
    if jnp.issubdtype(array.dtype, jnp.number) or jnp.issubdtype(array.dtype, jnp.bool_):
        return array
    raise ValueError(
        f"{name} is a {type(leaf).__name__} of dtype {array.dtype}; allowed are arrays of numbers "
        "of one shape. Leave out columns of text, and pad sequences to one length."
    )


class _Given(eqx.Module):
    """A loaded batch in place of its `Batches`."""

    batch: PyTree

    def __call__(self, t: StepIndex, key: RandomKey) -> PyTree:
        del t, key
        return self.batch


def is_given(node: Any) -> bool:
    """Whether a node of a problem is a batch that has been loaded (see `with_batch`)."""
    return isinstance(node, _Given)


def _is_source(node: Any) -> bool:
    return isinstance(node, Batches)


def sources_of(problem: Any) -> list[Batches]:
    """Return all `Batches` of a problem; a function that draws problems shows none."""
    return list(filter(_is_source, jax.tree.leaves(problem, is_leaf=_is_source)))


def source_of(problem: AbstractProblem) -> Batches | None:
    """Return the `Batches` of a problem, None if it has none; a ValueError if there are several."""
    found = sources_of(problem)
    if len(found) > 1:
        raise ValueError(f"the problem has {len(found)} Batches; allowed is one.")
    return found[0] if found else None


def with_batch(problem: AbstractProblem, batch: PyTree) -> AbstractProblem:
    """Return the problem with a loaded batch in place of its `Batches`."""
    give = lambda node: _Given(batch) if _is_source(node) else node
    return jax.tree.map(give, problem, is_leaf=_is_source)
