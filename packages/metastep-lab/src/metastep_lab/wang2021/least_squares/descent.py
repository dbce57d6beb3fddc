"""Meta-gradient descent for `least-squares`, compared with the grid search for the step size.

All tasks of a meta-objective are trained together as one problem, whose objective is the mean over
tasks of the training or of the validation loss.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import Examples, LeastSquares, random_least_squares
from metastep_lab.wang2021.least_squares.step_size_grid import GridLosses, dense_losses

# With n = d / 2, 100 times below the best of train-by-train (0.3), and at noise 5 ten times above
# that of train-by-validation (0.0003): both descents have a way to go.
START = 0.003


@dataclass(frozen=True)
class Descent:
    """The path of a descent and its end.

    Attributes:
        step_sizes: before every meta-gradient step, and at the end.
        objectives: (1/t) log of the mean loss there; NaN at the end.
        grid_step_size: the best of a fine grid on the same tasks.
    """

    step_sizes: np.ndarray
    objectives: np.ndarray
    grid_step_size: float


def descend(
    tasks: LeastSquares, *, validated: bool, horizon: int, steps: int, key: jax.Array
) -> Descent:
    """Tune the logarithm of the step size by the sign of its meta-gradient, from 0.003.

    The tasks are stacked along a first axis; with `validated`, the objective is the loss on the
    validation examples instead of the training examples.
    """
    result = ms.minimize(
        _problem(tasks, validated, horizon),
        {"log_step_size": jnp.log(START)},
        # One hyperparameter is one tangent: forward mode stores no trajectory of all tasks.
        ms.Forward(),
        # The size of the gradient varies by 1000 on the path; in one dimension its sign is enough.
        # The schedule has mean 0.1: 60 steps can travel 6 in the logarithm, a factor of 400.
        optimizer=optax.sign_sgd(optax.cosine_decay_schedule(0.2, steps)),
        steps=steps,
        record=lambda step, outer, estimate: jnp.exp(outer["log_step_size"]),
        key=key,
        every=max(1, steps // 10),
    )
    end = jnp.exp(result.outer["log_step_size"])
    return Descent(
        step_sizes=np.append(result.history.recorded, end),
        objectives=np.append(result.history.value, math.nan),
        grid_step_size=_grid_optimum(tasks, validated, horizon),
    )


def draw_tasks(
    key: jax.Array, *, tasks: int, dim: int, examples: tuple[int, int], noise: float
) -> LeastSquares:
    """Draw tasks with the given numbers of training and validation examples, stacked."""
    samples, held_out = examples
    draw = lambda key: random_least_squares(
        key, dim=dim, samples=samples, noise=noise, validation_samples=held_out
    )
    return jax.vmap(draw)(jax.random.split(key, tasks))


def _step_size(outer: Mapping[str, jax.Array]) -> optax.GradientTransformation:
    return optax.sgd(jnp.exp(outer["log_step_size"]))


def _problem(tasks: LeastSquares, validated: bool, horizon: int) -> ms.TrainingProblem:
    """Return the problem of training on all tasks; one argument switches the data of the objective.

    The logarithm keeps the gradient of train-by-train above zero if the loss is almost zero. Runs
    are not truncated, because a truncated run has no gradient.
    """

    def total(params: jax.Array, outer: object, batch: Examples | None) -> jax.Array:
        axis = None if batch is None else 0
        losses = jax.vmap(lambda task, w, b: task.loss(w, outer, b), (0, 0, axis))
        # A sum, not a mean: the gradient in the weights of one task is then that of its own loss,
        # so that one optimizer is as many independent descents.
        return jnp.sum(losses(tasks, params, batch))

    objective = (
        ms.train_by_validation(total, tasks.validation)
        if validated
        else ms.train_by_train(total, tasks.training)
    )
    mean = lambda params, outer: objective(params, outer) / len(tasks.truth)
    logged = ms.log_transformed(mean, horizon)
    return ms.TrainingProblem(total, logged, jnp.zeros_like(tasks.truth), _step_size, horizon)


def _grid_optimum(tasks: LeastSquares, validated: bool, horizon: int) -> float:
    """Search a grid whose step sizes are a factor 1.05 apart."""
    grid = np.geomspace(1e-6, 1.0, 284)
    losses = _losses(tasks, jnp.asarray(grid, tasks.truth.dtype), horizon)
    values = losses.validation if validated else losses.training
    # Without a radius a run that diverges ends in NaN, and its step size is no candidate.
    return float(grid[np.nanargmin(np.asarray(values).mean(axis=0))])


@compiled
def _losses(tasks: LeastSquares, step_sizes: jax.Array, horizon: int) -> GridLosses:
    one = lambda task: dense_losses(task, step_sizes, horizon=horizon, radius=math.inf)
    # One task after the other: a vmap would hold the weights of all tasks for all 284 step sizes.
    return jax.lax.map(one, tasks)
