"""Detection of wrong labels by models that did not train on the example they judge."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

FLOOR = 1e-3
"""The smallest weight, so that a class whose labels are all doubted still affects training."""

CONFIDENT = 0.9
"""The fraction of its typical probability that a class needs for an example to count as its own.
Chosen, like the rounds, on iris, diabetes, generated classes, Omniglot and CIFAR-10."""

RECOGNIZED = 3.0
"""The standard errors by which a class must be more probable among the examples that carry its
label than among the others, for it to be measured by its typical probability elsewhere."""

MOST = np.log(2)
"""Above 0, for probabilities that were smoothed by adding to them; larger is no log probability."""

Predict = Callable[[np.ndarray, int], np.ndarray]
"""A function of (weights, round) that trains each fold's model on the weighted other folds.

It returns the log probabilities of the classes for every example, (examples, classes), by the model
that did not train on it."""


class LabelRanking(NamedTuple):
    """Weights and scores of labels from cross-fitting.

    Attributes:
        weights: the trust in each label, from 0 to 1, (examples,).
        scores: log odds of the most probable other class minus those of the given one, (examples,).
            Larger is more suspicious; above 0 the other class is more probable.
        suspect: whether the label is probably wrong, (examples,). The suspects are the examples of
            largest scores. Their number is that of the examples with a score above 0 and another
            class about as probable as among the examples that carry its label.
        suggested: the most probable class, (examples,); for a suspect it is not the given one.
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
    """Rank all examples by the doubt about their label; no label is assumed to be right.

    In every round each fold's model is trained on the other folds, with weights from the preceding
    round. The weight is 1 if the given label is the most probable class, and falls as another class
    exceeds it. Each class probability is first divided by its average over the examples that carry
    the class as their label (the thresholds of confident learning). A rare or difficult class is
    then not suspected as a whole. A class whose examples no model tells from the others, such as
    one of four examples, is suggested by its probability alone.

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
        rounds: rounds of weighting; 0 ranks by plain cross-validated predictions.
        factors: multiplicity of each example, (examples,), by which the weights are multiplied.

    Returns:
        Weights, scores and suggestions for every example.

    Raises:
        ValueError: if `rounds` is negative, the labels are no integers from 0, or `predict` returns
            another shape, NaN, or numbers that are no log probabilities.

    Reference:
        Northcutt, Jiang and Chuang (2021), Confident learning, for the thresholds; the weighting is
        a soft form of iterated trimming, Shen and Sanghavi (2019).
    """
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}; allowed are integers from 0")
    labels = _as_codes(labels)
    factors = np.ones(len(labels)) if factors is None else np.asarray(factors, np.float64)
    ranking = _judge(predict(factors, 0), labels, factors)
    for number in range(1, rounds + 1):
        ranking = _judge(predict(factors * ranking.weights, number), labels, factors)
    return ranking


def deal_folds(
    labels: np.ndarray, count: int, random_state: int | np.random.RandomState | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deal examples into folds, with every class spread as evenly as possible.

    Args:
        labels: integers from 0, (examples,).
        count: the number of folds, from 2; at most that of the examples is used.
        random_state: shuffles the examples.

    Returns:
        The rows to train on and the rows to judge, for each fold.

    Raises:
        ValueError: if `count` is below 2, or the labels are no integers from 0.
    """
    labels = _as_codes(labels)
    if count < 2:
        raise ValueError(f"count is {count}; allowed are integers from 2")
    count = min(count, len(labels))
    order = check_random_state(random_state).permutation(len(labels))
    # Sorted by class, examples are dealt to the folds in turn.
    dealt = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), int)
    fold[dealt] = np.arange(len(labels)) % count
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in range(count)]


def _as_codes(labels: np.ndarray) -> np.ndarray:
    """Return labels by position: a Series would be indexed by its index."""
    codes = np.asarray(labels)
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer) or np.any(codes < 0):
        raise ValueError(
            f"labels is of {codes.dtype}{list(codes.shape)}; allowed are integers from 0, one for "
            "each example. numpy.unique(labels, return_inverse=True)[1] numbers any classes so"
        )
    return codes.astype(int)


def _judge(logs: np.ndarray, labels: np.ndarray, factors: np.ndarray) -> LabelRanking:
    """Compare the given class with the most probable other one."""
    rows, logs = np.arange(len(labels)), np.asarray(logs, np.float64)
    if logs.ndim != 2 or len(logs) != len(labels) or logs.shape[1] <= labels.max():
        expected = f"({len(labels)}, {labels.max() + 1})"
        raise ValueError(f"predict returned the shape {logs.shape}; expected {expected}")
    if np.any(np.isnan(logs)):
        raise ValueError("predict returned NaN; expected log probabilities")
    # Probabilities themselves, or scores of no softmax, would rank as well, and wrongly.
    if logs.shape[1] > 1 and not (np.min(logs) < 0 and np.max(logs) < MOST):
        raise ValueError(
            f"predict returned numbers from {np.min(logs):.3g} to {np.max(logs):.3g}; expected log "
            "probabilities, which are at most 0"
        )
    # Multiplicities count in the averages: three copies are three examples.
    given = np.exp(logs[rows, labels])
    members = np.bincount(labels, factors, logs.shape[1])
    typical = np.bincount(labels, factors * given, logs.shape[1]) / np.where(members, members, 1)
    # Relative to what is typical of a class: classes that are hard to tell apart, or rare, have
    # lower probabilities for correct labels too (confident learning).
    relative = logs - np.log(np.maximum(typical, FLOOR))
    own = relative[rows, labels]
    # A class that no model recognizes, such as one of four examples, has about its typical
    # probability everywhere: it would be suggested for half of all rows.
    others = np.where(_recognized(np.exp(logs), labels, factors), relative, logs)
    others[rows, labels] = -np.inf
    scores = others.max(axis=1) - own
    count = np.sum((scores > 0) & (others.max(axis=1) >= np.log(CONFIDENT)))
    suspect = np.zeros(len(labels), bool)
    suspect[np.argsort(-scores, kind="stable")[:count]] = True
    return LabelRanking(
        weights=np.maximum(np.exp(-np.maximum(scores, 0)), FLOOR),
        scores=scores,
        suspect=suspect,
        suggested=np.where(scores > 0, others.argmax(axis=1), labels),
        log_probabilities=logs,
    )


def _recognized(probabilities: np.ndarray, labels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return for each class whether its examples have more of its probability than others have."""
    # Multiplicities are numbers of copies; below 1 they are shares, such as those that sum to 1.
    factors = factors * max(1, np.count_nonzero(factors) / factors.sum())
    total = factors.sum()
    inside = np.bincount(labels, factors, probabilities.shape[1])
    outside = total - inside
    means = factors @ probabilities / total
    spread = np.sqrt(np.maximum(factors @ (probabilities - means) ** 2 / total, FLOOR**4))
    own = factors * probabilities[np.arange(len(labels)), labels]
    within = np.bincount(labels, own, probabilities.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        lead = within / inside - (total * means - within) / outside
        return lead >= RECOGNIZED * spread * np.sqrt(1 / inside + 1 / outside)
