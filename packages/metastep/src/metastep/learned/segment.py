"""Training with a learned optimizer as a problem, and the gradient of one of its segments."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from metastep.checks import integer, require_count
from metastep.compilation import compiled
from metastep.learned.learned import AbstractLearnedOptimizer
from metastep.problems.base import AbstractProblem
from metastep.problems.mixed import InnerGradient
from metastep.trees import as_arrays, ascent, differentiable
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


@runtime_checkable
class Task(Protocol):
    """A training task: a pytree with an initialization and an inner loss."""

    def init(self, key: RandomKey) -> PyTree:
        """Return random parameters."""
        ...

    def loss(self, params: PyTree, step: StepIndex) -> Scalar:
        """Return the inner loss on the batch of step `step`, the first of which is 0."""
        ...


Objective = Callable[[Any, PyTree, RandomKey], Scalar]
"""`(task, params, key) -> loss`: the objective of a learned optimizer, on training data
(train-by-train) or on validation data (train-by-validation). `key` may draw examples."""


class LearnedTrainingState(eqx.Module):
    """A point on the trajectory of a training run.

    Attributes:
        params: the parameters; their floating-point arrays are trained.
        optimizer_state: the state of the learned optimizer.
        step: int32 scalar, the number of steps taken.
        key: the key of the run.
        total: the sum of the objective over the steps taken, each at the parameters before it.
    """

    params: PyTree
    optimizer_state: Any
    step: Int[Array, ""]
    key: RandomKey
    total: Scalar


class LearnedTraining(AbstractProblem):
    """Train on one task with a learned optimizer; the outer loss is the mean objective on the way.

    The weights of the learned optimizer are the hyperparameters `outer`, for every estimator of
    `metastep.estimators`. `PersistentEvolutionStrategies` gives partial unrolls, since the
    objectives of the windows add up.

    Attributes:
        measure: the objective of a step.
        first_order: whether inner gradients count as constants, as in the authors' code. The
            weights then act through the parameters only: a biased meta-gradient without second
            derivatives of the loss. False differentiates everything.
    """

    task: Task
    optimizer: AbstractLearnedOptimizer
    measure: Objective = eqx.field(static=True)
    horizon: int = eqx.field(static=True, converter=integer)
    first_order: bool = eqx.field(static=True, default=True)
    gradient: InnerGradient = eqx.field(default_factory=InnerGradient, init=False)

    def __check_init__(self):
        require_count("horizon", self.horizon)

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return random parameters and a fresh optimizer state."""
        params_key, run_key = jax.random.split(key)
        params = as_arrays(self.task.init(params_key))
        # The sum has the precision of the objective that every step adds, since a loop keeps its
        # dtypes, and float32 at least: in bfloat16 a sum of ones ends at 256.
        measured = eqx.filter_eval_shape(self.measure, self.task, params, run_key)
        total = jnp.zeros((), jnp.promote_types(measured.dtype, jnp.float32))
        state = self.optimizer(outer).init(differentiable(params)[0])
        return LearnedTrainingState(params, state, jnp.zeros((), jnp.int32), run_key, total)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Measure the objective, then apply one update; the state holds its step and key."""
        del t, key
        step_key = jax.random.fold_in(inner.key, inner.step)
        total = inner.total + self.measure(self.task, inner.params, step_key)
        trained, fixed = differentiable(inner.params)
        loss = lambda trained: self.task.loss(eqx.combine(trained, fixed), inner.step)
        _, gradients = self.gradient(loss, trained)
        grads = ascent(gradients)
        before = inner.optimizer_state
        if self.first_order:
            # The state is a function of constants, unless it depends on the weights itself.
            grads = jax.lax.stop_gradient(grads)
            if not self.optimizer.state_depends_on_weights:
                before = jax.lax.stop_gradient(before)
        updates, after = self.optimizer(outer).update(grads, before, trained)
        params = eqx.combine(optax.apply_updates(trained, updates), fixed)
        return LearnedTrainingState(params, after, inner.step + 1, inner.key, total)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the sum of the objective so far, divided by the horizon."""
        del outer, key
        return inner.total / self.horizon


class Segment(eqx.Module):
    """The result of one segment of a trajectory.

    Attributes:
        value: the mean objective over its steps.
        grad: the derivative of `value` with respect to the weights, for a constant initial state
            of the segment.
        state: the trajectory after the segment.
    """

    value: Float[Array, ""]
    grad: Outer
    state: LearnedTrainingState


@compiled
def first_state(problem: LearnedTraining, weights: Outer, key: RandomKey) -> LearnedTrainingState:
    """Return the compiled start of a trajectory."""
    return problem.init(weights, key)


