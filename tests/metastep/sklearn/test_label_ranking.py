"""The rule that ranks labels, on probabilities made by hand."""

import numpy as np
import pandas as pd
import pytest

from metastep.sklearn import HypercleanedClassifier, deal_folds, rank_labels

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])
LABELS = np.array([0, 0, 0, 1, 1])


def test_one_judgement_by_hand():
    """Class 0 has the typical probability .6 = (.9 + .8 + .1) / 3, class 1 has .75."""
    many = np.full(5, 20.0)  # of each row, so that both classes are clearly recognized
    predict = lambda weights, number: np.log(PROBABILITIES)
    ranking = rank_labels(predict, LABELS, rounds=0, factors=many)
    relative = PROBABILITIES / [0.6, 0.75]
    rows = np.arange(5)
    odds = relative[rows, 1 - LABELS] / relative[rows, LABELS]
    assert np.allclose(ranking.scores, np.log(odds))
    assert np.allclose(ranking.weights, np.minimum(1, 1 / odds))
    assert list(ranking.suspect) == [False, False, True, False, False]
    assert list(ranking.suggested) == [0, 0, 1, 1, 1]


def test_a_class_that_is_not_recognized_has_to_be_probable_itself():
    """Five rows show too little: the other class is not divided by its typical probability."""
    ranking = rank_labels(lambda weights, number: np.log(PROBABILITIES), LABELS, rounds=0)
    rows = np.arange(5)
    own = (PROBABILITIES / [0.6, 0.75])[rows, LABELS]
    assert np.allclose(ranking.scores, np.log(PROBABILITIES[rows, 1 - LABELS] / own))
    assert list(ranking.suggested) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("classes", [2, 3])
def test_four_examples_that_no_model_recognizes_make_no_others_suspect(classes):
    """Their class has its typical probability everywhere, by which dozens of rows were suspect."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3))
    y = (X[:, 0] > 0).astype(int) * (classes == 3)
    y[rare := rng.choice(500, 4, replace=False)] = classes - 1
    model = HypercleanedClassifier(random_state=0).fit(X, y)
    assert len(np.setdiff1d(model.suspects_, rare)) <= 5
    # Recognized, the class is suggested for the one of its examples that has lost its label.
    X[rare, 2] += 8
    y[rare[0]] = 0
    again = HypercleanedClassifier(random_state=0).fit(X, y)
    assert again.suspects_[0] == rare[0] and again.suggested_labels_[rare[0]] == classes - 1
    assert len(again.suspects_) <= 5


def test_each_round_trains_with_the_weights_of_the_last():
    seen = []

    def predict(weights, number):
        seen.append((number, weights))
        return np.log(PROBABILITIES)

    factors = np.array([1.0, 2.0, 3.0, 0.0, 1.0])
    ranking = rank_labels(predict, LABELS, rounds=2, factors=factors)
    assert [number for number, _ in seen] == [0, 1, 2]
    assert np.array_equal(seen[0][1], factors)
    assert np.allclose(seen[2][1], factors * ranking.weights)


def test_a_certain_mistake_keeps_a_little_weight():
    logs = np.array([[0.0, -np.inf], [0.0, -np.inf], [-np.inf, 0.0]])
    ranking = rank_labels(lambda weights, number: logs, np.array([0, 1, 1]))
    assert np.isposinf(ranking.scores[1]) and ranking.weights[1] == 1e-3
    assert list(ranking.suspect) == [False, True, False]


@pytest.mark.parametrize("count", [2, 5, 100])
def test_folds_share_every_class_evenly(count):
    labels = np.array([0] * 20 + [1] * 5 + [2])
    folds = deal_folds(labels, count, random_state=0)
    assert len(folds) == min(count, 26)
    assert np.array_equal(np.sort(np.concatenate([rows for _, rows in folds])), np.arange(26))
    for train, rows in folds:
        assert np.array_equal(np.sort(np.concatenate([train, rows])), np.arange(26))
        for label, total in enumerate([20, 5, 1]):
            assert abs(np.sum(labels[rows] == label) - total / len(folds)) < 1


def test_labels_are_taken_by_position():
    """A Series was indexed by its index, so that classes were not spread over the folds."""
    labels = pd.Series([0] * 10 + [1] * 10, index=np.arange(20)[::-1] + np.arange(20) % 2)
    for here, there in zip(*(deal_folds(x, 5, 0) for x in (labels, labels.values)), strict=True):
        assert np.array_equal(here[1], there[1])


@pytest.mark.parametrize("labels", [["a", "b"], [0.0, 1.0], [True, False], [0, -1], [[0, 1]]])
def test_other_labels_are_refused(labels):
    for use in (
        lambda: deal_folds(labels, 2, 0),
        lambda: rank_labels(lambda weights, number: np.log(PROBABILITIES[:2]), labels),
    ):
        with pytest.raises(ValueError, match=r"labels is of .*; allowed are integers from 0"):
            use()


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="count is 1; allowed are integers from 2"):
        deal_folds(LABELS, 1, random_state=0)


@pytest.mark.parametrize(
    ("logs", "rounds", "message"),
    [
        (np.zeros((5, 1)), 1, r"shape \(5, 1\); expected \(5, 2\)"),
        (np.full((5, 2), np.nan), 1, "returned NaN"),
        (np.zeros((5, 2)), -1, "rounds is -1"),
        (PROBABILITIES, 1, "numbers from 0.1 to 0.9; expected log probabilities"),
        (9 * np.log(PROBABILITIES) + 8, 1, "numbers from -12.7 to 7.05; expected log"),
    ],
)
def test_refused(logs, rounds, message):
    with pytest.raises(ValueError, match=message):
        rank_labels(lambda weights, number: logs, LABELS, rounds=rounds)
