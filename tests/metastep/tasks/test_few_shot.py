"""The sinusoids of Finn et al. (2017): their distribution, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.tasks.few_shot import random_sinusoid, squared_error

DRAWS = 4000


def test_distribution(key):
    draw = lambda key: random_sinusoid(key, samples=5, validation_samples=3)
    tasks = jax.vmap(draw)(jax.random.split(key, DRAWS))
    uniform = {
        "amplitude": (tasks.amplitude, 0.1, 5.0),
        "phase": (tasks.phase, 0.0, np.pi),
        "training": (tasks.training.inputs[:, 0, 0], -5.0, 5.0),
        "validation": (tasks.validation.inputs[:, 0, 0], -5.0, 5.0),
    }
    for name, (values, low, high) in uniform.items():
        values = (np.asarray(values) - low) / (high - low)
        assert 0 <= values.min() and values.max() <= 1, name
        # Moments of a uniform variable, within four standard errors.
        assert abs(values.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / DRAWS), name
        assert abs((values**2).mean() - 1 / 3) < 4 * np.sqrt(4 / 45 / DRAWS), name
    correlations = np.corrcoef([values for values, _, _ in uniform.values()])
    assert np.abs(correlations - np.eye(4)).max() < 4.5 / np.sqrt(DRAWS)


def test_targets_lie_on_the_curve(key):
    task = random_sinusoid(key, samples=5, validation_samples=7)
    for examples, count in ((task.training, 5), (task.validation, 7)):
        assert examples.inputs.shape == (count, 1)
        expected = task.amplitude * jnp.sin(examples.inputs[:, 0] - task.phase)
        np.testing.assert_allclose(examples.targets, expected, rtol=1e-6)
        np.testing.assert_allclose(task(examples.inputs[:, 0]), expected, rtol=1e-6)
        assert squared_error(lambda x: task(x[0]), examples) == 0
        above = squared_error(lambda x: task(x[0]) + 2, examples)
        np.testing.assert_allclose(above, 4, rtol=1e-5)


@pytest.mark.parametrize("name", ["samples", "validation_samples"])
def test_bad_input(name, key):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        random_sinusoid(key, **({"samples": 1, "validation_samples": 1} | {name: 0}))
