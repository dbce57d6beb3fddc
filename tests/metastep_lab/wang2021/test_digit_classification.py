"""The network against NumPy, objectives on their own data, and batches by epochs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from metastep.compilation import compiled
from metastep_lab.wang2021.mlp_optimizer.digit_classification import (
    DigitClassification,
    epochs,
    fraction_correct,
    predict,
    training_objective,
    validation_objective,
)

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.random((9, 4), np.float32), RNG.integers(3, size=9).astype(np.int32)
BATCHES = epochs(6, 2, 5, RNG)


def make(sample=None):
    parts = (INPUTS[:6], LABELS[:6], INPUTS[6:], LABELS[6:], BATCHES)
    return DigitClassification(*map(jnp.asarray, parts), (4, 5, 3), sample)


def loss_of(params, rows):
    hidden, last = (jax.tree.map(np.asarray, params[name]) for name in ("layer 0", "layer 1"))
    units = np.maximum(INPUTS[rows] @ hidden["weight"] + hidden["bias"], 0)
    scores = log_softmax(units @ last["weight"] + last["bias"], axis=1)
    return -np.mean(scores[np.arange(len(rows)), LABELS[rows]])


@compiled
def measured(task, some, params, key):
    losses = [task.loss(params, step) for step in (3, 8)]
    losses += [training_objective(task, params, key), validation_objective(task, params, key)]
    losses.append(validation_objective(some, params, key))
    return losses, predict(params, INPUTS), fraction_correct(params, INPUTS, LABELS)


def test_losses(key):
    params = compiled(DigitClassification.init)(make(), key)
    losses, found, correct = measured(make(), make(4), params, key)
    drawn = 6 + np.asarray(jax.random.randint(key, (4,), 0, 3))
    rows = (BATCHES[3], BATCHES[3], np.arange(6), np.arange(6, 9), drawn)
    # Float32 with sums of a few terms.
    np.testing.assert_allclose(losses, [loss_of(params, row) for row in rows], rtol=1e-5)
    assert np.isclose(correct, np.mean(np.argmax(found, axis=1) == LABELS))


def test_initial_parameters(key):
    draws = jax.jit(jax.vmap(make().init))(jax.random.split(key, 2000))
    for name, rows in (("layer 0", 4), ("layer 1", 5)):
        weight, bias = draws[name]["weight"], draws[name]["bias"]
        # Standard errors below 1 % of the deviation.
        assert np.isclose(weight.std(), 1.2 / np.sqrt(rows), rtol=0.04, atol=0)
        assert np.isclose(bias.std(), 1.2 / np.sqrt(bias.shape[1]), rtol=0.04, atol=0)


def test_epochs():
    batches = epochs(10, 3, 7, np.random.default_rng(1))
    assert batches.shape == (7, 3) and batches.dtype == np.int32
    for first in (0, 3):  # whole epochs of three batches, one example left out
        assert len(set(batches[first : first + 3].ravel())) == 9
    with pytest.raises(ValueError, match="batch is 11; allowed are integers from 1 to 10"):
        epochs(10, 11, 1, np.random.default_rng(1))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="validation_labels has shape"):
        eqx.tree_at(
            lambda task: task.validation_labels, make(), jnp.zeros(2, jnp.int32)
        ).__check_init__()
