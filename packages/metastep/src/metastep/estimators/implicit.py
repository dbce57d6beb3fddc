"""Implicit differentiation of the fixed point that the inner loop converges to."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PyTree

from metastep.checks import integer, require_count
from metastep.estimators.base import (
    AbstractEstimator,
    Estimate,
    common_stats,
    outcome,
    require_influence,
)
from metastep.problems.base import AbstractProblem, Keys, Trajectory, advance, split_keys, start
from metastep.results import RESULTS
from metastep.trees import inner_product, norm, real_variables, subtract
from metastep.types import Inner, Outer, RandomKey, Scalar

Map = Callable[[Inner, Outer], Inner]

PROBES = 4
EARLY_STEPS = 2  # enough for a momentum that starts at zero to have become nonzero
UNSEEN_FACTOR = 5.0


class AbstractSeries(eqx.Module):
    """A way to solve (I - A) x = b by products with A alone, beside the solvers of lineax."""

    @abc.abstractmethod
    def solve(self, operator: Callable[[Inner], Inner], vector: Inner) -> Inner:
        """Return x for `operator`: v -> A v and `vector`: b."""


class Neumann(AbstractSeries):
    """Solve (I - A) x = b by the first `terms` terms of the series b + A b + A^2 b + ...

    Needs products only. Converges when the spectral radius of A is below one, with relative error
    |A|^terms; diverges otherwise. At a fixed point, `Implicit(Neumann(K))` is K-step truncated
    back-propagation (Shaban et al. 2019, Proposition 3.6).

    Attributes:
        terms: the number of terms, from 1.

    Raises:
        ValueError: on construction, for fewer terms than 1.
    """

    terms: int = eqx.field(converter=integer)

    def __check_init__(self):
        require_count("terms", self.terms)

    def solve(self, operator: Callable[[Inner], Inner], vector: Inner) -> Inner:
        """Sum the series.

        Args:
            operator: v -> A v.
            vector: b.

        Returns:
            The sum, like `vector`. Cost: `terms` - 1 products.
        """
        add = lambda x: jax.tree.map(jnp.add, vector, operator(x))
        return jax.lax.fori_loop(1, self.terms, lambda _, x: add(x), vector)


class Implicit(AbstractEstimator):
    r"""Differentiate the fixed point w = step(w, outer) by the implicit function theorem.

    With A = d step / d w and B = d step / d outer at w_T, the estimate is
    d_outer f + B^T (I - A^T)^{-1} d_w f.

    Exact when w_T is a fixed point of `step`, and then independent of the path: memory does not
    grow with the horizon. Where the loop has not converged the number is wrong in an uncontrolled
    way, so `result` says so. Hyperparameters that change the path and not the fixed point (a step
    size, a momentum) are detected numerically and get NaN. The random key and step index are held
    at those of step T: a loop with stochastic batches has no fixed point. Nor has a loop that has
    stopped early, whose steps return any state unchanged: `result` is `unmoved`.

    Time: T forward steps, then one vector-Jacobian product of `step` per solver iteration. Memory:
    a few inner states.

    `stats` adds `stationarity`, the norm of the next step relative to that of the first ones;
    `linear_residual`, relative; `objective_gap`, the first-order estimate of how much the objective
    would still change if the inner loop ran to convergence; `unseen`, a tree of booleans like
    `outer`.

    Reference:
        Pedregosa (2016), Hyperparameter optimization with approximate gradient; Shaban et al.
        (2019), Eq. 11 and Proposition 3.6.

    Attributes:
        solver: a lineax solver or `Neumann(terms)`. None is conjugate gradients to a relative
            tolerance of eps^(3/4), right for gradient descent, whose I - A is symmetric and
            positive definite near a minimum. With momentum or Adam it is neither: use
            `lineax.GMRES`, or `lineax.LU` for small states.
        stationarity_tolerance: above it the result is `not_stationary`.
        linear_tolerance: above it the result is `linear_solve_failed`.
    """

    solver: lx.AbstractLinearSolver | AbstractSeries | None = None
    stationarity_tolerance: float = 1e-2
    linear_tolerance: float = 1e-3

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: nothing is remembered."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the fixed point. See the class for what `stats` adds."""
        keys = split_keys(key)
        begin = start(problem, outer, keys)
        end = advance(problem, outer, begin, keys, problem.horizon)
        return self.at_the_end(problem, outer, keys, begin, end), state

    def at_the_end(
        self,
        problem: AbstractProblem,
        outer: Outer,
        keys: Keys,
        begin: Trajectory,
        end: Trajectory,
    ) -> Estimate:
        """Return the estimate for a trajectory that has been walked: `begin` and `end` are its."""
        require_visible(problem, outer, keys, end)
        point, restore = real_variables(end.inner)
        fixed_point_map = _map_at(problem, end, keys, restore)
        judged = _judged(problem, keys, restore)
        value, (adjoint, direct) = jax.value_and_grad(judged, argnums=(0, 1))(point, outer)
        after, pull_back = jax.vjp(fixed_point_map, point, outer)
        solution, linear_residual = self._solve(lambda v: pull_back(v)[0], adjoint)
        grad = jax.tree.map(jnp.add, direct, pull_back(solution)[1])

        early = real_variables(advance(problem, outer, begin, keys, EARLY_STEPS).inner)[0]
        earlier = (real_variables(begin.inner)[0], early)
        move = subtract(after, point)
        early_moves = [norm(subtract(fixed_point_map(w, outer), w)) for w in earlier]
        stationarity = _ratio(norm(move), jnp.maximum(*early_moves))
        probe_key = jax.random.fold_in(keys.steps, problem.horizon + 1)
        responses = [_responses(fixed_point_map, w, outer, probe_key) for w in (point, *earlier)]
        stationary = stationarity <= self.stationarity_tolerance
        unseen = jax.tree.map(
            lambda here, *before: stationary & _vanishes(here, before, stationarity), *responses
        )
        stats = {
            "stationarity": stationarity,
            "linear_residual": linear_residual,
            "objective_gap": inner_product(solution, move),
            "unseen": unseen,
        }
        # Nothing is solved where I - A^T is zero in the one direction that counts.
        left = norm(subtract(adjoint, pull_back(adjoint)[0]))
        stands_still = (norm(move) == 0) & (norm(adjoint) > 0) & (left == 0)
        judgement = RESULTS.where(stands_still, RESULTS.unmoved, self._judge(stats))
        result = outcome(value, grad, end.first_nonfinite, judgement)
        grad = jax.tree.map(lambda hidden, leaf: jnp.where(hidden, jnp.nan, leaf), unseen, grad)
        stats |= common_stats(grad, end.first_nonfinite)
        return Estimate(value, grad, result, stats)

    def _solve(self, transposed: Callable[[Inner], Inner], vector: Inner) -> tuple[Inner, Scalar]:
        """Solve (I - A^T) x = vector; return x and the relative residual, measured afresh."""
        residual = lambda x: _ratio(
            norm(subtract(vector, subtract(x, transposed(x)))), norm(vector)
        )
        solver = self.solver
        if solver is None:
            tolerance = max(jnp.finfo(x.dtype).eps for x in jax.tree.leaves(vector)) ** 0.75
            solver = lx.CG(rtol=float(tolerance), atol=0.0)
        if isinstance(solver, AbstractSeries):
            solution = solver.solve(transposed, vector)
        else:
            solution = solve_with(solver, transposed, vector)
        return solution, residual(solution)

    def _judge(self, stats: dict[str, PyTree[Array]]) -> RESULTS:
        """Return what the measurements say; the reason that spoils every leaf comes first."""
        where = RESULTS.where
        hidden = jnp.any(jnp.array(jax.tree.leaves(stats["unseen"])))
        result = where(hidden, RESULTS.unseen_by_implicit, RESULTS.successful)
        stationary = stats["stationarity"] <= self.stationarity_tolerance
        result = where(stationary, result, RESULTS.not_stationary)
        solved = stats["linear_residual"] <= self.linear_tolerance
        return where(solved, result, RESULTS.linear_solve_failed)


