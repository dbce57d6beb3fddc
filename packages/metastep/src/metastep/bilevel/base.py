"""Common parts of the bilevel solvers: oracles and their costs, the state, the checks.

Symbols: g(z, x) is the inner loss, f(z, x) the outer one, z the parameters, x the hyperparameters.
The derivative of f(z*(x), x) is d_x f + (d_xz g) v, where v solves (d_zz g) v + d_z f = 0 at z*.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from metastep.bilevel.problem import BilevelProblem, Loss
from metastep.checks import scalar
from metastep.estimators.base import Estimate, common_stats, require_influence
from metastep.problems.base import AbstractProblem, split_keys, start
from metastep.problems.training import TrainingProblem
from metastep.results import RESULTS
from metastep.trees import all_finite, ascent, differentiable, norm
from metastep.types import Outer, RandomKey, Scalar

BETTER_UNROLL = (
    "A bilevel solver differentiates the minimum of the inner loss, which depends neither on the "
    "hyperparameters of the inner optimizer (a step size, a momentum) nor on where the inner loop "
    "begins. Tune those with Reverse, TruncatedReverse or Forward."
)


class OracleCalls(eqx.Module):
    """The numbers of oracle calls, the cost by which solvers are compared.

    One call is one evaluation on one batch, at one point, with respect to one or both arguments.

    Attributes:
        inner_gradients: gradients of g.
        hessian_products: products (d_zz g) v.
        cross_products: products (d_xz g) v.
        outer_gradients: gradients of f.
        inner_batches: batches drawn for any of the first three; several share a batch.
        outer_batches: batches drawn for gradients of f.
    """

    inner_gradients: Int[Array, ""] | int = 0
    hessian_products: Int[Array, ""] | int = 0
    cross_products: Int[Array, ""] | int = 0
    outer_gradients: Int[Array, ""] | int = 0
    inner_batches: Int[Array, ""] | int = 0
    outer_batches: Int[Array, ""] | int = 0

    def __add__(self, other: "OracleCalls") -> "OracleCalls":
        return jax.tree.map(lambda a, b: a + b, self, other)

    @property
    def total(self) -> Int[Array, ""] | int:
        """The number of gradients and products, each counted as one (Dagréou et al. 2022)."""
        products = self.hessian_products + self.cross_products
        return self.inner_gradients + products + self.outer_gradients


class BilevelState(eqx.Module):
    """The state of a bilevel solver between outer steps.

    Attributes:
        params: z, the trained (floating-point) leaves of the inner parameters; None elsewhere.
        params_optimizer: the state of the inner optimizer.
        companion: a second tree like `params`: v of SOBA and AmIGO; for F2SA the parameters y,
            which the penalized outer loss moves away from z.
        companion_optimizer: the state of the optimizer that moves it.
        fixed: the arrays among the inner parameters that are not trained.
        step: int32 scalar, outer steps taken.
        calls: the oracle calls so far.
    """

    params: PyTree
    params_optimizer: Any
    companion: PyTree
    companion_optimizer: Any
    fixed: PyTree
    step: Int[Array, ""]
    calls: OracleCalls


class Oracles:
    """The two losses as functions of the trained parameters, and the batches of one outer step.

    Derivatives by z are directions of ascent: conjugated if z is complex (see `ascent`). An
    instance exists only while an outer step is traced.
    """

    def __init__(self, problem: AbstractProblem, outer: Outer, state: BilevelState, key: RandomKey):
        self._problem = problem
        self._training = training_of(problem)
        self._optimizer = optax.with_extra_args_support(optimizer_of(self._training))
        self._first = state.calls
        self._keys = jax.random.split(key)
        self.outer = outer
        initial = problem.init(outer, key).params
        # A compiled loop cannot carry functions among the parameters.
        functions = eqx.filter(initial, eqx.is_array, inverse=True)
        self._rest = eqx.combine(state.fixed, functions)

    def inner_loss(self, params: PyTree, outer: Outer, batch: Any) -> Scalar:
        """Return g."""
        return scalar("loss", self._training.loss(eqx.combine(params, self._rest), outer, batch))

    def outer_loss(self, params: PyTree, outer: Outer, batch: Any) -> Scalar:
        """Return f."""
        params = eqx.combine(params, self._rest)
        if isinstance(self._problem, BilevelProblem):
            return scalar("objective", self._problem.outer_loss(params, outer, batch))
        return scalar("objective", self._training.objective_of_params(params, outer))

    def inner_batch(self, number: Int[Array, ""] | int) -> Any:
        """Draw the inner batch with this number in the current outer step."""
        t = self._first.inner_batches + number
        draw = self._training.batch
        return None if draw is None else draw(t, jax.random.fold_in(self._keys[0], t))

    def outer_batch(self, number: Int[Array, ""] | int) -> Any:
        """Draw the outer batch with this number in the current outer step."""
        t = self._first.outer_batches + number
        draw = self._problem.outer_batch if isinstance(self._problem, BilevelProblem) else None
        return None if draw is None else draw(t, jax.random.fold_in(self._keys[1], t))

    def inner_gradient(self, params: PyTree, batch: Any) -> tuple[Scalar, PyTree]:
        """Return g and d_z g."""
        value, gradient = jax.value_and_grad(self.inner_loss)(params, self.outer, batch)
        return value, ascent(gradient)

    def outer_gradient(self, params: PyTree, batch: Any) -> tuple[Scalar, tuple[PyTree, Outer]]:
        """Return f and (d_z f, d_x f)."""
        loss = jax.value_and_grad(self.outer_loss, argnums=(0, 1))
        value, (gradient, direct) = loss(params, self.outer, batch)
        return value, (ascent(gradient), direct)

    def products(
        self, params: PyTree, direction: PyTree, batch: Any
    ) -> tuple[tuple[Scalar, PyTree], PyTree, Outer]:
        """Return (g, d_z g), (d_zz g) v and (d_xz g) v for the direction v, all in one pass.

        The products are the derivative along v of both gradients of g: forward over reverse mode,
        which stores nothing. Unused results are not computed.
        """
        loss = jax.value_and_grad(self.inner_loss, argnums=(0, 1))
        along = jax.jvp(lambda params: loss(params, self.outer, batch), (params,), (direction,))
        (value, (gradient, _)), (_, (hessian_product, cross_product)) = along
        return (value, ascent(gradient)), ascent(hessian_product), cross_product

    def descend(
        self, loss: Loss, batch: Any, params: PyTree, state: Any, slope: tuple[Scalar, PyTree]
    ) -> tuple[PyTree, Any]:
        """Take one step of the inner optimizer; return the parameters and its state.

        `slope` is the value and the gradient of the loss at `params`; some optimizers need the
        value, and the loss itself.
        """
        value, gradient = slope
        value_fn = lambda params: loss(params, self.outer, batch)
        updates, state = self._optimizer.update(
            gradient, state, params, value=value, grad=gradient, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), state


def training_of(problem: AbstractProblem) -> TrainingProblem:
    """Return the inner problem.

    Raises:
        ValueError: for a problem without an inner loss, or with buffers.
    """
    if isinstance(problem, BilevelProblem | TrainingProblem):
        training = problem if isinstance(problem, TrainingProblem) else problem.training
        if training.buffers is not None:
            raise ValueError(
                "problem has buffers, which a bilevel solver would not carry. Reverse, "
                "TruncatedReverse and Forward do."
            )
        return training
    raise ValueError(
        f"problem is a {type(problem).__name__}; a bilevel solver needs the inner loss itself, "
        "and allowed are TrainingProblem and BilevelProblem. Reverse, TruncatedReverse, Forward "
        "and Implicit need only the steps."
    )


def optimizer_of(training: TrainingProblem) -> optax.GradientTransformation:
    """Return the inner optimizer.

    Raises:
        ValueError: if it is a function of the hyperparameters.
    """
    if isinstance(training.optimizer, optax.GradientTransformation):
        return training.optimizer
    raise ValueError(
        f"optimizer is {training.optimizer!r}, a function of the hyperparameters; allowed is an "
        f"optax transformation. {BETTER_UNROLL}"
    )


def require_transformation(name: str, value: object) -> None:
    """Refuse everything but optax transformations.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if not isinstance(value, optax.GradientTransformation):
        raise ValueError(f"{name} is {value!r}; allowed are optax transformations.")


