"""Truncated reverse mode (K-RMD): back-propagation through the last K steps only."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from metastep.checks import integer, is_count, require
from metastep.estimators.base import AbstractEstimator, Estimate, finish, require_influence
from metastep.estimators.reverse import advance_for_reverse
from metastep.estimators.widened import widened
from metastep.explained import STEP_LOOP, reversible
from metastep.problems.base import AbstractProblem, Trajectory, advance, split_keys, start
from metastep.problems.mixed import choose_mixed
from metastep.results import RESULTS
from metastep.schedules import Checkpoint, stored_steps
from metastep.trees import differentiable, norm
from metastep.types import Inner, Outer, RandomKey, Scalar

ONLY_BY_START = (
    "With TruncatedReverse the initial state is a constant: a leaf that acts through `init` alone "
    "needs Reverse. Otherwise use it in `step` or `objective`, or take it out of `outer`."
)
"""Advice for a leaf that has no influence on the end of a window."""


class TruncatedReverse(AbstractEstimator):
    r"""Reverse-mode differentiation of the last K of T steps.

    The first T - K steps run without derivatives, the state w_{T-K} counts as a constant, and the
    rest is differentiated exactly. Parameters, momentum, step index and random key continue
    unchanged at the cut.

    Biased: h_{T-K} = d_outer f + sum_{t=T-K+1}^{T} B_t A_{t+1} ... A_T d_w f. For gradient descent
    with step size gamma on an alpha-strongly convex inner loss, the bias is at most
    (1 - gamma alpha)^K / (gamma alpha) |d_w f| max_t |B_t| (Eq. 10;
    `metastep_lab.theory.truncation.bias_bound`). The estimate need not be a descent direction,
    contrary to the paper's Lemma 3.2 (`metastep run truncation-toy` shows a counter-example). The
    derivative of the initial state is not included: K = T equals `Reverse` exactly if `init` does
    not depend on `outer`.

    Time: T forward steps and K backward. Memory: O(K R) for residuals of size R per step.

    If the inner loop stops before the window begins (it then returns its state unchanged), no
    derivative reaches the steps before, and `result` is `unmoved`.

    `stats` adds `adjoint_at_cut`, the norm of the derivative of the objective with respect to
    w_{T-K}, which truncation discards. If it is near zero, the window is long enough; if it is
    large, the steps before the cut still matter.

    Reference:
        Shaban, Cheng, Hatch and Boots (2019), Truncated back-propagation for bilevel optimization,
        Eq. 8.

    Attributes:
        window: the number K of last steps, from 1 to the horizon.
        checkpoint: within the window, as for `Reverse`.
        mixed: as for `Reverse`.
    """

    window: int = eqx.field(converter=integer)
    checkpoint: Checkpoint = eqx.field(default=None, converter=integer)
    mixed: bool | None = None

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the last `window` steps. Adds `adjoint_at_cut` to `stats`."""
        check_window(self.window, problem.horizon)
        stored = stored_steps(self.checkpoint, self.window)
        problem, outer, narrow = widened(choose_mixed(problem, self.mixed, stored), outer)
        keys = split_keys(key)
        begin = start(problem, outer, keys)
        cut = advance(problem, outer, begin, keys, problem.horizon - self.window)
        # Step counters and keys have no derivative: they stay constants of the window.
        cut_variables, cut_constants = differentiable(cut.inner)

        def through(
            outer: Outer, variables: Inner, checkpoint: Checkpoint
        ) -> tuple[Inner, tuple[Inner, Array]]:
            inner = eqx.combine(variables, cut_constants)
            point = Trajectory(inner, cut.steps, cut.first_nonfinite, cut.watched)
            end = advance_for_reverse(problem, outer, point, keys, self.window, checkpoint)
            variables, constants = differentiable(end.inner)
            return variables, (constants, end.first_nonfinite)

        def judged(outer: Outer, variables: Inner, constants: Inner) -> Scalar:
            return problem.objective(eqx.combine(variables, constants), outer, keys.objective)

        # Tangents, which find influence, do not pass through every checkpointing: none is used.
        def ending(outer: Outer) -> Scalar:
            variables, (constants, _) = through(outer, cut_variables, None)
            return judged(outer, variables, constants)

        require_influence(ending, outer, ONLY_BY_START)
        with reversible("problem", STEP_LOOP):
            end_variables, pull_back, (constants, first_nonfinite) = eqx.filter_vjp(
                lambda outer, inner: through(outer, inner, self.checkpoint),
                outer,
                cut_variables,
                has_aux=True,
            )
            # The adjoint at the end is apart: `stands_still` compares it with that at the cut.
            differentiate = jax.value_and_grad(judged, argnums=(0, 1))
            value, (direct, adjoint_at_end) = differentiate(outer, end_variables, constants)
            by_steps, adjoint = pull_back(adjoint_at_end)
        # Eq. 8 of Shaban et al. (2019): one backward pass is the sum over the window.
        grad = narrow(jax.tree.map(jnp.add, direct, by_steps))
        estimate = finish(value, grad, first_nonfinite, {"adjoint_at_cut": norm(adjoint)})
        still = stands_still((cut_variables, adjoint), (end_variables, adjoint_at_end), by_steps)
        # A cause that was found before, such as NaN, says more than that nothing moved.
        blind = still & (estimate.result == RESULTS.successful)
        result = RESULTS.where(blind, RESULTS.unmoved, estimate.result)
        return replace(estimate, result=result), state


def stands_still(
    cut: tuple[Inner, Inner], end: tuple[Inner, Inner], by_steps: Outer
) -> Bool[Array, ""]:
    """Whether the objective cannot tell the window from the identity.

    It cannot if, wherever the objective has a derivative by the state, the state is the same at
    both ends, that derivative passes through unchanged, and the hyperparameters do not contribute.
    At rest in a minimum the steps contract the derivative instead.
    """

    def same(before: Array, after: Array, adjoint: Array, adjoint_at_end: Array) -> Array:
        # Equality is exact: a loop that has stopped returns its state itself, and one near rest
        # still moves.
        at_rest = (before == after) | (adjoint_at_end == 0)
        return jnp.all(at_rest & (adjoint == adjoint_at_end))

    (before, adjoint), (after, adjoint_at_end) = cut, end
    leaves = jax.tree.leaves(jax.tree.map(same, before, after, adjoint, adjoint_at_end))
    seen = norm(adjoint_at_end) > 0
    return jnp.all(jnp.array(leaves, bool)) & seen & (norm(by_steps) == 0)


def windows_of(window: int, horizon: int) -> int:
    """Return the number of windows of a trajectory; refuse a window that does not divide it."""
    windows, rest = divmod(horizon, window)
    require(not rest, "window", window, f"the divisors of the horizon, {horizon}")
    return windows


def check_window(window: int, horizon: int) -> None:
    """Refuse a window that is not an integer from 1 to the horizon."""
    if not is_count(window, most=horizon):
        raise ValueError(
            f"window is {window!r}; allowed are the integers from 1 to the horizon, {horizon}. "
            "For the derivative of everything, initial state included, use Reverse()."
        )
