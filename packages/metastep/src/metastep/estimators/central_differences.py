"""Central differences: a reference that needs values of the objective only."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.checks import integer, require, require_count
from metastep.estimators.base import AbstractEstimator, Estimate, finish, require_dependence
from metastep.estimators.evolution import PERTURBATIONS
from metastep.problems.base import AbstractProblem, evaluate, split_keys
from metastep.trees import raveled
from metastep.types import Outer, RandomKey, Scalar


class CentralDifferences(AbstractEstimator):
    """Slopes by central differences of fourth order, along orthonormal directions.

    With at least as many directions as hyperparameters (N), the directions are the coordinates and
    `grad` is the gradient. With fewer they span a random subspace, and `grad` is the projection of
    the gradient onto it. The projection is shorter than the gradient by about
    sqrt(directions / N); use it to check other estimates in that subspace, as `compare` does.

    Exact up to O(step^4) and rounding. `uncertainty` in `stats` measures this error: the norm of
    the difference between the slopes for `step` and `step / 2`, relative to their norm. If it
    exceeds a few percent, try another step; if that does not help, the objective is not smooth.

    Time: 4 directions + 1 forward runs. Memory: O(M) for an inner state of size M, independent of
    the horizon, plus the directions.

    Attributes:
        directions: the largest number of directions, from 1.
        step: the larger of the two steps, in the units of `outer`, positive. None is eps^(1/5),
            the best for fourth order, times the size of what is moved: |outer_i| for a coordinate,
            the root mean square of `outer` for other directions and coordinates that are 0. If the
            rounding of `outer` leaves nothing of it, the slope is NaN.
    """

    directions: int = eqx.field(default=32, converter=integer)
    step: float | None = None

    def __check_init__(self):
        require_count("directions", self.directions)
        usable = self.step is None or 0 < self.step < float("inf")
        require(usable, "step", self.step, "None and positive numbers")

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def basis(self, outer: Outer, key: RandomKey) -> Float[Array, "directions N"]:
        """Return the directions as rows: the coordinates if there are enough, else random."""
        flat, _ = raveled(outer)
        if self.directions >= flat.size:
            return jnp.eye(flat.size, dtype=flat.dtype)
        key = jax.random.fold_in(key, PERTURBATIONS)
        draws = jax.random.normal(key, (flat.size, self.directions), flat.dtype)
        return jnp.linalg.qr(draws)[0].T

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Measure slopes. Adds `uncertainty` (scalar) to `stats`."""
        keys = split_keys(key)
        flat, unflatten = raveled(outer)

        ending = lambda outer: evaluate(problem, outer, keys)
        require_dependence(lambda outer: ending(outer)[0], outer)
        value, first_nonfinite = ending(outer)
        basis = self.basis(outer, key)

        def slope(row: tuple[Float[Array, " N"], Scalar]) -> Float[Array, "2"]:
            direction, step = row
            lengths = step * jnp.array([1.0, 0.5], flat.dtype)

            def between(length: Scalar) -> Scalar:
                above, below = (unflatten(flat + by * direction) for by in (length, -length))
                # The distance after rounding, which may be far from 2 `length`. If nothing is left
                # of it, the slope is 0 / 0, and not 0.
                apart = jnp.sum((raveled(above)[0] - raveled(below)[0]) * direction)
                return (ending(above)[0] - ending(below)[0]) / apart

            # `map`, not `vmap`: together the runs would hold four inner states.
            return jax.lax.map(between, lengths)

        wide, narrow = jax.lax.map(slope, (basis, self._steps(flat, basis))).T
        # Richardson extrapolation: the errors of both are proportional to the square of the step.
        slopes = (4 * narrow - wide) / 3
        uncertainty = jnp.linalg.norm(narrow - wide) / jnp.linalg.norm(slopes)
        grad = unflatten(slopes @ basis)
        return finish(value, grad, first_nonfinite, {"uncertainty": uncertainty}), state

    def _steps(
        self, flat: Float[Array, " N"], basis: Float[Array, "directions N"]
    ) -> Float[Array, " directions"]:
        if self.step is not None:
            return jnp.full(len(basis), self.step, flat.dtype)
        typical = jnp.sqrt(jnp.mean(flat**2))
        typical = jnp.where(typical > 0, typical, 1)
        # The directions are the coordinates, each of which has a size of its own.
        if len(basis) == flat.size:
            typical = jnp.where(flat != 0, jnp.abs(flat), typical)
        # Where the truncation error, step^4, and the rounding error, eps / step, are equal.
        fraction = jnp.finfo(flat.dtype).eps ** 0.2
        return fraction * jnp.broadcast_to(typical, (len(basis),)).astype(flat.dtype)
