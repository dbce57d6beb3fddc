"""The networks of `hessian-structure`, their data, and their training."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from scipy.special import logsumexp

from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk
from metastep.pac_bayes.certify import mean_risk
from metastep.types import RandomKey
from metastep_lab import data
from metastep_lab.wu2022.hessian_structure.digit_networks import DigitNetwork, Params
from metastep_lab.wu2022.hessian_structure.image_networks import (
    VGG11,
    AbstractImageNetwork,
    ResNet18,
)

CLASSES = 10
BATCH = 128
STATISTICS_RATE = 0.1  # PyTorch's momentum of running statistics
NETWORKS = {
    "F-200^2": DigitNetwork(hidden=(200, 200)),
    "F-200^2-BN": DigitNetwork(hidden=(200, 200), batch_norm=True),
    "F-600^2": DigitNetwork(hidden=(600, 600)),
    "F-600^2-BN": DigitNetwork(hidden=(600, 600), batch_norm=True),
    "F-100-8": DigitNetwork(hidden=(100, 8)),
    "LeNet5": DigitNetwork(channels=(6, 16), hidden=(120, 84)),
    "LeNet5-BN": DigitNetwork(channels=(6, 16), hidden=(120, 84), batch_norm=True),
}
IMAGE_NETWORKS = {"VGG11": VGG11, "ResNet18": ResNet18}
NARROWEST = 4  # E[M] of a layer needs some eigenvalues to compare
SNAPSHOTS = (0, 1, 3, 10, 30, 100, 300)
SCORED = 500  # examples at a time through an image network

Network = DigitNetwork | AbstractImageNetwork


class Examples(NamedTuple):
    """Images, gray or in colors, and their labels."""

    images: Float[Array, "examples *colors rows columns"]
    labels: Int[Array, " examples"]


class State(NamedTuple):
    """Parameters, and running statistics of batch normalization."""

    params: Params
    statistics: Params


def network_of(name: str) -> Network:
    """Return a network of `NETWORKS`, or VGG11 or ResNet18 with a width from 4, as VGG11-W32.

    Raises:
        ValueError: for any other name.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    found = re.fullmatch(r"(\w+)-W([1-9]\d*)", name)
    if found is None or found[1] not in IMAGE_NETWORKS or int(found[2]) < NARROWEST:
        others = " and ".join(f"{kind}-W" for kind in IMAGE_NETWORKS)
        raise ValueError(
            f"model is {name!r}; allowed are {', '.join(NETWORKS)}, and {others} with a width from "
            f"{NARROWEST}, such as VGG11-W32"
        )
    return IMAGE_NETWORKS[found[1]](int(found[2]))


def in_order(layers: Iterable[str]) -> list[str]:
    """Sort names of layers: convolutions, those on shortcuts, fully connected ones; by number."""
    kinds = {"conv": 0, "sc-conv": 1, "fc": 2}

    def place(layer: str) -> tuple[int, int]:
        kind = layer.rstrip("0123456789")
        return kinds[kind], int(layer.removeprefix(kind))

    return sorted(layers, key=place)


def load(
    dataset: str,
    folder: Path | None,
    examples: int,
    *,
    random_labels: bool,
    normalized: bool,
    seed: int,
) -> Examples:
    """Load images and labels.

    Args:
        dataset: digits, mnist or cifar10.
        folder: where to look for it.
        examples: how many to take; all of digits at most, of MNIST the last 10,000, of CIFAR-10
            the training examples.
        random_labels: whether labels are drawn.
        normalized: to mean 0 and variance 1 over all pixels; otherwise pixels are from 0 to 1.
        seed: of the order of digits and CIFAR-10 and of random labels.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples.
    """
    images, labels = _raw(dataset, folder)
    if examples > len(labels):
        raise ValueError(
            f"examples is {examples}; allowed are integers from {BATCH} to {len(labels)}, the "
            f"number of examples of {dataset}"
        )
    rng = np.random.default_rng(seed)
    if dataset != "mnist":
        order = rng.permutation(len(labels))
        images, labels = images[order], labels[order]
    images, labels = images[:examples].astype(np.float32), labels[:examples].astype(np.int32)
    images /= 16 if dataset == "digits" else 255
    if normalized:
        images = (images - images.mean()) / images.std()
    if random_labels:
        labels = rng.integers(0, CLASSES, len(labels)).astype(np.int32)
    return Examples(jnp.asarray(images), jnp.asarray(labels))


