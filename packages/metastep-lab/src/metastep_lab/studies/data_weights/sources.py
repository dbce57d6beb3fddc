"""Examples of which a known part is corrupted, and the models for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from metastep_lab import data

CHARACTERS = 96
"""Printable ASCII and one sign for everything else."""

LENGTH = 32  # characters of a text example
BEFORE = 4  # characters from which the next one is predicted


class Examples(NamedTuple):
    """Inputs and labels, one row each; a text is its own label."""

    inputs: Array
    labels: Array

    def take(self, rows: Array) -> "Examples":
        """Return some of the rows."""
        return Examples(self.inputs[rows], self.labels[rows])


class Source(NamedTuple):
    """The data of one repetition, and how models for it are made.

    Attributes:
        train: examples, some of them corrupted.
        corrupted: which ones.
        validation: clean examples that the ratings are tuned on.
        test: clean examples that nothing is tuned on.
        model: `(width, key) -> model`, which maps `Examples` to one loss for each.
        rater: `key -> rater`, which maps `Examples` to one rating for each.
    """

    train: Examples
    corrupted: np.ndarray
    validation: Examples
    test: Examples
    model: Callable[[int, Array], Any]
    rater: Callable[[Array], Any]


class ImageModel(eqx.Module):
    """A perceptron with one hidden layer; the loss is the cross-entropy in nats."""

    network: eqx.nn.MLP

    def __call__(self, examples: Examples) -> Float[Array, " examples"]:
        """Return the loss of every example."""
        scores = jax.vmap(self.network)(examples.inputs)
        return optax.softmax_cross_entropy_with_integer_labels(scores, examples.labels)


class ImageRater(eqx.Module):
    """A perceptron that sees an image and its label."""

    network: eqx.nn.MLP

    def __call__(self, examples: Examples) -> Float[Array, " examples"]:
        """Return the rating of every example."""
        # Without the label it could not tell a wrong one.
        seen = [examples.inputs, jax.nn.one_hot(examples.labels, 10)]
        return jax.vmap(self.network)(jnp.concatenate(seen, axis=1))[:, 0]


def _embedded(table: Array, characters: Array) -> Array:
    """Look characters up by a product: on a CPU, the derivative of indexing takes much longer."""
    return jax.nn.one_hot(characters, CHARACTERS) @ table


class TextModel(eqx.Module):
    """Predict each character from the four before it; the loss is nats per character."""

    embedding: Float[Array, "characters features"]
    network: eqx.nn.MLP

    def __call__(self, examples: Examples) -> Float[Array, " examples"]:
        """Return the loss of every example."""
        return jax.vmap(self._loss)(examples.inputs)

    def _loss(self, text: Int[Array, " length"]) -> Float[Array, ""]:
        seen, following = _embedded(self.embedding, text), text[BEFORE:]
        seen = jnp.concatenate([seen[i : i - BEFORE] for i in range(BEFORE)], axis=1)
        scores = jax.vmap(self.network)(seen)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, following))


class TextRater(eqx.Module):
    """Rate each pair of neighbouring characters, and take the mean."""

    embedding: Float[Array, "characters features"]
    network: eqx.nn.MLP

    def __call__(self, examples: Examples) -> Float[Array, " examples"]:
        """Return the rating of every example."""
        seen = _embedded(self.embedding, examples.inputs)
        pairs = jnp.concatenate([seen[:, :-1], seen[:, 1:]], axis=2)
        return jnp.mean(jax.vmap(jax.vmap(self.network))(pairs)[..., 0], axis=1)


def digits(
    folder: Path | None, train: int, validation: int, corruption: float, width: int, seed: int
) -> Source:
    """Scikit-learn's digits; a corrupted example has a label of another class."""
    loaded = data.digits(folder).arrays
    images = loaded["images"].reshape(len(loaded["images"]), -1).astype(np.float32) / 16
    labels = loaded["labels"].astype(np.int32)
    rows = np.random.default_rng(seed).permutation(len(labels))
    parts = _parts(rows, train, validation)
    rng = np.random.default_rng((seed, 1))
    corrupted = rng.random(train) < corruption
    # Always another class, so that every corrupted example is wrong.
    given = labels.copy()
    others = (labels[parts[0]] + rng.integers(1, 10, train)) % 10
    given[parts[0]] = np.where(corrupted, others, labels[parts[0]])
    examples = [Examples(jnp.asarray(images[part]), jnp.asarray(given[part])) for part in parts]
    network = lambda size, out, width, key: eqx.nn.MLP(size, out, width, 1, key=key)
    return Source(
        *(examples[0], corrupted, *examples[1:]),
        model=lambda wide, key: ImageModel(network(64, 10, wide, key)),
        rater=lambda key: ImageRater(network(74, 1, width, key)),
    )


def text(
    folder: Path | None, train: int, validation: int, corruption: float, width: int, seed: int
) -> Source:
    """WikiText-2 in pieces of 32 characters; those of a corrupted example are shuffled.

    Raises:
        DataNotFoundError: if WikiText-2 is not there.
    """
    # Some copies have no training part; the others are large enough.
    loaded = data.wikitext2(folder).arrays
    part = next(name for name in ("train", "validation", "test") if name in loaded)
    words = " ".join(loaded["vocabulary"][loaded[part]]).encode("ascii", "replace")
    codes = np.frombuffer(words, np.uint8).astype(np.int32) - 32
    # ASCII is printable from 32 to 126, which are 95 characters; the last code is for the rest.
    codes = np.where((codes >= 0) & (codes < CHARACTERS - 1), codes, CHARACTERS - 1)
    pieces = codes[: len(codes) // LENGTH * LENGTH].reshape(-1, LENGTH)
    rng = np.random.default_rng(seed)
    parts = _parts(rng.permutation(len(pieces))[: 2 * (train + validation)], train, validation)
    rng = np.random.default_rng((seed, 1))
    corrupted = rng.random(train) < corruption
    # Shuffled and not replaced: the characters are as frequent as before.
    pieces = pieces.copy()
    # `permuted` gives every row an order of its own, unlike `permutation`.
    pieces[parts[0][corrupted]] = rng.permuted(pieces[parts[0][corrupted]], axis=1)
    examples = [Examples(*(jnp.asarray(pieces[rows]),) * 2) for rows in parts]

    def embedded(kind: type, inputs: int, outputs: int, width: int, key: Array) -> Any:
        first, second = jax.random.split(key)
        table = jax.random.normal(first, (CHARACTERS, 16))
        return kind(table, eqx.nn.MLP(16 * inputs, outputs, width, 1, key=second))

    return Source(
        *(examples[0], corrupted, *examples[1:]),
        model=lambda wide, key: embedded(TextModel, BEFORE, CHARACTERS, wide, key),
        rater=lambda key: embedded(TextRater, 2, 1, width, key),
    )


def _parts(rows: np.ndarray, train: int, validation: int) -> list[np.ndarray]:
    """Divide rows into those for training, for validation and for testing.

    Raises:
        ValueError: if nothing is left for testing.
    """
    if train + validation >= len(rows):
        raise ValueError(
            f"train and validation are {train} and {validation}; together they must leave some of "
            f"the {len(rows)} examples for testing"
        )
    return np.split(rows, [train, train + validation])
