"""Execute a binomial checkpointing schedule inside one compiled program.

One `lax.scan` executes all moves, and the number of steps of a move is data. The compiled program
is therefore as small for a million steps as for ten. With `jax.checkpoint` the nesting would be
part of the program.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from metastep.problems.base import AbstractProblem, Keys, Trajectory, take_step
from metastep.schedules import schedule
from metastep.types import Outer

Step = Callable[[Trajectory, Outer], Trajectory]


def advance_binomial(
    problem: AbstractProblem,
    outer: Outer,
    trajectory: Trajectory,
    keys: Keys,
    steps: int,
    states: int,
) -> Trajectory:
    """Take `steps` further steps that store at most `states` states for the backward pass.

    Differentiable once, in reverse mode only. Under `vmap` all rows share the schedule.
    """
    one_step = lambda point, outer: take_step(problem, outer, point, keys)
    # What `one_step` captures may belong to an enclosing vmap or grad. As explicit arguments, the
    # captured values can be batched and differentiated.
    step = eqx.filter_closure_convert(one_step, trajectory, outer)
    return _advance((step, outer, trajectory), steps, states)


def _by(step: Step, outer: Outer, point: Trajectory, count: Int[Array, ""] | int) -> Trajectory:
    """Take `count` steps; `count` may be traced."""
    arrays, static = eqx.partition(point, eqx.is_array)
    # A loop of traced length has no derivative in reverse; `_backward` takes that of single steps.
    body = lambda _, arrays: eqx.filter(step(eqx.combine(arrays, static), outer), eqx.is_array)
    return eqx.combine(jax.lax.fori_loop(0, count, body, arrays), static)


@eqx.filter_custom_vjp
def _advance(variables: tuple[Step, Outer, Trajectory], steps: int, states: int) -> Trajectory:
    step, outer, point = variables
    del states
    return _by(step, outer, point, steps)


@_advance.def_fwd
def _forward(
    perturbed: PyTree[bool], variables: tuple[Step, Outer, Trajectory], steps: int, states: int
) -> tuple[Trajectory, PyTree[Array]]:
    """Run forward, storing the states of the first descent of the schedule."""
    del perturbed
    step, outer, point = variables
    plan = schedule(steps, states)
    arrays, static = eqx.partition(point, eqx.is_array)
    # Slot 0 keeps the initial state, from which the first moves start. The additional slot takes
    # the states of moves that store nothing.
    room = lambda x: jnp.broadcast_to(x, (states + 1, *x.shape))

    def move(carry: tuple, action: tuple) -> tuple[tuple, None]:
        arrays, slots = carry
        count, target = action
        point = _by(step, outer, eqx.combine(arrays, static), count)
        arrays = eqx.filter(point, eqx.is_array)
        return (arrays, _store(slots, target, arrays)), None

    _, count, target, _ = plan.moves(slice(plan.descent))
    carry = (arrays, jax.tree.map(room, arrays))
    (arrays, slots), _ = jax.lax.scan(move, carry, (jnp.asarray(count), jnp.asarray(target)))
    # What comes after the last stored state; the backward pass runs all but its last step again.
    rest = steps - int(count.sum())
    return _by(step, outer, eqx.combine(arrays, static), rest), slots


@_advance.def_bwd
def _backward(
    slots: PyTree[Array],
    cotangent: PyTree[Array | None],
    perturbed: PyTree[bool],
    variables: tuple[Step, Outer, Trajectory],
    steps: int,
    states: int,
) -> PyTree[Array | None]:
    """Execute the rest of the schedule, one step backward at a time."""
    step, outer, initial = variables
    plan = schedule(steps, states)
    static = eqx.filter(initial, eqx.is_array, inverse=True)
    floats = eqx.filter(initial, eqx.is_inexact_array)
    # A leaf that the objective does not use has no cotangent: zero.
    given = lambda x, g: jnp.zeros_like(x) if g is None and x is not None else g
    adjoint = jax.tree.map(given, floats, cotangent, is_leaf=lambda x: x is None)
    # Only what is differentiated gets a gradient: the data that `step` captured may be large.
    tuned, fixed = eqx.partition((step, outer), perturbed[:2])

    def step_back(carry: tuple, point: Trajectory) -> tuple:
        adjoint, grad = carry
        floats, rest = eqx.partition(point, eqx.is_inexact_array)

        def one_step(tuned: PyTree, floats: PyTree) -> PyTree:
            step, outer = eqx.combine(tuned, fixed)
            return eqx.filter(step(eqx.combine(floats, rest), outer), eqx.is_inexact_array)

        _, pull_back = jax.vjp(one_step, tuned, floats)
        of_tuned, adjoint = pull_back(adjoint)
        return adjoint, jax.tree.map(jnp.add, grad, of_tuned)

    def move(carry: tuple, action: tuple) -> tuple[tuple, None]:
        slots, backward = carry
        source, count, target, is_backward = action
        stored = jax.tree.map(lambda x: x[source], slots)
        point = _by(step, outer, eqx.combine(stored, static), count)
        arrays = eqx.filter(point, eqx.is_array)
        turn = lambda carry: step_back(carry, eqx.combine(arrays, static))
        # `cond`, not `where`: a step backward costs about three forward.
        backward = jax.lax.cond(is_backward, turn, lambda carry: carry, backward)
        return (_store(slots, target, arrays), backward), None

    begin = (adjoint, jax.tree.map(jnp.zeros_like, tuned))
    actions = tuple(map(jnp.asarray, plan.moves(slice(plan.descent, None))))
    (_, (adjoint, grad)), _ = jax.lax.scan(move, (slots, begin), actions)
    return *grad, adjoint


def _store(slots: Any, index: Int[Array, ""], arrays: Any) -> Any:
    return jax.tree.map(lambda slot, x: slot.at[index].set(x), slots, arrays)
