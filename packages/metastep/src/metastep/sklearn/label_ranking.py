"""Which labels are wrong, judged by models that did not train on the example they judge."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

FLOOR = 1e-3
"""The smallest weight: a class of which all labels are doubted must not vanish from training."""

CONFIDENT = 0.9
"""The part of its typical probability that a class needs for an example to count as its own.
Chosen, like the rounds, on iris, diabetes, made classes, Omniglot and CIFAR-10."""

Predict = Callable[[np.ndarray, int], np.ndarray]
"""Train on weighted examples, each fold's model on the other folds, from (weights, round).

Returns the log probabilities of the classes for every example, (examples, classes), by the model
that did not train on it."""


class LabelRanking(NamedTuple):
    """What cross-fitting says about labels.

    Attributes:
        weights: how far each label can be trusted, from 0 to 1, (examples,).
        scores: by how much the log odds of the most probable other class exceed those of the given
            one, (examples,). Larger is more suspicious; above 0 the other class is more probable.
        suspect: whether the label is probably wrong, (examples,). As many examples are suspect as
            have a score above 0 and an other class about as probable as it is among the examples
            that carry its label; they are those of the largest scores.
        suggested: the most probable class, (examples,); for a suspect another than the given one.
        log_probabilities: of all classes, by the model that did not train on the example.
    """

    weights: np.ndarray
    scores: np.ndarray
    suspect: np.ndarray
    suggested: np.ndarray
    log_probabilities: np.ndarray


def rank_labels(
    predict: Predict, labels: np.ndarray, *, rounds: int = 5, factors: np.ndarray | None = None
) -> LabelRanking:
    """Rank all examples by how little their label can be trusted, without any label known as right.

    In every round the model of each fold is trained on the other folds, on examples weighted by
    what the last round said about them: 1 where the given label is the most probable class, and
    less the more another class exceeds it. The probability of a class is first divided by its
    average over the examples that carry its label, so that a rare or a difficult class does not
    become suspect as a whole (the thresholds of confident learning).

    Cost: `rounds + 1` calls of `predict`.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> from metastep.sklearn import deal_folds, rank_labels
        >>> X, y = load_iris(return_X_y=True)
        >>> y[[3, 21, 96]] = [2, 1, 0]
        >>> folds = deal_folds(y, 5, random_state=0)
        >>> def predict(weights, round):
        ...     logs = np.zeros((150, 3))
        ...     for train, rows in folds:
        ...         model = RandomForestClassifier(30, random_state=round)
        ...         model.fit(X[train], y[train], weights[train])
        ...         logs[rows] = np.log(model.predict_proba(X[rows]) + 1e-6)
        ...     return logs
        >>> ranking = rank_labels(predict, y, rounds=2)
        >>> bool(np.all(np.isin([3, 21, 96], np.argsort(-ranking.scores)[:6])))
        True

    Args:
        predict: see `Predict`. It is called with the weights and the number of the round from 0.
        labels: the given classes, integers from 0, (examples,).
        rounds: of weighting; 0 ranks by plain cross-validated predictions.
        factors: how often each example counts, (examples,); `predict` gets the weights times them.

    Returns:
        Weights, scores and suggestions for every example.

    Raises:
        ValueError: if `rounds` is negative, or `predict` returns another shape or no numbers.

    Reference:
        Northcutt, Jiang and Chuang (2021), Confident learning, for the thresholds; the weighting is
        a soft form of iterated trimming, Shen and Sanghavi (2019).
    """
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}; allowed are integers from 0")
    factors = np.ones(len(labels)) if factors is None else factors
    ranking = _judge(predict(factors, 0), labels, factors)
    for number in range(1, rounds + 1):
        ranking = _judge(predict(factors * ranking.weights, number), labels, factors)
    return ranking


def deal_folds(
    labels: np.ndarray, count: int, random_state: int | np.random.RandomState | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deal examples into folds, every class as evenly as it goes.

    Args:
        labels: integers from 0, (examples,).
        count: the number of folds; no more than there are examples are made.
        random_state: shuffles the examples.

    Returns:
        The rows to train on and the rows to judge, for each fold.
    """
    count = min(count, len(labels))
    order = check_random_state(random_state).permutation(len(labels))
    # Examples of one class follow each other, and are dealt like cards.
    dealt = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), int)
    fold[dealt] = np.arange(len(labels)) % count
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in range(count)]


def _judge(logs: np.ndarray, labels: np.ndarray, factors: np.ndarray) -> LabelRanking:
    """Compare the given class with the most probable other one."""
    rows = np.arange(len(labels))
    if logs.ndim != 2 or len(logs) != len(labels) or logs.shape[1] <= labels.max():
        expected = f"({len(labels)}, {labels.max() + 1})"
        raise ValueError(f"predict returned the shape {logs.shape}; expected {expected}")
    if np.any(np.isnan(logs)):
        raise ValueError("predict returned NaN; expected log probabilities")
    given = np.exp(logs[rows, labels])
    members = np.bincount(labels, factors, logs.shape[1])
    typical = np.bincount(labels, factors * given, logs.shape[1]) / np.where(members, members, 1)
    relative = logs - np.log(np.maximum(typical, FLOOR))
    own = relative[rows, labels]
    others = relative.copy()
    others[rows, labels] = -np.inf
    scores = others.max(axis=1) - own
    count = np.sum((scores > 0) & (others.max(axis=1) >= np.log(CONFIDENT)))
    suspect = np.zeros(len(labels), bool)
    suspect[np.argsort(-scores, kind="stable")[:count]] = True
    return LabelRanking(
        weights=np.maximum(np.exp(-np.maximum(scores, 0)), FLOOR),
        scores=scores,
        suspect=suspect,
        suggested=relative.argmax(axis=1),
        log_probabilities=logs,
    )
