"""The outer loop: estimate a hypergradient, update the hyperparameters, repeat.

The loop runs inside one compiled function, which returns to Python every `every` steps for the
progress bar, the callback and the checkpoint. The number of steps in between is an argument of
that function, so nothing recompiles.
"""

from collections.abc import Callable
from statistics import median
from typing import Any, Literal, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metastep.checks import integer, require, require_count, require_key
from metastep.estimators.base import AbstractEstimator, require_estimator
from metastep.explained import TRANSFORMATIONS, is_transformation
from metastep.minimize.driving import OUTER_STEPS, Checkpoint, Pauses, Report, drive, restore
from metastep.minimize.loop import (
    Carry,
    History,
    Loop,
    Problem,
    Recorder,
    begin,
    drawn,
    identity_of,
)
from metastep.problems.base import AbstractProblem
from metastep.progress import progress_bars
from metastep.results import RESULTS
from metastep.trees import as_hyperparameters
from metastep.types import Outer, RandomKey

SMALL_TASK_BYTES = 64 * 2**10


class Run(eqx.Module):
    """The result of `minimize`.

    Attributes:
        outer: the hyperparameters after the last step.
        history: one entry per step taken.
        result: that of the first failed step; `successful` if none failed.
        estimator_state: the final state of the estimator; None for most. For `metastep.bilevel`
            solvers it holds the inner parameters and the number of oracle calls.
        skipped: the number of steps whose update was skipped because their hypergradient failed.
        tasks_at_once: how many tasks of a meta-batch were run together; 1 without a meta-batch.
        seconds_per_step: median wall time of an outer step. Compilation is excluded if compiled
            code returned to Python more than once.
    """

    outer: Outer
    history: History
    result: RESULTS
    estimator_state: Any
    skipped: int
    tasks_at_once: int
    seconds_per_step: float


def _default_tasks_at_once(problem: Problem, outer: Outer, meta_batch: int | None) -> int:
    """Choose how many tasks of a meta-batch are run together.

    On accelerators all of them. On a CPU, dispatch dominates the time of tasks with a small inner
    state, and `vmap` helps. Tasks with a large state are faster one at a time, while their
    residuals fit into the cache (measured by `benchmarks/run.py meta-batch`).
    """
    if meta_batch is None or isinstance(problem, AbstractProblem):
        return 1
    if jax.default_backend() != "cpu":
        return meta_batch
    state = eqx.filter_eval_shape(
        lambda key: drawn(problem, key).init(outer, key), jax.random.key(0)
    )
    arrays = [x for x in jax.tree.leaves(state) if hasattr(x, "dtype")]
    size = sum(x.size * x.dtype.itemsize for x in arrays)
    return meta_batch if size <= SMALL_TASK_BYTES else 1


