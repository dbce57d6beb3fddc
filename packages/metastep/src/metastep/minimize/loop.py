"""One outer step, and the compiled loop over many of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from metastep.compilation import compiled
from metastep.estimators.base import AbstractEstimator, Estimate
from metastep.fingerprint import fingerprint, shapes_of
from metastep.problems.base import AbstractProblem, require_problem
from metastep.problems.batches import sources_of
from metastep.results import RESULTS
from metastep.trees import norm, same_structure
from metastep.types import Outer, RandomKey, RandomKeys, Scalar

BEFORE_THE_FIRST_STEP = 2**32 - 1

Sampler = Callable[[RandomKey], AbstractProblem]
Problem = AbstractProblem | Sampler
Recorder = Callable[[Int[Array, ""], Outer, Estimate], PyTree[Array]]


class History(eqx.Module):
    """Measurements of every outer step, at the hyperparameters before the update.

    Attributes:
        value: the objective; the mean over a meta-batch.
        gradient_norm: the Euclidean norm of the (averaged) hypergradient.
        result: an array of items of `RESULTS`; `RESULTS[history.result]` gives the messages.
        recorded: the results of the `record` function, stacked; None without one.
    """

    value: Float[Array, "*steps"]
    gradient_norm: Float[Array, "*steps"]
    result: RESULTS
    recorded: PyTree[Array]


class Carry(eqx.Module):
    """The state of the loop, as a checkpoint stores it."""

    outer: Outer
    optimizer_state: Any
    estimator_state: Any
    step: Int[Array, ""]
    failed: Bool[Array, ""]
    history: History


class Loop(eqx.Module):
    """Everything that is the same at every step."""

    problem: Problem
    estimator: AbstractEstimator
    optimizer: optax.GradientTransformation
    key: RandomKey
    meta_batch: int
    tasks_at_once: int
    mesh: Mesh | None
    project: Callable[[Outer], Outer] | None
    record: Recorder | None
    halt_on_failure: bool

    def estimate(self, outer: Outer, state: Any, step: Int[Array, ""]) -> tuple[Estimate, Any]:
        """Estimate the hypergradient of one outer step, averaged over the meta-batch."""
        key = jax.random.fold_in(self.key, step)
        if isinstance(self.problem, AbstractProblem):
            return self.estimator.estimate(self.problem, outer, state, key)
        keys = jax.random.split(key, self.meta_batch)
        if self.mesh is None:
            estimates, state = self._estimates(self.problem, outer, keys, state)
            value, grad = _mean((estimates.value, estimates.grad))
            return _combine(value, grad, estimates.result, estimates.stats), state
        return self._sharded(self.problem, self.mesh, outer, keys, state), state

    def _estimates(
        self, sampler: Sampler, outer: Outer, keys: RandomKeys, state: Any
    ) -> tuple[Estimate, Any]:
        """Estimate the hypergradient of one task per key; return them stacked."""

        def one(task: tuple[RandomKey, Any]) -> tuple[Estimate, Any]:
            task_key, key = jax.random.split(task[0])
            return self.estimator.estimate(drawn(sampler, task_key), outer, task[1], key)

        return jax.lax.map(one, (keys, state), batch_size=self.tasks_at_once)

    def _sharded(
        self, sampler: Sampler, mesh: Mesh, outer: Outer, keys: RandomKeys, state: Any
    ) -> Estimate:
        """Estimate an equal share of the tasks on every device of the mesh.

        Communication: one all-reduce of value and hypergradient, and one gather of a few numbers
        per task.
        """
        axes = mesh.axis_names

        def share(outer: Outer, keys: RandomKeys) -> Estimate:
            # A distribution of problems has no estimator state: `begin` refuses it.
            tasks, _ = self._estimates(sampler, outer, keys, state)
            # The mean of the means is the mean, since all devices have equally many tasks.
            value, grad = jax.lax.pmean(_mean((tasks.value, tasks.grad)), axes)
            result, stats = jax.lax.all_gather((tasks.result, tasks.stats), axes, tiled=True)
            return _combine(value, grad, result, stats)

        everywhere = PartitionSpec()
        # Without the check of varying axes: it would refuse a scan that starts from constants.
        spread = jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(everywhere, PartitionSpec(axes)),
            out_specs=everywhere,
            check_vma=False,
        )
        return spread(outer, keys)

    def row(self, step: Int[Array, ""], outer: Outer, estimate: Estimate) -> History:
        """Return the measurements of one outer step."""
        recorded = self.record and jax.tree.map(jnp.asarray, self.record(step, outer, estimate))
        return History(estimate.value, estimate.stats["gradient_norm"], estimate.result, recorded)

    def body(self, carry: Carry) -> Carry:
        """Take one outer step; if the estimate failed, update the history only."""
        estimate, estimator_state = self.estimate(carry.outer, carry.estimator_state, carry.step)
        good = estimate.result == RESULTS.successful
        before = carry.outer, carry.optimizer_state
        outer, optimizer_state = descend(
            self.optimizer, before, (estimate.value, estimate.grad), good, self.project
        )
        row = self.row(carry.step, carry.outer, estimate)
        write = lambda buffer, entry: buffer.at[carry.step].set(entry)
        return Carry(
            outer=outer,
            optimizer_state=optimizer_state,
            estimator_state=estimator_state,
            step=carry.step + 1,
            failed=~good,
            history=jax.tree.map(write, carry.history, row),
        )


def drawn(sampler: Sampler, key: RandomKey) -> AbstractProblem:
    """Return a problem of a distribution; refuse a function that returns something else."""
    require_problem(problem := sampler(key), "problem(key)")
    return problem


def descend(
    optimizer: optax.GradientTransformation,
    before: tuple[Outer, Any],
    slope: tuple[Scalar, Outer],
    good: Bool[Array, ""],
    project: Callable[[Outer], Outer] | None = None,
) -> tuple[Outer, Any]:
    """Update the hyperparameters and the optimizer's state, `before`; no change unless `good`.

    `slope` is the objective and the hypergradient.
    """
    (outer, state), (value, grad) = before, slope
    # Plain transformations accept no further arguments; the wrapper drops them.
    updates, new_state = optax.with_extra_args_support(optimizer).update(
        grad, state, outer, value=value, grad=grad, value_fn=_no_line_search
    )
    new = optax.apply_updates(outer, updates)
    new = new if project is None else project(new)
    same_structure("project", outer, new)
    # Both sides are computed: a failed step costs no more than a good one, and nothing branches.
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), (new, new_state), before)


def _no_line_search(outer: Outer) -> NoReturn:
    del outer
    raise ValueError(
        "optimizer evaluates the objective on its own (a line search); allowed are optax "
        "transformations that need the hypergradient and the objective at one point. Write for "
        "instance optax.lbfgs(learning_rate=0.1, linesearch=None)."
    )


def _mean(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def _combine(value: Array, grad: Outer, result: RESULTS, stats: Mapping[str, Any]) -> Estimate:
    """Return the estimate of a meta-batch; its result is that of the first failed task."""
    # `argmax` is the first True; if there is none, it is 0, a successful task.
    first_bad = jnp.argmax(result != RESULTS.successful)
    result = jax.tree.map(lambda x: x[first_bad], result)
    return Estimate(value, grad, result, {"gradient_norm": norm(grad), "tasks": stats})


@compiled
def advance(loop: Loop, carry: Carry, stop: Int[Array, ""]) -> Carry:
    """Take outer steps up to number `stop`, or to the first failure if the loop halts on it."""

    def going_on(carry: Carry) -> Bool[Array, ""]:
        halted = carry.failed if loop.halt_on_failure else False
        return (carry.step < stop) & jnp.logical_not(halted)

    # An estimator's state may hold trajectories, and their states functions and flags.
    arrays, static = eqx.partition(carry, eqx.is_array)
    body = lambda arrays: eqx.filter(loop.body(eqx.combine(arrays, static)), eqx.is_array)
    arrays = jax.lax.while_loop(lambda arrays: going_on(eqx.combine(arrays, static)), body, arrays)
    return eqx.combine(arrays, static)


def identity_of(loop: Loop, outer: Outer, carry: Carry) -> str:
    """Return a digest of a run: of one outer step, the arrays in it and the first hyperparameters.

    Of `Batches` the first one counts. The devices, the number of tasks that are run together, and
    whether a failure ends the run do not matter.
    """
    alone = replace(loop, mesh=None, tasks_at_once=1, halt_on_failure=False)
    # The state is that of some step, and its values are no part of the run's identity.
    step = lambda loop, outer, carry, batches: loop.body(carry)
    # A callback is no part of the program: of data outside of it the first batches count.
    batches = [source.at(0) for source in sources_of(loop.problem)]
    return fingerprint(step, alone, outer, shapes_of(carry), batches)


@compiled
def begin(loop: Loop, outer: Outer, steps: int) -> Carry:
    """Return the state before the first step, with memory for the whole history."""
    # No outer step has this number, so that no estimate repeats the draws of the state.
    key = jax.random.fold_in(loop.key, BEFORE_THE_FIRST_STEP)
    if isinstance(loop.problem, AbstractProblem):
        estimator_state = loop.estimator.init(loop.problem, outer, key)
    else:
        sampler = loop.problem
        prepare = lambda key: loop.estimator.init(drawn(sampler, key), outer, key)
        estimator_state = eqx.filter_vmap(prepare)(jax.random.split(key, loop.meta_batch))
        if jax.tree.leaves(estimator_state):
            raise ValueError(
                f"{loop.estimator} carries trajectories from one outer step to the next, and a "
                "distribution of problems draws new ones. Give minimize one problem that draws "
                "its task in `init` and keeps it in its inner state."
            )

    def entry(outer: Outer, state: Any) -> History:
        step = jnp.zeros((), jnp.int32)
        return loop.row(step, outer, loop.estimate(outer, state, step)[0])

    # The history gets its room here, since a compiled loop cannot extend an array.
    row = eqx.filter_eval_shape(entry, outer, estimator_state)
    room = lambda x: jnp.zeros((steps, *x.shape), x.dtype)
    return Carry(
        outer=outer,
        optimizer_state=loop.optimizer.init(outer),
        estimator_state=estimator_state,
        step=jnp.zeros((), jnp.int32),
        failed=jnp.array(False),
        history=jax.tree.map(room, row),
    )
