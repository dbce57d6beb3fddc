"""Implicit differentiation of the fixed point that the inner loop converges to."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PyTree

from metastep.checks import integer, require, require_count
from metastep.estimators.base import (
    AbstractEstimator,
    Estimate,
    common_stats,
    outcome,
    require_influence,
)
from metastep.problems.base import AbstractProblem, Keys, Trajectory, advance, split_keys, start
from metastep.results import RESULTS
from metastep.trees import inner_product, norm, ratio, real_variables, subtract
from metastep.types import Inner, Outer, RandomKey, Scalar

Map = Callable[[Inner, Outer], Inner]

PROBES = 4
"""Random cotangents for the norm of a response, of which only the order of magnitude matters."""

EARLY_STEPS = 2
"""Enough for a momentum that starts at zero to have become nonzero."""

UNSEEN_FACTOR = 5.0
"""How much slower than the steps a response may decay and still count as vanishing."""


class Neumann(eqx.Module):
    """Solve (I - A) x = b by the first `terms` terms of the series b + A b + A^2 b + ...

    Converges with relative error |A|^terms if the spectral radius of A is below one, and diverges
    otherwise. At a fixed point, `Implicit(Neumann(K))` is K-step truncated back-propagation
    (Shaban et al. 2019, Proposition 3.6).

    Attributes:
        terms: the number of terms, from 1.
    """

    terms: int = eqx.field(converter=integer)

    def __check_init__(self):
        require_count("terms", self.terms)

    def solve(self, operator: Callable[[Inner], Inner], vector: Inner) -> Inner:
        """Return x for `operator`, v -> A v, and `vector`, b, by `terms` - 1 products."""
        add = lambda x: jax.tree.map(jnp.add, vector, operator(x))
        # The loop begins at 1, since the vector itself is the first term.
        return jax.lax.fori_loop(1, self.terms, lambda _, x: add(x), vector)


class Implicit(AbstractEstimator):
    r"""Differentiate the fixed point w = step(w, outer) by the implicit function theorem.

    With A = d step / d w and B = d step / d outer at w_T, the estimate is
    d_outer f + B^T (I - A^T)^{-1} d_w f.

    Exact if w_T is a fixed point of `step`, and then independent of the path: memory does not grow
    with the horizon. If the loop has not converged, the error is uncontrolled, and `result` says
    so. Hyperparameters that change the path but not the fixed point (a step size, a momentum) are
    detected numerically, and their derivative is NaN. The random key and step index are those of
    step T: a loop with stochastic batches has no fixed point. If the loop has stopped early and
    its steps return any state unchanged, `result` is `unmoved`.

    Time: T forward steps, then one vector-Jacobian product of `step` per solver iteration. Memory:
    a few inner states.

    `stats` adds `stationarity`, the size of the next step relative to the first ones;
    `linear_residual`, relative; `objective_gap`, to first order the change of the objective if the
    inner loop ran to convergence; and `unseen`, a tree of booleans like `outer`.

    Reference:
        Pedregosa (2016), Hyperparameter optimization with approximate gradient; Shaban et al.
        (2019), Eq. 11 and Proposition 3.6.

    Attributes:
        solver: a lineax solver or `Neumann(terms)`. None is conjugate gradients to a relative
            tolerance of eps^(3/4). That suits gradient descent, whose I - A is symmetric and
            positive definite near a minimum. With momentum or Adam it is not: use
            `lineax.GMRES`, or `lineax.LU` for small states.
        stationarity_tolerance: the `stationarity` above which the result is `not_stationary`.
        linear_tolerance: the `linear_residual` above which it is `linear_solve_failed`.
    """

    solver: lx.AbstractLinearSolver | Neumann | None = None
    stationarity_tolerance: float = 1e-2
    linear_tolerance: float = 1e-3

    def __check_init__(self):
        usable = self.solver is None or isinstance(self.solver, lx.AbstractLinearSolver | Neumann)
        allowed = "None, Neumann(terms) and solvers of lineax"
        require(usable, "solver", self.solver, allowed)

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the fixed point. See the class for what `stats` adds."""
        keys = split_keys(key)
        begin = start(problem, outer, keys)
        end = advance(problem, outer, begin, keys, problem.horizon)
        require_visible(problem, outer, keys, end)
        point, fixed_point_map, judged = _around(problem, keys, end)
        value, (adjoint, direct) = jax.value_and_grad(judged, argnums=(0, 1))(point, outer)
        after, pull_back = jax.vjp(fixed_point_map, point, outer)
        # One linear system for the adjoint, whatever the number of hyperparameters; products with
        # B^T come from the same linearization (Eq. 11 of Shaban et al. 2019).
        solution, linear_residual = self._solve(lambda v: pull_back(v)[0], adjoint)
        grad = jax.tree.map(jnp.add, direct, pull_back(solution)[1])

        # Two early states, since a momentum that starts at zero has no effect on the first step.
        early = real_variables(advance(problem, outer, begin, keys, EARLY_STEPS).inner)[0]
        earlier = (real_variables(begin.inner)[0], early)
        move = subtract(after, point)
        early_moves = [norm(subtract(fixed_point_map(w, outer), w)) for w in earlier]
        # Relative to the first steps, which makes it independent of the units of the state.
        stationarity = ratio(norm(move), jnp.maximum(*early_moves))
        # The first number that no step has: `fixed_point_map` takes the key of step `horizon`.
        probe_key = jax.random.fold_in(keys.steps, problem.horizon + 1)
        responses = [_responses(fixed_point_map, w, outer, probe_key) for w in (point, *earlier)]
        stationary = stationarity <= self.stationarity_tolerance
        unseen = jax.tree.map(
            lambda here, *before: stationary & _vanishes(here, before, stationarity), *responses
        )
        # To first order the fixed point is at w_T + (I - A)^{-1} move, and the objective changes
        # there by d_w f times that: the solution times the move.
        stats = {
            "stationarity": stationarity,
            "linear_residual": linear_residual,
            "objective_gap": inner_product(solution, move),
            "unseen": unseen,
        }
        # The residual cannot show that I - A^T is zero on the adjoint: nothing is solved then.
        left = norm(subtract(adjoint, pull_back(adjoint)[0]))
        stands_still = (norm(move) == 0) & (norm(adjoint) > 0) & (left == 0)
        judgement = RESULTS.where(stands_still, RESULTS.unmoved, self._judge(stats))
        result = outcome(value, grad, end.first_nonfinite, judgement)
        # This follows `outcome`, which would take these NaN for a failure of the arithmetic.
        grad = jax.tree.map(lambda hidden, leaf: jnp.where(hidden, jnp.nan, leaf), unseen, grad)
        stats |= common_stats(grad, end.first_nonfinite)
        return Estimate(value, grad, result, stats), state

    def _solve(self, transposed: Callable[[Inner], Inner], vector: Inner) -> tuple[Inner, Scalar]:
        """Solve (I - A^T) x = vector; return x and the relative residual, computed from x."""
        # From the solution itself: what a solver reports is updated by recursion, and drifts.
        residual = lambda x: ratio(norm(subtract(vector, subtract(x, transposed(x)))), norm(vector))
        solver = self.solver
        if solver is None:
            # The coarsest leaf limits what the iteration can reach.
            eps = max(jnp.finfo(x.dtype).eps for x in jax.tree.leaves(vector))
            solver = lx.CG(rtol=float(eps) ** 0.75, atol=0.0)
        if isinstance(solver, Neumann):
            solution = solver.solve(transposed, vector)
        else:
            solution = solve_with(solver, transposed, vector)
        return solution, residual(solution)

    def _judge(self, stats: dict[str, PyTree[Array]]) -> RESULTS:
        """Return the result of the measurements; a cause that affects every leaf comes first."""
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
    """Solve (I - A) x = b by a lineax solver; `operator` is v -> A v and `vector` is b."""
    # Conjugate gradients accept only operators that are tagged as definite. If the tag is wrong,
    # the residual shows it.
    tags = lx.positive_semidefinite_tag if isinstance(solver, lx.CG) else ()
    # Solvers of lineax multiply all leaves by one scalar, which needs one precision: the widest.
    dtype = jnp.result_type(*jax.tree.leaves(vector))
    wide = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    narrow = lambda tree: jax.tree.map(lambda x, like: x.astype(like.dtype), tree, vector)
    product = lambda v: subtract(v, wide(operator(narrow(v))))
    structure = jax.eval_shape(lambda: wide(vector))
    remainder = lx.FunctionLinearOperator(product, structure, tags)
    # Nothing is thrown: an unsolved system is a `result`, judged by its residual.
    return narrow(lx.linear_solve(remainder, wide(vector), solver, throw=False).value)


