"""The bias of truncation for every window, computed in one backward pass.

The backward pass of the exact hypergradient sums the contributions of the inner steps from the
last to the first. After K steps the sum is K-step truncated back-propagation; after all steps it is
the exact gradient. Functions that are the identity in the forward pass have custom derivative rules
that store these partial sums and the norms of the cotangents.

With `rounding` switched on, the same pass perturbs every number of the inner state, relative to the
number and to its update, as rounding errors would. The change of the gradient is their effect.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from metastep.estimators.widened import widened
from metastep.problems.base import AbstractProblem, Keys, Trajectory, start, take_step
from metastep.rounding import rounded
from metastep.trees import differentiable, inner_product, largest, subtract
from metastep.types import Inner, Outer, Scalar

Body = Callable[[PyTree, PyTree], tuple[PyTree, Scalar]]


class BiasCurve(eqx.Module):
    """The exact hypergradient and its truncations.

    Attributes:
        value: scalar, the objective at the end of the horizon.
        exact: the derivative of `value`, initial state included; a tree like `outer`.
        truncated: the estimates of `TruncatedReverse` for the given windows, stacked in front.
        adjoint_norms: shape (T + 1,), the norm of the derivative of the objective with respect to
            the inner state t steps before the end.
        sensitivities: shape (T + 1,), the same with respect to relative changes of the state: each
            derivative is multiplied by the coordinate itself.
        contributions: a tree like `outer` with shape (T,) in every leaf: the norm of the
            contribution to that leaf of the gradient of the step t + 1 steps before the end.
        moves: shape (T,), the size of each inner step, from the first to the last.
        end: the end of the trajectory; None if only the numbers above are kept.
        step_bytes: what this pass stores for each step unless it recomputes the step: the residuals
            of the step, and the state if they do not contain it.
    """

    value: Scalar
    exact: Outer
    truncated: Outer
    adjoint_norms: Float[Array, " T_plus_1"]
    sensitivities: Float[Array, " T_plus_1"]
    contributions: PyTree[Float[Array, " T"]]
    moves: Float[Array, " T"]
    end: Trajectory | None
    step_bytes: float = eqx.field(static=True)


class _Records(eqx.Module):
    """Arrays of zeros. The backward pass returns its records as their cotangents.

    Attributes:
        total: like `outer`, the sum of the contributions so far.
        rows: like `outer` with the windows in front, and one more row that is never read.
    """

    total: Outer
    rows: Outer


class _Sizes(eqx.Module):
    """Zeros for one step. Their cotangents are the norms that `BiasCurve` describes."""

    adjoint: Array
    sensitivity: Array
    contribution: PyTree[Array]


def windows_of(horizon: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, ... below the horizon, and the horizon."""
    steps = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    return (*(step for step in steps if step < horizon), horizon)