@compiled
def run_segment(
    problem: LearnedTraining,
    weights: Outer,
    state: LearnedTrainingState,
    length: Int[Array, ""],
    block: int,
    blocks: int,
) -> Segment:
    """Continue a trajectory by `length` steps and differentiate their mean objective.

    Reverse mode over blocks of `block` steps: the forward pass stores one state per block, and one
    per step of the block that is being differentiated; everything else is recomputed. The length is
    traced, so every segment runs the same compiled code. Exact for the segment; biased for the
    whole trajectory, as partial unrolls are. Time: 3 forward steps and a backward one per step, one
    forward step less in the last block.

    `length` is an int32 scalar from 1 to `block * blocks`; `block` and `blocks` are static.
    """
    # The sum of the objective starts at zero, so that its end is that of the segment alone.
    state = eqx.tree_at(lambda state: state.total, state, jnp.zeros_like(state.total))
    state, static = eqx.partition(state, eqx.is_array)
    count = (length + block - 1) // block
    steps_of = lambda index: jnp.minimum(block, length - index * block)

    def step(weights: Outer, state: PyTree) -> PyTree:
        state = eqx.combine(state, static)
        # The state holds its step and its key; the arguments are there for the interface.
        return eqx.filter(problem.step(state, weights, state.step, state.key), eqx.is_array)

    def advance(index: Array, state: PyTree) -> PyTree:
        return jax.lax.fori_loop(0, steps_of(index), lambda _, state: step(weights, state), state)

    last, starts = _record(advance, state, count - 1, blocks)
    # The last block, the only one that may be shorter, is run when it is differentiated.
    starts = _put(starts, last, count - 1)

    # A loop of traced length has no derivative in reverse, so the backward pass is written out.
    def through_block(number: Array, carry: tuple[PyTree, PyTree, PyTree]) -> tuple:
        slope, end_slope, end = carry
        index = count - 1 - number
        steps = steps_of(index)
        one_step = lambda _, state: step(weights, state)
        after, states = _record(one_step, _row(starts, index), steps, block)

        def through_step(number: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            slope, end_slope = carry
            # Step by step: residuals of a single step exist at a time, whatever the block.
            moving, fixed = differentiable(_row(states, steps - 1 - number))
            moved = lambda weights, moving: step(weights, eqx.combine(moving, fixed))
            _, pull_back = jax.vjp(lambda *both: differentiable(moved(*both))[0], weights, moving)
            weights_slope, start_slope = pull_back(end_slope)
            return jax.tree.map(jnp.add, slope, weights_slope), start_slope

        slope, start_slope = jax.lax.fori_loop(0, steps, through_step, (slope, end_slope))
        # The last block is differentiated first, and its end is that of the segment.
        return slope, start_slope, jax.lax.cond(number == 0, lambda: after, lambda: end)

    end_slope = jax.tree.map(jnp.zeros_like, differentiable(state)[0])
    # The segment's objective depends on its final state through `total` only.
    end_slope = eqx.tree_at(lambda slope: slope.total, end_slope, jnp.ones_like(state.total))
    nothing = jax.tree.map(jnp.zeros_like, weights)
    slope, _, end = jax.lax.fori_loop(0, count, through_block, (nothing, end_slope, state))
    return Segment(
        end.total / length,
        jax.tree.map(lambda leaf: leaf / length, slope),
        eqx.combine(end, static),
    )


def _record(
    advance: Callable[[Array, PyTree], PyTree], state: PyTree, count: Array, room: int
) -> tuple[PyTree, PyTree]:
    """Advance `count` times; return the end and, in `room` rows, the state before each step."""

    def body(index: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        state, rows = carry
        return advance(index, state), _put(rows, state, index)

    # The content does not matter: rows beyond `count` are never read.
    rows = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (room, *leaf.shape)), state)
    return jax.lax.fori_loop(0, count, body, (state, rows))


def _put(rows: PyTree, state: PyTree, index: Array) -> PyTree:
    return jax.tree.map(
        lambda row, leaf: jax.lax.dynamic_update_index_in_dim(row, leaf, index, 0), rows, state
    )


def _row(rows: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda row: jax.lax.dynamic_index_in_dim(row, index, keepdims=False), rows)


@compiled
def train_from_scratch(
    problem: LearnedTraining, weights: Outer, key: RandomKey, record: Callable, every: int
) -> PyTree:
    """Train over the whole horizon and record the parameters at regular intervals.

    `record`, `(task, params, key) -> pytree`, is called before the first step and after every
    `every` of them, a divisor of the horizon; both are static. Returns the stacked results of
    `record`, and the mean objective over the horizon.
    """
    if every < 1 or problem.horizon % every:
        raise ValueError(f"every is {every}; allowed are the divisors of {problem.horizon}.")
    state, static = eqx.partition(problem.init(weights, key), eqx.is_array)

    def look(state: PyTree) -> PyTree:
        state = eqx.combine(state, static)
        return record(problem.task, state.params, state.key)

    def step(state: PyTree, _: None) -> tuple[PyTree, None]:
        state = eqx.combine(state, static)
        after = problem.step(state, weights, state.step, state.key)
        return eqx.filter(after, eqx.is_array), None

    def stretch(state: PyTree, _: None) -> tuple[PyTree, PyTree]:
        state, _ = jax.lax.scan(step, state, length=every)
        return state, look(state)

    # `record` is traced twice, for the start and for the loop, and called between stretches only.
    first = look(state)
    state, rest = jax.lax.scan(stretch, state, length=problem.horizon // every)
    recorded = jax.tree.map(lambda one, many: jnp.concatenate([one[None], many]), first, rest)
    return recorded, state.total / problem.horizon
