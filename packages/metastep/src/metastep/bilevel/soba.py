"""SOBA: one step at a time on the parameters, the linear system and the hyperparameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from metastep.bilevel.base import Step, begin, conclude, relative_norm
from metastep.bilevel.oracles import Oracles
from metastep.bilevel.state import BilevelState, OracleCalls
from metastep.checks import require
from metastep.estimators.base import AbstractEstimator, Estimate
from metastep.problems.base import AbstractProblem
from metastep.types import Outer, RandomKey


class SOBA(AbstractEstimator):
    """The stochastic bilevel algorithm: a single loop that updates all variables together.

    Every outer step draws one inner and one outer batch. From the same point (z, v, outer) it takes
    one step of the inner optimizer along d_z g, one step of `linear_optimizer` along
    (d_zz g) v + d_z f, and returns d_x f + (d_xz g) v.

    The three directions are unbiased for that point. As a hypergradient, the last is biased until z
    and v have converged; they follow if the outer steps are small compared with the inner ones.
    With constant step sizes and batches the iterates stay in a neighborhood whose size is
    proportional to the steps; to converge, let all three decrease as 1 / sqrt(t).

    The effect of the hyperparameters on the steps themselves is not differentiated. A growing
    regularizer, for instance, can make the inner steps unstable: bound it by `project` of
    `minimize`.

    Cost of an outer step: one gradient of g, one Hessian and one cross product on the same batch
    in one pass, one gradient of f. Memory: two copies of the parameters and the optimizer states,
    whatever the horizon.

    With momentum in the optimizer of `minimize` it is FSLA (Li, Gu and Huang 2022) with one batch
    per step.

    `stats` adds `adjoint` (v), `linear_residual` (relative, on this step's batches),
    `inner_gradient_norm` and `calls`. The state holds z and v.

    Reference:
        Dagréou, Ablin, Vaiter and Moreau (2022), A framework for bilevel optimization that enables
        stochastic and global variance reduction algorithms, Algorithm 1 with Equation 5.

    Attributes:
        linear_optimizer: an optax transformation that moves v, for instance `optax.sgd` with the
            step size of the inner optimizer, since both depend on the Hessian of g.

    Raises:
        ValueError: when used, for a problem without an inner loss, an inner optimizer that depends
            on the hyperparameters, or hyperparameters that act through the optimizer or the
            initial parameters alone.
    """

    linear_optimizer: optax.GradientTransformation

    def __check_init__(self):
        given = self.linear_optimizer
        good = isinstance(given, optax.GradientTransformation)
        require(good, "linear_optimizer", given, "optax transformations")

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> BilevelState:
        """Return the initial parameters, and v = 0."""
        return begin(problem, outer, key, self.linear_optimizer)

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: BilevelState, key: RandomKey
    ) -> tuple[Estimate, BilevelState]:
        """Take one step of all variables. See the class for what `stats` adds."""
        oracles = Oracles(problem, outer, state, key)
        # All directions are taken at the same point, before any of the variables moves.
        params, adjoint, batch = state.params, state.companion, oracles.inner_batch(0)
        slope, hessian_product, cross = oracles.products(params, adjoint, batch)
        judged, (right, direct) = oracles.outer_gradient(params, oracles.outer_batch(0))
        residual = jax.tree.map(jnp.add, hessian_product, right)
        moved, params_optimizer = oracles.descend(
            oracles.inner_loss, batch, params, state.params_optimizer, slope
        )
        # The residual is the gradient of v'Hv/2 + v'd_z f by v: any optimizer can descend it.
        updates, companion_optimizer = self.linear_optimizer.update(
            residual, state.companion_optimizer, adjoint
        )
        after = replace(
            state,
            params=moved,
            params_optimizer=params_optimizer,
            companion=optax.apply_updates(adjoint, updates),
            companion_optimizer=companion_optimizer,
        )
        step = Step(
            after=after,
            calls=OracleCalls(1, 1, 1, 1, inner_batches=1, outer_batches=1),
            value=judged,
            direction=jax.tree.map(jnp.add, direct, cross),
            adjoint=adjoint,
            linear_residual=relative_norm(residual, right),
            inner_gradient=slope[1],
        )
        return conclude(state, step, trained=(step.after.params, step.after.params_optimizer))
