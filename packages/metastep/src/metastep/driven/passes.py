"""The compiled parts of a driven run: a segment forward, a segment backward, and both ends.

Each is compiled once and called for every segment, with batches as arguments. Results are placed
on the devices of the initial state, so that all calls have the same placement.
"""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from metastep.compilation import compiled
from metastep.estimators.base import Estimate, finish
from metastep.estimators.truncated import stands_still
from metastep.problems.base import AbstractProblem, Keys, Trajectory, start, take_step
from metastep.problems.batches import with_batch
from metastep.results import RESULTS
from metastep.trees import differentiable, norm
from metastep.types import Inner, Outer, Scalar

Places = tuple[jax.sharding.Sharding | None, ...]


class Adjoint(eqx.Module):
    """The position of the backward pass, and what it needs to continue.

    Attributes:
        step: int32 scalar, the number of the step that was differentiated last.
        of_state: the derivative of the objective with respect to the state before that step.
        of_outer: the contribution of that step and the later ones to the hypergradient.
        still: whether the objective cannot tell any segment so far from the identity; False if
            this is not checked.
        value: the objective.
        first_nonfinite: as for `Trajectory`, at the end of the horizon.
    """

    step: Int[Array, ""]
    of_state: Inner
    of_outer: Outer
    still: Bool[Array, ""]
    value: Scalar
    first_nonfinite: Int[Array, ""]


class Run(eqx.Module):
    """The constants of a run.

    Attributes:
        problem: the problem, with its mode of differentiation chosen.
        outer: the hyperparameters.
        keys: the keys of the trajectory.
        places: the placement of the arrays of a point, in the order of its leaves; None for those
            on one device. Empty: unspecified.
        outer_places: the same for the hyperparameters.
        truncated: whether the state at the end of the backward pass counts as a constant.
    """

    problem: AbstractProblem
    outer: Outer
    keys: Keys
    places: Places = eqx.field(static=True, default=())
    outer_places: Places = eqx.field(static=True, default=())
    truncated: bool = eqx.field(static=True, default=False)


def places_of(tree: PyTree) -> Places:
    """Return the placement of the arrays of a tree; None for those on one device."""
    several = lambda x: x.sharding if len(x.sharding.device_set) > 1 else None
    return tuple(map(several, jax.tree.leaves(eqx.filter(tree, eqx.is_array))))


def _put(tree: PyTree, places: Places) -> PyTree:
    if not any(places):
        return tree
    arrays, static = eqx.partition(tree, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    put = lambda x, place: x if place is None else jax.lax.with_sharding_constraint(x, place)
    leaves = [put(x, place) for x, place in zip(leaves, places, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), static)


def _steps(run: Run, outer: Outer, point: Trajectory, batches: PyTree, count: int) -> Trajectory:
    """Take `count` steps; `batches` has one entry for each along its first axis, or is None."""
    # A compiled loop carries arrays only; states may hold functions and Python numbers.
    arrays, static = eqx.partition(point, eqx.is_array)

    def body(carry: PyTree, batch: PyTree) -> tuple[PyTree, None]:
        problem = with_batch(run.problem, batch)
        after = take_step(problem, outer, eqx.combine(carry, static), run.keys)
        return eqx.filter(after, eqx.is_array), None

    arrays, _ = jax.lax.scan(body, arrays, batches, length=count)
    return _put(eqx.combine(arrays, static), run.places)


def _placed(run: Run, point: Trajectory, adjoint: Adjoint) -> Adjoint:
    """Place an adjoint like the state and the hyperparameters.

    In a point the arrays of the state come first, followed by scalars.
    """
    if not any(run.places):
        return adjoint
    arrays = jax.tree.leaves(eqx.filter(point.inner, eqx.is_array))
    pairs = zip(arrays, run.places[: len(arrays)], strict=True)
    of_state = [place for x, place in pairs if eqx.is_inexact_array(x)]
    scalar = run.places[len(arrays)]
    # The places are in the order of the fields of `Adjoint`.
    return _put(adjoint, (scalar, *of_state, *run.outer_places, scalar, scalar, scalar))


@compiled
def begin(run: Run) -> Trajectory:
    """Return the point before the first step."""
    return _put(start(run.problem, run.outer, run.keys), run.places)


@compiled
def forward(run: Run, point: Trajectory, batches: PyTree, count: int) -> Trajectory:
    """Return the point `count` steps later."""
    return _steps(run, run.outer, point, batches, count)


@compiled
def judge(run: Run, end: Trajectory) -> Adjoint:
    """Evaluate the objective, and return the adjoint at the end of the horizon."""
    floats, rest = differentiable(end.inner)

    def objective(outer: Outer, floats: Inner) -> Scalar:
        return run.problem.objective(eqx.combine(floats, rest), outer, run.keys.objective)

    differentiate = jax.value_and_grad(objective, argnums=(0, 1))
    value, (of_outer, of_state) = differentiate(run.outer, floats)
    # Truncation alone asks whether anything moved: true until a segment shows otherwise.
    still = jnp.array(run.truncated)
    adjoint = Adjoint(end.steps, of_state, of_outer, still, value, end.first_nonfinite)
    return _placed(run, end, adjoint)


@compiled
def back(run: Run, point: Trajectory, batches: PyTree, count: int, adjoint: Adjoint) -> Adjoint:
    """Differentiate the `count` steps that begin at `point`."""
    before, rest = differentiable(point.inner)

    def through(outer: Outer, floats: Inner) -> Inner:
        begin = replace(point, inner=eqx.combine(floats, rest))
        return differentiable(_steps(run, outer, begin, batches, count).inner)[0]

    # The segment is run again here; its residuals exist inside of this program only.
    after, pull_back = jax.vjp(through, run.outer, before)
    by_steps, of_state = pull_back(adjoint.of_state)
    still = adjoint.still
    if run.truncated:
        still &= stands_still((before, of_state), (after, adjoint.of_state), by_steps)
    of_outer = jax.tree.map(jnp.add, adjoint.of_outer, by_steps)
    value, first_nonfinite = adjoint.value, adjoint.first_nonfinite
    after_all = Adjoint(point.steps, of_state, of_outer, still, value, first_nonfinite)
    return _placed(run, point, after_all)


@compiled
def conclude(run: Run, adjoint: Adjoint) -> Estimate:
    """Return the estimate: the steps' part, plus that of the initial state unless truncated."""
    value, first_nonfinite = adjoint.value, adjoint.first_nonfinite
    if run.truncated:
        stats = {"adjoint_at_cut": norm(adjoint.of_state)}
        estimate = finish(value, adjoint.of_outer, first_nonfinite, stats)
        blind = adjoint.still & (estimate.result == RESULTS.successful)
        return replace(estimate, result=RESULTS.where(blind, RESULTS.unmoved, estimate.result))

    def initial(outer: Outer) -> Inner:
        return differentiable(start(run.problem, outer, run.keys).inner)[0]

    _, pull_back = jax.vjp(initial, run.outer)
    grad = jax.tree.map(jnp.add, adjoint.of_outer, pull_back(adjoint.of_state)[0])
    return finish(value, grad, first_nonfinite, {})