def require_visible(problem: AbstractProblem, outer: Outer, keys: Keys, end: Trajectory) -> None:
    """Refuse hyperparameters that the last step and the objective do not depend on."""
    point, fixed_point_map, judged = _around(problem, keys, end)
    require_influence(
        lambda outer: (fixed_point_map(point, outer), judged(point, outer)),
        outer,
        "Implicit differentiation sees `step` and `objective` only: a leaf that acts through "
        "`init` alone does not move the fixed point. Use Reverse for it, or take it out of "
        "`outer`.",
    )


def _around(
    problem: AbstractProblem, keys: Keys, end: Trajectory
) -> tuple[Inner, Map, Callable[[Inner, Outer], Scalar]]:
    """Return the numbers of a state, and one more step and the objective as functions of them."""
    # Complex numbers as pairs of real ones: I - A^T is then a real matrix, which solvers need.
    point, restore = real_variables(end.inner)

    def fixed_point_map(point: Inner, outer: Outer) -> Inner:
        after = problem.step(restore(point), outer, end.steps, keys.step(end.steps))
        return real_variables(after)[0]

    return (
        point,
        fixed_point_map,
        lambda point, outer: problem.objective(restore(point), outer, keys.objective),
    )


def _responses(fixed_point_map: Map, point: Inner, outer: Outer, key: RandomKey) -> PyTree[Scalar]:
    """Estimate the Frobenius norm of d step / d leaf at a state, for every leaf of `outer`.

    The cotangents are random, since the objective's own cotangent may be orthogonal by accident.
    """
    flat, unflatten = ravel_pytree(point)
    probes = jax.random.normal(key, (PROBES, flat.size), flat.dtype)
    _, pull_back = jax.vjp(lambda outer: fixed_point_map(point, outer), outer)
    return jax.tree.map(norm, jax.vmap(lambda probe: pull_back(unflatten(probe))[0])(probes))


def _vanishes(here: Scalar, before: tuple[Scalar, ...], stationarity: Scalar) -> Bool[Array, ""]:
    """Whether a response decays along the path as fast as the steps themselves.

    The response to a step size does, since it multiplies a vector that vanishes at the fixed
    point. The response to a regulariser does not. Rounding limits how small a step can be
    measured.
    """
    earlier = jnp.max(jnp.array(before))
    # Below this floor the measured size of a step is rounding error.
    floor = 1e3 * jnp.finfo(here.dtype).eps
    return (earlier > 0) & (here <= UNSEEN_FACTOR * jnp.maximum(stationarity, floor) * earlier)