def bias_curve(
    problem: AbstractProblem,
    outer: Outer,
    keys: Keys,
    windows: Sequence[int],
    *,
    stored: bool = False,
    rounding: Int[Array, ""] | int = 0,
) -> BiasCurve:
    """Compute the exact hypergradient and the given truncations of it.

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, N numbers in all.
        keys: of the trajectory.
        windows: increasing integers from 1 to the horizon.
        stored: whether the residuals of every step are stored, as `Reverse()` does; otherwise the
            state every sqrt(T) steps, as `Reverse("sqrt")` does.
        rounding: 0, or a seed: then every number of the state, except small integers, is perturbed
            after each step by a different rounding error. May be traced.

    Returns:
        The curve. Exact. Time: that of reverse mode. Memory: that of reverse mode, and N numbers
        for each window.
    """
    problem, outer, narrow = widened(problem, outer)
    horizon = problem.horizon
    slots = np.full(horizon, len(windows), np.int32)
    # The first step of a window has the window's row, all other steps the row that is never read.
    slots[horizon - np.array(windows)] = np.arange(len(windows))
    # Derivatives by `outer` reach the result through `records` only, except that of the start.
    constant = jax.lax.stop_gradient(outer)
    seed = jnp.asarray(rounding, jnp.int32)

    def ending(
        stored: bool, outer: Outer, records: _Records, sizes: _Sizes, last: _Sizes
    ) -> tuple[Scalar, tuple[Trajectory, Array]]:
        begin = start(problem, outer, keys)
        arrays, static = eqx.partition(begin, eqx.is_array)
        body = _step(problem, constant, keys, static, seed)
        (arrays, records), moves = _scan(
            body, (arrays, records), (jnp.asarray(slots), sizes), stored
        )
        end = eqx.combine(arrays, static)
        variables, rest = differentiable(end.inner)
        # The adjoint of the last state belongs to no step of the loop.
        inner = eqx.combine(_measured(variables, last.adjoint, last.sensitivity), rest)
        # The direct derivative by `outer` is the first term of the sum, and part of every
        # truncation.
        judged = _recorded(constant, records.total, last.contribution)
        value = problem.objective(inner, judged, keys.objective)
        return value, (arrays, moves)

    # Zeros that nothing reads: they only give the backward pass places to write to.
    rows = jax.tree.map(lambda x: jnp.zeros((len(windows) + 1, *x.shape), x.dtype), outer)
    records = _Records(jax.tree.map(jnp.zeros_like, outer), rows)
    none = jnp.zeros(horizon)
    zeros = _Sizes(none, none, jax.tree.map(lambda _: none, outer))
    last = jax.tree.map(lambda x: x[0], zeros)
    differentiate = lambda stored: jax.vjp(
        partial(ending, stored), outer, records, zeros, last, has_aux=True
    )
    value, pull_back, (arrays, moves) = differentiate(stored)
    by_start, found, sizes, last = pull_back(jnp.ones_like(value))
    # A pass that recomputes holds its segments only: what a step leaves is traced, not computed.
    residuals = pull_back if stored else eqx.filter_eval_shape(lambda: differentiate(True)[1])
    static = eqx.filter(eqx.filter_eval_shape(start, problem, outer, keys), _is_shape, inverse=True)
    # Cotangents come in the order of the steps; what is returned counts from the end.
    return BiasCurve(
        value=value,
        exact=narrow(jax.tree.map(jnp.add, by_start, found.total)),
        truncated=jax.tree.map(lambda x: x[:-1], found.rows),
        adjoint_norms=jnp.concatenate([last.adjoint[None], sizes.adjoint[::-1]]),
        sensitivities=jnp.concatenate([last.sensitivity[None], sizes.sensitivity[::-1]]),
        contributions=jax.tree.map(lambda x: x[::-1], sizes.contribution),
        moves=moves,
        end=eqx.combine(arrays, static),
        step_bytes=stacked_bytes(residuals, horizon) / horizon,
    )


def stacked_bytes(residuals: PyTree, horizon: int) -> int:
    """Return the bytes of the arrays that `scan` stacks along a first axis of its length."""
    arrays = [x for x in jax.tree.leaves(residuals) if hasattr(x, "dtype")]
    # Only the length tells: a constant of the problem with as many rows counts, too.
    return sum(x.size * x.dtype.itemsize for x in arrays if x.shape[:1] == (horizon,))


