"""Common parts of the bilevel solvers: the first state, the end of an outer step, the checks.

The symbols are those of `oracles`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from metastep.bilevel.oracles import BETTER_UNROLL, Oracles, optimizer_of, training_of
from metastep.bilevel.state import BilevelState, OracleCalls
from metastep.estimators.base import Estimate, common_stats, require_influence
from metastep.problems.base import AbstractProblem, split_keys, start
from metastep.results import RESULTS
from metastep.trees import all_finite, differentiable, norm, ratio
from metastep.types import Outer, RandomKey, Scalar


def begin(
    problem: AbstractProblem,
    outer: Outer,
    key: RandomKey,
    linear_optimizer: optax.GradientTransformation | None,
) -> BilevelState:
    """Check the problem, and return the initial state.

    The companion is v = 0, moved by `linear_optimizer`; if that is None, a copy of the parameters.
    A `ValueError` refuses a leaf of `outer` that influences neither the minimum of the inner loss
    nor the outer loss.
    """
    # This is called for its refusals only; the result is not used.
    optimizer_of(training_of(problem))
    inner = start(problem, outer, split_keys(key)).inner
    params, rest = differentiable(inner.params)
    zero = jnp.zeros((), jnp.int32)
    companion, companion_optimizer = params, inner.optimizer_state
    if linear_optimizer is not None:
        companion = jax.tree.map(jnp.zeros_like, params)
        companion_optimizer = linear_optimizer.init(companion)
    state = BilevelState(
        params=params,
        params_optimizer=inner.optimizer_state,
        companion=companion,
        companion_optimizer=companion_optimizer,
        fixed=eqx.filter(rest, eqx.is_array),
        step=zero,
        calls=OracleCalls(zero, zero, zero, zero, zero, zero),
    )
    oracles = Oracles(problem, outer, state, key)

    def seen(outer: Outer) -> PyTree:
        # x moves the minimum through d_z g, and f directly: no other way is differentiated.
        gradient = jax.grad(oracles.inner_loss)(params, outer, oracles.inner_batch(0))
        return gradient, oracles.outer_loss(params, outer, oracles.outer_batch(0))

    require_influence(seen, outer, BETTER_UNROLL)
    return state


def relative_norm(residual: PyTree, right: PyTree) -> Float[Array, ""]:
    """Return |residual| / |right|, with 0 / 0 = 0."""
    return ratio(norm(residual), norm(right))


class Step(eqx.Module):
    """The computed results of one outer step.

    Attributes:
        after: the next state, with `step` and `calls` not yet updated.
        calls: the oracle calls of the step.
        value: f.
        direction: the estimate of the hypergradient.
        adjoint: the v with which `direction` was computed.
        linear_residual: |(d_zz g) v + d_z f| / |d_z f|.
        inner_gradient: d_z g.
    """

    after: BilevelState
    calls: OracleCalls
    value: Scalar
    direction: Outer
    adjoint: PyTree
    linear_residual: Scalar
    inner_gradient: PyTree


def conclude(before: BilevelState, step: Step, trained: PyTree) -> tuple[Estimate, BilevelState]:
    """Assemble an outer step's estimate and state; a failed step only advances the counters.

    `trained` are the parts of the new state that descend an inner loss.
    """
    where, after = RESULTS.where, step.after
    inner_good = all_finite(trained)
    companion_good = all_finite((after.companion, after.companion_optimizer))
    # Each line overrides those before it, so that the earliest cause is reported.
    result = where(all_finite(step.direction), RESULTS.successful, RESULTS.nonfinite_gradient)
    result = where(companion_good, result, RESULTS.linear_solve_failed)
    result = where(jnp.isfinite(step.value), result, RESULTS.nonfinite_value)
    result = where(inner_good, result, RESULTS.nonfinite_inner)
    good = result == RESULTS.successful
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
    calls = before.calls + step.calls
    # Batches are numbered by the counters: a failed step is followed by one on other batches.
    state = eqx.tree_at(lambda s: (s.step, s.calls), kept, (before.step + 1, calls))
    # The inner run never begins anew, so its steps are counted over all outer steps.
    first_nonfinite = jnp.where(inner_good, -1, calls.inner_gradients)
    stats = common_stats(step.direction, first_nonfinite) | {
        "adjoint": step.adjoint,
        "linear_residual": step.linear_residual,
        "inner_gradient_norm": norm(step.inner_gradient),
        "calls": calls,
    }
    return Estimate(step.value, step.direction, result, stats), state