def begin(problem: AbstractProblem, outer: Outer, key: RandomKey) -> BilevelState:
    """Check the problem, and return its initial parameters with an empty companion.

    Raises:
        ValueError: if the problem does not fit, or a leaf of `outer` influences neither the
            minimum of the inner loss nor the outer loss.
    """
    optimizer_of(training_of(problem))
    inner = start(problem, outer, split_keys(key)).inner
    params, rest = differentiable(inner.params)
    zero = jnp.zeros((), jnp.int32)
    state = BilevelState(
        params=params,
        params_optimizer=inner.optimizer_state,
        companion=None,
        companion_optimizer=None,
        fixed=eqx.filter(rest, eqx.is_array),
        step=zero,
        calls=OracleCalls(zero, zero, zero, zero, zero, zero),
    )
    oracles = Oracles(problem, outer, state, key)

    def seen(outer: Outer) -> PyTree:
        gradient = jax.grad(oracles.inner_loss)(params, outer, oracles.inner_batch(0))
        return gradient, oracles.outer_loss(params, outer, oracles.outer_batch(0))

    require_influence(seen, outer, BETTER_UNROLL)
    return state


def begin_with_adjoint(
    problem: AbstractProblem,
    outer: Outer,
    key: RandomKey,
    linear_optimizer: optax.GradientTransformation,
) -> BilevelState:
    """Return the initial state of a solver whose companion is v = 0."""
    state = begin(problem, outer, key)
    adjoint = jax.tree.map(jnp.zeros_like, state.params)
    return _with_companion(state, adjoint, linear_optimizer.init(adjoint))