def minimize(
    problem: Problem,
    outer: Outer,
    estimator: AbstractEstimator,
    *,
    optimizer: optax.GradientTransformation,
    steps: SupportsIndex,
    key: RandomKey,
    meta_batch: SupportsIndex | None = None,
    tasks_at_once: SupportsIndex | None = None,
    mesh: Mesh | None = None,
    project: Callable[[Outer], Outer] | None = None,
    record: Recorder | None = None,
    callback: Callable[[Report], bool | None] | None = None,
    every: SupportsIndex = 1,
    on_failure: Literal["skip", "raise"] = "skip",
    checkpoint: Checkpoint | None = None,
    progress: bool | None = None,
) -> Run:
    """Tune hyperparameters by gradient descent on the objective after training.

    Outer step t uses the random key `fold_in(key, t)`: a run that was stopped and resumed ends
    with the same bits as an uninterrupted one.

    Example:
        Find the step size that brings three steps of gradient descent on w^2 / 2 nearest to 0.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: w**2 / 2,
        ...     objective=lambda w, outer: w**2,
        ...     init_params=jnp.array(1.0),
        ...     optimizer=lambda outer: optax.sgd(outer["step_size"]),
        ...     horizon=3,
        ... )
        >>> run = ms.minimize(
        ...     problem,
        ...     {"step_size": 0.1},
        ...     ms.Reverse(),
        ...     optimizer=optax.sgd(0.2),
        ...     steps=500,
        ...     key=jax.random.key(0),
        ... )
        >>> bool(run.history.value[-1] < 1e-4), round(float(run.outer["step_size"]), 1)
        (True, 0.9)

    Args:
        problem: a problem, the same at every outer step; or a distribution of problems, which is a
            function `key -> problem` from which each outer step draws `meta_batch` problems.
        outer: the initial hyperparameters.
        estimator: how hypergradients are computed.
        optimizer: an optax transformation for `outer`. It receives the objective as `value` and
            the hypergradient as `grad`, which `optax.polyak_sgd` needs. A line search is refused,
            since it would train anew for every point that it tries.
        steps: the number of outer steps, at least 1.
        key: a random key.
        meta_batch: problems per outer step; required for a distribution of problems, and refused
            otherwise.
        tasks_at_once: how many problems of a meta-batch are run together under `vmap`; the batches
            follow one another. Memory grows with it. None: all of them on an accelerator or if the
            inner state of one is at most 64 KiB, else one (see `Run.tasks_at_once`).
        mesh: devices over which the tasks of a meta-batch are spread in equal shares, for example
            `jax.make_mesh((8,), ("tasks",))` for eight. Devices of other processes are included
            after `jax.distributed.initialize`. Each outer step averages hypergradients with one
            all-reduce; everything else is replicated. `tasks_at_once` then counts the tasks of one
            device. Every process calls `minimize` with the same arguments and reads the same
            checkpoint file, which the first process writes. None: one device.
        project: maps the updated hyperparameters back into their feasible set, for instance with
            `optax.projections`.
        record: `(step, outer, estimate) -> pytree of arrays`, called inside the compiled loop
            before the update; stacked in `history.recorded` and part of the checkpoint.
        callback: called with a `Report` every `every` steps; returning True stops the run.
        every: outer steps between two returns from compiled code. Larger is faster for cheap
            steps; smaller updates the progress bar more often.
        on_failure: what to do when a hypergradient's result is not `successful`. "skip" leaves
            hyperparameters and optimizer state unchanged and continues; "raise" stops.
        checkpoint: where and how often to save; None does not save.
        progress: whether to show a progress bar; None shows it on a terminal only.

    Returns:
        The run. If a step was skipped, `run.result` is not `successful`.

    Raises:
        ValueError: wrong use, naming the argument, its value and what is allowed.
        HypergradientError: if a hypergradient failed and `on_failure` is "raise".
        FileExistsError: if the checkpoint exists and `resume` is False.
        CheckpointError: if the checkpoint is damaged or belongs to another run.
    """
    require_key(key)
    require_estimator(estimator)
    require(is_transformation(optimizer), "optimizer", optimizer, TRANSFORMATIONS)
    outer = as_hyperparameters(outer)
    total, period, tasks, together = map(integer, (steps, every, meta_batch, tasks_at_once))
    require_count("steps", total)
    require_count("every", period)
    require(on_failure in ("skip", "raise"), "on_failure", on_failure, "'skip' and 'raise'")
    if isinstance(problem, AbstractProblem):
        allowed = "None for a single problem; a meta-batch needs a function key -> problem"
        require(tasks is None, "meta_batch", meta_batch, allowed)
    else:
        require(callable(problem), "problem", problem, "problems, and functions key -> problem")
        require_count("meta_batch", tasks)
    if together is None:
        together = _default_tasks_at_once(problem, outer, tasks)
    require_count("tasks_at_once", together)
    if mesh is not None:
        require(tasks is not None, "mesh", mesh, "None for a single problem")
        allowed = f"multiples of the {mesh.size} devices of the mesh"
        require((tasks or 0) % mesh.size == 0, "meta_batch", meta_batch, allowed)
        # Under explicit axes, the default of jax.make_mesh, every operation would need a sharding.
        mesh = Mesh(mesh.devices, mesh.axis_names)
    options = mesh, project, record, on_failure == "raise"
    loop = Loop(problem, estimator, optimizer, key, tasks or 1, together, *options)
    # The identity of a run does not depend on its devices, so it is that of the unplaced arguments.
    given = loop, outer
    # Also on the devices of other processes, which hold the same state.
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    placed = lambda tree: tree if everywhere is None else eqx.filter_shard(tree, everywhere)
    loop, outer = placed((loop, outer))
    carry, seconds, identity = begin(loop, outer, total), [], ""
    if checkpoint is not None:
        identity = identity_of(*given, carry)
        carry, seconds = restore(checkpoint, identity, carry)
        # A file is read onto one device.
        carry = placed(carry)
    with progress_bars(progress, {OUTER_STEPS: total}) as show:
        pauses = Pauses(period, checkpoint, identity, callback, show)
        carry = drive(loop, carry, seconds, total, pauses)
    return _finish(carry, together, seconds)


def _finish(carry: Carry, tasks_at_once: int, seconds: list[float]) -> Run:
    history = jax.tree.map(lambda x: x[: int(carry.step)], carry.history)
    failed = history.result != RESULTS.successful
    first_failed = jnp.argmax(failed)
    return Run(
        outer=carry.outer,
        history=history,
        result=jax.tree.map(lambda x: x[first_failed], history.result),
        estimator_state=carry.estimator_state,
        skipped=int(jnp.sum(failed)),
        tasks_at_once=tasks_at_once,
        seconds_per_step=median(seconds[1:] or seconds or [float("nan")]),
    )
