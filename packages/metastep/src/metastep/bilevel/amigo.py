"""AmIGO and, without its warm start, StocBiO: a few steps on each of the two inner problems."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from metastep.bilevel.base import Step, begin, conclude, relative_norm
from metastep.bilevel.oracles import Oracles
from metastep.bilevel.state import BilevelState, OracleCalls
from metastep.checks import integer, require, require_count
from metastep.estimators.base import AbstractEstimator, Estimate
from metastep.problems.base import AbstractProblem
from metastep.types import Outer, RandomKey


class AmIGO(AbstractEstimator):
    r"""Amortized implicit gradients: both inner problems continue from their last solutions.

    Every outer step takes `inner_steps` steps of the inner optimizer. At the new z it then takes
    `linear_steps` steps of `linear_optimizer` along (d_zz g) v + d_z f, each with a new inner batch
    and all with the same outer batch. It returns d_x f + (d_xz g) v on one more inner batch.

    With `warm_start=False` it is StocBiO: v starts anew at -eta d_z f, and with `optax.sgd(eta)`
    becomes the Neumann sum -eta (1 + ... + (1 - eta H)^n) d_z f over n = `linear_steps` batches
    (the paper multiplies them in another order; they are independent).

    Biased as a hypergradient by the distances of z and v from their limits. With a warm start these
    are the changes by the last outer step, reduced by both loops; without it the tail of the series
    is also missing. Unbiased for its own expectation in every batch but those of z.

    Cost of an outer step: `inner_steps` gradients of g, `linear_steps` Hessian products, one cross
    product, one gradient of f. Memory: two copies of the parameters and the optimizer states.

    `stats` adds `adjoint` (v), `linear_residual` (relative, before the last linear step and on its
    batch), `inner_gradient_norm` (before the last inner step) and `calls`. The state holds z and v.

    Reference:
        Arbel and Mairal (2022), Amortized implicit differentiation for stochastic bilevel
        optimization, Algorithm 1; Ji, Yang and Liang (2021), Bilevel optimization: convergence
        analysis and enhanced design, Algorithm 2 and Equation 7.

    Attributes:
        linear_optimizer: an optax transformation that moves v, as for `SOBA`.
        inner_steps: steps on z per outer step, from 1.
        linear_steps: Hessian products per outer step, from 1.
        warm_start: whether v and the state of its optimizer are kept from one outer step to the
            next.

    Raises:
        ValueError: when used, for problems that `SOBA` refuses.
    """

    linear_optimizer: optax.GradientTransformation
    inner_steps: int = eqx.field(default=10, converter=integer)
    linear_steps: int = eqx.field(default=10, converter=integer)
    warm_start: bool = True

    def __check_init__(self):
        given = self.linear_optimizer
        good = isinstance(given, optax.GradientTransformation)
        require(good, "linear_optimizer", given, "optax transformations")
        require_count("inner_steps", self.inner_steps)
        require_count("linear_steps", self.linear_steps)

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> BilevelState:
        """Return the initial parameters, and v = 0."""
        return begin(problem, outer, key, self.linear_optimizer)

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: BilevelState, key: RandomKey
    ) -> tuple[Estimate, BilevelState]:
        """Update z, then v, then differentiate. See the class for what `stats` adds."""
        oracles = Oracles(problem, outer, state, key)
        (params, params_optimizer), gradient = self._follow_minimum(oracles, state)
        judged, (right, direct) = oracles.outer_gradient(params, oracles.outer_batch(0))
        (adjoint, optimizer), residual = self._follow_adjoint(oracles, state, params, right)
        # Batches are numbered in the order of their use: those of z, those of v, and one for x.
        last = oracles.inner_batch(self.inner_steps + self.linear_steps)
        # A batch of its own: v depends on the earlier ones, on which the product would be biased.
        _, _, cross = oracles.products(params, adjoint, last)
        step = Step(
            after=replace(
                state,
                params=params,
                params_optimizer=params_optimizer,
                companion=adjoint,
                companion_optimizer=optimizer,
            ),
            calls=OracleCalls(
                inner_gradients=self.inner_steps,
                hessian_products=self.linear_steps,
                cross_products=1,
                outer_gradients=1,
                inner_batches=self.inner_steps + self.linear_steps + 1,
                outer_batches=1,
            ),
            value=judged,
            direction=jax.tree.map(jnp.add, direct, cross),
            adjoint=adjoint,
            linear_residual=relative_norm(residual, right),
            inner_gradient=gradient,
        )
        return conclude(state, step, trained=(step.after.params, step.after.params_optimizer))

    def _follow_minimum(
        self, oracles: Oracles, state: BilevelState
    ) -> tuple[tuple[PyTree, Any], PyTree]:
        """Descend g; return the parameters, the optimizer's state and the last gradient."""

        def body(number: Int[Array, ""], carry: Any) -> Any:
            (params, optimizer_state), _ = carry
            batch = oracles.inner_batch(number)
            slope = oracles.inner_gradient(params, batch)
            after = oracles.descend(oracles.inner_loss, batch, params, optimizer_state, slope)
            return after, slope[1]

        # The second part only has the structure of a gradient: the first step replaces it.
        start = (state.params, state.params_optimizer), state.params
        return jax.lax.fori_loop(0, self.inner_steps, body, start)

    def _follow_adjoint(
        self, oracles: Oracles, state: BilevelState, params: PyTree, right: PyTree
    ) -> tuple[tuple[PyTree, Any], PyTree]:
        """Descend v'Hv/2 + v'd_z f; return v, the optimizer's state and the last residual."""

        def move(residual: PyTree, adjoint: PyTree, optimizer_state: Any) -> tuple[PyTree, Any]:
            updates, after = self.linear_optimizer.update(residual, optimizer_state, adjoint)
            return optax.apply_updates(adjoint, updates), after

        def body(number: Int[Array, ""], carry: Any) -> Any:
            (adjoint, optimizer_state), _ = carry
            batch = oracles.inner_batch(self.inner_steps + number)
            _, hessian_product, _ = oracles.products(params, adjoint, batch)
            residual = jax.tree.map(jnp.add, hessian_product, right)
            return move(residual, adjoint, optimizer_state), residual

        start = state.companion, state.companion_optimizer
        if not self.warm_start:
            # At v = 0 the residual is d_z f itself: the first step needs no Hessian product.
            zero = jax.tree.map(jnp.zeros_like, params)
            start = move(right, zero, self.linear_optimizer.init(zero))
        # Again the second part only has the right structure.
        return jax.lax.fori_loop(0, self.linear_steps, body, (start, right))
