"""The language models of `anchor-vectors`: trained here, the same untrained, and the user's."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep.anchors.hugging_face import load_causal_model
from metastep.saving import load, save
from metastep_lab import data
from metastep_lab.data.wikitext2 import END_OF_LINE
from metastep_lab.experiment import Context
from metastep_lab.wu2022.language import (
    AbstractLanguageModel,
    GatedRecurrentModel,
    Recipe,
    Training,
    TransformerModel,
    begin,
    train,
    window_states,
)

Architecture = Literal["gru", "transformer"]
SEGMENT = 50  # steps between two checkpoints
HELD_OUT = 0.2  # the part of a text without parts that the anchors are fitted on


@dataclass(frozen=True)
class Text:
    """A text in two parts, as words.

    Attributes:
        train: the part for training models.
        test: the part for fitting anchors of the models that are trained here.
        given: the part for fitting anchors of given models.
    """

    train: Sequence[str]
    test: Sequence[str]
    given: Sequence[str]


@dataclass(frozen=True)
class Source:
    """A language model that has read a text.

    Attributes:
        name: unique in a run.
        architecture: `gru`, `transformer` or `hugging-face`.
        trained: whether it was trained.
        seed: of its initial values and of its training; -1 where it is unknown.
        parameters: their number.
        states: for each window of text float32 of shape (tokens, hidden).
        targets: the token after each state, shape (tokens in all windows,).
        unembedding: the dictionary, shape (vocabulary, hidden).
    """

    name: str
    architecture: str
    trained: bool
    seed: int
    parameters: int
    states: list[np.ndarray]
    targets: np.ndarray
    unembedding: np.ndarray


def read_text(name: str, folder: Path | None) -> Text:
    """Read a text, and split it into a part for training models and one for fitting anchors.

    `embedded` is the language reference that ships with Python; other names than that and
    `wikitext2` are paths of text files, split into words and signs, of which the last fifth is for
    all anchors. Of WikiText-2 the largest part that is there is for training, and the validation
    part, or else the last one, for the anchors; given models read the test part, or else that one.

    Raises:
        ValueError: if the path does not name a text file.
        DataNotFoundError: if WikiText-2 is not found.
    """
    if name == "wikitext2":
        arrays = data.wikitext2(folder).arrays
        parts = [part for part in ("train", "test", "validation") if part in arrays]
        train_part, rest = parts[0], parts[1:]
        words = {part: arrays["vocabulary"][arrays[part]].tolist() for part in parts}
        if rest:
            return Text(words[train_part], words[rest[-1]], words.get("test", words[rest[-1]]))
        return _split(words[train_part])
    if name == "embedded":
        content = "\n".join(topics[topic] for topic in sorted(topics))
    else:
        try:
            content = Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"text is {name!r}; allowed are embedded, wikitext2 and the path of a text file in "
                f"UTF-8 ({getattr(error, 'strerror', None) or 'this is none'})"
            ) from error
    return _split(re.findall(r"\w+|[^\w\s]", content.lower()))


def _split(words: Sequence[str]) -> Text:
    end = round((1 - HELD_OUT) * len(words))
    return Text(words[:end], words[end:], words[end:])


def encode(text: Text, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the words: 1, 2, ... by their frequency in the training part, 0 for all others.

    Raises:
        ValueError: if the training part has fewer than `vocabulary` different words.
    """
    counts = Counter(text.train)
    if len(counts) < vocabulary - 1:
        raise ValueError(
            f"vocabulary is {vocabulary}; the text allows at most {len(counts) + 1}, the different "
            "words of its training part and one for all others"
        )
    # Equally frequent words by the alphabet: the numbers do not depend on the order of the text.
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 1]
    number = {word: place for place, word in enumerate(frequent, start=1)}
    sides = [np.array([number.get(word, 0) for word in side]) for side in (text.train, text.test)]
    return sides[0].astype(np.int32), sides[1].astype(np.int32)


def untrained(
    architecture: Architecture, vocabulary: int, hidden: int, context: int, scale: float, key: Array
) -> AbstractLanguageModel:
    """Return a model with random values; `scale` is that of the embedding's entries."""
    if architecture == "gru":
        return GatedRecurrentModel(vocabulary, hidden, scale=scale, key=key)
    return TransformerModel(vocabulary, hidden, context=context, scale=scale, key=key)


def trained(
    model: AbstractLanguageModel,
    recipe: Recipe,
    words: np.ndarray,
    key: Array,
    context: Context,
    name: str,
) -> tuple[AbstractLanguageModel, np.ndarray]:
    """Train a model, or continue from its checkpoint; return it and the loss of each step."""
    path, tokens = context.checkpoint(name), jnp.asarray(words)
    state: tuple[Training, Array] = begin(model, recipe, key), jnp.zeros(recipe.steps)
    if context.resume and path.exists():
        state, _ = load(path, state)
    training, losses = state
    while (done := int(training.step)) < recipe.steps:
        context.progress(done, recipe.steps, f"training {name}")
        count = min(SEGMENT, recipe.steps - done)
        training, part = train(training, recipe, tokens, count)
        losses = losses.at[done : done + count].set(part)
        # In one file: the losses that are kept are those of the steps that were made.
        save(path, (training, losses), {})
    context.progress(recipe.steps, recipe.steps, f"training {name}")
    return training.model, np.asarray(losses)


def reader(
    name: str,
    architecture: Architecture,
    seed: int,
    is_trained: bool,
    model: AbstractLanguageModel,
    words: np.ndarray,
    context: int,
) -> Source:
    """Evaluate a model on a text in windows of `context` words."""
    # Windows do not overlap: the target of the last word of one is the first word of the next.
    windows = words[:-1][: (len(words) - 1) // context * context].reshape(-1, context)
    states = np.asarray(window_states(model, jnp.asarray(windows)))
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    return Source(
        name=name,
        architecture=architecture,
        trained=is_trained,
        seed=seed,
        parameters=sum(array.size for array in arrays),
        states=list(states),
        targets=words[1 : 1 + windows.size],
        unembedding=np.asarray(model.embedding),
    )


def opened(directories: Sequence[str], text: Text, tokens: int) -> Iterator[Source]:
    """Yield the user's Hugging Face models, each after it has read up to `tokens` tokens of a text.

    Raises:
        ValueError: if a directory holds no causal language model, or the text has no tokens.
    """
    # Tokenizers of given models know line ends, not the word that stands for them in WikiText-2.
    content = " ".join(text.given).replace(END_OF_LINE, "\n")
    for directory in directories:
        model = load_causal_model(directory)
        ids = model.tokens(content)[: tokens + 1]
        if len(ids) < 2:
            raise ValueError(f"directories has {directory}; its tokenizer finds no tokens")
        yield Source(
            name=Path(directory).name,
            architecture="hugging-face",
            trained=True,
            seed=-1,
            parameters=model.parameters,
            states=list(model.hidden_states(ids[:-1])),
            targets=ids[1:],
            unembedding=model.unembedding,
        )
