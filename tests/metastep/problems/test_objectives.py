"""One switch between training and validation data, and the logarithm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.tasks import random_least_squares


def test_the_switch_is_one_argument(key):
    task = random_least_squares(key, dim=5, samples=4, noise=1.0)
    params = jnp.arange(5.0)
    training = ms.train_by_train(task.loss, task.training)
    validation = ms.train_by_validation(task.loss, task.validation)
    assert training(params, None) == task.loss(params, None, task.training)
    assert validation(params, None) == task.loss(params, None, task.validation)


def test_log_transformed_is_the_logarithm_per_step(x64, key):
    task = random_least_squares(key, dim=5, samples=4, noise=1.0)
    objective = ms.train_by_validation(task.loss, task.validation)
    logged = ms.log_transformed(objective, 10)
    make = lambda f: ms.TrainingProblem(task.loss, f, task.start(), optax.sgd, 10)
    plain, found = (
        ms.hypergradient(make(f), 0.1, ms.Reverse(), key=key) for f in (objective, logged)
    )
    np.testing.assert_allclose(found.value, np.log(plain.value) / 10, rtol=1e-14)
    np.testing.assert_allclose(found.grad, plain.grad / plain.value / 10, rtol=1e-12)


def test_log_transformed_takes_the_method_of_any_problem(key):
    problem, outer = (
        ms.QuadraticProblem(
            hessian=jnp.eye(2),
            coupling=jnp.eye(2),
            start=jnp.ones(2),
            outer_loss=lambda w, outer: jnp.sum(w**2),
            step_size=0.1,
            horizon=3,
        ),
        jnp.zeros(2),
    )
    end = ms.unroll(problem, outer, key)
    logged = ms.log_transformed(problem.objective, 3)
    np.testing.assert_allclose(
        logged(end, outer, jax.random.key(0)), np.log(2 * 0.9**6) / 3, rtol=1e-6
    )


@pytest.mark.parametrize("horizon", [0, -1, True])
def test_bad_horizon(horizon):
    with pytest.raises(ValueError, match="horizon is"):
        ms.log_transformed(lambda params, outer: params, horizon)