def _is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _step(problem: AbstractProblem, outer: Outer, keys: Keys, static: PyTree, seed: Array) -> Body:
    """Return one inner step that returns its own size and whose derivatives are recorded."""

    def body(carry: PyTree, at: tuple[Array, _Sizes]) -> tuple[PyTree, Scalar]:
        arrays, records = carry
        slot, sizes = at
        point: Trajectory = eqx.combine(arrays, static)
        before, rest = differentiable(point.inner)
        variables = _measured(before, sizes.adjoint, sizes.sensitivity)
        # Before the step, hence after it on the way back: the row then includes this step.
        records = _Records(*_noted(records.total, records.rows, slot))
        inner = eqx.combine(variables, rest)
        point = Trajectory(inner, point.steps, point.first_nonfinite, point.watched)
        here = _recorded(outer, records.total, sizes.contribution)
        after = take_step(problem, here, point, keys)
        variables, rest = differentiable(after.inner)
        variables = rounded(variables, before, seed, after.steps)
        # The size of a step is a remark about the run: with a derivative it would store residuals.
        move = _length(jax.lax.stop_gradient(subtract(variables, before)))
        inner = eqx.combine(variables, rest)
        after = Trajectory(inner, after.steps, after.first_nonfinite, after.watched)
        return (eqx.filter(after, eqx.is_array), records), move

    return body


def _scan(body: Body, carry: PyTree, xs: PyTree, stored: bool) -> tuple[PyTree, Array]:
    """Run a body over all steps, with residuals stored or recomputed segment by segment."""
    run = lambda carry, xs: jax.lax.scan(body, carry, xs)
    if stored:
        return run(carry, xs)
    horizon = len(jax.tree.leaves(xs)[0])
    segments, remainder = divmod(horizon, isqrt(horizon))
    # The remainder is run first, so that all segments of the scan have one length.
    again = jax.checkpoint(run)
    carry, first = again(carry, jax.tree.map(lambda x: x[:remainder], xs))
    xs = jax.tree.map(lambda x: x[remainder:].reshape(segments, -1), xs)
    carry, rest = jax.lax.scan(again, carry, xs)
    return carry, jnp.concatenate([first, rest.reshape(-1)])


@jax.custom_vjp
def _recorded(outer: Outer, total: Outer, sizes: PyTree[Array]) -> Outer:
    """Return `outer`; its cotangent goes to `total`, and the norms of its leaves to `sizes`."""
    del total, sizes
    return outer


def _record(sizes: PyTree[Array], grad: Outer) -> tuple[Outer, Outer, PyTree[Array]]:
    norms = jax.tree.map(lambda size, x: _length(x).astype(size.dtype), sizes, grad)
    # `total` collects what would have gone to `outer`; JAX adds it to what came from later steps.
    return jax.tree.map(jnp.zeros_like, grad), grad, norms


_recorded.defvjp(lambda outer, total, sizes: (outer, sizes), _record)


@jax.custom_vjp
def _noted(total: Outer, rows: Outer, slot: Array) -> tuple[Outer, Outer]:
    """Return `total` and `rows`; the backward pass writes the cotangent of `total` into a row."""
    del slot
    return total, rows


def _note(slot: Array, grads: tuple[Outer, Outer]) -> tuple[Outer, Outer, None]:
    total, rows = grads
    return total, jax.tree.map(lambda rows, x: rows.at[slot].set(x), rows, total), None


_noted.defvjp(lambda total, rows, slot: ((total, rows), slot), _note)


@jax.custom_vjp
def _measured(variables: Inner, size: Array, relative: Array) -> Inner:
    """Return `variables`; norms of their cotangent become the cotangents of the other two."""
    del size, relative
    return variables


def _measure(residuals: tuple[Inner, Array], grad: Inner) -> tuple[Inner, Array, Array]:
    variables, size = residuals
    # The squares of a large cotangent would overflow, those of a small one underflow.
    top = largest(grad)
    scale = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    scaled = jax.tree.map(lambda x: x / scale, grad)
    relative = jax.tree.map(jnp.multiply, variables, scaled)
    sized = lambda tree: (scale * _length(tree)).astype(size.dtype)
    return grad, sized(scaled), sized(relative)


def _length(tree: PyTree) -> Scalar:
    """Return the norm of a tree of moderate numbers; `trees.norm` takes longer to compile."""
    return jnp.sqrt(inner_product(tree, tree))


_measured.defvjp(lambda variables, size, relative: (variables, (variables, size)), _measure)
