"""Outer objectives as plain functions: what the end of training is judged on.

An objective of `TrainingProblem` has the signature `(params, outer) -> scalar`; of any other
problem, that of its method. Which data judge is one argument:

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
    """Judge training by its own loss on the examples that it was trained on.

    Example:
        >>> from metastep.problems.objectives import train_by_train
        >>> objective = train_by_train(lambda w, outer, batch: (w - batch) ** 2, 3.0)
        >>> objective(1.0, None)
        4.0

    Args:
        loss: `loss(params, outer, batch)`, the inner loss. A regulariser that it contains is part
            of the objective: leave it out if it is what you tune.
        training: the batch of all training examples.

    Returns:
        `objective(params, outer)`.

    Reference:
        Wang et al. (2021), Eq. 3.
    """
    return lambda params, outer: loss(params, outer, training)


def train_by_validation(loss: Loss, validation: Any) -> Objective:
    """Judge training by the loss on examples that it has not seen.

    Args:
        loss: `loss(params, outer, batch)`.
        validation: the batch of all validation examples, drawn apart from the training examples.

    Returns:
        `objective(params, outer)`.

    Reference:
        Wang et al. (2021), Eq. 4.
    """
    return lambda params, outer: loss(params, outer, validation)


def log_transformed(
    objective: Callable[..., Scalar], horizon: SupportsIndex
) -> Callable[..., Scalar]:
    """Return (1/T) log of an objective: its gradient neither explodes nor vanishes with T.

    In exact arithmetic; back-propagation computes it as the ratio of two numbers that do (Corollary
    1), and so it fails in floating point where they overflow or underflow. `LogDomain` takes the
    plain objective and does both, the logarithm and the division.

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