def solve_with(
    solver: lx.AbstractLinearSolver, operator: Callable[[Inner], Inner], vector: Inner
) -> Inner:
    """Solve (I - A) x = b by a solver of lineax, for `operator`: v -> A v and `vector`: b."""
    # Conjugate gradients refuse an operator that is not promised to be definite; a broken promise
    # shows in the residual.
    tags = lx.positive_semidefinite_tag if isinstance(solver, lx.CG) else ()
    structure = jax.eval_shape(lambda: vector)
    remainder = lx.FunctionLinearOperator(lambda v: subtract(v, operator(v)), structure, tags)
    return lx.linear_solve(remainder, vector, solver, throw=False).value


def require_visible(problem: AbstractProblem, outer: Outer, keys: Keys, end: Trajectory) -> None:
    """Refuse hyperparameters that the last step and the objective do not depend on.

    Raises:
        ValueError: naming every such leaf.
    """
    point, restore = real_variables(end.inner)
    fixed_point_map = _map_at(problem, end, keys, restore)
    judged = _judged(problem, keys, restore)
    require_influence(
        lambda outer: (fixed_point_map(point, outer), judged(point, outer)),
        outer,
        "Implicit differentiation sees `step` and `objective` only: a leaf that acts through "
        "`init` alone does not move the fixed point. Use Reverse for it, or take it out of "
        "`outer`.",
    )


