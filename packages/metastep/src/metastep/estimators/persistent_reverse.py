"""Truncated reverse mode over training runs that continue from one estimate to the next."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from metastep.checks import integer, require_count
from metastep.estimators.base import AbstractEstimator, Estimate, finish, require_influence
from metastep.estimators.reverse import advance_for_reverse
from metastep.estimators.truncated import windows_of
from metastep.estimators.widened import widened
from metastep.explained import STEP_LOOP, reversible
from metastep.problems.base import AbstractProblem, Keys, Trajectory, split_keys, start
from metastep.problems.mixed import choose_mixed
from metastep.schedules import Checkpoint, stored_steps
from metastep.types import Outer, RandomKey, Scalar


class Population(eqx.Module):
    """The training runs of `PersistentReverse`, each of a different age.

    Attributes:
        points: the states of the runs, with an axis (runs,) in front of every array.
        keys: the keys of the runs, with the same axis.
        left: int32, shape (runs,), the windows before a new run replaces this one.
    """

    points: Trajectory
    keys: Keys
    left: Int[Array, " runs"]


class PersistentReverse(AbstractEstimator):
    """Reverse mode over the next K steps of a population of runs, which then continue.

    An outer step costs K inner steps for each run instead of a whole training. Replacement is
    staggered: the i-th of the n first runs is replaced after i / n of the horizon, and the
    population then has all ages. Each run begins with its own key, so a problem that draws its
    task or its data in `init` is sampled anew.

    Biased in two ways. The effect of the hyperparameters before a window is ignored, as in
    `TruncatedReverse`. And while `outer` moves, the runs were made by earlier hyperparameters. The
    rest is exact: the mean over the runs of the derivative of the objective after this window.
    `value` is the mean objective, over ages from K to the horizon, not the objective at the
    horizon. A hyperparameter that acts through `init` alone is refused.

    Time: n K forward steps and as many backward, whatever the horizon. Memory: O(n K R) for
    residuals of size R per step if all runs advance together; n inner states between estimates.

    `stats` adds `values` and `ages` (inner steps), each of shape (runs,). A run whose state is no
    longer finite is replaced before the next estimate.

    Reference:
        Metz et al. (2019), Understanding and correcting pathologies in the training of learned
        optimizers; Calian et al. (2025), DataRater, for a population of runs of all ages.

    Attributes:
        window: inner steps K per estimate; a divisor of the horizon.
        runs: the number n of runs, from 1.
        together: how many of them advance at the same time, from 1; None for all.
        checkpoint: within the window, as for `Reverse`.
        mixed: as for `Reverse`.

    Raises:
        ValueError: when used, for a problem whose horizon is not a multiple of `window`.
    """

    window: int = eqx.field(converter=integer)
    runs: int = eqx.field(default=8, converter=integer)
    together: int | None = eqx.field(default=None, converter=integer)
    checkpoint: Checkpoint = eqx.field(default=None, converter=integer)
    mixed: bool | None = None

    def __check_init__(self):
        require_count("window", self.window)
        require_count("runs", self.runs)
        require_count("together", self.together, none="all runs at once")

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> Population:
        """Return runs that have not begun; they are replaced in a staggered order."""
        windows = windows_of(self.window, problem.horizon)
        points, keys = self._begin(problem, outer, key)
        # One run stands for all: influence is a matter of structure.
        first = jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, (points, keys))
        require_influence(
            lambda outer: self._window(problem, outer, *first)[0],
            outer,
            "With PersistentReverse the state before a window is a constant: a leaf that acts "
            "through `init` alone needs Reverse. Otherwise use it in `step` or `objective`, or "
            "take it out of `outer`.",
        )
        # The number is rounded up, since a run with no windows left is replaced before its first.
        return Population(points, keys, -(-windows * jnp.arange(1, self.runs + 1) // self.runs))

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Population, key: RandomKey
    ) -> tuple[Estimate, Population]:
        """Run and differentiate one window of every run. Adds `values` and `ages` to `stats`."""
        problem, outer, narrow = widened(problem, outer)
        over = state.left == 0
        carried, static = eqx.partition((state.points, state.keys), eqx.is_array)
        begin = lambda: eqx.filter(self._begin(problem, outer, key), eqx.is_array)
        # An initialisation may cost as much as a window: none where no run is over.
        begun = jax.lax.cond(jnp.any(over), begin, lambda: carried)
        points, keys = eqx.combine(_where(over, begun, carried), static)
        left = jnp.where(over, problem.horizon // self.window, state.left) - 1
        arrays, static = eqx.partition(points, eqx.is_array)

        def one(run: tuple[Any, Keys]) -> tuple[Scalar, Outer, Any]:
            point = eqx.combine(run[0], static)
            # The point is closed over, hence a constant: this is the truncation.
            judged = lambda outer: self._window(problem, outer, point, run[1])
            with reversible("problem", STEP_LOOP):
                (value, end), grad = jax.value_and_grad(judged, has_aux=True)(outer)
            return value, grad, end

        together = min(self.together or self.runs, self.runs)
        values, grads, arrays = jax.lax.map(one, (arrays, keys), batch_size=together)
        points = eqx.combine(arrays, static)
        lost = (points.first_nonfinite >= 0) | ~jnp.isfinite(values)
        grad = narrow(jax.tree.map(lambda x: jnp.mean(x, axis=0), grads))
        stats = {"values": values, "ages": points.steps}
        # The maximum over the runs: -1 if all stayed finite.
        first_nonfinite = jnp.max(points.first_nonfinite)
        estimate = finish(jnp.mean(values), grad, first_nonfinite, stats)
        # Nothing is left of a lost run, so that the next estimate begins a new one in its place.
        return estimate, Population(points, keys, jnp.where(lost, 0, left))

    def _window(
        self, problem: AbstractProblem, outer: Outer, point: Trajectory, keys: Keys
    ) -> tuple[Scalar, Any]:
        """Return the objective after a window, and the arrays of the run's state there."""
        problem = choose_mixed(problem, self.mixed, stored_steps(self.checkpoint, self.window))
        end = advance_for_reverse(problem, outer, point, keys, self.window, self.checkpoint)
        value = problem.objective(end.inner, outer, keys.objective)
        return value, eqx.filter(end, eqx.is_array)

    def _begin(
        self, problem: AbstractProblem, outer: Outer, key: RandomKey
    ) -> tuple[Trajectory, Keys]:
        """Return all runs before their first steps."""
        keys = jax.vmap(split_keys)(jax.random.split(key, self.runs))
        return eqx.filter_vmap(lambda keys: start(problem, outer, keys))(keys), keys


def _where(condition: Array, yes: Any, no: Any) -> Any:
    """Choose run by run between two trees of arrays."""
    wide = lambda leaf: condition.reshape(-1, *(1,) * (leaf.ndim - 1))
    return jax.tree.map(lambda yes, no: jnp.where(wide(no), yes, no), yes, no)
