"""What truncation would do to a hypergradient, for every window, in one backward pass.

The backward pass of the exact hypergradient adds up the contributions of the inner steps from the
last to the first. Stopped after K steps it holds K-step truncated back-propagation; kept going it
ends with the exact gradient. One pass therefore shows both: identities between the inner steps,
whose derivatives write down what passes through them, read the partial sums off it.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from metastep.estimators.scaled import changed, growth_rate, random_change
from metastep.problems.base import AbstractProblem, Keys, Trajectory, start, take_step
from metastep.trees import differentiable, norm
from metastep.types import Inner, Outer, Scalar

Body = Callable[[PyTree, PyTree], tuple[PyTree, Scalar]]


class BiasCurve(eqx.Module):
    """The exact hypergradient and its truncations.

    Attributes:
        value: scalar, the objective at the end of the horizon.
        exact: the derivative of `value`, initial state included; a tree like `outer`.
        truncated: the estimates of `TruncatedReverse` for the windows asked for, stacked in front.
        adjoint_norms: shape (T + 1,), the norm of the derivative of the objective with respect to
            the inner state t steps before the end.
        lyapunov_exponent: growth rate of a random tangent of the state, in nats per step.
        begin: the trajectory before its first step.
        end: its end.
    """

    value: Scalar
    exact: Outer
    truncated: Outer
    adjoint_norms: Float[Array, " T_plus_1"]
    lyapunov_exponent: Scalar
    begin: Trajectory
    end: Trajectory


class _Records(eqx.Module):
    """Zeros; their derivatives are what the backward pass wrote down.

    Attributes:
        total: like `outer`, the sum of the contributions so far.
        rows: like `outer` with the windows in front, and one row more that nobody reads.
    """

    total: Outer
    rows: Outer


def bias_curve(
    problem: AbstractProblem,
    outer: Outer,
    keys: Keys,
    windows: Sequence[int],
    *,
    stored: bool = False,
) -> BiasCurve:
    """Compute the exact hypergradient, and on the way every truncation that is asked for.

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, N numbers in all.
        keys: of the trajectory.
        windows: increasing integers from 1 to the horizon.
        stored: whether the residuals of every step are stored, as `Reverse()` does; otherwise the
            state every sqrt(T) steps, as `Reverse("sqrt")` does.

    Returns:
        The curve. Exact. Time: that of reverse mode, and one tangent of the forward run. Memory:
        that of reverse mode, and N numbers for each window.
    """
    horizon = problem.horizon
    slots = np.full(horizon, len(windows), np.int32)
    slots[horizon - np.array(windows)] = np.arange(len(windows))
    constant = jax.lax.stop_gradient(outer)

    def ending(
        outer: Outer, records: _Records, sizes: Array, last: Array
    ) -> tuple[Scalar, tuple[Trajectory, Trajectory, Scalar]]:
        begin = start(problem, outer, keys)
        arrays, static = eqx.partition(begin, eqx.is_array)
        body = _step(problem, constant, keys, static)
        carry = (arrays, records, random_change(jax.lax.stop_gradient(begin.inner), keys))
        carry, factors = _scan(body, carry, (jnp.asarray(slots), sizes), stored)
        arrays, records, change = carry
        end = eqx.combine(arrays, static)
        variables, rest = differentiable(end.inner)
        inner = eqx.combine(_measured(variables, last), rest)
        value = problem.objective(inner, _recorded(constant, records.total), keys.objective)
        return value, (begin, end, growth_rate(change, factors))

    rows = jax.tree.map(lambda x: jnp.zeros((len(windows) + 1, *x.shape), x.dtype), outer)
    records = _Records(jax.tree.map(jnp.zeros_like, outer), rows)
    differentiate = jax.value_and_grad(ending, argnums=(0, 1, 2, 3), has_aux=True)
    (value, (begin, end, exponent)), (by_start, found, sizes, last) = differentiate(
        outer, records, jnp.zeros(horizon), jnp.zeros(())
    )
    return BiasCurve(
        value=value,
        exact=jax.tree.map(jnp.add, by_start, found.total),
        truncated=jax.tree.map(lambda x: x[:-1], found.rows),
        adjoint_norms=jnp.concatenate([last[None], sizes[::-1]]),
        lyapunov_exponent=exponent,
        begin=begin,
        end=end,
    )


def _step(problem: AbstractProblem, outer: Outer, keys: Keys, static: PyTree) -> Body:
    """Return one inner step whose derivatives are written down, beside that of a tangent."""

    def body(carry: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, Scalar]:
        arrays, records, change = carry
        slot, size = at
        point: Trajectory = eqx.combine(arrays, static)
        variables, rest = differentiable(point.inner)
        variables = _measured(variables, size)
        records = _Records(*_noted(records.total, records.rows, slot))
        inner = eqx.combine(variables, rest)
        point = Trajectory(inner, point.steps, point.first_nonfinite, point.watched)
        key = keys.step(point.steps)
        alone = lambda inner: problem.step(inner, outer, point.steps, key)
        change, factor = changed(change, alone, jax.lax.stop_gradient(inner))
        after = take_step(problem, _recorded(outer, records.total), point, keys)
        return (eqx.filter(after, eqx.is_array), records, change), factor

    return body


def _scan(body: Body, carry: PyTree, xs: PyTree, stored: bool) -> tuple[PyTree, Array]:
    """Run a body over all steps, with residuals stored or recomputed segment by segment."""
    run = lambda carry, xs: jax.lax.scan(body, carry, xs)
    if stored:
        return run(carry, xs)
    horizon = len(jax.tree.leaves(xs)[0])
    segments, remainder = divmod(horizon, isqrt(horizon))
    again = jax.checkpoint(run)
    carry, first = again(carry, jax.tree.map(lambda x: x[:remainder], xs))
    xs = jax.tree.map(lambda x: x[remainder:].reshape(segments, -1), xs)
    carry, rest = jax.lax.scan(again, carry, xs)
    return carry, jnp.concatenate([first, rest.reshape(-1)])


@jax.custom_vjp
def _recorded(outer: Outer, total: Outer) -> Outer:
    """Return `outer`; what its derivative would be is added to that of `total`."""
    del total
    return outer


_recorded.defvjp(
    lambda outer, total: (outer, None),
    lambda _, grad: (jax.tree.map(jnp.zeros_like, grad), grad),
)


@jax.custom_vjp
def _noted(total: Outer, rows: Outer, slot: Array) -> tuple[Outer, Outer]:
    """Return `total` and `rows`; on the way back write the one into a row of the other."""
    del slot
    return total, rows


def _note(slot: Array, grads: tuple[Outer, Outer]) -> tuple[Outer, Outer, None]:
    total, rows = grads
    return total, jax.tree.map(lambda rows, x: rows.at[slot].set(x), rows, total), None


_noted.defvjp(lambda total, rows, slot: ((total, rows), slot), _note)


@jax.custom_vjp
def _measured(variables: Inner, size: Array) -> Inner:
    """Return `variables`; the norm of their derivative becomes the derivative of `size`."""
    del size
    return variables


_measured.defvjp(
    lambda variables, size: (variables, size),
    lambda size, grad: (grad, norm(grad).astype(size.dtype)),
)
