"""Forward gradients: exact derivatives along random directions."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from metastep.checks import integer, require_count
from metastep.estimators.base import USE_IT, AbstractEstimator, Estimate, finish, require_influence
from metastep.estimators.evolution import random_rows
from metastep.problems.base import AbstractProblem, evaluate, split_keys
from metastep.trees import mean_and_error, raveled
from metastep.types import Outer, RandomKey, Scalar


class RandomDirections(AbstractEstimator):
    """The forward gradient: the mean of (d . v) v over directions v ~ N(0, I).

    Unbiased, since the derivative d . v along each direction is exact (one tangent of the forward
    run). The variance of a coordinate is (|d|^2 + d_i^2) / n with n directions. Use it with too
    many hyperparameters for `Forward` and too long a horizon for `Reverse`.

    Time: n tangents of the forward run. Memory: O(M chunk) for an inner state of size M,
    independent of the horizon.

    `stats` adds `standard_error`, a tree like `outer` (NaN for one direction).

    Reference:
        Silver et al. (2021), Learning by directional gradient descent; Baydin et al. (2022),
        Gradients without backpropagation.

    Attributes:
        directions: the number n of directions, from 1.
        chunk: how many of them are run at the same time, from 1; None runs all of them.
    """

    directions: int = eqx.field(default=1, converter=integer)
    chunk: int | None = eqx.field(default=None, converter=integer)

    def __check_init__(self):
        require_count("directions", self.directions)
        require_count("chunk", self.chunk, none="all directions at once")

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Average derivatives along random directions. Adds `standard_error` to `stats`."""
        keys = split_keys(key)
        flat, unflatten = raveled(outer)

        ending = lambda outer: evaluate(problem, outer, keys)
        require_influence(lambda outer: ending(outer)[0], outer, USE_IT)

        # One tangent for each direction; the value comes along at no extra cost.
        def sample(direction: Float[Array, " N"]) -> tuple[Scalar, Float[Array, " N"], Array]:
            tangent = unflatten(direction)
            value, slope, first_nonfinite = jax.jvp(ending, (outer,), (tangent,), has_aux=True)
            return value, slope * direction, first_nonfinite

        draws = random_rows(key, self.directions, flat)
        chunk = min(self.chunk or self.directions, self.directions)
        values, samples, first_nonfinite = jax.lax.map(sample, draws, batch_size=chunk)
        grad, error = mean_and_error(samples)
        stats = {"standard_error": unflatten(error)}
        return finish(values[0], unflatten(grad), first_nonfinite[0], stats), state
