"""Truncated reverse mode (K-RMD): back-propagation through the last K steps only."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from metastep.explained import STEP_LOOP, reversible
from metastep.hypergradient.base import AbstractEstimator, Estimate, finish, require_influence
from metastep.hypergradient.reverse import Checkpoint, advance_for_reverse, stored_steps
from metastep.problems.base import AbstractProblem, Trajectory, advance, split_keys, start
from metastep.problems.mixed import choose_mixed
from metastep.trees import differentiable, norm
from metastep.types import Inner, Outer, RandomKey, Scalar


class TruncatedReverse(AbstractEstimator):
    r"""Reverse-mode differentiation of the last K of T steps.

    The first T - K steps run without derivatives, the state w_{T-K} counts as a constant, and the
    rest is differentiated exactly. Nothing is reset or re-drawn at the cut: parameters,
    momentum, step index and random key go on as they are.

    Biased: h_{T-K} = d_outer f + sum_{t=T-K+1}^{T} B_t A_{t+1} ... A_T d_w f. What it leaves out is
    bounded, for gradient descent with step size gamma on an inner loss that is alpha-strongly
    convex, by (1 - gamma alpha)^K / (gamma alpha) |d_w f| max_t |B_t| (Eq. 10;
    `metastep.theory.truncation.bias_bound`). It need not be a descent direction, whatever the
    paper's Lemma 3.2 says (`metastep run truncation-toy` shows a counter-example). The derivative
    of the initial state belongs to no window: K = T equals `Reverse` exactly when `init` does not
    depend on `outer`.

    Time: T forward steps and K backward. Memory: O(K R) for residuals of size R per step.

    `stats` adds `adjoint_at_cut`, the norm of the derivative of the objective with respect to
    w_{T-K}. It is what truncation throws away: near zero, the window was long enough; large, the
    steps before the cut still matter.

    Reference:
        Shaban, Cheng, Hatch and Boots (2019), Truncated back-propagation for bilevel optimization,
        Eq. 8.

    Attributes:
        window: the number K of last steps, from 1 to the horizon.
        checkpoint: within the window, as for `Reverse`.
        mixed: as for `Reverse`.
    """

    window: int
    checkpoint: Checkpoint = None
    mixed: bool | None = None

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: nothing is remembered."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the last `window` steps. Adds `adjoint_at_cut` to `stats`."""
        _check_window(self.window, problem.horizon)
        stored = stored_steps(self.checkpoint, self.window)
        problem = choose_mixed(problem, self.mixed, stored)
        keys = split_keys(key)
        begin = start(problem, outer, keys)
        cut = advance(problem, outer, begin, keys, problem.horizon - self.window)
        cut_variables, cut_constants = differentiable(cut.inner)

        def ending(outer: Outer, variables: Inner, checkpoint: Checkpoint) -> tuple[Scalar, Array]:
            inner = eqx.combine(variables, cut_constants)
            point = Trajectory(inner, cut.steps, cut.first_nonfinite, cut.watched)
            end = advance_for_reverse(problem, outer, point, keys, self.window, checkpoint)
            return problem.objective(end.inner, outer, keys.objective), end.first_nonfinite

        require_influence(
            lambda outer: ending(outer, cut_variables, None)[0],
            outer,
            "With TruncatedReverse the initial state is a constant: a leaf that acts through "
            "`init` alone needs Reverse. Otherwise use it in `step` or `objective`, or take it out "
            "of `outer`.",
        )
        differentiate = jax.value_and_grad(ending, argnums=(0, 1), has_aux=True)
        with reversible("problem", STEP_LOOP):
            (value, first_nonfinite), (grad, adjoint) = differentiate(
                outer, cut_variables, self.checkpoint
            )
        return finish(value, grad, first_nonfinite, {"adjoint_at_cut": norm(adjoint)}), state


def _check_window(window: int, horizon: int) -> None:
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= horizon:
        raise ValueError(
            f"window is {window!r}; allowed are the integers from 1 to the horizon, {horizon}. "
            "For the derivative of everything, initial state included, use Reverse()."
        )
