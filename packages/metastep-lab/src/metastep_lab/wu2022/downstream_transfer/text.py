"""The text part of `downstream-transfer`: a trained teacher, its students, and lines to classify.

A text is cut into lines of `context` words. An example is the beginning of a line up to a word of
interest, and its class is the polarity of that word; the classifier sees the hidden state only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metastep.anchors.bulk import least_squares_anchor, log_bulk
from metastep.anchors.counterexamples import shift_logits, silence_words
from metastep.anchors.log_linear import LogLinearModel
from metastep.anchors.synthetic import perturbed
from metastep_lab.experiment import Context
from metastep_lab.parts import in_turn, kept
from metastep_lab.wu2022.anchor_vectors.models import Architecture, Text, encode, untrained
from metastep_lab.wu2022.language import (
    AbstractLanguageModel,
    Recipe,
    Training,
    begin,
    train,
    window_states,
)

SEGMENTS = 16
KEPT = (0, 1, 2, 4, 8)
"""After how many of the sixteen parts of the training a student is kept."""


@dataclass(frozen=True)
class Task:
    """A text as numbers, and the words of interest.

    Attributes:
        train: the part for training models and fitting heads.
        test: the part for testing both.
        positive: words of the class 1.
        negative: words of the class -1.
    """

    train: np.ndarray
    test: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    @property
    def words(self) -> np.ndarray:
        """The words of interest."""
        return np.concatenate([self.positive, self.negative])


def classification(
    text: Text, vocabulary: int, positive: Sequence[str], negative: Sequence[str]
) -> Task:
    """Number the words of a text and find the words of interest among them.

    Raises:
        ValueError: if a class has no word in the vocabulary, or the vocabulary is too large.
    """
    train_words, test_words = encode(text, vocabulary)
    number = {str(word): int(place) for word, place in zip(text.train, train_words, strict=True)}
    found = {}
    for name, words in (("positive", positive), ("negative", negative)):
        found[name] = np.array([number[word] for word in words if number.get(word, 0) > 0])
        if not found[name].size:
            raise ValueError(f"{name} is {words}; allowed are words of which the text has one")
    return Task(train_words, test_words, **found)


def teacher_and_snapshots(
    architecture: Architecture,
    vocabulary: int,
    hidden: int,
    recipe: Recipe,
    words: np.ndarray,
    context: Context,
) -> dict[int, AbstractLanguageModel]:
    """Train a model; return it after each part of the training; the teacher has all 16 parts.

    Every part of the training has its checkpoint.
    """
    begin_key, train_key = jax.random.split(jax.random.key(context.seed))
    model = untrained(architecture, vocabulary, hidden, recipe.context, 0.02, begin_key)
    training: Training = begin(model, recipe, train_key)
    found, tokens = {0: model}, jnp.asarray(words)

    def go_on(training: Training) -> tuple[Training, dict]:
        return train(training, recipe, tokens, recipe.steps // SEGMENTS)[0], {}

    for part in in_turn(context, range(1, SEGMENTS + 1), "training the teacher"):
        training, _ = kept(context, f"part-{part}", partial(go_on, training), training)
        if part in KEPT or part == SEGMENTS:
            found[part] = training.model
    return found


@dataclass(frozen=True)
class Places:
    """Places in a text at which models are read.

    Attributes:
        lines: the words of each line, shape (lines, context).
        chosen: which of all places of all lines.
        labels: their classes: 1, -1, or 0 where no word of interest follows.
        weights: the share of the text's places that each represents; they sum to 1.
    """

    lines: np.ndarray
    chosen: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def read(self, model: AbstractLanguageModel) -> LogLinearModel:
        """Return a model evaluated at these places."""
        states = np.asarray(window_states(model, jnp.asarray(self.lines)))
        flat = states.reshape(-1, states.shape[-1])
        return LogLinearModel(flat[self.chosen], np.asarray(model.embedding))


def places(
    task: Task, words: np.ndarray, context: int, others: int, rng: np.random.Generator
) -> Places:
    """Choose all examples of a text and `others` of its other places, with their weights.

    Raises:
        ValueError: if a class has no example.
    """
    lines = words[:-1][: (len(words) - 1) // context * context].reshape(-1, context)
    following = words[1 : 1 + lines.size]
    labels = np.isin(following, task.positive).astype(int)
    labels -= np.isin(following, task.negative)
    examples, rest = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    if set(labels[examples]) != {-1, 1}:
        raise ValueError(
            f"context is {context}; with it a part of the text has no example of one class"
        )
    sample = np.sort(rng.choice(rest, min(others, rest.size), replace=False))
    weights = np.concatenate([
        np.full(examples.size, 1 / lines.size),
        np.full(sample.size, rest.size / lines.size / max(sample.size, 1)),
    ])  # fmt: skip
    chosen = np.concatenate([examples, sample])
    return Places(lines, chosen, labels[chosen], weights)


@dataclass(frozen=True)
class Student:
    """A student on the text that heads and anchors are fitted on, and on the held-out text.

    Attributes:
        family: how it differs from the teacher.
        strength: how much.
        fitted: on the text for fitting.
        judged: on the held-out text.
    """

    family: str
    strength: float
    fitted: LogLinearModel
    judged: LogLinearModel

    def anchor(self, teacher: LogLinearModel, words: np.ndarray, top: int) -> np.ndarray:
        """Fit the anchor of this student's own logits to the bulk of its teacher."""
        return least_squares_anchor(self.fitted, log_bulk(teacher, self.fitted, words, top))


Strengths = Mapping[str, Sequence[float]]


def students(
    kept: Mapping[int, AbstractLanguageModel],
    teacher: Student,
    where: tuple[Places, Places],
    task: Task,
    strengths: Strengths,
    seed: int,
) -> Iterator[Student]:
    """Yield students with an increasing distance from the teacher.

    `strengths` has for `perturbed` the noise relative to the dictionary's entries, for `shifted`
    the standard deviation over states of a shift of all logits, and for `silenced` by how much the
    words of class 1 are lowered, both in nats. `less trained` has the part of the training that is
    left out.
    """
    for part in KEPT:
        read = [one.read(kept[part]) for one in where]
        yield Student("less trained", 1 - part / SEGMENTS, *read)
    for strength in strengths["perturbed"]:
        both = [
            # A new generator for each text: the student has one dictionary, with the same noise on
            # both.
            perturbed(model, strength, np.random.default_rng([seed, 1]))
            for model in (teacher.fitted, teacher.judged)
        ]
        yield Student("perturbed", strength, *both)
    for strength in strengths["shifted"]:
        rng = np.random.default_rng([seed, 2])
        both = [
            # One generator: a shift is of a state, and the texts have different ones.
            shift_logits(model, strength * rng.normal(size=len(model.states)))
            for model in (teacher.fitted, teacher.judged)
        ]
        yield Student("shifted", strength, *both)
    for strength in strengths["silenced"]:
        both = [
            silence_words(model, task.positive, strength)
            for model in (teacher.fitted, teacher.judged)
        ]
        yield Student("silenced", strength, *both)