def begin_with_copy(problem: AbstractProblem, outer: Outer, key: RandomKey) -> BilevelState:
    """Return the initial state of a solver whose companion is a copy of the parameters."""
    state = begin(problem, outer, key)
    return _with_companion(state, state.params, state.params_optimizer)


def _with_companion(state: BilevelState, companion: PyTree, optimizer: Any) -> BilevelState:
    where = lambda state: (state.companion, state.companion_optimizer)
    return eqx.tree_at(where, state, (companion, optimizer), is_leaf=lambda x: x is None)


def relative_norm(residual: PyTree, right: PyTree) -> Float[Array, ""]:
    """Return |residual| / |right|, with 0 / 0 = 0."""
    numerator = norm(residual)
    return jnp.where(numerator == 0, 0.0, numerator / norm(right))


class Step(eqx.Module):
    """The computed results of one outer step.

    Attributes:
        after: the next state, with `step` and `calls` not yet updated.
        calls: the oracle calls of the step.
        value: f.
        direction: the estimate of the hypergradient.
        adjoint: the v with which `direction` was computed.
        linear_residual: |(d_zz g) v + d_z f| / |d_z f|.
        inner_gradient: d_z g.
    """

    after: BilevelState
    calls: OracleCalls
    value: Scalar
    direction: Outer
    adjoint: PyTree
    linear_residual: Scalar
    inner_gradient: PyTree


def conclude(before: BilevelState, step: Step, trained: PyTree) -> tuple[Estimate, BilevelState]:
    """Assemble an outer step's estimate and state; a failed step only advances the counters.

    `trained` are the parts of the new state that descend an inner loss.
    """
    where, after = RESULTS.where, step.after
    inner_good = all_finite(trained)
    companion_good = all_finite((after.companion, after.companion_optimizer))
    result = where(all_finite(step.direction), RESULTS.successful, RESULTS.nonfinite_gradient)
    result = where(companion_good, result, RESULTS.linear_solve_failed)
    result = where(jnp.isfinite(step.value), result, RESULTS.nonfinite_value)
    result = where(inner_good, result, RESULTS.nonfinite_inner)
    good = result == RESULTS.successful
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
    calls = before.calls + step.calls
    state = eqx.tree_at(lambda s: (s.step, s.calls), kept, (before.step + 1, calls))
    first_nonfinite = jnp.where(inner_good, -1, calls.inner_gradients)
    stats = common_stats(step.direction, first_nonfinite) | {
        "adjoint": step.adjoint,
        "linear_residual": step.linear_residual,
        "inner_gradient_norm": norm(step.inner_gradient),
        "calls": calls,
    }
    return Estimate(step.value, step.direction, result, stats), state
