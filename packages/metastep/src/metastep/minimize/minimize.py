"""The outer loop: estimate a hypergradient, update the hyperparameters, repeat.

The loop runs inside one compiled function, which returns to Python every `every` steps for the
progress bar, the callback and the checkpoint. The number of steps in between is an argument of
that function, so nothing recompiles.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal, SupportsIndex, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metastep import saving as checkpoints
from metastep.checks import integer, is_count, require_key
from metastep.estimators.base import AbstractEstimator, require_estimator
from metastep.files import has_type
from metastep.minimize.loop import Carry, History, Loop, Problem, Recorder, advance
from metastep.minimize.loop import begin as begin_loop
from metastep.problems.base import AbstractProblem
from metastep.results import RESULTS
from metastep.trees import as_hyperparameters
from metastep.types import Outer, RandomKey

SMALL_TASK_BYTES = 64 * 2**10
T = TypeVar("T")


class HypergradientError(RuntimeError):
    """A hypergradient failed and `on_failure` is "raise"."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often `minimize` saves its state.

    Attributes:
        path: the file; written atomically.
        every: outer steps between two writes, from 1. The last state is always written, also at an
            interruption by Ctrl-C.
        resume: whether to continue from an existing file; without it an existing file is an error.
    """

    path: Path
    every: int = 100
    resume: bool = False


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


@dataclass(frozen=True)
class Report:
    """The argument of a callback.

    Attributes:
        step: the number of outer steps taken.
        steps: the number of outer steps of the whole run.
        outer: the hyperparameters after `step` steps.
        value: the objective at the last estimate, before its update.
        gradient_norm: the norm of the last hypergradient.
        result: the result of the last estimate.
    """

    step: int
    steps: int
    outer: Outer
    value: float
    gradient_norm: float
    result: RESULTS


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
    initial = lambda key: problem(key).init(outer, key)
    state = eqx.filter(
        eqx.filter_eval_shape(initial, jax.random.key(0)), lambda x: hasattr(x, "dtype")
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return meta_batch if size <= SMALL_TASK_BYTES else 1


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}.")


@contextmanager
def _progress_bar(shown: bool | None, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar with the objective; `shown=None` shows it on a terminal only."""
    columns = (
        TextColumn("outer steps"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("objective {task.fields[value]:.6g}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, transient=True)
    if shown is False or (shown is None and not bar.console.is_terminal):
        yield lambda step, value: None
        return
    with bar:
        task = bar.add_task("", total=steps, value=float("nan"))
        yield lambda step, value: bar.update(task, completed=step, value=value)


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
    outer = as_hyperparameters(outer)
    total, period, tasks, together = map(integer, (steps, every, meta_batch, tasks_at_once))
    _require(is_count(total), "steps", steps, "the integers from 1")
    _require(is_count(period), "every", every, "the integers from 1")
    _require(on_failure in ("skip", "raise"), "on_failure", on_failure, "'skip' and 'raise'")
    if isinstance(problem, AbstractProblem):
        allowed = "None for a single problem; a meta-batch needs a function key -> problem"
        _require(tasks is None, "meta_batch", meta_batch, allowed)
    else:
        _require(is_count(tasks), "meta_batch", meta_batch, "the integers from 1")
    if together is None:
        together = _default_tasks_at_once(problem, outer, tasks)
    _require(is_count(together), "tasks_at_once", together, "the integers from 1")
    if mesh is not None:
        _require(tasks is not None, "mesh", mesh, "None for a single problem")
        allowed = f"multiples of the {mesh.size} devices of the mesh"
        _require((tasks or 0) % mesh.size == 0, "meta_batch", meta_batch, allowed)
        # Under explicit axes, the default of jax.make_mesh, every operation would need a sharding.
        mesh = Mesh(mesh.devices, mesh.axis_names)
    halt = on_failure == "raise"
    loop = Loop(
        problem,
        estimator,
        optimizer,
        key,
        tasks or 1,
        together,
        mesh,
        project,
        record,
        halt,
    )
    # A Python float is weakly typed, its update is not: the loop would be compiled twice.
    outer = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), outer)
    loop, outer = _placed(mesh, (loop, outer))
    carry, seconds = begin_loop(loop, outer, total), []
    if checkpoint is not None:
        carry, seconds = _restore(checkpoint, carry)
        carry = _placed(mesh, carry)
    with _progress_bar(progress, total) as show:
        pauses = _Pauses(period, checkpoint, callback, show)
        carry = _drive(loop, carry, seconds, total, pauses)
    return _finish(carry, together, seconds)


def _placed(mesh: Mesh | None, tree: T) -> T:
    """Replicate a tree on every device of the mesh, including those of other processes."""
    return tree if mesh is None else eqx.filter_shard(tree, NamedSharding(mesh, PartitionSpec()))


def _restore(checkpoint: Checkpoint, carry: Carry) -> tuple[Carry, list[float]]:
    """Return the saved state, if any, and check before the run that saving is possible."""
    _require(is_count(checkpoint.every), "checkpoint.every", checkpoint.every, "integers from 1")
    there = checkpoint.path.exists()
    if jax.process_count() > 1:
        sync_global_devices("every process has looked before the first one saves")
    # A first file before the run shows a missing permission or a full disk at once.
    if not there:
        if jax.process_index() == 0:
            checkpoints.save(checkpoint.path, carry, {"seconds_per_step": []})
        return carry, []
    if not checkpoint.resume:
        raise FileExistsError(
            f"{checkpoint.path} exists; pass Checkpoint(..., resume=True) to continue from it, or "
            "choose another file."
        )
    carry, notes = checkpoints.load(checkpoint.path, carry)
    seconds: Any = notes.get("seconds_per_step")
    if not has_type(seconds, tuple[float, ...]):
        raise checkpoints.CheckpointError(f"{checkpoint.path} belongs to another kind of run.")
    return carry, seconds


@dataclass(frozen=True)
class _Pauses:
    """The actions between two stretches of compiled steps."""

    every: int
    checkpoint: Checkpoint | None
    callback: Callable[[Report], bool | None] | None
    show: Callable[[int, float], None]

    def next_stop(self, step: int, steps: int) -> int:
        # Multiples of each period, not of the last stop: a resumed run pauses at the same steps.
        periods = [self.every] + ([self.checkpoint.every] if self.checkpoint else [])
        return min(steps, *(step + period - step % period for period in periods))

    def save(self, carry: Carry, seconds: list[float]) -> None:
        # All processes hold the same state, and the first one writes it.
        if self.checkpoint is not None and jax.process_index() == 0:
            checkpoints.save(self.checkpoint.path, carry, {"seconds_per_step": seconds})

    def save_if_due(self, carry: Carry, seconds: list[float], step: int, steps: int) -> None:
        if self.checkpoint is not None and (step % self.checkpoint.every == 0 or step == steps):
            self.save(carry, seconds)


def _drive(loop: Loop, carry: Carry, seconds: list[float], steps: int, pauses: _Pauses) -> Carry:
    """Run stretch by stretch; append the seconds per step of each stretch to `seconds`."""
    step = int(carry.step)
    try:
        while step < steps:
            begin = perf_counter()
            stop = jnp.asarray(pauses.next_stop(step, steps))
            carry = jax.block_until_ready(advance(loop, carry, stop))
            taken, step = int(carry.step) - step, int(carry.step)
            seconds.append((perf_counter() - begin) / taken)
            report = _report(carry, step, steps)
            pauses.show(step, report.value)
            if loop.halt_on_failure and bool(carry.failed):
                message = RESULTS[report.result]
                raise HypergradientError(f"the hypergradient of outer step {step - 1}: {message}")
            pauses.save_if_due(carry, seconds, step, steps)
            if pauses.callback is not None and pauses.callback(report):
                break
    except KeyboardInterrupt:
        pauses.save(carry, seconds)
        raise
    return carry


def _report(carry: Carry, step: int, steps: int) -> Report:
    last = jax.tree.map(lambda x: x[step - 1], carry.history)
    value, gradient_norm = float(last.value), float(last.gradient_norm)
    return Report(step, steps, carry.outer, value, gradient_norm, last.result)


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
