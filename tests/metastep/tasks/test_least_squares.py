"""The distribution of tasks: moments, losses, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.tasks import random_least_squares


def test_moments(key):
    task = random_least_squares(key, dim=40, samples=5000, noise=2.0, validation_samples=4000)
    np.testing.assert_allclose(jnp.linalg.norm(task.truth), 1, rtol=1e-6)
    for examples, count in ((task.training, 5000), (task.validation, 4000)):
        assert examples.inputs.shape == (count, 40)
        residuals = np.asarray(examples.targets - examples.inputs @ task.truth)
        # Standard errors: of a mean 2 / sqrt(n), of a variance 4 sqrt(2 / n); four of them.
        assert abs(residuals.mean()) < 4 * 2 / np.sqrt(count)
        assert abs(residuals.var() - 4) < 4 * 4 * np.sqrt(2 / count)
        assert abs(np.var(examples.inputs) - 1) < 4 * np.sqrt(2 / (40 * count))
    assert not np.array_equal(task.training.inputs[:4000], task.validation.inputs)


def test_losses_are_means_over_examples(key):
    task = random_least_squares(key, dim=3, samples=7, noise=1.0, validation_samples=4)
    params = jnp.array([0.5, -1.0, 2.0])
    for batch in (task.training, task.validation):
        expected = np.mean((batch.inputs @ params - batch.targets) ** 2) / 2
        np.testing.assert_allclose(task.loss(params, None, batch), expected, rtol=1e-6)
    assert task.loss(params) == task.loss(params, None, task.training)


def test_single_examples_are_uniform_and_unbiased(key):
    task = random_least_squares(key, dim=2, samples=4, noise=1.0)
    draw = lambda key: task.one_example(0, key)
    drawn = jax.vmap(draw)(jax.random.split(key, 4000))
    rows = np.argmax(np.asarray(drawn.targets) == np.asarray(task.training.targets), axis=1)
    counts = np.bincount(rows, minlength=4)
    assert np.all(np.abs(counts - 1000) < 4 * np.sqrt(4000 * 0.25 * 0.75))
    params = jnp.array([1.0, -1.0])
    losses = jax.vmap(lambda batch: task.loss(params, None, batch))(drawn)
    error = np.std(losses) / np.sqrt(4000)
    assert abs(np.mean(losses) - task.loss(params)) < 4 * error


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"validation_samples": -1}, "validation_samples is -1"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_bad_input(changed, message, key):
    settings = {"dim": 3, "samples": 5, "noise": 1.0} | changed
    with pytest.raises(ValueError, match=message):
        random_least_squares(key, **settings)
