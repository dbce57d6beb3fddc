"""Which labels are suspect, by a linear model, boosted trees or a network."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier

from metastep.sklearn import HypercleanedClassifier, HypercleanedModel, deal_folds, rank_labels

Model = Literal["linear", "boosted", "network"]
FOLDS = 5
ROUNDS = 2  # of weighting, with boosted trees
HIDDEN = 64  # units of the network
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
        features: (examples, features); sparse only for the linear model without checked examples.
        labels: classes from 0, (examples,).
        trusted: checked examples, or None. The linear model and the network tune their weights on
            them; boosted trees train on them, too.
        model: the kind of model.
        progress: called with the number of finished parts and their total.

    Returns:
        The verdict on every example.
    """
    if model != "boosted":
        progress(0, 1)
        found = _estimator(model).fit(features, labels, *(trusted or ()))
        suspect = np.zeros(len(labels), bool)
        suspect[found.suspects_] = True
        progress(1, 1)
        return Ranking(found.label_scores_, found.sample_weight_, found.suggested_labels_, suspect)
    folds, total = deal_folds(labels, FOLDS, 0), FOLDS * (ROUNDS + 1)
    classes = int(labels.max()) + 1

    def predict(weights: np.ndarray, number: int) -> np.ndarray:
        # Not zero: its logarithm would be infinite, and with it every difference of scores.
        found = np.full((len(labels), classes), SMALLEST_PROBABILITY)
        for index, (train, rows) in enumerate(folds):
            progress(FOLDS * number + index, total)
            inputs, given, factors = features[train], labels[train], weights[train]
            if trusted is not None:
                inputs = np.concatenate([inputs, trusted.features])
                given = np.concatenate([given, trusted.labels])
                factors = np.concatenate([factors, np.ones(len(trusted.labels))])
            # A fold may lack a rare class; the model then has fewer columns.
            judge = _boosted(inputs, given, factors)
            found[np.ix_(rows, judge.classes_)] += judge.predict_proba(features[rows])
        return np.log(found)

    judged = rank_labels(predict, labels, rounds=ROUNDS)
    progress(total, total)
    return Ranking(expit(judged.scores), judged.weights, judged.suggested, judged.suspect)


def _estimator(model: Model) -> Any:
    if model == "linear":
        return HypercleanedClassifier(random_state=0)
    return HypercleanedModel(init_network, apply_network, random_state=0)


def init_network(key: Array, features: int, classes: int) -> tuple[Array, Array, Array, Array]:
    """Draw the parameters of a network with one hidden layer: two matrices and their intercepts."""
    one, two = jax.random.split(key)
    # He et al. (2015): the 2 makes up for the half of a signal that a ReLU lets through.
    hidden = jax.random.normal(one, (features, HIDDEN)) * (2 / features) ** 0.5
    output = jax.random.normal(two, (HIDDEN, classes)) * (1 / HIDDEN) ** 0.5
    return hidden, jnp.zeros(HIDDEN), output, jnp.zeros(classes)


def apply_network(params: tuple[Array, Array, Array, Array], inputs: Array) -> Array:
    """Return the scores of the classes, (examples, classes), for inputs (examples, features)."""
    hidden, shift, output, offset = params
    return jax.nn.relu(inputs @ hidden + shift) @ output + offset


def _boosted(inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Any:
    """Train trees on weighted examples."""
    # Small trees with a penalty: deep ones memorize the labels that they are to judge.
    # Beyond 10,000 examples they stop early, by a random part: it must be the same one again.
    trees = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, min_samples_leaf=10, l2_regularization=1.0, random_state=0
    )
    return trees.fit(inputs, labels, weights)
