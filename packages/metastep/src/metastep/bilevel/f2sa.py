"""F2SA: bilevel optimization without second derivatives, by a growing penalty."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from metastep.bilevel.base import Step, begin, conclude, relative_norm
from metastep.bilevel.oracles import Oracles
from metastep.bilevel.problem import Loss
from metastep.bilevel.state import BilevelState, OracleCalls
from metastep.checks import integer, require, require_count
from metastep.estimators.base import AbstractEstimator, Estimate
from metastep.problems.base import AbstractProblem
from metastep.trees import ascent
from metastep.types import Outer, RandomKey, Scalar


class F2SA(AbstractEstimator):
    """The fully first-order stochastic approximation: a difference between two trainings.

    z descends g; a second copy y of the parameters descends g + f / lambda. Every outer step takes
    `inner_steps` steps of the inner optimizer with each, and returns
    d_x f(y) + lambda (d_x g(y) - d_x g(z)) on a further pair of batches. The inner optimizer can
    keep its step size while lambda grows; in the paper's notation alpha = gamma / lambda.

    Biased by O(1 / lambda) at the minima of the two, exact in the limit. The distances of z and y
    from their minima are multiplied by lambda, and so is rounding: in float32 it is about 1e-4 of
    the gradients of g at lambda = 1000. Both copies see the same batches, so most of the noise of
    z and y cancels in the difference (the paper draws independent batches).

    Cost of an outer step with n = `inner_steps`: 2 n + 2 gradients of g, n + 1 of f, no second
    derivative. Memory: three copies of the parameters and two optimizer states.

    `stats` adds `adjoint`, lambda (y - z), which tends to the v of the other solvers;
    `linear_residual`, relative, with the Hessian product replaced by a difference of gradients;
    `inner_gradient_norm` (at z), `penalty` (lambda) and `calls`. The state holds z and, as its
    companion, y.

    Reference:
        Kwon, Kwon, Wright and Nowak (2023), A fully first-order method for stochastic bilevel
        optimization, Algorithm 1.

    Attributes:
        penalty: lambda, a positive number, or a function of the outer step (an optax schedule) that
            grows from a positive number.
        inner_steps: steps on z and on y per outer step, from 1.

    Raises:
        ValueError: when used, for problems that `SOBA` refuses.
    """

    penalty: float | Callable[[Int[Array, ""]], Any]
    inner_steps: int = eqx.field(default=10, converter=integer)

    def __check_init__(self):
        require_count("inner_steps", self.inner_steps)
        usable = callable(self.penalty) or self.penalty > 0
        require(usable, "penalty", self.penalty, "positive numbers and schedules")

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> BilevelState:
        """Return the initial parameters, twice."""
        return begin(problem, outer, key, linear_optimizer=None)

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: BilevelState, key: RandomKey
    ) -> tuple[Estimate, BilevelState]:
        """Train both copies, and compare them. See the class for what `stats` adds."""
        oracles = Oracles(problem, outer, state, key)
        penalty = jnp.asarray(self.penalty(state.step) if callable(self.penalty) else self.penalty)
        after = self._train(oracles, state, penalty)
        # One batch for both copies: its noise cancels in the difference, which is multiplied.
        inner_batch = oracles.inner_batch(self.inner_steps)
        slopes = jax.grad(oracles.inner_loss, argnums=(0, 1))
        gradient, outer_gradient = slopes(after.params, outer, inner_batch)
        pulled, outer_pulled = slopes(after.companion, outer, inner_batch)
        gradient, pulled = ascent((gradient, pulled))
        outer_batch = oracles.outer_batch(self.inner_steps)
        judged, (right, direct) = oracles.outer_gradient(after.companion, outer_batch)
        # The difference first: the gradients of g are large, and it is small.
        difference = lambda a, b: jax.tree.map(lambda a, b: _times(penalty, a - b), a, b)
        residual = jax.tree.map(jnp.add, difference(pulled, gradient), right)
        step = Step(
            after=after,
            calls=OracleCalls(
                inner_gradients=2 * self.inner_steps + 2,
                outer_gradients=self.inner_steps + 1,
                inner_batches=self.inner_steps + 1,
                outer_batches=self.inner_steps + 1,
            ),
            value=judged,
            direction=jax.tree.map(jnp.add, direct, difference(outer_pulled, outer_gradient)),
            adjoint=difference(after.companion, after.params),
            linear_residual=relative_norm(residual, right),
            inner_gradient=gradient,
        )
        # Both copies descend an inner loss: the failure of either is `nonfinite_inner`.
        estimate, state = conclude(state, step, trained=after)
        return replace(estimate, stats={**estimate.stats, "penalty": penalty}), state

    def _train(self, oracles: Oracles, state: BilevelState, penalty: Scalar) -> BilevelState:
        """Take steps with both copies on the same batches."""

        def plain(params: PyTree, outer: Outer, batches: Any) -> Scalar:
            return oracles.inner_loss(params, outer, batches[0])

        def penalized(params: PyTree, outer: Outer, batches: Any) -> Scalar:
            judged = oracles.outer_loss(params, outer, batches[1])
            # g + f / penalty, not penalty g + f: one step size fits both copies at any penalty.
            return plain(params, outer, batches) + _times(1 / penalty, judged)

        def body(number: Int[Array, ""], now: BilevelState) -> BilevelState:
            batches = oracles.inner_batch(number), oracles.outer_batch(number)

            def descend(loss: Loss, params: PyTree, optimizer_state: Any) -> tuple[PyTree, Any]:
                value, slope = jax.value_and_grad(loss)(params, oracles.outer, batches)
                slope = value, ascent(slope)
                return oracles.descend(loss, batches, params, optimizer_state, slope)

            params, params_optimizer = descend(plain, now.params, now.params_optimizer)
            companion, companion_optimizer = descend(
                penalized, now.companion, now.companion_optimizer
            )
            return replace(
                now,
                params=params,
                params_optimizer=params_optimizer,
                companion=companion,
                companion_optimizer=companion_optimizer,
            )

        return jax.lax.fori_loop(0, self.inner_steps, body, state)


def _times(factor: Scalar, leaf: Array) -> Array:
    """Multiply in the precision of the leaf."""
    return factor.astype(leaf.dtype) * leaf
