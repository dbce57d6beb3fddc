"""The models of `data-attribution`, each with a step size at which training is smooth.

Each model is made once for its sizes, so that it is compiled once.

A model is a loss of one example and an initialisation. Training multiplies the loss of each example
by its weight; a query is the same loss of an example that was not trained on.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import metastep as ms

CLASSES = 10
DIGITS_SIDE = 8  # pixels
WIDTHS = (8, 16)  # channels of the two convolutions
HEADS, DEPTH, BROADER = 2, 2, 2
CONTEXT = 24  # tokens of a paragraph

Rate = Array
Optimizer = Callable[[Rate], optax.GradientTransformation]


class Model(eqx.Module):
    """A loss of one example, initial parameters, and an optimizer.

    Attributes:
        loss: `(params, example) -> scalar`, without the weight of the example.
        params: key -> initial parameters.
        optimizer: of a step size.
        step_size: at which training is smooth.
        decay: factor of the squared norm of the parameters in the training loss.
    """

    # Functions are compared by identity: `cache` below returns the same ones for the same sizes.
    loss: Callable[[PyTree, Any], Array] = eqx.field(static=True)
    params: Callable[[Array], PyTree] = eqx.field(static=True)
    optimizer: Optimizer = eqx.field(static=True)
    step_size: float = eqx.field(static=True)
    decay: float = eqx.field(static=True)


class Training(eqx.Module):
    """From a query to the problem of training a model on weighted examples.

    All that differs between seeds and step sizes are arrays, so one compiled program is enough.

    Attributes:
        model: what is trained.
        examples: the training examples, arrays with one row for each.
        batches: rows of the examples for each step, the same in every training; None for
            all examples at every step.
        rate: the step size.
        horizon: the number of steps.
    """

    model: Model
    examples: PyTree[Array]
    batches: Array | None
    rate: Rate
    horizon: int = eqx.field(static=True)

    def __call__(self, query: PyTree) -> ms.TrainingProblem:
        """Return the problem whose objective is the loss of the query."""
        batches = self.batches
        batch = None if batches is None else lambda t, key: batches[t]
        return ms.TrainingProblem(
            self._loss,
            lambda params, weights: self.model.loss(params, query),
            lambda weights, key: self.model.params(key),
            lambda weights: self.model.optimizer(self.rate),
            self.horizon,
            batch,
        )

    def _loss(self, params: PyTree, weights: Array, rows: Array | None) -> Array:
        examples, chosen = self.examples, weights
        if rows is not None:
            examples, chosen = jax.tree.map(lambda x: x[rows], (examples, weights))
        losses = jax.vmap(self.model.loss, (None, 0))(params, examples)
        # The decay has no weight: without an example it stays, and so does the divisor.
        squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return jnp.mean(chosen * losses) + self.model.decay * squares


def train(
    model: Model, examples: PyTree[Array], speed: float, steps: int, batch: int | None, seed: int
) -> Training:
    """Return the training of a model.

    Args:
        model: what is trained.
        examples: arrays with one row for each example.
        speed: the step size, in multiples of the smooth one.
        steps: how many.
        batch: examples of a step; None takes all of them.
        seed: of the order of the examples.
    """
    batches = None
    if batch is not None:
        # Drawn here and not from the key of training: the same order for every removal.
        rng, total = np.random.default_rng(seed), len(jax.tree.leaves(examples)[0])
        epochs = -(-steps * batch // total)
        # Epoch by epoch, so that all examples are used equally often, but for the last epoch.
        order = np.concatenate([rng.permutation(total) for _ in range(epochs)])
        batches = jnp.asarray(order[: steps * batch].reshape(steps, batch))
    return Training(model, examples, batches, jnp.array(speed * model.step_size), steps)


def cross_entropy(scores: Array, label: Array) -> Array:
    """Return the loss of one example."""
    return jax.nn.logsumexp(scores) - scores[label]


def _slower(side: int) -> float:
    """Return the factor of the step size of digits (8 pixels wide) at which images train smoothly.

    For MNIST the largest of 1, 1/2, 1/4 and so on at which `attribute` had nothing to say against
    its scores, for three splits that no preset uses. More pixels make the loss more curved.
    """
    return 1.0 if side == DIGITS_SIDE else 0.5


@cache
def linear(side: int) -> Model:
    """Return softmax regression on images of `side` x `side` pixels."""
    return Model(
        loss=lambda w, one: cross_entropy(w[:, :-1] @ one[0].ravel() + w[:, -1], one[1]),
        params=lambda key: jnp.zeros((CLASSES, side**2 + 1)),
        optimizer=optax.sgd,
        step_size=1.0 * _slower(side),
        # Without decay the Hessian is singular, since one vector may be added to all classes,
        # and implicit differentiation has no solution.
        decay=0.001,
    )


@cache
def network(side: int, steps: int) -> Model:
    """Return a network of two convolutions of stride 2 and a linear layer.

    Args:
        side: of the images, in pixels, a multiple of 4.
        steps: of training, over which the step size falls to zero along a cosine.
    """
    first, second = WIDTHS
    size = side // 4

    def params(key: Array) -> PyTree:
        shapes = ((4, first), (4 * first, second), (size**2 * second, CLASSES))
        keys = jax.random.split(key, len(shapes))
        draws = zip(keys, shapes, strict=True)
        return [
            (jax.random.normal(key, shape) / shape[0] ** 0.5, jnp.zeros(shape[1]))
            for key, shape in draws
        ]

    def loss(layers: PyTree, one: Any) -> Array:
        hidden = one[0][:, :, None]
        # GELU and not ReLU, whose kinks make training less smooth.
        for weights, bias in layers[:2]:
            hidden = jax.nn.gelu(_patches(hidden) @ weights + bias)
        weights, bias = layers[2]
        return cross_entropy(hidden.ravel() @ weights + bias, one[1])

    fall = optax.cosine_decay_schedule(1.0, steps)
    optimizer = lambda rate: optax.sgd(lambda count: rate * fall(count), momentum=0.9)
    return Model(loss, params, optimizer, 0.1 * _slower(side), 0.0005)


def _patches(image: Array) -> Array:
    """Return the patches of 2 x 2 pixels side by side, flattened: what a filter of stride 2 sees.

    Products of matrices are fast under `vmap`; convolutions with other filters in each row are not.
    """
    rows, columns, channels = image.shape
    cells = image.reshape(rows // 2, 2, columns // 2, 2, channels)
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows // 2, columns // 2, 4 * channels)


@cache
def transformer(vocabulary: int, width: int, steps: int) -> Model:
    """Return a causal language model of pre-normalised blocks; an example is a row of tokens.

    Args:
        vocabulary: how many different tokens there are.
        width: of the hidden states.
        steps: of training: the step size rises for a fifth of them and falls along a cosine.
    """

    def params(key: Array) -> PyTree:
        keys = iter(jax.random.split(key, 3 + 4 * DEPTH))
        draw = lambda *shape: jax.random.normal(next(keys), shape) / shape[0] ** 0.5
        embeddings = {
            # `draw` divides by the root of the rows, as is right for a product but not for a table.
            "tokens": draw(vocabulary, width) * vocabulary**0.5 * 0.1,
            "places": draw(CONTEXT, width) * CONTEXT**0.5 * 0.1,
            # Small scores: training begins with the loss of guessing.
            "out": draw(width, vocabulary) * 0.1,
        }
        blocks = [
            {
                "attend": draw(width, 3 * width),
                "join": draw(width, width),
                "widen": draw(width, BROADER * width),
                "narrow": draw(BROADER * width, width),
            }
            for _ in range(DEPTH)
        ]
        return {"blocks": blocks, **embeddings}

    def loss(params: PyTree, tokens: Array) -> Array:
        before, after = tokens[:-1], tokens[1:]
        hidden = params["tokens"][before] + params["places"][: len(before)]
        for block in params["blocks"]:
            hidden = hidden + _attention(block, _normalised(hidden))
            hidden = hidden + jax.nn.gelu(_normalised(hidden) @ block["widen"]) @ block["narrow"]
        scores = _normalised(hidden) @ params["out"]
        return jnp.mean(jax.vmap(cross_entropy)(scores, after))

    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, max(1, steps // 5), steps)
    # Adam without `eps_root` has no finite derivative where a gradient is zero.
    optimizer = lambda rate: optax.adam(lambda count: rate * shape(count), eps=1e-6, eps_root=1e-6)
    return Model(loss, params, optimizer, 0.005, 0.0)


def _normalised(hidden: Array) -> Array:
    centered = hidden - hidden.mean(axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-5)


def _attention(block: PyTree, hidden: Array) -> Array:
    length, width = hidden.shape
    parts = (hidden @ block["attend"]).reshape(length, 3, HEADS, width // HEADS)
    query, key, value = parts[:, 0], parts[:, 1], parts[:, 2]
    scores = jnp.einsum("ihd,jhd->hij", query, key) / (width // HEADS) ** 0.5
    seen = jnp.tril(jnp.ones((length, length), bool))
    shares = jax.nn.softmax(jnp.where(seen, scores, -1e9))
    return jnp.einsum("hij,jhd->ihd", shares, value).reshape(length, width) @ block["join"]
