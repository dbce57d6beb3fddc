"""The files of a driven run beside its states.

`run` identifies the run and the batches that were loaded, `adjoint` is the position of the backward
pass, and `estimate` is the result. All are checked files (`metastep.saving`).
"""

import errno
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from metastep.driven.feeding import Feed
from metastep.driven.plan import Plan
from metastep.driven.states import PASSING, PREFIX, join, split, split_like
from metastep.saving import CheckpointError, load, save

OURS = ("run", "adjoint", "estimate", f"{PREFIX}*", f"{PASSING}*")


class Records:
    """The files of a run; without a directory nothing is stored.

    Raises:
        CheckpointError: if the directory belongs to another run, or a file in it is damaged.
        OSError: if it cannot be created or written to.
    """

    def __init__(self, directory: Path | None, identity: str, feed: Feed):
        self.directory = directory
        self._identity = identity
        self._feed = feed
        self._seen_saved = False
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        there = [path for pattern in OURS for path in directory.glob(pattern)]
        if (directory / "run").exists():
            self._read(directory / "run")
        elif there:
            raise CheckpointError(f"{directory} has {there[0].name} of a run, and no file 'run'.")
        # Deleted only after the check that these temporary files are this run's own.
        for pattern in OURS:
            # These are the names that `write_atomically` gives.
            for path in directory.glob(f".{pattern}.*.tmp"):
                path.unlink(missing_ok=True)
        # A folder without permission is noticed before training, and is marked as this run's.
        self.save_seen()

    def _read(self, path: Path) -> None:
        like = jax.ShapeDtypeStruct(self._feed.seen.shape, self._feed.seen.dtype)
        another = CheckpointError(
            f"{path.parent} belongs to another run: of another problem (with other initial "
            "parameters if no seed is set), other hyperparameters, another key or other segments. "
            "Nothing in it was changed. Choose another directory, or delete this one."
        )
        try:
            seen, notes = load(path, like)
        except CheckpointError as error:
            # A damaged file has the same class: only the text tells them apart.
            if "another run" in str(error):
                raise another from error
            raise
        if notes.get("identity") != self._identity:
            raise another
        self._feed.seen[:] = seen

    def save_seen(self) -> None:
        """Write the digests of the loaded batches; called before states that depend on them."""
        if self.directory is not None and not self._seen_saved:
            seen = self._feed.seen
            # `save` takes arrays of JAX only.
            save(self.directory / "run", jnp.asarray(seen), {"identity": self._identity})
            # Once every batch has been loaded, the file changes no more.
            self._seen_saved = bool(seen.any(axis=1).all())

    def save(self, name: str, tree: PyTree, like: PyTree) -> None:
        """Write the file `name`."""
        if self.directory is not None:
            save(self.directory / name, split(tree, like), {})

    def load(self, name: str, like: PyTree) -> PyTree | None:
        """Read the file `name`; None if there is none."""
        if self.directory is None or not (self.directory / name).exists():
            return None
        return join(load(self.directory / name, split_like(like))[0], like)

    def delete(self, name: str) -> None:
        """Delete the file `name` if it exists."""
        if self.directory is not None:
            (self.directory / name).unlink(missing_ok=True)

    def require_room(self, plan: Plan) -> None:
        """Refuse a run whose files would exceed the free space of the disk.

        Raises:
            OSError: with the required and the free space.
        """
        if self.directory is None:
            return
        # The file `run` exists already, and is not part of the plan.
        ours = [path for pattern in OURS[1:] for path in self.directory.glob(pattern)]
        needed = plan.disk_bytes - sum(path.stat().st_size for path in ours)
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: the run needs up to {needed} more bytes in "
                f"{self.directory}, and {free} are free. Store fewer states with "
                "checkpoint=Binomial(states), keep more in memory with memory=, or make room",
            )
