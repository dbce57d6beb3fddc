"""One-shot classification with a learned representation under a head that is fitted per task.

The network has four convolutions (3 x 3, same padding), each followed by 2 x 2 max-pooling, batch
normalization by the statistics of the batch, without scale and shift, and a rectified linear unit;
then an affine map. The first two convolutions are the representation, the rest is the head.
Convolutions are products of patches with a matrix: the patches of a representation are computed
once per task, and heads of many tasks need no grouped convolution. Convolutions have no bias, which
the normalization would remove.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from metastep.types import RandomKey, Scalar

SIDE = 28
EPSILON = 1e-3  # of batch normalization, as in TensorFlow
ROTATIONS = 4


class Episode(NamedTuple):
    """A task: one image of each class for training, and other images for the outer loss.

    Attributes:
        support: shape (ways, 28, 28); image number i is of class i.
        queries: shape (ways * queries, 28, 28).
        labels: of the queries, shape (ways * queries,).
    """

    support: Float[Array, "ways side side"]
    queries: Float[Array, "queries side side"]
    labels: Int[Array, " queries"]


class Characters(eqx.Module):
    """Characters to draw tasks from.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep_lab.shaban2019.one_shot.characters import Characters
        >>> characters = Characters(jnp.zeros((8, 20, 28, 28)))
        >>> characters.episode(jax.random.key(0), ways=5, queries=3).queries.shape
        (15, 28, 28)

    Attributes:
        images: shape (characters, drawings, 28, 28), ink from 0 to 1.
    """

    images: Float[Array, "characters drawings side side"]

    def episode(self, key: RandomKey, *, ways: int, queries: int) -> Episode:
        """Draw a task: `ways` characters, one drawing of each for training, `queries` for the loss.

        Raises:
            ValueError: for fewer than two ways, or more than there are characters or drawings.
        """
        characters, drawings = self.images.shape[:2]
        for name, value, least, most in (
            ("ways", ways, 2, characters),
            ("queries", queries, 1, drawings - 1),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value!r}; allowed are integers {least} to {most}")
        class_key, drawing_key = jax.random.split(key)
        chosen = jax.random.choice(class_key, characters, (ways,), replace=False)
        shuffled = lambda key: jax.random.permutation(key, drawings)[: 1 + queries]
        # One shuffle for support and queries of a character: no drawing is both.
        which = jax.vmap(shuffled)(jax.random.split(drawing_key, ways))
        found = self.images[chosen[:, None], which]
        judged = found[:, 1:].reshape(-1, *found.shape[2:])
        return Episode(found[:, 0], judged, jnp.repeat(jnp.arange(ways), queries))


def shrink(
    images: UInt8[np.ndarray, "characters drawings 105 105"], *, rotations: bool = False
) -> Float[np.ndarray, "more drawings side side"]:
    """Return Omniglot's drawings as 28 x 28 pixels: padded to 112 x 112, means of 4 x 4 pixels.

    Ink is 1. With rotations every character turned by 90, 180 and 270 degrees is one of its own, as
    in Santoro et al. (2016), and there are 4 times as many.
    """
    margin = 4 * SIDE - images.shape[-1]
    sides = (margin // 2, margin - margin // 2)
    padded = np.pad(images, ((0, 0), (0, 0), sides, sides))
    small = padded.reshape(*images.shape[:2], SIDE, 4, SIDE, 4).mean(axis=(3, 5), dtype=np.float32)
    turned = [np.rot90(small, turn, axes=(2, 3)) for turn in range(ROTATIONS if rotations else 1)]
    return np.concatenate(turned)


class Head(NamedTuple):
    """The parameters that are fitted to a task.

    Attributes:
        third: shape (9 channels, channels).
        fourth: shape (9 channels, channels).
        weights: shape (channels, ways).
        bias: shape (ways,).
    """

    third: Float[Array, "inputs channels"]
    fourth: Float[Array, "inputs channels"]
    weights: Float[Array, "channels ways"]
    bias: Float[Array, " ways"]

    def distances(self, other: "Head") -> Float[Array, "3"]:
        """Return the squared distance to another head, layer by layer."""
        third, fourth, *last = (jnp.sum((a - b) ** 2) for a, b in zip(self, other, strict=True))
        # Three layers, three rho (Appendix G.3): the affine map is one, its weights and bias.
        return jnp.stack([third, fourth, last[0] + last[1]])


class Hyperparameters(NamedTuple):
    """The tuned parameters.

    Attributes:
        first: the first convolution, shape (9, channels).
        second: the second, shape (9 channels, channels).
        centers: c, towards which the head is regularized, and where its descent starts.
        log_regularization: log rho, one for each layer of the head, shape (3,).
        log_rate: log gamma, of the inner step size.
    """

    first: Float[Array, "9 channels"]
    second: Float[Array, "inputs channels"]
    centers: Head
    log_regularization: Float[Array, "3"]
    log_rate: Scalar


class Encoded(NamedTuple):
    """The hyperparameters and images in the form that the fitting of a head uses.

    Attributes:
        support: patches of the representation of the support images.
        queries: representation of the query images.
        centers: c.
        regularization: rho.
        rate: gamma.
    """

    support: Array
    queries: Array
    centers: Head
    regularization: Float[Array, "3"]
    rate: Scalar


def initial_hyperparameters(
    key: RandomKey, *, channels: int, ways: int, rate: float, regularization: float
) -> Hyperparameters:
    """Draw hyperparameters to start from: He initialization, the last layer zero.

    Raises:
        ValueError: for a number that is not positive.
    """
    sizes = {"channels": channels, "ways": ways, "rate": rate, "regularization": regularization}
    for name, value in sizes.items():
        if not value > 0:
            raise ValueError(f"{name} is {value!r}; allowed are positive numbers")
    keys = jax.random.split(key, 4)
    draw = lambda key, inputs: (
        float(np.sqrt(2 / inputs)) * jax.random.normal(key, (inputs, channels))
    )
    third, fourth = draw(keys[2], 9 * channels), draw(keys[3], 9 * channels)
    centers = Head(third, fourth, jnp.zeros((channels, ways)), jnp.zeros(ways))
    log_regularization = jnp.full(3, np.log(regularization))
    first, second = draw(keys[0], 9), draw(keys[1], 9 * channels)
    return Hyperparameters(first, second, centers, log_regularization, jnp.array(np.log(rate)))


def encode(outer: Hyperparameters, episode: Episode) -> Encoded:
    """Return the representation of a task's images beside the other hyperparameters."""

    def represent(images: Array) -> Array:
        first = _activated(_each_pooled(images[..., None], outer.first))
        return _activated(_each_pooled(first, outer.second))

    return Encoded(
        _patches(represent(episode.support)),
        represent(episode.queries),
        outer.centers,
        jnp.exp(outer.log_regularization),
        jnp.exp(outer.log_rate),
    )


