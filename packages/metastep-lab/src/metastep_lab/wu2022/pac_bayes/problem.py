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
from metastep.pac_bayes.certify import cross_entropy_bits, mean_risk, relative_cross_entropy
from metastep.types import RandomKey
from metastep_lab import data

BATCH = 100  # examples in each step of the posterior, as in the code of Dziugaite and Roy

Params = dict[str, dict[str, Array]]
SURROGATES = {"bits": cross_entropy_bits, "relative": relative_cross_entropy}


class Examples(NamedTuple):
    """Images as rows in [0, 1], and labels: digits, or 0 for digits 0 to 4 and 1 for 5 to 9."""

    inputs: np.ndarray
    labels: np.ndarray


def load(
    dataset: str, folder: Path | None, classes: int, train: int | None, random: bool, seed: int
) -> tuple[Examples, Examples]:
    """Load a data set and split it into training and test examples.

    Training examples are the first of the training part of MNIST where both of its parts are there,
    of the test part where it is alone, or a random part of digits. Test examples are the whole test
    part of MNIST, or those that are left over. `train` is the number of training examples; None
    stands for the whole training part, or five sixths where there is one part only, which is its
    share in MNIST. Two classes are digits below 5 and from 5; `random` draws the labels of both
    parts.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples.
    """
    loaded = (data.digits if dataset == "digits" else data.mnist)(folder)
    labels = loaded.arrays["labels"].astype(np.int32)
    labels = labels if classes > 2 else (labels >= 5).astype(np.int32)
    images = loaded.arrays["images"].reshape(len(labels), -1).astype(np.float32)
    images /= 16 if dataset == "digits" else 255
    rng = np.random.default_rng(seed)
    training, testing = np.arange(len(labels)), np.arange(0)
    if dataset == "digits":
        training = rng.permutation(len(labels))
    elif len(parts := np.unique(loaded.arrays["split"])) == 2:
        # In the order of the alphabet `test` is before `train`.
        training, testing = (np.flatnonzero(loaded.arrays["split"] == one) for one in parts[::-1])
    if train is None:
        train = len(training) if len(testing) else 5 * len(training) // 6
    if train > len(training) - (len(testing) == 0):
        raise ValueError(
            f"train is {train}; allowed are none and integers up to the number of training "
            f"examples of {dataset}, with one left for testing: {len(training)} are there"
        )
    if random:
        # Drawn after the order: the images are those of the true labels.
        labels = rng.integers(0, classes, len(labels)).astype(np.int32)
    testing = testing if len(testing) else training[train:]
    part = lambda rows: Examples(images[rows], labels[rows])
    return part(training[:train]), part(testing)


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
        # As in the code of Dziugaite and Roy (2017).
        weight = scale * jax.random.truncated_normal(layer_key, -2, 2, (outputs, inputs))
        params[f"fc{i + 1}"] = {"weight": weight, "bias": jnp.zeros(outputs)}
    return params


def as_risk(params: Params, examples: Examples, surrogate: str) -> EmpiricalRisk:
    """Return the mean cross-entropy, in bits or relative to that of a guess."""
    data = examples.inputs, examples.labels
    return mean_risk(network, SURROGATES[surrogate], params, data)


class Descent(NamedTuple):
    """Stochastic gradient descent of the network, before the bound."""

    epochs: int
    step_size: float
    momentum: float
    batch: int


def train(params: Params, examples: Examples, descent: Descent, key: RandomKey) -> Params:
    """Lower the mean cross-entropy in bits."""
    risk = as_risk(params, examples, "bits")
    return _train(
        risk,
        jax.random.split(key, descent.epochs),
        jnp.asarray(descent.step_size),
        jnp.asarray(descent.momentum),
        descent.batch,
    )


@compiled
def _train(
    risk: EmpiricalRisk,
    keys: Key[Array, " epochs"],
    step_size: Array,
    momentum: Array,
    batch: int,
) -> Params:
    optimizer = optax.sgd(step_size, momentum=momentum)
    steps = risk.examples // batch

    def step(carry: tuple, rows: Array) -> tuple[tuple, None]:
        params, state = carry
        batch = jax.tree.map(lambda leaf: leaf[rows], risk.data)
        gradient = jax.grad(risk.mean)(params, batch)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: tuple, key: RandomKey) -> tuple[tuple, None]:
        order = jax.random.permutation(key, risk.examples)[: steps * batch]
        return jax.lax.scan(step, carry, order.reshape(steps, batch))

    (params, _), _ = jax.lax.scan(epoch, (risk.params, optimizer.init(risk.params)), keys)
    return params


def error(params: Params, examples: Examples) -> float:
    """Return the fraction of examples that the network classifies wrongly."""
    scores = _scores(params, jnp.asarray(examples.inputs))
    return float(np.mean(np.argmax(scores, axis=1) != examples.labels))


@compiled
def _scores(params: Params, inputs: Float[Array, "examples inputs"]) -> Array:
    return jax.vmap(lambda x: network(params, x))(inputs)
