"""Batches for a driven run, loaded in Python and checked to be the same at every request."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from metastep.fingerprint import DIGEST_BYTES, digest, shapes_of
from metastep.problems.batches import Batches
from metastep.trees import same_structure


class Feed:
    """The batches of a run, and a digest of every batch that was loaded.

    The source is None for a problem without batches from outside. A `ValueError` refuses one that
    is known to have fewer batches than the horizon has steps.
    """

    def __init__(self, source: Batches | None, horizon: int):
        if source is not None and source.count is not None and source.count < horizon:
            raise ValueError(
                f"the source has {source.count} batches, and horizon is {horizon}: allowed is one "
                "batch for each step. Shorten the horizon, or give examples with Batches(..., "
                "size=...), which are counted on from the first."
            )
        self._source = source
        self._like: Any = None
        self.seen = np.zeros((horizon, DIGEST_BYTES), np.uint8)

    def load(self, begin: int, end: int) -> PyTree[Array] | None:
        """Return the batches of steps `begin` to `end` - 1, stacked; None if there is no source.

        Raises:
            ValueError: for a batch that is missing, has other shapes than the first, or differs
                from the batch that its step received before.
        """
        if self._source is None:
            return None
        batches = [self._checked(self._source, t) for t in range(begin, end)]
        # A segment is one program, which scans over its batches.
        return jax.tree.map(lambda *rows: jnp.stack(rows), *batches)

    def _checked(self, source: Batches, t: int) -> PyTree[Array]:
        batch = jax.tree.map(jnp.asarray, source.at(t))
        shapes = shapes_of(batch)
        if self._like is None:
            self._like = shapes
        same_structure(f"batch {t}, compared with the first one,", self._like, shapes)
        found = digest(batch)
        # Zeros stand for a batch that was not loaded; a digest of zeros does not occur.
        if not self.seen[t].any():
            self.seen[t] = found
        elif not np.array_equal(self.seen[t], found):
            raise ValueError(
                f"batch {t} is another one than before: the backward pass, or a run that goes on, "
                "needs the batch that the forward pass has seen. Derive all randomness of the "
                "source (shuffling, augmentation) from t, and leave the data unchanged."
            )
        return batch
