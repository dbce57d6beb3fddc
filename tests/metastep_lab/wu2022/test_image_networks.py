"""Forward passes against NumPy, sizes against the architectures, curvature against autodiff."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk, find_layers, layer_hessian
from metastep_lab.wu2022.networks.image_networks import VGG11, ResNet18

BLOCKS = [(1, None), (1, None), (2, 1), (1, None), (2, 2), (1, None), (2, 3), (1, None)]


def convolved(layer, x, stride=1):
    """Return a convolution with zeros around the image, from its definition."""
    weight, bias = (np.asarray(layer[part], float) for part in ("weight", "bias"))
    size = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("ncrsij,ocij->nors", windows, weight) + bias[:, None, None]


def vgg11(params, x):
    for i, letter in enumerate("64M 128M 256 256M 512 512M 512 512M".split()):
        x = np.maximum(convolved(params[f"conv{i + 1}"], x), 0)
        if letter.endswith("M"):
            n, channels, rows, columns = x.shape
            x = x.reshape(n, channels, rows // 2, 2, columns // 2, 2).max(axis=(3, 5))
    return x.reshape(len(x), -1)


def resnet18(params, x):
    x = np.maximum(convolved(params["conv1"], x), 0)
    for i, (stride, shortcut) in enumerate(BLOCKS):
        inner = np.maximum(convolved(params[f"conv{2 * i + 2}"], x, stride), 0)
        inner = convolved(params[f"conv{2 * i + 3}"], inner)
        if shortcut is not None:
            x = convolved(params[f"sc-conv{shortcut}"], x, stride)
        x = np.maximum(inner + x, 0)
    return x.mean(axis=(2, 3))


def shapes_of(network, size):
    return jax.eval_shape(lambda key: network.init(key, size), jax.random.key(0))


def drawn(network, size, dtype):
    """Return weights and biases of every layer, without a compilation for each shape."""
    rng = np.random.default_rng(0)
    scale = lambda shape: np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
    draw = lambda leaf: jnp.asarray(scale(leaf.shape) * rng.normal(size=leaf.shape), dtype)
    return jax.tree.map(draw, shapes_of(network, size))


@pytest.mark.parametrize(
    ("network", "features", "size"),
    [(VGG11((2,) * 8), vgg11, (3, 32, 64)), (ResNet18(2), resnet18, (9, 9))],
)
def test_scores_are_those_of_the_architecture(network, features, size, key):
    params = drawn(network, size, np.float32)
    images = jax.random.normal(key, (2, *size))
    variables = {**params, "statistics": network.initial_statistics()}
    assert network.initial_statistics() == {}
    scores = compiled(lambda images: jax.vmap(lambda one: network(variables, one))(images))(images)
    x = features(params, np.asarray(images, float).reshape(2, -1, *size[-2:]))
    expected = x @ np.asarray(params["fc1"]["weight"]).T + params["fc1"]["bias"]
    # Up to eighteen layers of sums in float32.
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "convolutions", "shortcuts"), [(VGG11((64,) * 8), 8, 0), (ResNet18(64), 17, 3)]
)
def test_layers_and_their_sizes(network, convolutions, shortcuts):
    params = shapes_of(network, (3, 32, 32))
    names = [f"conv{i + 1}" for i in range(convolutions)]
    names += [f"sc-conv{i + 1}" for i in range(shortcuts)]
    assert set(params) == {*names, "fc1"}
    first, wide, narrow, last = 64 * 27 + 64, 64 * 576 + 64, 64 * 64 + 64, 10 * 64 + 10
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == first + (convolutions - 1) * wide + shortcuts * narrow + last


def test_curvature_of_a_convolution_within_a_residual_network(x64, key):
    network, size = ResNet18(2, classes=3), (9, 9)
    params = drawn(network, size, float)
    images = jax.random.normal(key, (3, *size), float)
    loss = optax.softmax_cross_entropy_with_integer_labels
    risk = EmpiricalRisk(network, loss, params, images, jnp.arange(3))
    layers = find_layers(risk, ["conv14.weight", "sc-conv3.weight"], bias=True)
    found = {name: (*layer.shape(), layer.positions) for name, layer in layers.items()}
    assert found == {"conv14.weight": (2, 18, 4), "sc-conv3.weight": (2, 2, 4)}

    @compiled
    def dense(weight):
        changed = lambda weight: {**params, "conv14": {**params["conv14"], "weight": weight}}
        return jax.hessian(lambda weight: risk.mean(changed(weight), risk.data))(weight)

    hessian = layer_hessian(risk, "conv14.weight").as_matrix()
    expected = dense(params["conv14"]["weight"]).reshape(hessian.shape)
    assert np.linalg.norm(expected) > 1e-3
    np.testing.assert_allclose(hessian, expected, atol=1e-10)  # float64, of order 1


def test_networks_and_images_that_are_not_allowed(key):
    with pytest.raises(ValueError, match="width is 0"):
        ResNet18(0)
    for channels in ((4,) * 7, (4, 0) * 4):
        with pytest.raises(ValueError, match=r"channels is \(4.*allowed are eight integers"):
            VGG11(channels)
    for network in (VGG11(), ResNet18(4)):
        with pytest.raises(ValueError, match="classes is 0"):
            replace(network, classes=0)
    with pytest.raises(ValueError, match=r"image is \(3, 31, 32\)"):
        VGG11((4,) * 8).init(key, (3, 31, 32))