def _judged(
    problem: AbstractProblem, keys: Keys, restore: Callable[[Inner], Inner]
) -> Callable[[Inner, Outer], Scalar]:
    """Return the objective as a function of the floating-point part of the state."""

    def judged(point: Inner, outer: Outer) -> Scalar:
        return problem.objective(restore(point), outer, keys.objective)

    return judged


def _map_at(
    problem: AbstractProblem, end: Trajectory, keys: Keys, restore: Callable[[Inner], Inner]
) -> Map:
    """Return one more step as a map of the floating-point part of the state."""

    def fixed_point_map(point: Inner, outer: Outer) -> Inner:
        after = problem.step(restore(point), outer, end.steps, keys.step(end.steps))
        return real_variables(after)[0]

    return fixed_point_map


def _ratio(numerator: Scalar, denominator: Scalar) -> Scalar:
    """Divide two norms; 0 / 0 is 0: nothing is left of nothing."""
    return jnp.where(numerator == 0, 0.0, numerator / denominator)


def _responses(fixed_point_map: Map, point: Inner, outer: Outer, key: RandomKey) -> PyTree[Scalar]:
    """Estimate the Frobenius norm of d step / d leaf at a state, for every leaf of `outer`.

    Random cotangents are used, since the objective's own may happen to be orthogonal.
    """
    flat, unflatten = ravel_pytree(point)
    probes = jax.random.normal(key, (PROBES, flat.size), flat.dtype)
    _, pull_back = jax.vjp(lambda outer: fixed_point_map(point, outer), outer)
    return jax.tree.map(norm, jax.vmap(lambda probe: pull_back(unflatten(probe))[0])(probes))


def _vanishes(here: Scalar, before: tuple[Scalar, ...], stationarity: Scalar) -> Bool[Array, ""]:
    """Whether a response has died away on the path as fast as the steps themselves.

    That of a step size does: it multiplies what vanishes at the fixed point. That of a regulariser
    stays. Rounding sets a floor to how small a step is seen to become.
    """
    earlier = jnp.max(jnp.array(before))
    floor = 1e3 * jnp.finfo(here.dtype).eps
    return (earlier > 0) & (here <= UNSEEN_FACTOR * jnp.maximum(stationarity, floor) * earlier)
