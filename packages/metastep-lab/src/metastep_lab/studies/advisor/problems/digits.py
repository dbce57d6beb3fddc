"""Small networks on digits, with common optimizers.

Every number is drawn in float32, so that float64 computes the same problem.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from metastep.optimizers import adam
from metastep.problems import AbstractProblem, TrainingProblem
from metastep.types import Outer, RandomKey, Scalar, StepIndex
from metastep_lab import data

TRAINED, JUDGED, BATCH, HORIZON = 1000, 400, 16, 40
Predict = Callable[[Outer, Array], Array]
Rate = Callable[[StepIndex], Scalar] | Scalar
Make = Callable[[Any, Any], optax.GradientTransformation]
DECAY = 1e-2


def images_and_labels() -> tuple[Array, Array]:
    """Return the digits, of shape (1797, 1, 8, 8) between 0 and 1, and their labels."""
    found = data.digits().arrays
    images = np.asarray(found["images"], np.float32)[:, None] / 16
    # `float` is the precision in force, that of `jax_enable_x64`.
    return jnp.asarray(images, float), jnp.asarray(found["labels"], jnp.int32)


def convolve(images: Array, weights: Array) -> Array:
    """Return the convolution of images with 3 x 3 filters, of the same height and width."""
    return jax.lax.conv_general_dilated(images, weights, (1, 1), "SAME")


def halved(x: Array) -> Array:
    """Average blocks of 2 x 2 pixels."""
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, -1, 2).mean((3, 5))


def normalised(x: Array) -> Array:
    """Return channels of mean 0 and variance 1 over the batch and the pixels."""
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def logits(
    params: Outer, images: Array, activation: Callable[[Array], Array], normalise: bool = False
) -> Array:
    """Apply a convolution of 6 channels with pooling, and a linear layer."""
    hidden = convolve(images, params["filters"])
    hidden = halved(activation(normalised(hidden) if normalise else hidden))
    return hidden.reshape(len(images), -1) @ params["last"] + params["bias"]


def start() -> dict[str, Array]:
    """Draw the weights."""
    random = np.random.default_rng(0)
    normal = lambda scale, *shape: jnp.asarray(np.float32(scale * random.normal(size=shape)), float)
    return {
        "filters": normal(0.47, 6, 1, 3, 3),
        "last": normal(0.14, 96, 10),
        "bias": jnp.zeros(10),
    }


def training(
    optimizer: Make,
    *,
    predict: Predict,
    base: float,
    warm: bool = True,
    smoothed: bool = True,
) -> tuple[AbstractProblem, Outer]:
    """Tune the step size of a network, with warm-up and cosine, and another hyperparameter.

    Args:
        optimizer: a function of the step size, which is a schedule or, without `warm`, a number,
            and of the decay of the weights.
        predict: `predict(params, images)` returns ten logits for each image.
        base: the step size where tuning begins.
        warm: whether the step size follows a schedule.
        smoothed: whether the other hyperparameter smooths the labels; otherwise it is the decay of
            the weights, which also acts if the optimizer uses only the signs of gradients.
    """
    images, labels = images_and_labels()
    judged = slice(TRAINED, TRAINED + JUDGED)
    shape = optax.warmup_cosine_decay_schedule(0.1, 1.0, HORIZON // 10, HORIZON)

    def loss(params: Outer, outer: dict, rows: Array) -> Scalar:
        known = jax.nn.one_hot(labels[rows], 10, dtype=images.dtype)
        targets = optax.smooth_labels(known, jax.nn.sigmoid(outer["other"])) if smoothed else known
        return jnp.mean(optax.softmax_cross_entropy(predict(params, images[rows]), targets))

    def objective(params: Outer, outer: dict) -> Scalar:
        scores = predict(params, images[judged])
        cost = optax.softmax_cross_entropy_with_integer_labels(scores, labels[judged])
        return jnp.mean(cost)

    def make(outer: dict) -> optax.GradientTransformation:
        size = base * jnp.exp(outer["step_size"])
        decay = DECAY if smoothed else jnp.exp(outer["other"])
        return optimizer((lambda t: size * shape(t)) if warm else size, decay)

    # The default integers of float64 have 64 bits, and their draws differ.
    draw = lambda t, key: jax.random.randint(key, (BATCH,), 0, TRAINED, jnp.int32)
    problem = TrainingProblem(loss, objective, start(), make, HORIZON, draw)
    return problem, {"step_size": jnp.zeros(()), "other": jnp.array(-3.0)}


def smooth(params: Outer, images: Array) -> Array:
    """Return the logits of the network with GELU."""
    return logits(params, images, jax.nn.gelu)


def kinked(params: Outer, images: Array) -> Array:
    """Return the logits of the network with ReLU."""
    return logits(params, images, jax.nn.relu)


def with_batch_statistics(params: Outer, images: Array) -> Array:
    """Return the logits of the network with normalisation over the batch."""
    return logits(params, images, jax.nn.gelu, normalise=True)


OPTIMIZERS: dict[str, tuple[Make, float]] = {
    "sgd": (lambda rate, decay: optax.sgd(rate), 2.0),
    "momentum": (lambda rate, decay: optax.sgd(rate, momentum=0.9), 0.4),
    "adam": (lambda rate, decay: adam(rate), 2e-2),
    # The root of a mean square has no derivative at zero, hence `eps_root` and the scale.
    "adamw": (lambda rate, decay: optax.adamw(rate, eps_root=1e-8, weight_decay=decay), 2e-2),
    "rmsprop": (lambda rate, decay: optax.rmsprop(rate, initial_scale=1e-4), 1e-2),
    # By default only matrices from 128 x 128 on are factored, and these are smaller.
    "adafactor": (lambda rate, decay: optax.adafactor(rate, min_dim_size_to_factor=8), 6e-2),
    "lion": (lambda rate, decay: optax.lion(rate, weight_decay=decay), 1e-2),
    "muon": (lambda rate, decay: optax.contrib.muon(rate), 3e-2),
    "schedule-free": (lambda rate, decay: optax.contrib.schedule_free_sgd(rate), 2.0),
    "clipped": (
        lambda rate, decay: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)),
        2.0,
    ),
}


def digits(name: str) -> tuple[AbstractProblem, Outer]:
    """Return the problem of the network with GELU and one of `OPTIMIZERS`."""
    optimizer, base = OPTIMIZERS[name]
    warm, smoothed = name != "schedule-free", name != "lion"
    return training(optimizer, predict=smooth, base=base, warm=warm, smoothed=smoothed)


def batch_statistics() -> tuple[AbstractProblem, Outer]:
    """Return the network with normalisation over the batch, under Adam."""
    return training(OPTIMIZERS["adam"][0], predict=with_batch_statistics, base=2e-2)


def rectified() -> tuple[AbstractProblem, Outer]:
    """Return the network with ReLU under Adam: its response has kinks."""
    return training(OPTIMIZERS["adam"][0], predict=kinked, base=2e-2)


def softmax_regression(horizon: int, decay: float) -> tuple[AbstractProblem, Outer]:
    """Tune weight decays, one for each class: an inner loop that has converged, or has not."""
    images, labels = images_and_labels()
    inputs = images.reshape(len(images), -1)[:, ::2]
    cost = optax.softmax_cross_entropy_with_integer_labels

    def loss(w: Array, outer: Array, batch: None) -> Scalar:
        fit = jnp.mean(cost(inputs[:400] @ w, labels[:400]))
        return fit + jnp.sum(jnp.exp(outer) * w**2)

    objective = lambda w, outer: jnp.mean(cost(inputs[400:800] @ w, labels[400:800]))
    problem = TrainingProblem(loss, objective, jnp.zeros((32, 10)), optax.sgd(0.3), horizon)
    return problem, jnp.full(10, decay)


def clipped_network(base: float, horizon: int = 80) -> tuple[AbstractProblem, Outer]:
    """Train 4-8-1 units with clipped descent: at the edge of stability, or beyond it.

    The step size and the weight decay are tuned.
    """
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(np.float32(random.normal(size=shape)), float)
    inputs = normal(32, 4)
    params = {"first": normal(4, 8) / 2, "second": normal(8) / 3}
    targets = jnp.sin(inputs @ jnp.array([1.0, -2.0, 0.5, 1.5]))

    def error(params: dict, rows: Any) -> Scalar:
        predicted = jnp.tanh(inputs[rows] @ params["first"]) @ params["second"]
        return jnp.mean((predicted - targets[rows]) ** 2)

    def loss(params: dict, outer: dict, rows: Array) -> Scalar:
        squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return error(params, rows) + 1e-3 * jnp.exp(outer["decay"]) * squares

    def optimizer(outer: dict) -> optax.GradientTransformation:
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, horizon // 10, horizon)
        rate = lambda t: base * jnp.exp(outer["step_size"]) * shape(t)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate))

    def draw(t: StepIndex, key: RandomKey) -> Array:
        return jax.random.randint(key, (8,), 0, 16, jnp.int32)

    problem = TrainingProblem(
        loss, lambda params, outer: error(params, slice(16, None)), params, optimizer, horizon, draw
    )
    return problem, {"step_size": jnp.zeros(()), "decay": jnp.zeros(())}
