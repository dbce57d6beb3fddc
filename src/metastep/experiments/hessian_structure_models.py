"""The networks of `hessian-structure`, their data, and their training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from scipy.special import logsumexp

from metastep import data
from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk
from metastep.curvature.pac_bayes_certify import mean_risk
from metastep.tasks.digit_networks import DigitNetwork, Params
from metastep.types import RandomKey

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
SNAPSHOTS = (0, 1, 3, 10, 30, 100, 300)


class Examples(NamedTuple):
    """Images of one channel and their labels."""

    images: Float[Array, "examples rows columns"]
    labels: Int[Array, " examples"]


class State(NamedTuple):
    """Parameters, and running statistics of batch normalization."""

    params: Params
    statistics: Params


def load(
    dataset: str,
    folder: Path | None,
    examples: int,
    *,
    random_labels: bool,
    normalized: bool,
    seed: int,
) -> Examples:
    """Load a data set.

    Args:
        dataset: digits or mnist.
        folder: where to look for it.
        examples: how many to take; all of digits at most, of MNIST the last 10,000.
        random_labels: whether labels are drawn.
        normalized: to mean 0 and variance 1 over all pixels; otherwise pixels are from 0 to 1.
        seed: of the order of digits and of random labels.

    Returns:
        Images and labels.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples.
    """
    loaded = (data.digits if dataset == "digits" else data.mnist)(folder)
    images = loaded.arrays["images"][-10_000:].astype(np.float32)
    labels = loaded.arrays["labels"][-10_000:].astype(np.int32)
    images /= 16 if dataset == "digits" else 255
    if examples > len(labels):
        raise ValueError(
            f"examples is {examples}; allowed are integers from {BATCH} to {len(labels)}, the "
            f"number of examples of {dataset}"
        )
    rng = np.random.default_rng(seed)
    if dataset == "digits":
        order = rng.permutation(len(labels))
        images, labels = images[order], labels[order]
    images, labels = images[:examples], labels[:examples]
    if normalized:
        images = (images - images.mean()) / images.std()
    if random_labels:
        labels = rng.integers(0, CLASSES, len(labels)).astype(np.int32)
    return Examples(jnp.asarray(images), jnp.asarray(labels))


def fitted(network: DigitNetwork, examples: Examples) -> Examples:
    """Return images of 32 x 32 pixels for convolutions: enlarged or with a margin."""
    if not network.channels:
        return examples
    images = np.asarray(examples.images)
    times = 32 // images.shape[1]
    images = np.kron(images, np.ones((1, times, times), images.dtype))
    margin = (32 - images.shape[1]) // 2
    space = ((0, 0), (margin, margin), (margin, margin))
    return Examples(jnp.asarray(np.pad(images, space, mode="edge")), examples.labels)


def as_risk(network: DigitNetwork, state: State, examples: Examples) -> EmpiricalRisk:
    """Return the mean cross-entropy with the statistics of batch normalization fixed."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    variables: dict[str, Any] = {**state.params, "statistics": state.statistics}
    return mean_risk(network, loss, variables, (examples.images, examples.labels))


def trained(
    network: DigitNetwork, examples: Examples, key: RandomKey, epochs: int, step_size: float
) -> Iterator[tuple[int, State]]:
    """Train by stochastic gradient descent, batches of 128.

    Args:
        network: which network.
        examples: images and labels.
        key: draws the initial weights and the order of the examples.
        epochs: how many.
        step_size: of the descent.

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


@compiled
def _epoch(
    network: DigitNetwork, state: State, examples: Examples, key: RandomKey, step_size: Array
) -> State:
    count = len(examples.labels)
    order = jax.random.permutation(key, count)[: count // BATCH * BATCH].reshape(-1, BATCH)

    def step(state: State, rows: Array) -> tuple[State, None]:
        def loss(params: Params) -> tuple[Array, Params]:
            scores, used = network.scores(params, examples.images[rows])
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, examples.labels[rows])
            return jnp.mean(losses), used

        gradient, used = jax.grad(loss, has_aux=True)(state.params)
        down = lambda value, slope: value - step_size * slope
        follow = lambda old, new: (1 - STATISTICS_RATE) * old + STATISTICS_RATE * new
        params = jax.tree.map(down, state.params, gradient)
        return State(params, jax.tree.map(follow, state.statistics, used)), None

    return jax.lax.scan(step, state, order)[0]


def fit(
    scores: Float[Array, "examples classes"], labels: Int[Array, " examples"]
) -> tuple[float, float]:
    """Return the mean cross-entropy, and the part of examples that is classified rightly."""
    values, right = np.asarray(scores, float), np.asarray(labels)
    losses = logsumexp(values, axis=1) - values[np.arange(len(right)), right]
    return float(np.mean(losses)), float(np.mean(np.argmax(values, axis=1) == right))


@compiled
def predictions(
    network: DigitNetwork, state: State, images: Float[Array, "examples rows columns"]
) -> Float[Array, "examples classes"]:
    """Return the scores of all images."""
    return network.scores(state.params, images, state.statistics)[0]
