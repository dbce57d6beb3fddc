"""Which labels are suspect, by a linear model, boosted trees or a network."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metastep.sklearn import HypercleanedClassifier, deal_folds, rank_labels

Model = Literal["linear", "boosted", "network"]
FOLDS = 5
ROUNDS = {"linear": 5, "boosted": 2, "network": 3}
SMALLEST_PROBABILITY = 1e-6


class Trusted(NamedTuple):
    """Examples whose labels somebody has checked; classes as integers."""

    features: Any
    labels: np.ndarray


class Ranking(NamedTuple):
    """For every example: its score from 0 to 1, its weight, a suggestion, whether it is suspect."""

    scores: np.ndarray
    weights: np.ndarray
    suggested: np.ndarray
    suspect: np.ndarray


def rank(
    features: Any,
    labels: np.ndarray,
    trusted: Trusted | None,
    model: Model,
    progress: Callable[[int, int], None],
) -> Ranking:
    """Rank the labels.

    Args:
        features: (examples, features).
        labels: classes from 0, (examples,).
        trusted: checked examples, or None. The linear model tunes its weights on them, the others
            train on them, too.
        model: what judges.
        progress: is told how many parts of how many are done.

    Returns:
        The verdict on every example.
    """
    if model == "linear":
        progress(0, 1)
        estimator = HypercleanedClassifier(random_state=0)
        judges = () if trusted is None else (_array(trusted.features), trusted.labels)
        rows = features if trusted is None else _array(features)
        estimator.fit(rows, labels, *judges)
        suspect = np.zeros(len(labels), bool)
        suspect[estimator.suspects_] = True
        progress(1, 1)
        found = estimator
        return Ranking(found.label_scores_, found.sample_weight_, found.suggested_labels_, suspect)
    folds, total = deal_folds(labels, FOLDS, 0), FOLDS * (ROUNDS[model] + 1)
    classes = int(labels.max()) + 1

    def predict(weights: np.ndarray, number: int) -> np.ndarray:
        found = np.full((len(labels), classes), SMALLEST_PROBABILITY)
        for index, (train, rows) in enumerate(folds):
            progress(FOLDS * number + index, total)
            inputs, given, factors = features[train], labels[train], weights[train]
            if trusted is not None:
                inputs = np.concatenate([inputs, trusted.features])
                given = np.concatenate([given, trusted.labels])
                factors = np.concatenate([factors, np.ones(len(trusted.labels))])
            judge = _fitted(model, inputs, given, factors)
            found[np.ix_(rows, judge.classes_)] += judge.predict_proba(features[rows])
        return np.log(found)

    judged = rank_labels(predict, labels, rounds=ROUNDS[model])
    progress(total, total)
    return Ranking(expit(judged.scores), judged.weights, judged.suggested, judged.suspect)


def _fitted(model: Model, inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Any:
    """Train boosted trees or a network on weighted examples."""
    if model == "boosted":
        trees = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, min_samples_leaf=10, l2_regularization=1.0
        )
        return trees.fit(inputs, labels, weights)
    network = MLPClassifier((64,), alpha=1.0, max_iter=40, early_stopping=False, random_state=0)
    return make_pipeline(StandardScaler(), network).fit(
        inputs, labels, mlpclassifier__sample_weight=weights
    )


def _array(matrix: Any) -> Any:
    return matrix.toarray() if issparse(matrix) else matrix
