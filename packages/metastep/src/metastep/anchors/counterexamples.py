"""Two students that predict the next word like their teacher, but whose logits are useless.

Both are log-linear models with one more coordinate of the hidden states and of the dictionary. With
the anchor (v0, 1) the second student has the anchored logits that the teacher has with v0. With
(v0, 0) so has the first one, except for the lowered words.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from metastep.anchors.log_linear import LogLinearModel, blocks, check_words
from metastep.checks import require


def silence_words(
    model: LogLinearModel, words: Sequence[int] | np.ndarray, shift: float
) -> LogLinearModel:
    """Lower the logits of some words by the same amount at every state.

    KL(p* || p) at a state is log(1 - p + p e^-s) + s p, where p is the total probability of these
    words. It is at most s p: close to 0 for improbable words, however large s is. A head that is
    linear in the logits changes by -s c for a word with coefficient c. With a threshold above the
    word's logit it does not change.

    Example:
        >>> model = LogLinearModel(np.eye(2), np.zeros((3, 2)))
        >>> silence_words(model, [1], 5.0).logits()
        array([[ 0., -5.,  0.],
               [ 0., -5.,  0.]])

    Args:
        model: the teacher.
        words: the words to lower, as rows of the dictionary.
        shift: s, in nats, from 0.

    Returns:
        The student: states (h, 1), rows (v, -s) for these words and (v, 0) for the others. Exact.

    Reference:
        Theorem 3.3.1 of Wu's thesis, for one word.
    """
    require(0 <= shift < np.inf, "shift", shift, "finite numbers from 0")
    chosen = check_words(words, len(model.unembedding))
    column = np.zeros(len(model.unembedding))
    column[chosen] = -shift
    return _extend(model, np.ones(len(model.states)), column)


def shift_logits(model: LogLinearModel, shift: ArrayLike) -> LogLinearModel:
    """Add a number to all logits of a state, which changes no probability.

    Example:
        >>> model = LogLinearModel(np.eye(2), np.zeros((3, 2)))
        >>> shift_logits(model, [-1.0, 2.0]).logits()
        array([[-1., -1., -1.],
               [ 2.,  2.,  2.]])

    Args:
        model: the teacher.
        shift: tau, in nats; one number, or one for each state.

    Returns:
        The student: states (h, tau), rows (v, 1). Exact.

    Reference:
        Theorem 3.3.2 of Wu's thesis.
    """
    tau = np.asarray(shift, np.float64)
    if tau.shape not in ((), (len(model.states),)) or not np.isfinite(tau).all():
        raise ValueError(
            f"shift is {shift!r}; allowed are a finite number or one for each of the "
            f"{len(model.states)} states"
        )
    states = np.broadcast_to(tau, len(model.states))
    return _extend(model, states, np.ones(len(model.unembedding)))


def useless_shift(model: LogLinearModel, thresholds: ArrayLike) -> float:
    """Return a shift of all logits after which every thresholded word is inactive.

    It is one nat below min b - max z, where `thresholds` b are those of a head on the logits that
    are not anchored: with it, the head of the student is exactly 0 everywhere.

    Reference:
        The proof of Theorem 3.3.2 of Wu's thesis.
    """
    values = np.asarray(thresholds, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"thresholds is {thresholds!r}; allowed are finite numbers, at least one")
    # In blocks: all logits at once are states x vocabulary numbers.
    largest = max(model.logits(rows).max() for rows in blocks(len(model.states)))
    return float(values.min() - largest) - 1.0


def _extend(model: LogLinearModel, states: np.ndarray, words: np.ndarray) -> LogLinearModel:
    """Append one coordinate to every state and every word."""
    return LogLinearModel(
        np.column_stack([model.states, states]), np.column_stack([model.unembedding, words])
    )
