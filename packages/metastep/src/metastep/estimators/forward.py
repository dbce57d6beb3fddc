"""Exact forward mode (FMD), batched over the coordinates of the hyperparameters."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from metastep.checks import integer, require_count
from metastep.estimators.base import USE_IT, AbstractEstimator, Estimate, finish, require_influence
from metastep.problems.base import AbstractProblem, evaluate, split_keys
from metastep.trees import raveled
from metastep.types import Outer, RandomKey, Scalar


class Forward(AbstractEstimator):
    """Forward-mode differentiation: one tangent of the inner state per hyperparameter.

    Exact. Time: N tangents of the forward run for N hyperparameters, `chunk` at a time; each chunk
    repeats the undifferentiated run once. Memory: O(M chunk) for an inner state of size M,
    independent of the horizon.

    Use it for few hyperparameters and long horizons, and as an independent check of `Reverse`.

    Reference:
        Franceschi et al. (2017), Forward and reverse gradient-based hyperparameter optimization;
        Shaban et al. (2019), Eq. 7.

    Attributes:
        chunk: how many coordinates are run at the same time, from 1; None runs all of them.
    """

    chunk: int | None = eqx.field(default=None, converter=integer)

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the whole trajectory forward. Adds nothing to `stats`."""
        require_count("chunk", self.chunk, none="all coordinates at once")
        keys = split_keys(key)
        flat, unflatten = raveled(outer)

        ending = lambda outer: evaluate(problem, outer, keys)
        require_influence(lambda outer: ending(outer)[0], outer, USE_IT)

        # The basis vector is made inside the loop: the whole basis would take N^2 numbers.
        def derivative(coordinate: Int[Array, ""]) -> tuple[Scalar, Scalar, Array]:
            tangent = unflatten(jnp.zeros_like(flat).at[coordinate].set(1))
            return jax.jvp(ending, (outer,), (tangent,), has_aux=True)

        coordinates = jnp.arange(flat.size)
        chunk = min(self.chunk or flat.size, flat.size)
        values, slopes, first_nonfinite = jax.lax.map(derivative, coordinates, batch_size=chunk)
        # Every row has run the same trajectory, and has the same value.
        return finish(values[0], unflatten(slopes), first_nonfinite[0], {}), state