def _raw(dataset: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images, colors before rows and columns, and labels, as they are stored."""
    if dataset == "cifar10":
        arrays = data.cifar10(folder).arrays
        training = arrays["split"] == "train"
        return arrays["images"][training].transpose(0, 3, 1, 2), arrays["labels"][training]
    arrays = (data.digits if dataset == "digits" else data.mnist)(folder).arrays
    return arrays["images"][-10_000:], arrays["labels"][-10_000:]


def fitted(network: Network, examples: Examples) -> Examples:
    """Return images of 32 x 32 pixels for convolutions: enlarged or with a margin."""
    images = np.asarray(examples.images)
    if images.shape[-1] == 32 or (isinstance(network, DigitNetwork) and not network.channels):
        return examples
    times = 32 // images.shape[-1]
    images = np.kron(images, np.ones((1, times, times), images.dtype))
    margin = (32 - images.shape[-1]) // 2
    space = ((0, 0), (margin, margin), (margin, margin))
    return Examples(jnp.asarray(np.pad(images, space, mode="edge")), examples.labels)


def as_risk(network: Network, state: State, examples: Examples) -> EmpiricalRisk:
    """Return the mean cross-entropy with the statistics of batch normalization fixed."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    variables: dict[str, Any] = {**state.params, "statistics": state.statistics}
    return mean_risk(network, loss, variables, (examples.images, examples.labels))


def trained(
    network: Network, examples: Examples, key: RandomKey, epochs: int, step_size: float
) -> Iterator[tuple[int, State]]:
    """Train by stochastic gradient descent, batches of 128.

    Yields:
        The epoch and the state: at first, at the epochs of `SNAPSHOTS` before the last, and last.
    """
    first, order = jax.random.split(key)
    params = network.init(first, examples.images.shape[1:])
    state = State(params, network.initial_statistics())
    for epoch, one in enumerate(jax.random.split(order, epochs)):
        if epoch in SNAPSHOTS:
            yield epoch, state
        state = _epoch(network, state, examples, one, jnp.asarray(step_size, jnp.float32))
    yield epochs, state


def _epoch(
    network: Network, state: State, examples: Examples, key: RandomKey, step_size: Array
) -> State:
    if isinstance(network, DigitNetwork):
        return _scanned(network, state, examples, key, step_size)
    # On processors, XLA takes six times as long for the convolutions within a loop.
    for rows in _order(key, len(examples.labels)):
        state = _stepped(network, state, examples, rows, step_size)
    return state


@compiled
def _scanned(
    network: Network, state: State, examples: Examples, key: RandomKey, step_size: Array
) -> State:
    step = lambda state, rows: (_step(network, state, examples, rows, step_size), None)
    return jax.lax.scan(step, state, _order(key, len(examples.labels)))[0]


def _order(key: RandomKey, count: int) -> Int[Array, "batches batch"]:
    return jax.random.permutation(key, count)[: count // BATCH * BATCH].reshape(-1, BATCH)


def _step(
    network: Network, state: State, examples: Examples, rows: Array, step_size: Array
) -> State:
    def loss(params: Params) -> tuple[Array, Params]:
        scores, used = network.scores(params, examples.images[rows])
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, examples.labels[rows])
        return jnp.mean(losses), used

    gradient, used = jax.grad(loss, has_aux=True)(state.params)
    down = lambda value, slope: value - step_size * slope
    follow = lambda old, new: (1 - STATISTICS_RATE) * old + STATISTICS_RATE * new
    params = jax.tree.map(down, state.params, gradient)
    return State(params, jax.tree.map(follow, state.statistics, used))


_stepped = compiled(_step)


def fit(
    scores: Float[Array, "examples classes"], labels: Int[Array, " examples"]
) -> tuple[float, float]:
    """Return the mean cross-entropy, and the fraction of examples that is classified correctly."""
    values, right = np.asarray(scores, float), np.asarray(labels)
    losses = logsumexp(values, axis=1) - values[np.arange(len(right)), right]
    return float(np.mean(losses)), float(np.mean(np.argmax(values, axis=1) == right))


def predictions(
    network: Network, state: State, images: Float[Array, "examples *colors rows columns"]
) -> Float[Array, "examples classes"]:
    """Return the scores of all images, for image networks in parts that fit into memory."""
    size = len(images) if isinstance(network, DigitNetwork) else SCORED
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    return jnp.concatenate([_scores(network, state, part) for part in parts])


@compiled
def _scores(network: Network, state: State, images: Array) -> Array:
    return network.scores(state.params, images, state.statistics)[0]
