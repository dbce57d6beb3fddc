"""The oracles of the bilevel solvers: batches, gradients and second-order products of both losses.

Symbols: g(z, x) is the inner loss, f(z, x) the outer one, z the parameters, x the hyperparameters.
The derivative of f(z*(x), x) is d_x f + (d_xz g) v, where v solves (d_zz g) v + d_z f = 0 at z*.
"""

from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Int, PyTree

from metastep.bilevel.problem import BilevelProblem, Loss
from metastep.bilevel.state import BilevelState
from metastep.checks import scalar
from metastep.problems.base import AbstractProblem
from metastep.problems.training import TrainingProblem
from metastep.trees import ascent
from metastep.types import Outer, RandomKey, Scalar

BETTER_UNROLL = (
    "A bilevel solver differentiates the minimum of the inner loss, which depends neither on the "
    "hyperparameters of the inner optimizer (a step size, a momentum) nor on where the inner loop "
    "begins. Tune those with Reverse, TruncatedReverse or Forward."
)


class Oracles:
    """The two losses as functions of the trained parameters, and the batches of one outer step.

    Derivatives by z are directions of ascent: conjugated if z is complex (see `ascent`). An
    instance exists only while an outer step is traced.
    """

    def __init__(self, problem: AbstractProblem, outer: Outer, state: BilevelState, key: RandomKey):
        self._problem = problem
        self._training = training_of(problem)
        self._optimizer = optax.with_extra_args_support(optimizer_of(self._training))
        # Batches are numbered over all outer steps, so that data in a fixed order continue.
        self._first = state.calls
        # Both kinds of batches are numbered from 0, so each has a key of its own.
        self._keys = jax.random.split(key)
        self.outer = outer
        # Only what is no array is taken from here. The arrays are unused, and XLA drops them.
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
    """Return the inner problem; refuse a problem without an inner loss, or with buffers."""
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
    """Return the inner optimizer; refuse a function of the hyperparameters."""
    if isinstance(training.optimizer, optax.GradientTransformation):
        return training.optimizer
    raise ValueError(
        f"optimizer is {training.optimizer!r}, a function of the hyperparameters; allowed is an "
        f"optax transformation. {BETTER_UNROLL}"
    )
