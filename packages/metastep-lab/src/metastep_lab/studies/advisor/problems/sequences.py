"""A small transformer on text, a recurrent network, MAML on sinusoids and a learned optimizer."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from metastep.learned import MLPOptimizer
from metastep.optimizers import adam
from metastep.problems import AbstractProblem, MAMLProblem, TrainingProblem
from metastep.tasks import Examples, random_sinusoid
from metastep.types import Outer, RandomKey, Scalar, StepIndex
from metastep_lab import data
from metastep_lab.studies.advisor.problems.digits import images_and_labels

Text = Literal["descriptions", "wikitext-2"]
TOKENS, WIDTH, HEADS, SENTENCES, BATCH = 24, 16, 2, 128, 8
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def normal(random: np.random.Generator, scale: float, *shape: int) -> Array:
    """Draw float32 numbers, independently of JAX's current precision."""
    return jnp.asarray(np.float32(scale * random.normal(size=shape)), float)


def characters(text: Text, folder: Path | None) -> tuple[np.ndarray, int]:
    """Return rows of characters as integers, shape (128, 25), and the number of different ones.

    They are from the descriptions of scikit-learn's data sets, or from WikiText-2 in `folder`.
    """
    count = SENTENCES * (TOKENS + 1)
    if text == "wikitext-2":
        arrays = data.wikitext2(folder).arrays
        part = next(arrays[name] for name in ("validation", "test", "train") if name in arrays)
        # As many words as characters are needed, which is enough.
        written = " ".join(arrays["vocabulary"][part[:count]].tolist())
    else:
        loaders: tuple[Any, ...] = (load_breast_cancer, load_wine, load_digits, load_diabetes)
        written = " ".join(load()["DESCR"] for load in loaders)
    letters = [c if c.isalpha() and c.isascii() else " " for c in written.lower()]
    words = " ".join("".join(letters).split())[:count]
    # The space comes before the letters in ASCII and becomes 0.
    codes = np.array([max(ord(c) - ord("a") + 1, 0) for c in words], np.int32)
    return codes.reshape(SENTENCES, TOKENS + 1), 27


def _attention(layer: dict, x: Array) -> Array:
    """Return causal self-attention for x of shape (batch, tokens, width)."""
    batch, tokens, width = x.shape
    split = lambda z: z.reshape(batch, tokens, HEADS, -1).swapaxes(1, 2)
    queries, keys, values = map(split, jnp.split(x @ layer["in"], 3, axis=-1))
    scores = queries @ keys.swapaxes(-1, -2) / (width / HEADS) ** 0.5
    causal = jnp.tril(jnp.ones((tokens, tokens), bool))
    mixed = jax.nn.softmax(jnp.where(causal, scores, -1e9)) @ values
    return mixed.swapaxes(1, 2).reshape(x.shape) @ layer["out"]


def _step_size_and_decay(
    error: Callable[[dict, Any], Scalar],
    params: dict,
    draw: Callable[[StepIndex, RandomKey], Array],
    held_out: Any,
    horizon: int,
    decay: float,
) -> tuple[AbstractProblem, Outer]:
    """Return the tuning of Adam's step size and of a penalty, judged on held-out examples."""

    def loss(params: dict, outer: dict, batch: Array) -> Scalar:
        squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return error(params, batch) + jnp.exp(outer["decay"]) * squares

    problem = TrainingProblem(
        loss,
        lambda params, outer: error(params, held_out),
        params,
        lambda outer: adam(1e-2 * jnp.exp(outer["step_size"])),
        horizon,
        draw,
    )
    return problem, {"step_size": jnp.zeros(()), "decay": jnp.array(decay)}


