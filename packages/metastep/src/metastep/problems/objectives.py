"""Outer objectives as plain functions.

An objective of `TrainingProblem` has the signature `(params, outer) -> scalar`. The data on which
training is judged are one argument:

    objective = train_by_train(loss, training)             # overfits where examples are few
    objective = train_by_validation(loss, validation)      # generalises
"""

from collections.abc import Callable
from typing import Any, SupportsIndex

import jax.numpy as jnp
from jaxtyping import PyTree

from metastep import checks
from metastep.types import Outer, Scalar

Loss = Callable[[PyTree, Outer, Any], Scalar]
Objective = Callable[[PyTree, Outer], Scalar]


def train_by_train(loss: Loss, training: Any) -> Objective:
    """Return the inner loss on the training examples as the objective.

    Example:
        >>> from metastep.problems.objectives import train_by_train
        >>> objective = train_by_train(lambda w, outer, batch: (w - batch) ** 2, 3.0)
        >>> objective(1.0, None)
        4.0

    Args:
        loss: `loss(params, outer, batch)`, the inner loss. The objective includes its regulariser;
            leave the regulariser out of `loss` here if it is what you tune.
        training: the batch of all training examples.

    Returns:
        `objective(params, outer)`.

    Reference:
        Wang et al. (2021), Eq. 3.
    """
    return lambda params, outer: loss(params, outer, training)


def train_by_validation(loss: Loss, validation: Any) -> Objective:
    """Return the loss on examples that training has not seen as the objective (Eq. 4).

    The arguments are those of `train_by_train`, with disjoint examples.
    """
    return lambda params, outer: loss(params, outer, validation)


def log_transformed(
    objective: Callable[..., Scalar], horizon: SupportsIndex
) -> Callable[..., Scalar]:
    """Return (1/T) log of an objective: its gradient neither explodes nor vanishes with T.

    This holds in exact arithmetic. Back-propagation computes the gradient as a ratio of two
    numbers that do explode or vanish (Corollary 1), and fails where they overflow or underflow.
    `LogDomain` takes the plain objective and applies the logarithm and the division itself.

    Args:
        objective: a positive objective, with any arguments.
        horizon: T, the number of inner steps, at least 1.

    Returns:
        A function of the same arguments; -inf where the objective is 0, NaN where it is negative.

    Raises:
        ValueError: for a horizon below 1.

    Reference:
        Wang et al. (2021), Theorem 4.
    """
    checks.require_count("horizon", horizon)
    steps = checks.integer(horizon)
    return lambda *arguments: jnp.log(objective(*arguments)) / steps
