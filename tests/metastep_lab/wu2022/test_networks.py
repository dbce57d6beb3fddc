"""Names of networks, their images, and their training against optax."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep_lab.tables import Record
from metastep_lab.wu2022.hessian_structure import experiment as hessian_structure
from metastep_lab.wu2022.hessian_structure.reading import shown
from metastep_lab.wu2022.networks.digit_networks import DigitNetwork
from metastep_lab.wu2022.networks.image_networks import VGG11, VGG11_CHANNELS, ResNet18
from metastep_lab.wu2022.networks.images import Examples, class_count, fitted, load
from metastep_lab.wu2022.networks.names import GRAMMAR, network_of
from metastep_lab.wu2022.networks.training import Descent, in_order, trained

THESIS = {
    "F-200^2": DigitNetwork(hidden=(200, 200)),
    "F-200^4": DigitNetwork(hidden=(200,) * 4),
    "F-600^8": DigitNetwork(hidden=(600,) * 8),
    "F-600^4-BN": DigitNetwork(hidden=(600,) * 4, batch_norm=True),
    "F-1500^3": DigitNetwork(hidden=(1500,) * 3),
    "F-200^2-100": DigitNetwork(hidden=(200, 200, 100)),
    "F-100-8": DigitNetwork(hidden=(100, 8)),
    "LeNet5": DigitNetwork((6, 16), (120, 84)),
    "LeNet5-BN": DigitNetwork((6, 16), (120, 84), batch_norm=True),
    "LeNet5-(fc1-80)": DigitNetwork((6, 16), (80, 84)),
    "VGG11": VGG11(VGG11_CHANNELS),
    "VGG11-W32": VGG11((32,) * 8),
    "ResNet18-W48": ResNet18(48),
}
UNKNOWN = (
    "F", "F-", "F-200^", "F-200^0", "F-0^2", "F-3^2", "F-200^2^2", "F-200^65", "f-200^2",
    "F-200^2-BN-BN", "F-200^2-bn", "LeNet5-80", "LeNet5-(fc1-3)", "LeNet5-(fc2-80)", "lenet5",
    "VGG11-BN", "VGG11-W3", "VGG11-W032", "VGG16-W32", "ResNet18", "ResNet18-W32-BN", "",
)  # fmt: skip


@pytest.mark.parametrize("name", THESIS)
def test_networks_of_the_thesis(name):
    assert network_of(name) == THESIS[name]
    assert network_of(name, 100).classes == 100


def test_other_names_are_refused_with_the_grammar():
    for name in UNKNOWN:
        with pytest.raises(ValueError, match="allowed are F-WIDTH") as refused:
            network_of(name)
        assert GRAMMAR in str(refused.value) and repr(name) in str(refused.value)
    with pytest.raises(ValueError, match="model is 'lenet5'; allowed are F-WIDTH"):
        hessian_structure.Config(model=("lenet5",))


def test_layers_in_order():
    layers = [*(f"conv{i + 1}" for i in range(17)), "sc-conv1", "sc-conv2", "sc-conv3", "fc1"]
    assert in_order(sorted(layers)) == layers
    model = np.array(["ResNet18-W48"] * len(layers))
    table = {"model": model, "layer": np.array(sorted(layers))}
    chosen = shown(Record(None, {"layers": table}, {}, {}), "layers", "ResNet18-W48")
    assert chosen == ["conv1", "conv4", "conv8", "conv11", "conv15", "fc1"]


def loaded(dataset, folder, examples, labels="true", scaling="unit"):
    config = SimpleNamespace(dataset=dataset, examples=examples, scaling=scaling)
    return load(config, SimpleNamespace(data=folder, seed=0), labels)


def digits(labels="true", scaling="normalized"):
    return loaded("digits", None, 200, labels, scaling)


def test_images_for_every_network():
    plain, drawn = digits(), digits(labels="random", scaling="unit")
    assert abs(float(jnp.mean(plain.images))) < 1e-5 and float(jnp.max(drawn.images)) <= 1
    assert np.mean(np.asarray(plain.labels) == np.asarray(drawn.labels)) < 0.2
    np.testing.assert_array_equal(digits(labels="halves").labels, np.asarray(plain.labels) >= 5)
    assert class_count("digits", "halves") == 2 and class_count("cifar100") == 100
    assert fitted(network_of("F-200^2"), plain) is plain
    for name in ("LeNet5", "VGG11-W4"):
        large = fitted(network_of(name), plain).images
        assert large.shape == (200, 32, 32)
        np.testing.assert_array_equal(large[:, ::4, ::4], plain.images)


def write_idx(folder, stem, array):
    """Write a file in the original format of MNIST."""
    kind = "images-idx3" if array.ndim == 3 else "labels-idx1"
    sizes = np.array(array.shape, ">u4").tobytes()
    header = (0x800 + array.ndim).to_bytes(4, "big") + sizes
    (folder / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())


def test_the_training_examples_of_mnist_where_they_are(tmp_path):
    rng = np.random.default_rng(0)
    for stem, count, ink in (("train", 300, 100), ("t10k", 150, 200)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0] = ink
        write_idx(tmp_path, stem, images)
        write_idx(tmp_path, stem, rng.integers(0, 10, count, np.uint8))
    found = loaded("mnist", tmp_path, 300)
    assert jnp.max(found.images) * 255 == 100
    with pytest.raises(ValueError, match="examples is 301; allowed are integers from 128 to 300"):
        loaded("mnist", tmp_path, 301)
    for path in tmp_path.glob("train*"):
        path.unlink()
    assert jnp.max(loaded("mnist", tmp_path, 150).images) * 255 == 200


def test_color_images_for_every_network(tmp_path, key):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (180, 32, 32, 3), np.uint8)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 18)
    parts = {"train_images": images[:160], "train_labels": labels[:160]}
    parts |= {"test_images": images[160:], "test_labels": labels[160:]}
    np.savez(tmp_path / "cifar10-7k.npz", **parts)
    found = loaded("cifar10", tmp_path, 150)
    each = np.asarray(loaded("cifar10", tmp_path, 150, scaling="normalized").images, float)
    # Sums of 1e5 numbers in float32.
    np.testing.assert_allclose(each.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(each.std(axis=(0, 2, 3)), 1, atol=1e-4)
    order = np.random.default_rng(0).permutation(160)[:150]
    np.testing.assert_array_equal(found.labels, labels[order])
    assert found.images.shape == (150, 3, 32, 32)
    # A quotient in float32.
    np.testing.assert_allclose(found.images[7, 1], images[order[7], ..., 1] / 255, rtol=1e-6)
    with pytest.raises(ValueError, match="examples is 161; allowed are integers from 128 to 160"):
        loaded("cifar10", tmp_path, 161)
    first = {"F-100-8": (100, 3072), "LeNet5": (6, 3, 5, 5), "VGG11-W4": (4, 3, 3, 3)}
    for name, shape in first.items():
        network = network_of(name)
        assert fitted(network, found) is found
        params = jax.eval_shape(lambda key, network=network: network.init(key, (3, 32, 32)), key)
        assert params[in_order(params)[0]]["weight"].shape == shape
        scores = jax.eval_shape(network.scores, params, found.images, network.initial_statistics())
        assert scores[0].shape == (150, 10)


def test_training_is_that_of_optax(key):
    """Momentum and weight decay as in PyTorch: the decay is added to the gradient."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(256, 4, 4)), jnp.float32)
    examples = Examples(images, jnp.arange(256) % 3)
    network = DigitNetwork(hidden=(5,), classes=3)
    descent = Descent(0.1, momentum=0.9, weight_decay=0.01)
    *_, (epochs, state) = trained(network, examples, key, 3, descent)
    assert epochs == 3
    first, order = jax.random.split(key)
    params = network.init(first, (4, 4))
    optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))
    moving = optimizer.init(params)

    @jax.jit
    def step(params, moving, rows):
        def loss(params):
            scores = network.scores(params, images[rows])[0]
            targets = examples.labels[rows]
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, targets))

        change, moving = optimizer.update(jax.grad(loss)(params), moving, params)
        return optax.apply_updates(params, change), moving

    for one in jax.random.split(order, 3):
        for rows in jax.random.permutation(one, 256).reshape(2, 128):
            params, moving = step(params, moving, rows)
    # Six steps in float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params, params)
