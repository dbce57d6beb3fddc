"""The data of `data-attribution`: some images have wrong labels, some paragraphs random words."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from metastep_lab import data
from metastep_lab.studies.data_attribution.models import CLASSES, CONTEXT

RARE, HEADING = 0, "="


class Split(NamedTuple):
    """Training examples, queries, and which of the examples are corrupted on purpose."""

    examples: PyTree[Array]
    queries: PyTree[Array]
    planted: np.ndarray


def images(
    dataset: str, folder: Path | None, sizes: tuple[int, int], planted: float, seed: tuple[int, int]
) -> Split:
    """Return images and labels of digits or mnist, of which a share is wrong in the training part.

    `sizes` are the numbers of training examples and of queries, `planted` is the share of the
    training labels that is replaced by another class.

    Raises:
        ValueError: if the data set has too few images.
        DataNotFoundError: if it is not there.
    """
    loaded = (data.digits if dataset == "digits" else data.mnist)(folder).arrays
    pixels = loaded["images"].astype(np.float32) / loaded["images"].max()
    labels = loaded["labels"].astype(np.int32)
    rows, rng = _rows(len(labels), sizes, dataset, seed)
    train, query = rows[: sizes[0]], rows[sizes[0] :]
    wrong = _planted(sizes[0], planted, rng)
    # From 1, so that a planted label is always wrong.
    shift = rng.integers(1, CLASSES, sizes[0])
    given = np.where(wrong, (labels[train] + shift) % CLASSES, labels[train]).astype(np.int32)
    return Split(_arrays(pixels[train], given), _arrays(pixels[query], labels[query]), wrong)


def paragraphs(
    folder: Path | None,
    vocabulary: int,
    sizes: tuple[int, int],
    planted: float,
    seed: tuple[int, int],
) -> Split:
    """Return the beginnings of paragraphs of WikiText-2, and which training ones are planted.

    `vocabulary` is the number of different words, `planted` the share of the training paragraphs
    whose words are drawn from all of them; the other arguments are those of `images`.

    Raises:
        ValueError: if the data set has too few paragraphs.
        DataNotFoundError: if it is not there.
    """
    loaded = data.wikitext2(folder).arrays
    parts = [part for part in ("train", "validation", "test") if part in loaded]
    words, names = np.concatenate([loaded[part] for part in parts]), loaded["vocabulary"]
    ends = np.flatnonzero(names[words] == "<eos>")
    lines = np.split(words, ends + 1)
    # Longer than the context, so that none ends within it. Headings are lines such as = Title =.
    whole = [line[:CONTEXT] for line in lines if len(line) > CONTEXT and names[line[0]] != HEADING]
    rows, rng = _rows(len(whole), sizes, "WikiText-2", seed)
    # Of all the text, so that every seed has the same vocabulary and the model one shape.
    counts = np.bincount(words, minlength=len(names))
    frequent = np.argsort(-counts, kind="stable")[: vocabulary - 1]
    number = np.full(len(names), RARE)
    number[frequent] = np.arange(1, vocabulary)
    tokens = number[np.stack([whole[row] for row in rows])].astype(np.int32)
    train, query = tokens[: sizes[0]], tokens[sizes[0] :]
    spoilt = _planted(sizes[0], planted, rng)
    # As frequent as in the text: noise that word counts alone would not show.
    train = np.where(spoilt[:, None], rng.choice(train.ravel(), train.shape), train)
    return Split(jnp.asarray(train), jnp.asarray(query), spoilt)


def _rows(
    there: int, sizes: tuple[int, int], name: str, seed: tuple[int, int]
) -> tuple[np.ndarray, np.random.Generator]:
    if sum(sizes) > there:
        raise ValueError(
            f"train and queries are {sizes[0]} and {sizes[1]}; together they may be at most the "
            f"{there} examples of {name}"
        )
    rng = np.random.default_rng(seed)
    return rng.permutation(there)[: sum(sizes)], rng


def _planted(total: int, share: float, rng: np.random.Generator) -> np.ndarray:
    spoilt = np.zeros(total, bool)
    spoilt[rng.permutation(total)[: round(share * total)]] = True
    return spoilt


def _arrays(*parts: np.ndarray) -> tuple[Array, ...]:
    return tuple(map(jnp.asarray, parts))
