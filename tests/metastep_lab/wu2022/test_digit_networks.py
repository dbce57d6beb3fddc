"""Batch normalization against its definition, what the curvature of a network sees, bad images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep.curvature import EmpiricalRisk, find_layers
from metastep_lab.wu2022.networks.digit_networks import EPSILON, DigitNetwork

SMALL = DigitNetwork(channels=(2,), hidden=(5,), batch_norm=True, classes=3)
SIZE = (8, 8)


def test_statistics_normalize_and_can_be_fixed(key):
    images = jax.random.normal(key, (6, *SIZE))
    params = SMALL.init(key, SIZE)
    scores, used = SMALL.scores(params, images)
    assert jax.tree.structure(used) == jax.tree.structure(SMALL.initial_statistics())
    before = jax.lax.conv(images[:, None], params["conv1"]["weight"], (1, 1), "VALID")
    active = np.maximum(before, 0)
    # Means of 96 numbers of order 1 in float32.
    np.testing.assert_allclose(used["conv1"]["mean"], active.mean(axis=(0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(used["conv1"]["variance"], active.var(axis=(0, 2, 3)), atol=1e-5)
    normal = (active - active.mean((0, 2, 3), keepdims=True)) / np.sqrt(
        active.var((0, 2, 3), keepdims=True) + EPSILON
    )
    pooled = normal.reshape(6, 2, 2, 2, 2, 2).max(axis=(3, 5)).reshape(6, -1)
    hidden = np.maximum(pooled @ params["fc1"]["weight"].T, 0)
    hidden = (hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + EPSILON)
    # Two layers of sums in float32, divided by deviations that may be small.
    np.testing.assert_allclose(scores, hidden @ params["fc2"]["weight"].T, atol=1e-4)
    alone = SMALL({**params, "statistics": used}, images[2])
    np.testing.assert_allclose(alone, scores[2], atol=1e-5)


def test_every_weight_is_a_layer_with_its_bias(key):
    variables = {**SMALL.init(key, SIZE), "statistics": SMALL.initial_statistics()}
    loss = optax.softmax_cross_entropy_with_integer_labels
    risk = EmpiricalRisk(SMALL, loss, variables, jnp.zeros((2, *SIZE)), jnp.zeros(2, int))
    found = find_layers(risk, ["conv1.weight", "fc1.weight", "fc2.weight"], bias=True)
    shapes = {name: (*layer.shape(), layer.positions) for name, layer in found.items()}
    assert shapes == {"conv1.weight": (2, 25, 16), "fc1.weight": (5, 8, 1), "fc2.weight": (3, 5, 1)}


def test_images_that_are_too_small(key):
    with pytest.raises(ValueError, match=r"image is \(5, 5\)"):
        SMALL.init(key, (5, 5))
