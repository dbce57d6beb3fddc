"""The grid against one run at a time, and the spectral law against drawn examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metastep.tasks import random_least_squares
from metastep_lab.wang2021.least_squares.step_size_grid import (
    dense_losses,
    draw_spectral_tasks,
    spectral_losses,
)

STEP_SIZES = np.array([1e-3, 0.05, 0.3, 0.6, 1.5])


def one_run(task, step_size, horizon, radius):
    """Descend on one task with one step size, literally."""
    inputs, targets = np.asarray(task.training.inputs), np.asarray(task.training.targets)
    weights = np.zeros(inputs.shape[1])
    for _ in range(horizon):
        weights = weights - step_size * inputs.T @ (inputs @ weights - targets) / len(targets)
        if np.linalg.norm(weights) >= radius:
            return np.full(weights.size, radius / np.sqrt(weights.size)), True
    return weights, False


@pytest.mark.parametrize(("samples", "dim"), [(6, 9), (9, 9), (60, 4)])
@pytest.mark.parametrize("radius", [5.0, np.inf])
def test_dense_losses_are_those_of_single_runs(x64, key, samples, dim, radius):
    task = random_least_squares(key, dim=dim, samples=samples, noise=1.0, validation_samples=7)
    found = dense_losses(task, jnp.asarray(STEP_SIZES), horizon=12, radius=radius)
    for index, step_size in enumerate(STEP_SIZES):
        weights, stopped = one_run(task, step_size, 12, radius)
        weights = jnp.asarray(weights)
        assert bool(found.stopped[index]) == stopped
        for losses, batch in ((found.training, task.training), (found.validation, task.validation)):
            np.testing.assert_allclose(losses[index], task.loss(weights, None, batch), rtol=1e-9)
        error = np.sum((weights - task.truth) ** 2)
        np.testing.assert_allclose(found.error[index], error, rtol=1e-9)


@pytest.mark.parametrize(("samples", "dim"), [(5, 8), (8, 8), (14, 8), (7, 8)])
def test_spectral_losses_have_the_law_of_dense_ones(x64, samples, dim):
    """Kolmogorov-Smirnov at every step size, for losses and for their differences."""
    noise, horizon, radius, tasks = 1.5, 10, 6.0, 1500
    validation_samples = 3 if samples == 5 else 20  # fewer and more than there are step sizes
    step_sizes = jnp.asarray(STEP_SIZES)
    drawn = draw_spectral_tasks(
        np.random.default_rng(1),
        tasks=tasks,
        dim=dim,
        samples=samples,
        noise=noise,
        validation_samples=validation_samples,
        steps=step_sizes.size,
    )
    spectral = jax.jit(lambda d: spectral_losses(d, step_sizes, horizon=horizon, radius=radius))
    found = spectral(drawn)

    def dense(key):
        task = random_least_squares(
            key, dim=dim, samples=samples, noise=noise, validation_samples=validation_samples
        )
        return dense_losses(task, step_sizes, horizon=horizon, radius=radius)

    expected = jax.jit(jax.vmap(dense))(jax.random.split(jax.random.key(2), tasks))
    for name in ("training", "validation", "error"):
        one, other = (np.asarray(getattr(losses, name)) for losses in (found, expected))
        pairs = [(one[:, i], other[:, i]) for i in range(step_sizes.size)]
        # The joint law over step sizes decides which of them wins: compare differences, too.
        pairs += [(one[:, i] - one[:, 1], other[:, i] - other[:, 1]) for i in (0, 2, 3)]
        # 96 tests in all: one in 50 tables like this would have one below 2e-4 by chance.
        assert min(stats.ks_2samp(*pair).pvalue for pair in pairs) > 2e-4, name
    apart = np.mean(np.asarray(found.stopped), 0) - np.mean(np.asarray(expected.stopped), 0)
    assert np.abs(apart).max() < 4 * np.sqrt(0.5 / tasks)


def test_singular_values_have_the_moments_of_a_gaussian_matrix(x64):
    """E tr K = d and E tr K^2 = d (d + n + 1) / n for K = X X^T / n."""
    samples, dim, tasks = 40, 25, 400
    drawn = draw_spectral_tasks(
        np.random.default_rng(0),
        tasks=tasks,
        dim=dim,
        samples=samples,
        noise=0.0,
        validation_samples=50,
        steps=1,
    )
    eigenvalues = np.asarray(drawn.singular_values) ** 2 / samples
    for power, expected in ((1, dim), (2, dim * (dim + samples + 1) / samples)):
        traces = np.sum(eigenvalues**power, axis=1)
        assert abs(traces.mean() - expected) < 4 * traces.std() / np.sqrt(tasks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": 0}, "tasks is 0"),
        ({"dim": 0}, "dim is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"validation_samples": 0}, "validation_samples is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"noise": -0.1}, "noise is -0.1"),
    ],
)
def test_bad_input(changed, message):
    sizes = {"tasks": 2, "dim": 3, "samples": 4, "validation_samples": 4, "steps": 2}
    with pytest.raises(ValueError, match=message):
        draw_spectral_tasks(np.random.default_rng(0), **({"noise": 1.0} | sizes | changed))
