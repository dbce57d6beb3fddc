"""Persistent evolution strategies: unbiased estimates, each from one window only."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metastep.checks import integer, require_count
from metastep.estimators.base import AbstractEstimator, Estimate, finish, require_dependence
from metastep.estimators.evolution import check_sampling, random_rows, without_lost
from metastep.estimators.truncated import windows_of
from metastep.problems.base import AbstractProblem, Keys, Trajectory, advance, split_keys, start
from metastep.trees import mean_and_error, raveled
from metastep.types import Outer, RandomKey, Scalar


class Particles(eqx.Module):
    """The state of persistent evolution strategies between two windows.

    Attributes:
        points: the trajectories, with axes (pairs, 2) in front of every array.
        perturbations: shape (pairs, N), the sum of a pair's perturbations so far.
        values: shape (pairs, 2), the objective at the end of the last window.
        keys: the keys of the trajectories.
        steps: int32 scalar, inner steps taken since the trajectories began.
    """

    points: Trajectory
    perturbations: Float[Array, "pairs N"]
    values: Float[Array, "pairs 2"]
    keys: Keys
    steps: Int[Array, ""]


class PersistentEvolutionStrategies(AbstractEstimator):
    """Antithetic evolution strategies over windows, with perturbations that are remembered.

    Pairs of trajectories continue from one estimate to the next. Each estimate draws new
    perturbations, runs `window` steps, and multiplies the change of the objective over the window
    by the sum of all perturbations since the trajectory began. At the horizon new trajectories
    begin.

    The average over the T / K windows of a trajectory is unbiased for the gradient of the
    objective smoothed by an independent perturbation of size sigma in every window. A single
    window's estimate is biased. While `outer` moves, the trajectory belongs to no fixed `outer`.
    `value` is the mean objective of the perturbed trajectories at the end of this window, not at
    the horizon.

    Time: 2 n K inner steps with n pairs and K = `window`, whatever the horizon. Memory: O(2 n M)
    for an inner state of size M, between estimates too.

    `stats` adds `standard_error`, a tree like `outer` (NaN for one pair), and `steps`, the inner
    steps that the trajectories have taken.

    Reference:
        Vicol, Metz and Sohl-Dickstein (2021), Unbiased gradient estimation in unrolled computation
        graphs with persistent evolution strategies, Algorithm 2.

    Attributes:
        window: inner steps per estimate; a divisor of the horizon.
        sigma: as for `EvolutionStrategies`.
        pairs: the number n of antithetic pairs, from 1.

    Raises:
        ValueError: when used, for a problem whose horizon is not a multiple of `window`.
    """

    window: int = eqx.field(converter=integer)
    sigma: float
    pairs: int = eqx.field(default=16, converter=integer)

    def __check_init__(self):
        check_sampling(self.sigma, self.pairs)
        require_count("window", self.window)

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> Particles:
        """Return particles at the beginning of their trajectories."""
        windows_of(self.window, problem.horizon)
        keys = split_keys(key)
        flat, _ = raveled(outer)

        def through_one_window(outer: Outer) -> Scalar:
            point = start(problem, outer, keys)
            end = advance(problem, outer, point, keys, self.window)
            return problem.objective(end.inner, outer, keys.objective)

        require_dependence(through_one_window, outer)
        nothing = jnp.zeros((self.pairs, flat.size), flat.dtype)
        # Only the dtype counts: no value is read before the first window has ended.
        value = jax.eval_shape(through_one_window, outer)
        return Particles(
            points=self._begin(problem, outer, nothing, keys),
            perturbations=nothing,
            values=jnp.zeros((self.pairs, 2), value.dtype),
            keys=keys,
            steps=jnp.zeros((), jnp.int32),
        )

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Particles, key: RandomKey
    ) -> tuple[Estimate, Particles]:
        """Run one window. Adds `standard_error` and `steps` to `stats`."""
        flat, unflatten = raveled(outer)
        # Data, not a Python condition: one compiled program begins and continues trajectories.
        fresh = state.steps == 0
        # All pairs share the keys, so that the two sides differ in nothing but the hyperparameters.
        keys = _where(fresh, split_keys(key), state.keys)
        now = jnp.asarray(self.sigma, flat.dtype) * random_rows(key, self.pairs, flat)
        # The beginning is perturbed like the first window: `init` may depend on `outer`.
        points = _where(fresh, self._begin(problem, outer, now, keys), state.points)

        def run(point: Trajectory, at: Float[Array, " N"]) -> tuple[Trajectory, Scalar]:
            moved = unflatten(at)
            end = advance(problem, moved, point, keys, self.window)
            return end, problem.objective(end.inner, moved, keys.objective)

        points, values = eqx.filter_vmap(eqx.filter_vmap(run))(points, _sides(flat, now))
        total = now + jnp.where(fresh, 0, state.perturbations)
        # The changes start at 0, so that over a trajectory they add up to the final objective.
        change = values - jnp.where(fresh, 0, state.values)
        # A window is one of `windows` terms of a sum, which this factor estimates without bias.
        windows = windows_of(self.window, problem.horizon)
        slope = windows * (change[:, 0] - change[:, 1]) / (2 * self.sigma)
        # By sigma twice, since its square is zero in float16 from 0.005 down.
        grad, error = mean_and_error(slope[:, None] * (total / self.sigma))
        grad = without_lost(grad, outer, now)
        steps = state.steps + self.window
        stats = {"standard_error": unflatten(error), "steps": steps}
        first_nonfinite = jnp.max(points.first_nonfinite)
        estimate = finish(jnp.mean(values), unflatten(grad), first_nonfinite, stats)
        steps = jnp.where(steps == problem.horizon, 0, steps)
        return estimate, Particles(points, total, values, keys, steps)

    def _begin(
        self,
        problem: AbstractProblem,
        outer: Outer,
        perturbations: Float[Array, "pairs N"],
        keys: Keys,
    ) -> Trajectory:
        """Start both sides of every pair."""
        flat, unflatten = raveled(outer)
        begin = lambda at: start(problem, unflatten(at), keys)
        return eqx.filter_vmap(eqx.filter_vmap(begin))(_sides(flat, perturbations))


def _sides(flat: Float[Array, " N"], perturbations: Float[Array, "pairs N"]) -> Array:
    """Return `flat` plus and minus every perturbation, shape (pairs, 2, N)."""
    return jnp.stack([flat + perturbations, flat - perturbations], axis=1)


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, yes, no)
