"""Weighted softmax regression against scikit-learn, and its cross-fitting."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from metastep.sklearn import deal_folds
from metastep.sklearn._softmax_regression import PENALTIES, CrossFitting, fit_softmax


def made(examples=60, columns=4, classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(examples) % classes
    inputs = rng.standard_normal((examples, columns)) + labels[:, None]
    return inputs, np.insert(inputs, 0, 1.0, axis=1), labels, rng.uniform(0, 2, examples)


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_it_is_the_weighted_regression_of_scikit_learn(kind):
    inputs, features, labels, weights = made()
    found = fit_softmax(kind(features), labels, weights, 0.1, np.zeros((5, 3)))
    strength = 1 / (0.1 * weights.sum())
    peer = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(inputs, labels, weights)
    # Our search stops at a gradient of 1e-4.
    assert np.allclose(found[1:].T, peer.coef_, atol=5e-3)
    expected = peer.predict_proba(inputs)
    scores = np.exp(features @ found)
    assert np.allclose(scores / scores.sum(axis=1, keepdims=True), expected, atol=2e-3)


def test_no_fold_sees_what_it_judges():
    """A label changes nothing that is said of its own example by a model with a given penalty."""
    _, features, labels, weights = made()
    folds = deal_folds(labels, 5, random_state=0)
    moved = labels.copy()
    moved[folds[2][1]] = 0
    here, there = (
        CrossFitting(features, given, 3, folds, penalty=0.1).predict(weights, 0)
        for given in (labels, moved)
    )
    assert np.array_equal(here[folds[2][1]], there[folds[2][1]])
    assert not np.allclose(here[folds[1][1]], there[folds[1][1]])


def test_the_penalty_has_the_smallest_loss_of_held_out_rows():
    """Compared with every penalty of the table, each from a start of its own."""
    _, features, labels, weights = made()
    folds = deal_folds(labels, 5, random_state=0)
    tuned = CrossFitting(features, labels, 3, folds)
    tuned.tune(weights)

    def loss(penalty):
        logs = CrossFitting(features, labels, 3, folds, penalty).predict(weights, 0)
        return -weights @ logs[np.arange(60), labels]

    best = min(PENALTIES, key=loss)
    # Warm starts stop at other roundings.
    assert loss(tuned.penalty) <= loss(best) + 1e-3 * weights.sum()
