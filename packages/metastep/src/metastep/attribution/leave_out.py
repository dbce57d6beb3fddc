"""Training again without some of the examples: the true effect of removals."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from metastep import saving
from metastep.attribution.queries import Asked, as_queries, outcomes
from metastep.attribution.units import Chosen, Units, as_masks, as_units
from metastep.checks import require_count, require_key
from metastep.compilation import compiled
from metastep.fingerprint import digest, fingerprint
from metastep.minimize.driving import Checkpoint, require_same_run, to_resume
from metastep.types import RandomKey

OF_REMOVALS = "training, removals, weights, queries or key"


class Removals(eqx.Module):
    """The queries after training again without some units.

    Attributes:
        left_out: booleans, shape (removals, units); a unit is an example, a weight or a group.
        values: every query after training without them, shape (removals, queries).
        baseline: every query after training with all, shape (queries,).
        units: the weights and their groups.
    """

    left_out: Bool[np.ndarray, "removals units"]
    values: Float[np.ndarray, "removals queries"]
    baseline: Float[np.ndarray, " queries"]
    units: Units

    @property
    def changes(self) -> Float[np.ndarray, "removals queries"]:
        """The change of each query."""
        return self.values - self.baseline

    def predicted(self, scores: PyTree) -> Float[np.ndarray, "removals queries"]:
        """Return the change of each query that the scores predict.

        Args:
            scores: as `Attribution.scores`, of the same units, by any method.

        Raises:
            ValueError: if the queries or units differ.
        """
        predicted = self.units.predicted(scores, self.left_out)
        if predicted.shape != self.values.shape:
            raise ValueError(
                f"scores has {predicted.shape[1]} rows; allowed is one for each of the "
                f"{len(self.baseline)} queries."
            )
        return predicted


def random_removals(
    units: int, share: float, count: int, key: RandomKey
) -> Bool[np.ndarray, "count units"]:
    """Draw random sets of units to leave out.

    Args:
        units: the number of units.
        share: the share of the units in each set, between 0 and 1; each set has at least one unit,
            and not all of them.
        count: the number of sets.
        key: determines the sets.

    Returns:
        Booleans, shape (count, units), with the same number of True in every row.

    Raises:
        ValueError: for a share that is not between 0 and 1, and fewer than two units or one set.
    """
    require_key(key)
    require_count("count", count)
    if not 0 < share < 1:
        raise ValueError(f"share is {share!r}; allowed are numbers between 0 and 1.")
    if units < 2:
        raise ValueError(
            f"units is {units}; allowed are integers from 2: of one unit no share can be left out."
        )
    # Without any unit there is no training, and with all of them no change.
    size = min(max(1, round(share * units)), units - 1)
    draw = lambda key: (
        jnp.zeros(units, bool).at[jax.random.permutation(key, units)[:size]].set(True)
    )
    return np.asarray(jax.vmap(draw)(jax.random.split(key, count)))


def leave_out(
    problem: Asked,
    examples: Any,
    queries: PyTree = None,
    *,
    left_out: Chosen,
    key: RandomKey,
    groups: Any = None,
    batch_size: int = 8,
    checkpoint: Checkpoint | None = None,
) -> Removals:
    """Train again without the chosen examples, everything else equal, and evaluate the queries.

    Example:
        The mean of three numbers without the last one.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> from metastep.attribution import leave_out
        >>> numbers = jnp.array([1.0, 2.0, 6.0])
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, weights, batch: jnp.mean(weights * (w - numbers) ** 2) / 2,
        ...     objective=lambda w, weights: w,
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(1.0),
        ...     horizon=50,
        ... )
        >>> found = leave_out(problem, 3, left_out=[[2]], key=jax.random.key(0))
        >>> found.baseline.round(4).tolist(), found.values.round(4).tolist()
        ([3.0], [[1.5]])

    Args:
        problem: as for `attribute`.
        examples: as for `attribute`. Examples that are left out have weight 0.
        queries: as for `attribute`.
        left_out: one removal in each row: an array of indices of units, or booleans of shape
            (removals, units). For a tree of weights, the units are the weights of all leaves in
            order.
        key: determines initialisation and batches; use the key that was given to `attribute`.
        groups: as for `attribute`; the units are then groups.
        batch_size: how many trainings run at the same time under `vmap`.
        checkpoint: where to store finished removals, and whether to continue from the file. Its
            `every` counts removals. A continued run ends with the same bits.

    Returns:
        The queries after each removal. Time: one training for each. Exact.

    Raises:
        ValueError: for arguments that are not allowed, naming them; for a checkpoint of another
            run (`saving.CheckpointError`).
        FileExistsError: if the checkpoint file exists and `resume` is not set.
    """
    require_key(key)
    require_count("batch_size", batch_size)
    units, queries = as_units(examples, groups), as_queries(problem, queries)
    masks = as_masks(left_out, units.count)
    # The first row leaves nothing out: the baseline comes from the same program.
    rows = np.concatenate([np.zeros((1, units.count), bool), masks])
    size = min(batch_size, len(rows))
    shape = eqx.filter_eval_shape(outcomes, problem, units.weights, queries, key)
    values = np.zeros((len(rows), *shape.shape), shape.dtype)
    # Only a file needs the identity, which costs a trace of the training.
    same = _identity(problem, units, queries, key, rows, size) if checkpoint else ""
    progress = _Progress(checkpoint, same)
    values, done = progress.begin(values)
    while done < len(rows):
        # The last batch is filled up, so that one program serves all of them.
        batch = np.resize(rows[done : done + size], (size, units.count))
        stop = min(done + size, len(rows))
        values[done:stop] = _retrain(problem, units, queries, jnp.asarray(batch), key)[
            : stop - done
        ]
        progress.save(values, done, stop)
        done = stop
    return Removals(masks, values[1:], values[0], units)


@compiled
def _retrain(
    problem: Asked,
    units: Units,
    queries: PyTree[Array],
    left_out: Bool[Array, "batch units"],
    key: RandomKey,
) -> Float[Array, "batch queries"]:
    return jax.vmap(lambda gone: outcomes(problem, units.without(gone), queries, key))(left_out)


class _Progress:
    """The finished rows, stored in a file."""

    def __init__(self, checkpoint: Checkpoint | None, identity: str):
        self.checkpoint = checkpoint
        self.identity = identity

    def begin(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the stored values and the number of their rows, or the given values and 0."""
        if self.checkpoint is None:
            return values, 0
        path = self.checkpoint.file
        if not to_resume(self.checkpoint):
            self._write(values, 0)  # so that a folder without permission is noticed at once
            return values, 0
        restored, notes = saving.load(path, jnp.asarray(values))
        done = notes.get("done")
        require_same_run(self.checkpoint, notes, self.identity, OF_REMOVALS)
        if type(done) is not int:
            raise saving.CheckpointError(f"{path} belongs to another kind of run.")
        # A copy, since NumPy's view of an array of JAX cannot be written to.
        return np.array(restored), min(max(done, 0), len(values))

    def save(self, values: np.ndarray, before: int, done: int) -> None:
        """Write the file if `every` rows are done since the last time, or all are."""
        if self.checkpoint is not None:
            every = self.checkpoint.every
            # A batch finishes several removals, and may step over a multiple of `every`.
            if done == len(values) or done // every > before // every:
                self._write(values, done)

    def _write(self, values: np.ndarray, done: int) -> None:
        assert self.checkpoint is not None
        notes = {"done": done, "identity": self.identity}
        saving.save(self.checkpoint.file, jnp.asarray(values), notes)


def _identity(
    problem: Asked,
    units: Units,
    queries: PyTree[Array],
    key: RandomKey,
    rows: Bool[np.ndarray, "removals units"],
    size: int,
) -> str:
    train = lambda weights, queries, key: outcomes(problem, weights, queries, key)
    told_apart = jax.tree.map(jnp.asarray, (units.groups, rows))
    # The size of a batch counts, since another one would round differently.
    return fingerprint(train, units.weights, queries, key, more=(digest(told_apart), size))
