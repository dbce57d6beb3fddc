"""The stored states of a driven run, addressed by the number of the step that follows.

States in memory are host arrays. On disk each state is one checked file (`metastep.saving`),
written under a temporary name and renamed. An array that is spread over devices is stored as its
parts, and restored to its placement.
"""

from bisect import bisect_right, insort
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from metastep.saving import load, save
from metastep.trees import is_key

PREFIX, PASSING = "state-", "passing-"


def described(tree: PyTree) -> PyTree:
    """Return a tree of shapes, dtypes and placements, with only the keys left as arrays."""
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    # JAX reads the kind of a key from an array only, not from its `ShapeDtypeStruct`.
    kept = lambda x: not eqx.is_array(x) or is_key(x)
    return jax.tree.map(lambda x: x if kept(x) else describe(x), tree)


def _where(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(one.indices(size)[:2] for one, size in zip(index, shape, strict=True))


def _places(like: jax.ShapeDtypeStruct) -> list[tuple[tuple[int, int], ...]]:
    """Return the distinct parts of an array that the devices of this process hold."""
    indices = like.sharding.addressable_devices_indices_map(like.shape).values()
    # A file holds the parts by position, so their order must not depend on the devices.
    return sorted({_where(index, like.shape) for index in indices})


def _spread(like: Any) -> bool:
    if not isinstance(like, jax.ShapeDtypeStruct) or like.sharding is None:
        return False
    return len(like.sharding.device_set) > 1


def split(tree: PyTree, like: PyTree) -> PyTree:
    """Replace every array that is spread over devices by its parts."""

    def parts(x: Any, one: Any) -> Any:
        if not _spread(one):
            return x
        found = {_where(shard.index, x.shape): shard.data for shard in x.addressable_shards}
        return [found[place] for place in _places(one)]

    return jax.tree.map(parts, tree, like)


def split_like(like: PyTree) -> PyTree:
    """Return the shapes and dtypes of the result of `split`."""

    def parts(one: Any) -> Any:
        if not _spread(one):
            return one
        shape = lambda place: tuple(end - begin for begin, end in place)
        return [jax.ShapeDtypeStruct(shape(place), one.dtype) for place in _places(one)]

    return jax.tree.map(parts, like)


def join(parts: PyTree, like: PyTree) -> PyTree:
    """Return the arrays on their original devices."""

    def whole(one: Any, x: Any) -> Any:
        if isinstance(one, jax.ShapeDtypeStruct) and not _spread(one):
            return x if eqx.is_array(x) else jnp.asarray(x)
        if not _spread(one):
            return x
        found = dict(zip(_places(one), x, strict=True))
        part = lambda index: found[_where(index, one.shape)]
        return jax.make_array_from_callback(one.shape, one.sharding, part)

    return jax.tree.map(whole, like, parts)


def _to_host(tree: PyTree) -> PyTree:
    """Return the arrays in host memory; on a CPU nothing is copied."""
    # NumPy has no dtype for keys, so they stay where they are.
    on_host = lambda x: not eqx.is_array(x) or is_key(x) or jax.default_backend() == "cpu"
    return jax.tree.map(lambda x: x if on_host(x) else np.asarray(x), tree)


class States:
    """The stored points of a trajectory.

    Without a directory all of them are kept in memory. `like` is a point as `described` returns
    it, and `before_saving` is called before a state is written.
    """

    def __init__(self, directory: Path | None, like: PyTree, before_saving: Callable[[], None]):
        self.directory = directory
        self._like = like
        self._before_saving = before_saving
        self._kept: dict[int, PyTree] = {}
        self._in_memory: list[int] = []
        self._on_disk = self._found(PREFIX)
        self._passing = max(self._found(PASSING), default=None)
        for step in self._found(PASSING):
            # A crash may have left two passing states, or one beside a stored state.
            if step != self._passing or step in self._on_disk:
                self._path(step, PASSING).unlink()
        if self._passing in self._on_disk:
            self._passing = None
        elif self._passing is not None:
            insort(self._on_disk, self._passing)

    def _found(self, prefix: str) -> list[int]:
        paths = [] if self.directory is None else self.directory.glob(f"{prefix}*")
        return sorted(int(path.name.removeprefix(prefix)) for path in paths)

    def steps(self, below: int) -> list[int]:
        """Return the steps below `below` before which the schedule stored a state, in order."""
        found = {*self._in_memory, *self._on_disk} - {self._passing}
        return sorted(step for step in found if step < below)

    def nearest(self, step: int) -> int | None:
        """Return the last step up to `step` before which a state is stored, or None."""
        last = lambda steps: steps[: bisect_right(steps, step)][-1:]
        return max(last(self._in_memory) + last(self._on_disk), default=None)

    def on_disk_from(self, step: int) -> bool:
        """Return whether there is a file of a state at or after a step."""
        return bool(self._on_disk) and self._on_disk[-1] >= step

    def _path(self, step: int, prefix: str = PREFIX) -> Path:
        assert self.directory is not None
        return self.directory / f"{prefix}{step:09}"

    def put(self, step: int, point: PyTree, in_memory: bool) -> None:
        """Store a state of the schedule."""
        if self.directory is not None and not in_memory:
            self._save(step, point, PREFIX)
        elif step not in self._kept:
            insort(self._in_memory, step)
            self._kept[step] = _to_host(split(point, self._like))

    def put_in_passing(self, step: int, point: PyTree) -> None:
        """Store a state for resumption; it replaces the last such state."""
        if self.directory is not None and step not in self._on_disk:
            self._save(step, point, PASSING)
            self._passing = step

    def _save(self, step: int, point: PyTree, prefix: str) -> None:
        self._before_saving()
        passing = self._passing
        if step == passing:
            # The same state under another name: renaming is atomic, and nothing is written again.
            self._path(step, PASSING).rename(self._path(step))
            self._passing = None
        elif step not in self._on_disk:
            save(self._path(step, prefix), split(point, self._like), {})
            insort(self._on_disk, step)
            # After its successor is written: a crash in between leaves two, never none.
            if passing is not None:
                self._delete(passing)

    def _delete(self, step: int) -> None:
        passing = step == self._passing
        self._path(step, PASSING if passing else PREFIX).unlink(missing_ok=True)
        self._on_disk.remove(step)
        if passing:
            self._passing = None

    def get(self, step: int) -> PyTree:
        """Return a stored state."""
        if step in self._kept:
            return join(self._kept[step], self._like)
        path = self._path(step, PASSING if step == self._passing else PREFIX)
        return join(load(path, split_like(self._like))[0], self._like)

    def drop_from_memory(self, step: int) -> None:
        """Remove the states in memory at and after a step."""
        while self._in_memory and self._in_memory[-1] >= step:
            del self._kept[self._in_memory.pop()]

    def drop_from_disk(self, step: int) -> None:
        """Delete the files of the states at and after a step."""
        while self.on_disk_from(step):
            self._delete(self._on_disk[-1])
