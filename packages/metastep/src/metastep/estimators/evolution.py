"""Evolution strategies: hypergradients from values of the objective alone."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.checks import integer, require, require_count
from metastep.estimators.base import AbstractEstimator, Estimate, finish, require_dependence
from metastep.problems.base import AbstractProblem, evaluate, split_keys
from metastep.trees import mean_and_error, raveled
from metastep.types import Outer, RandomKey

PERTURBATIONS = 3
"""Folded into the key of the perturbations, to keep it apart from the keys of `split_keys`."""


class EvolutionStrategies(AbstractEstimator):
    """Antithetic evolution strategies: runs at `outer` plus and minus random perturbations.

    With n pairs of e ~ N(0, sigma^2 I): mean of (f(outer + e) - f(outer - e)) e / (2 sigma^2).
    Every run uses the same random key.

    Unbiased for the gradient of the smoothed objective E f(outer + e); f need not be
    differentiable, and may be chaotic. Biased for the gradient of f itself by O(sigma^2). The
    standard error grows with the number N of hyperparameters and falls as 1 / sqrt(n). For a
    quadratic f the smoothed and the true gradient are equal. `value` is f(outer) without
    perturbation.

    Time: 2 n + 1 forward runs. Memory: O(2 M chunk) for an inner state of size M.

    `stats` adds `standard_error`, a tree like `outer` (NaN for one pair).

    Reference:
        Nesterov and Spokoiny (2017), Random gradient-free minimization of convex functions;
        Salimans et al. (2017), Evolution strategies as a scalable alternative; Metz et al. (2019),
        Understanding and correcting pathologies in the training of learned optimizers.

    Attributes:
        sigma: the standard deviation of the perturbations, in the units of `outer`, positive. Where
            the rounding of `outer` leaves nothing of it, the gradient is NaN.
        pairs: the number n of antithetic pairs, from 1.
        chunk: how many pairs are run at the same time, from 1; None runs all of them.
    """

    sigma: float
    pairs: int = eqx.field(default=16, converter=integer)
    chunk: int | None = eqx.field(default=None, converter=integer)

    def __check_init__(self):
        check_sampling(self.sigma, self.pairs)
        require_count("chunk", self.chunk, none="all pairs at once")

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Estimate the gradient of the smoothed objective. Adds `standard_error` to `stats`."""
        keys = split_keys(key)
        flat, unflatten = raveled(outer)

        ending = lambda outer: evaluate(problem, outer, keys)
        require_dependence(lambda outer: ending(outer)[0], outer)
        value, first_nonfinite = ending(outer)

        def pair(draw: Float[Array, " N"]) -> Float[Array, " N"]:
            perturbation = sigma * draw
            # Both sides in one batch: they differ in nothing but the hyperparameters.
            sides = jnp.stack([flat + perturbation, flat - perturbation])
            above, below = jax.vmap(lambda at: ending(unflatten(at))[0])(sides)
            # The value at `outer` cancels; from one side it would be noise of the size f / sigma.
            # By sigma once, since its square is zero in float16 from 0.005 down.
            return (above - below) / (2 * self.sigma) * draw

        sigma = jnp.asarray(self.sigma, flat.dtype)
        draws = random_rows(key, self.pairs, flat)
        chunk = min(self.chunk or self.pairs, self.pairs)
        samples = jax.lax.map(pair, draws, batch_size=chunk)
        grad, error = mean_and_error(samples)
        grad = without_lost(grad, outer, sigma * draws)
        stats = {"standard_error": unflatten(error)}
        return finish(value, unflatten(grad), first_nonfinite, stats), state


def random_rows(key: RandomKey, count: int, flat: Float[Array, " N"]) -> Float[Array, "count N"]:
    """Draw standard normal rows of the size and dtype of `flat`."""
    return jax.random.normal(jax.random.fold_in(key, PERTURBATIONS), (count, flat.size), flat.dtype)


def without_lost(
    grad: Float[Array, " N"], outer: Outer, perturbations: Float[Array, "pairs N"]
) -> Float[Array, " N"]:
    """Return the gradient with NaN for the numbers of `outer` that no perturbation has moved.

    The rounding of `outer` then leaves nothing of `sigma`: all differences of the objective are
    zero, and their standard error, too.
    """
    flat, unflatten = raveled(outer)
    # Restored first, since a leaf may be rounder than the vector.
    moved = jax.vmap(lambda by: raveled(unflatten(flat + by))[0] != flat)(perturbations)
    return jnp.where(jnp.any(moved, axis=0), grad, jnp.nan)


def check_sampling(sigma: float, pairs: int) -> None:
    """Refuse a `sigma` that is not positive and a number of pairs below 1."""
    require(0 < sigma < float("inf"), "sigma", sigma, "positive finite numbers")
    require_count("pairs", pairs)