def inner_loss(head: Head, encoded: Encoded, normalized: bool = True) -> Scalar:
    """Return the sum of cross-entropies of the support images + sum_j rho_j |w_j - c_j|^2."""
    scores = _scores(head, encoded.support, normalized)
    fit = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(scores.shape[0]))
    # Sums, as in section 4.3; the outer loss is a mean, where a factor would only scale the
    # gradient.
    return jnp.sum(fit) + jnp.sum(encoded.regularization * head.distances(encoded.centers))


def query_loss(
    head: Head, encoded: Encoded, labels: Array, normalized: bool = True
) -> tuple[Scalar, Scalar]:
    """Return the mean cross-entropy of the queries and the fraction that is correct."""
    scores = _scores(head, _patches(encoded.queries), normalized)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(scores, axis=1) == labels)


def _scores(head: Head, patches: Array, normalized: bool) -> Array:
    third = _block(patches, head.third, normalized)
    fourth = _block(_patches(third), head.fourth, normalized)
    return fourth.reshape(fourth.shape[0], -1) @ head.weights + head.bias


def _patches(maps: Array) -> Array:
    """Return the 3 x 3 neighborhoods of every pixel, shape (images, rows, columns, 9 channels)."""
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = maps.shape[1:3]
    shifts = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1)


def _each_pooled(maps: Array, kernel: Array) -> Array:
    """Convolve and pool image by image, so that patches stay in the processor's cache."""
    # Patches take nine times the memory of the maps: the backward pass computes them again.
    one = jax.checkpoint(lambda image: _pooled(_patches(image[None]), kernel)[0])
    return jax.lax.map(one, maps)


def _block(patches: Array, kernel: Array, normalized: bool = True) -> Array:
    return _activated(_pooled(patches, kernel), normalized)


def _pooled(patches: Array, kernel: Array) -> Array:
    maps = patches @ kernel
    images, rows, columns, channels = maps.shape
    # 28, 14, 7, 3, 1: from 7 on a last row and column are dropped, as pooling without padding
    # does.
    kept = maps[:, : rows // 2 * 2, : columns // 2 * 2]
    return kept.reshape(images, rows // 2, 2, columns // 2, 2, channels).max(axis=(2, 4))


def _activated(pooled: Array, normalized: bool = True) -> Array:
    if normalized:
        centered = pooled - jnp.mean(pooled, axis=(0, 1, 2))
        variance = jnp.mean(centered**2, axis=(0, 1, 2))
        pooled = centered * jax.lax.rsqrt(variance + EPSILON)
    return jax.nn.relu(pooled)
