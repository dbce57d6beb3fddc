"""What truncation would do to a hypergradient, for every window, in one backward pass.

The backward pass of the exact hypergradient adds up the contributions of the inner steps from the
last to the first. Stopped after K steps it holds K-step truncated back-propagation; kept going it
ends with the exact gradient. One pass therefore shows both.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from metastep.problems.base import AbstractProblem, Keys, Trajectory, start, take_step
from metastep.trees import differentiable, norm
from metastep.types import Inner, Outer, Scalar


class BiasCurve(eqx.Module):
    """The exact hypergradient and its truncations.

    Attributes:
        value: scalar, the objective at the end of the horizon.
        exact: the derivative of `value`, initial state included; a tree like `outer`.
        truncated: the estimates of `TruncatedReverse` for the windows asked for, stacked in front.
        adjoint_norms: shape (T + 1,), the norm of the derivative of the objective with respect to
            the inner state t steps before the end.
        first_nonfinite: int32 scalar, as in `Trajectory`.
        end: the inner state at the end of the horizon.
    """

    value: Scalar
    exact: Outer
    truncated: Outer
    adjoint_norms: Float[Array, " T_plus_1"]
    first_nonfinite: Int[Array, ""]
    end: Trajectory


def bias_curve(
    problem: AbstractProblem, outer: Outer, keys: Keys, windows: Sequence[int]
) -> BiasCurve:
    """Compute the exact hypergradient, and on the way every truncation that is asked for.

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, N numbers in all.
        keys: of the trajectory.
        windows: increasing integers from 1 to the horizon.

    Returns:
        The curve. Exact. Time: that of reverse mode with the state stored every sqrt(T) steps.
        Memory: O(sqrt(T) M + R) for an inner state of size M and residuals of R per step, and N
        numbers for each window.
    """
    horizon = problem.horizon
    length = max(1, isqrt(horizon))
    segments = -(-horizon // length)
    # The first segment may reach beyond the beginning; steps before step 0 do nothing.
    begins = horizon - length * jnp.arange(segments, 0, -1)
    arrays, static = eqx.partition(start(problem, outer, keys), eqx.is_array)
    step = lambda point, outer: take_step(problem, outer, point, keys)

    def forward(arrays: PyTree[Array], t: Int[Array, ""]) -> tuple[PyTree[Array], PyTree[Array]]:
        move = lambda arrays: eqx.filter(step(eqx.combine(arrays, static), outer), eqx.is_array)
        return jax.lax.cond(t >= 0, move, lambda arrays: arrays, arrays), arrays

    def segment(arrays: PyTree[Array], begin: Int[Array, ""]) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(forward, arrays, begin + jnp.arange(length))

    keep_start = lambda arrays, begin: (segment(arrays, begin)[0], arrays)
    arrays, stored = jax.lax.scan(keep_start, arrays, begins)
    end = eqx.combine(arrays, static)
    last, constants = differentiable(end.inner)

    def judged(inner: Inner, outer: Outer) -> Scalar:
        return problem.objective(eqx.combine(inner, constants), outer, keys.objective)

    value, (adjoint, direct) = jax.value_and_grad(judged, argnums=(0, 1))(last, outer)
    back = _step_back(step, outer, static, windows, horizon)

    def back_segment(carry: tuple, at: tuple) -> tuple[tuple, Float[Array, " length"]]:
        begin, arrays = at
        _, states = segment(arrays, begin)
        return jax.lax.scan(back, carry, (begin + jnp.arange(length), states), reverse=True)

    rows = jax.tree.map(lambda x: jnp.zeros((len(windows) + 1, *x.shape), x.dtype), direct)
    carry = (adjoint, direct, rows)
    carry, norms = jax.lax.scan(back_segment, carry, (begins, stored), reverse=True)
    first_adjoint, grad, rows = carry
    initial = lambda outer: differentiable(problem.init(outer, keys.init))[0]
    _, pull_back = jax.vjp(initial, outer)
    return BiasCurve(
        value=value,
        exact=jax.tree.map(jnp.add, grad, pull_back(first_adjoint)[0]),
        truncated=jax.tree.map(lambda x: x[:-1], rows),
        adjoint_norms=jnp.concatenate([norm(adjoint)[None], norms.reshape(-1)[::-1][:horizon]]),
        first_nonfinite=end.first_nonfinite,
        end=end,
    )


def _step_back(
    step: Callable[[Trajectory, Outer], Trajectory],
    outer: Outer,
    static: PyTree,
    windows: Sequence[int],
    horizon: int,
) -> Callable[[tuple, tuple], tuple[tuple, Scalar]]:
    """Return the body of the backward scan: one step back, and a row where a window ends."""
    slot_of_step = np.full(horizon, len(windows), np.int32)
    slot_of_step[horizon - np.array(windows)] = np.arange(len(windows))

    def back(carry: tuple, at: tuple) -> tuple[tuple, Scalar]:
        adjoint, grad, rows = carry
        t, arrays = at
        variables, rest = eqx.partition(eqx.combine(arrays, static), eqx.is_inexact_array)

        def one_step(variables: PyTree, outer: Outer) -> Inner:
            return differentiable(step(eqx.combine(variables, rest), outer).inner)[0]

        def pulled(adjoint: Inner, grad: Outer) -> tuple[Inner, Outer]:
            _, pull_back = jax.vjp(one_step, variables, outer)
            of_point, contribution = pull_back(adjoint)
            return of_point.inner, jax.tree.map(jnp.add, grad, contribution)

        passed = lambda adjoint, grad: (adjoint, grad)
        adjoint, grad = jax.lax.cond(t >= 0, pulled, passed, adjoint, grad)
        slot = jnp.where(t >= 0, jnp.asarray(slot_of_step)[jnp.maximum(t, 0)], len(windows))
        rows = jax.tree.map(lambda rows, x: rows.at[slot].set(x), rows, grad)
        return (adjoint, grad, rows), norm(adjoint)

    return back
