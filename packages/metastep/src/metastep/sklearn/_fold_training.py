"""Training of a user's model by Adam on weighted examples, all folds in one compiled program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from metastep.compilation import compiled
from metastep.estimators.base import influences
from metastep.problems import TrainingProblem, unroll
from metastep.trees import real_variables
from metastep.types import RandomKey, Scalar

Init = Callable[[RandomKey, int, int], PyTree]
"""A function from a random key and the numbers of features and classes to parameters."""

Apply = Callable[[PyTree, Float[Array, "examples features"]], Float[Array, "examples classes"]]
"""A function from parameters and examples to class scores, the logits of a softmax."""


class Program(NamedTuple):
    """The model and its training; no arrays, so that equal ones share a compiled program."""

    init: Init
    apply: Apply
    steps: int
    learning_rate: float
    weight_decay: float
    classes: int


def require_trainable(program: Program, rows: Array, key: RandomKey) -> None:
    """Refuse a model that no training changes: it would rank by its first parameters."""
    variables, restore = real_variables(program.init(key, rows.shape[1], program.classes))
    scores = lambda variables: program.apply(restore(variables), rows[:1])
    if jax.tree.leaves(variables) and not any(influences(scores, variables)):
        raise ValueError(
            "apply has no derivative by the parameters of init: return class scores, not classes, "
            "and do not round, compare or detach them"
        )


def weighted_loss(
    apply: Apply, params: PyTree, rows: Array, labels: Array, shares: Array
) -> Scalar:
    """Return the sum of the cross-entropies, each times its share."""
    logs = jax.nn.log_softmax(apply(params, rows), axis=1)
    return -jnp.sum(shares * jnp.take_along_axis(logs, labels[:, None], axis=1)[:, 0])


def train_folds(
    program: Program, rows: Array, labels: Array, weights: np.ndarray, key: RandomKey
) -> tuple[PyTree, Array]:
    """Train a model for each row of weights; return parameters and log probabilities of all."""
    totals = weights.sum(axis=1, keepdims=True)
    # All labels of a fold may have the factor zero.
    shares = jnp.asarray(weights / np.where(totals > 0, totals, 1), jnp.float32)
    expected = (len(shares), len(labels), program.classes)
    params, scores = _train(program, rows, labels, shares, key)
    # `take_along_axis` would take any number of classes without a word.
    if scores.shape != expected:
        raise ValueError(f"apply returned the shape {scores.shape[1:]}; expected {expected[1:]}")
    # The largest of NaN is the first class, which would be predicted for every example.
    if jnp.any(jnp.isnan(scores)):
        raise ValueError("apply returned NaN after training; reduce learning_rate")
    return params, scores


@compiled
def _train(
    program: Program, rows: Array, labels: Array, shares: Array, key: RandomKey
) -> tuple[PyTree, Array]:
    def one(shares: Array) -> tuple[PyTree, Array]:
        problem = TrainingProblem(
            loss=lambda params, outer, batch: weighted_loss(
                program.apply, params, rows, labels, shares
            ),
            objective=lambda params, outer: jnp.zeros(()),
            init_params=lambda outer, key: program.init(key, rows.shape[1], program.classes),
            # No derivative is taken through this training: Adam needs no `eps_root` here.
            optimizer=optax.adamw(program.learning_rate, weight_decay=program.weight_decay),
            horizon=program.steps,
        )
        params = unroll(problem, jnp.zeros(()), key).params
        return params, jax.nn.log_softmax(program.apply(params, rows), axis=1)

    # Folds differ in shares alone, and share the examples and the first parameters.
    return jax.vmap(one)(shares)
