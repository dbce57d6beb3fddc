"""The networks of `pac-bayes`, their data, and their training before the bound."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk
from metastep.pac_bayes.certify import cross_entropy_bits, mean_risk
from metastep.types import RandomKey
from metastep_lab import data

CLASSES = 2
BATCH = 100
MOMENTUM = 0.9

Params = dict[str, dict[str, Array]]


class Examples(NamedTuple):
    """Images as rows in [0, 1], and labels: 0 for digits 0 to 4, 1 for 5 to 9."""

    inputs: np.ndarray
    labels: np.ndarray


def load(
    dataset: str, folder: Path | None, train: int, random_labels: bool, seed: int
) -> tuple[Examples, Examples]:
    """Load a data set with two classes and split it into training and test examples.

    Training examples are the first of the last 10,000 of MNIST, or a random part of digits. Random
    labels are coin tosses, in both parts.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples.
    """
    loaded = (data.digits if dataset == "digits" else data.mnist)(folder)
    labels = (loaded.arrays["labels"] >= 5).astype(np.int32)
    images = loaded.arrays["images"].reshape(len(labels), -1).astype(np.float32)
    images /= 16 if dataset == "digits" else 255
    rng = np.random.default_rng(seed)
    if dataset == "digits":
        order = rng.permutation(len(labels))
        images, labels = images[order], labels[order]
    else:
        # The subset is the test part, which is also the last 10,000 of the whole of MNIST.
        images, labels = images[-10_000:], labels[-10_000:]
    if train >= len(labels):
        raise ValueError(
            f"train is {train}; allowed are integers below {len(labels)}, the number of examples "
            f"of {dataset}"
        )
    if random_labels:
        labels = rng.integers(0, CLASSES, len(labels)).astype(np.int32)
    return Examples(images[:train], labels[:train]), Examples(images[train:], labels[train:])


def network(params: Params, x: Float[Array, " inputs"]) -> Float[Array, " classes"]:
    """Return the scores of a fully connected network with rectified units."""
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(layer["weight"] @ x + layer["bias"])
    return last["weight"] @ x + last["bias"]


def initialize(key: RandomKey, sizes: Sequence[int], scale: float) -> Params:
    """Return weights from a normal distribution cut at two standard deviations; no biases."""
    params = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layer_key = jax.random.fold_in(key, i)
        weight = scale * jax.random.truncated_normal(layer_key, -2, 2, (outputs, inputs))
        params[f"fc{i + 1}"] = {"weight": weight, "bias": jnp.zeros(outputs)}
    return params


def as_risk(params: Params, examples: Examples) -> EmpiricalRisk:
    """Return the mean cross-entropy in bits."""
    return mean_risk(network, cross_entropy_bits, params, (examples.inputs, examples.labels))


def train(risk: EmpiricalRisk, key: RandomKey, epochs: int, step_size: float) -> Params:
    """Train by stochastic gradient descent with momentum, batches of 100."""
    return _train(risk, jax.random.split(key, epochs), jnp.asarray(step_size))


@compiled
def _train(risk: EmpiricalRisk, keys: Key[Array, " epochs"], step_size: Array) -> Params:
    optimizer = optax.sgd(step_size, momentum=MOMENTUM)
    steps = risk.examples // BATCH

    def step(carry: tuple, rows: Array) -> tuple[tuple, None]:
        params, state = carry
        batch = jax.tree.map(lambda leaf: leaf[rows], risk.data)
        gradient = jax.grad(risk.mean)(params, batch)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: tuple, key: RandomKey) -> tuple[tuple, None]:
        order = jax.random.permutation(key, risk.examples)[: steps * BATCH]
        return jax.lax.scan(step, carry, order.reshape(steps, BATCH))

    (params, _), _ = jax.lax.scan(epoch, (risk.params, optimizer.init(risk.params)), keys)
    return params


def error(params: Params, examples: Examples) -> float:
    """Return the fraction of examples that the network classifies wrongly."""
    scores = _scores(params, jnp.asarray(examples.inputs))
    return float(np.mean(np.argmax(scores, axis=1) != examples.labels))


@compiled
def _scores(params: Params, inputs: Float[Array, "examples inputs"]) -> Array:
    return jax.vmap(lambda x: network(params, x))(inputs)
