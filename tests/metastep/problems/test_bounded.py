"""Truncation of diverged runs, on any problem."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import random_least_squares
from tests import cases


def least_squares(key, horizon=40):
    task = random_least_squares(key, dim=8, samples=6, noise=1.0)
    objective = ms.train_by_validation(task.loss, task.validation)
    return task, ms.TrainingProblem(task.loss, objective, task.start(), optax.sgd, horizon)


@cache
def bounded():
    """Return one and the same problem, which is compiled once."""
    task, problem = least_squares(jax.random.key(20))
    return task, ms.Bounded(problem, radius=40.0)


def slow_truncation(task, step_size, horizon, radius):
    """The paper's footnote, literally."""
    inputs, targets = (np.asarray(x, np.float64) for x in jax.tree.leaves(task.training))
    weights = np.zeros(8)
    for _ in range(horizon):
        weights = weights - step_size * inputs.T @ (inputs @ weights - targets) / len(targets)
        if np.linalg.norm(weights) >= radius:
            return np.full(8, radius / np.sqrt(8))
    return weights


@pytest.mark.parametrize("step_size", [0.01, 0.3, 0.55, 0.7, 1.0, 50.0, 1e10])
def test_equals_the_footnote(x64, step_size):
    task, problem = bounded()
    found = ms.hypergradient(problem, step_size, ms.Reverse(), key=jax.random.key(0))
    weights = slow_truncation(task, step_size, 40, 40.0)
    expected = task.loss(jnp.asarray(weights), None, task.validation)
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)
    assert found.result == ms.RESULTS.successful
    stopped = bool(np.isclose(np.linalg.norm(weights), 40.0))
    assert (float(found.grad) == 0) == stopped


def test_a_wide_ball_changes_nothing(x64, key):
    """On a problem with a random key, an optimizer state and a parameter tree."""
    problem, outer = cases.PROBLEMS["momentum-batches"]()
    plain = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    for estimator in (ms.Reverse(), ms.Forward()):
        found = ms.hypergradient(ms.Bounded(problem, radius=1e6), outer, estimator, key=key)
        np.testing.assert_allclose(found.value, plain.value, rtol=1e-14)
        for a, b in zip(*map(jax.tree.leaves, (found.grad, plain.grad)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("estimator", [ms.Reverse(), ms.Forward()], ids=repr)
def test_a_step_without_finite_derivatives_leaves_the_ball(estimator, key):
    loss = lambda w, outer, batch: jnp.sum(jnp.exp(w))  # overflows in float32
    problem = ms.TrainingProblem(
        loss, lambda w, outer: jnp.sum(w**2), jnp.full(2, 95.0), optax.sgd, 3
    )
    found = ms.hypergradient(ms.Bounded(problem, radius=400.0), 10.0, estimator, key=key)
    assert (found.value, found.grad) == (400.0**2, 0.0) and found.result == ms.RESULTS.successful


def test_batches_of_runs_stop_one_by_one(key):
    _, problem = least_squares(key)
    run = lambda step_size: ms.unroll(ms.Bounded(problem, radius=40.0), step_size, key).stopped
    stopped = compiled(jax.vmap(run))(jnp.array([0.01, 0.1, 5.0]))
    np.testing.assert_array_equal(stopped, [False, False, True])


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_bad_radius(radius, key):
    with pytest.raises(ValueError, match="radius is"):
        ms.Bounded(least_squares(key)[1], radius=radius)
