"""Tasks of characters and the network, against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep_lab.shaban2019.one_shot import characters as one_shot
from metastep_lab.shaban2019.one_shot.characters import (
    Characters,
    Head,
    initial_hyperparameters,
    shrink,
)

RNG = np.random.default_rng(1)
SIZES = dict(channels=3, ways=4, rate=0.1, regularization=0.2)


def numbered_characters():
    """Images whose pixels all say which character and which drawing they are."""
    numbers = 10 * np.arange(6)[:, None] + np.arange(5)
    return Characters(jnp.broadcast_to(numbers[:, :, None, None].astype(float), (6, 5, 2, 2)))


def test_an_episode_never_shows_a_query_before(key):
    episode = numbered_characters().episode(key, ways=4, queries=3)
    support, queries = episode.support[:, 0, 0], episode.queries[:, 0, 0]
    characters = support // 10
    assert np.unique(characters).size == 4
    assert np.array_equal(queries // 10, characters[episode.labels])
    assert np.unique(np.concatenate([support, queries])).size == 16


@pytest.mark.parametrize(("name", "value"), [("ways", 7), ("ways", 1), ("queries", 5)])
def test_impossible_episodes(key, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; allowed are integers"):
        numbered_characters().episode(key, **{"ways": 2, "queries": 1} | {name: value})


def test_shrinking_keeps_the_ink_and_rotations_are_characters():
    images = RNG.integers(0, 2, (2, 3, 105, 105)).astype(np.uint8)
    small = shrink(images)
    assert small.shape == (2, 3, 28, 28) and small.dtype == np.float32
    # Sums of sixteenths are exact in float32.
    assert np.array_equal(16 * small.sum(axis=(2, 3)), images.sum(axis=(2, 3)))
    turned = shrink(images, rotations=True)
    assert turned.shape == (8, 3, 28, 28)
    assert np.array_equal(turned[:2], small) and np.array_equal(turned[2, 0, ::-1].T, small[0, 0])


def test_the_layers_are_those_of_lax(key):
    """The product of patches is `conv_general_dilated`, the pooling `reduce_window`."""
    maps = jnp.asarray(RNG.standard_normal((2, 7, 7, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.standard_normal((27, 4)), jnp.float32)
    convolved = jax.lax.conv_general_dilated(
        maps, kernel.reshape(3, 3, 3, 4), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    pooled = jax.lax.reduce_window(
        convolved, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    found = one_shot._block(one_shot._patches(maps), kernel, normalized=False)
    # Rounding of sums of 27 float32 products of order 1.
    np.testing.assert_allclose(found, jax.nn.relu(pooled), atol=1e-5)
    np.testing.assert_allclose(one_shot._each_pooled(maps, kernel), pooled, atol=1e-5)
    mean, variance = pooled.mean(axis=(0, 1, 2)), pooled.var(axis=(0, 1, 2))
    expected = jax.nn.relu((pooled - mean) / np.sqrt(variance + one_shot.EPSILON))
    found = one_shot._block(one_shot._patches(maps), kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_distances_join_weights_and_bias():
    ones = Head(jnp.ones((2, 3)), jnp.ones((1, 2)), jnp.ones((2, 2)), jnp.ones(2))
    zeros = jax.tree.map(jnp.zeros_like, ones)
    assert np.array_equal(ones.distances(zeros), [6, 2, 6])


def test_initial_hyperparameters(key):
    outer = initial_hyperparameters(key, **SIZES)
    assert np.allclose(jnp.exp(outer.log_rate), 0.1)
    assert np.allclose(jnp.exp(outer.log_regularization), 0.2)
    # Weakly typed leaves would compile the outer loop twice.
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(outer))
    with pytest.raises(ValueError, match="rate is 0"):
        initial_hyperparameters(key, **SIZES | {"rate": 0.0})