def transformer(
    text: Text, folder: Path | None = None, horizon: int = 20
) -> tuple[AbstractProblem, Outer]:
    """Tune the step size and the weight decay of a language model of one layer, under Adam."""
    rows, letters = characters(text, folder)
    tokens, random = jnp.asarray(rows), np.random.default_rng(0)
    matrix = lambda *shape: normal(random, shape[0] ** -0.5, *shape)
    layer = lambda: {
        "in": matrix(WIDTH, 3 * WIDTH),
        "out": matrix(WIDTH, WIDTH),
        "up": matrix(WIDTH, 2 * WIDTH),
        "down": matrix(2 * WIDTH, WIDTH),
    }
    params = {
        "embedding": normal(random, 0.3, letters, WIDTH),
        "position": normal(random, 0.3, TOKENS, WIDTH),
        "layers": [layer()],
        "head": matrix(WIDTH, letters),
    }

    def error(params: dict, seen: Array) -> Scalar:
        standard = lambda x: jax.nn.standardize(x, epsilon=1e-5)
        x = params["embedding"][seen[:, :-1]] + params["position"]
        for layer in params["layers"]:
            x = x + _attention(layer, standard(x))
            x = x + jax.nn.gelu(standard(x) @ layer["up"]) @ layer["down"]
        return jnp.mean(cross_entropy(x @ params["head"], seen[:, 1:]))

    draw = lambda t, key: tokens[jax.random.randint(key, (BATCH,), 0, SENTENCES - 16, jnp.int32)]
    return _step_size_and_decay(error, params, draw, tokens[-16:], horizon, -7.0)


def recurrent(horizon: int = 40) -> tuple[AbstractProblem, Outer]:
    """Tune the step size and the weight decay of a network that reads digits row by row."""
    images, labels = images_and_labels()
    sequences, random, width = images[:, 0], np.random.default_rng(0), 12
    params = {
        "in": normal(random, 0.4, 8, width),
        "mix": normal(random, 0.9 * width**-0.5, width, width),
        "out": normal(random, 0.3, width, 10),
    }

    def error(params: dict, rows: Array | slice) -> Scalar:
        def read(hidden: Array, row: Array) -> tuple[Array, None]:
            return jnp.tanh(row @ params["in"] + hidden @ params["mix"]), None

        seen = jnp.swapaxes(sequences[rows], 0, 1)
        hidden, _ = jax.lax.scan(read, jnp.zeros((seen.shape[1], width)), seen)
        return jnp.mean(cross_entropy(hidden @ params["out"], labels[rows]))

    draw = lambda t, key: jax.random.randint(key, (16,), 0, 1000, jnp.int32)
    return _step_size_and_decay(error, params, draw, slice(1000, 1300), horizon, -6.0)


def sinusoid(horizon: int = 5) -> tuple[AbstractProblem, Outer]:
    """Tune the initial parameters of a sine regression: 1-20-20-1 units, 10 points (MAML)."""
    with jax.enable_x64(False):  # float64 would draw another task
        drawn = random_sinusoid(jax.random.key(3), samples=10, validation_samples=20)
    task = jax.tree.map(lambda x: jnp.asarray(x, float), drawn)
    random, sizes = np.random.default_rng(0), (1, 20, 20, 1)
    layers = [(normal(random, a**-0.5, a, b), jnp.zeros(b)) for a, b in pairwise(sizes)]

    def loss(params: Outer, outer: Outer, examples: Examples) -> Scalar:
        x, y = examples.inputs, examples.targets
        for weights, bias in params[:-1]:
            x = jnp.tanh(x @ weights + bias)
        weights, bias = params[-1]
        return jnp.mean((jnp.squeeze(x @ weights + bias, -1) - jnp.reshape(y, -1)) ** 2)

    problem = MAMLProblem(loss, task.training, task.validation, horizon=horizon, rate=0.05)
    return problem, layers


def learned_optimizer(horizon: int = 30) -> tuple[AbstractProblem, Outer]:
    """Tune the weights of a learned optimizer that trains a softmax regression on digits."""
    images, labels = images_and_labels()
    inputs, family = images.reshape(len(images), -1)[:, ::4], MLPOptimizer(hidden=4)
    with jax.enable_x64(False):
        weights = jax.tree.map(np.asarray, family.initial_weights(jax.random.key(0)))
    error = lambda w, rows: jnp.mean(cross_entropy(inputs[rows] @ w, labels[rows]))

    def draw(t: StepIndex, key: RandomKey) -> Array:
        return jax.random.randint(key, (32,), 0, 1000, jnp.int32)

    problem = TrainingProblem(
        lambda w, outer, rows: error(w, rows),
        lambda w, outer: error(w, slice(1000, 1400)),
        jnp.zeros((16, 10)),
        family,
        horizon,
        draw,
    )
    return problem, jax.tree.map(lambda x: jnp.asarray(x, float), weights)
