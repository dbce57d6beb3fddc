"""Log-linear models of the next word as arrays, and the exact divergence of two of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from metastep.anchors.checks import checked_matrix

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class LogLinearModel:
    """Word j follows state h with probability exp(<h, v_j>) / Z; computed in float64.

    Attributes:
        states: hidden states, shape (states, hidden).
        unembedding: the dictionary, one row for each word, shape (vocabulary, hidden).

    Raises:
        ValueError: for shapes that do not match, or numbers that are not finite.

    Reference:
        Eqs. 3.1 to 3.4 of Wu's thesis.
    """

    states: np.ndarray
    unembedding: np.ndarray

    def __post_init__(self):
        states = checked_matrix("states", self.states, "states, hidden")
        words = checked_matrix("unembedding", self.unembedding, "vocabulary, hidden")
        if states.shape[1] != words.shape[1]:
            raise ValueError(
                f"states has shape {states.shape}; allowed: (states, {words.shape[1]}), as the "
                f"unembedding has {words.shape[1]} columns"
            )
        # The class is frozen, and converts its own fields.
        object.__setattr__(self, "states", states.astype(np.float64))
        object.__setattr__(self, "unembedding", words.astype(np.float64))

    def logits(self, rows: slice = slice(None)) -> np.ndarray:
        """Return <h, v_j>, shape (states of `rows`, vocabulary)."""
        return self.states[rows] @ self.unembedding.T

    def log_probabilities(self, rows: slice = slice(None)) -> np.ndarray:
        """Return log p(j | h), shape (states of `rows`, vocabulary)."""
        return log_softmax(self.logits(rows), axis=1)

    def at(self, rows: np.ndarray) -> "LogLinearModel":
        """Return the model on some of its states: indices or a mask."""
        return LogLinearModel(self.states[rows], self.unembedding)


def blocks(count: int) -> Iterator[slice]:
    """Cut `count` rows into slices whose logits fit into memory."""
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def check_same_inputs(teacher: LogLinearModel, student: LogLinearModel) -> None:
    """Refuse two models with different numbers of states or words."""
    for name in ("states", "unembedding"):
        expected, found = (len(getattr(model, name)) for model in (teacher, student))
        if expected != found:
            raise ValueError(
                f"{name} of the student has {found} rows; allowed are {expected}, those of the "
                "teacher"
            )


def check_words(words: Sequence[int] | np.ndarray, vocabulary: int) -> np.ndarray:
    """Return rows of a dictionary as an array; refuse none, repeated ones and ones outside it."""
    chosen = np.asarray(words)
    whole = chosen.ndim == 1 and chosen.size and np.issubdtype(chosen.dtype, np.integer)
    different = np.unique(chosen).size == chosen.size
    if not whole or not different or chosen.min() < 0 or chosen.max() >= vocabulary:
        raise ValueError(
            f"words is {words!r}; allowed are different integers from 0 to {vocabulary - 1}, "
            "at least one"
        )
    return chosen


def divergences(teacher: LogLinearModel, student: LogLinearModel) -> np.ndarray:
    """Compute KL(teacher || student) of the next word at every state.

    If logits differ by delta with mean 0 under the teacher, the divergence is
    log(1 + E[e^delta - 1 - delta]), a sum of positive terms only. A shift of all logits, which the
    softmax ignores, therefore gives exactly 0, and small divergences keep their digits.

    Example:
        >>> teacher = LogLinearModel(np.eye(2), np.log([[1.0, 2.0], [3.0, 2.0]]))
        >>> student = LogLinearModel(np.eye(2), np.log([[1.0, 1.0], [1.0, 1.0]]))
        >>> divergences(teacher, student).round(6)
        array([0.130812, 0.      ])

    Args:
        teacher: the model that weights the words.
        student: a model of the same states and words; its hidden size may differ.

    Returns:
        Shape (states,), in nats, never negative. Exact up to the rounding of the logits.
    """
    check_same_inputs(teacher, student)
    found = np.empty(len(teacher.states))
    for rows in blocks(len(found)):
        found[rows] = _divergence(teacher.logits(rows), student.logits(rows))
    return found


def _divergence(truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    weights = softmax(truth, axis=1)
    delta = other - truth
    delta -= np.sum(weights * delta, axis=1, keepdims=True)
    # e^d - 1 - d, where d is small without the cancellation of e^d - 1.
    # Clipped against overflow: rows with a larger delta are replaced below.
    excess = np.expm1(np.minimum(delta, 1.0)) - delta
    small = np.log1p(np.sum(weights * np.maximum(excess, 0.0), axis=1))
    large = delta.max(axis=1) > 1
    # The exponentials may overflow here, and nothing cancels: the plain formula is accurate.
    small[large] = logsumexp(log_softmax(truth[large], axis=1) + delta[large], axis=1)
    return np.maximum(small, 0.0)
