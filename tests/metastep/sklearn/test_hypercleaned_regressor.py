"""Weights that find wrong targets, and their hypergradient."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.metrics import average_precision_score
from sklearn.utils.estimator_checks import check_estimator

from metastep.sklearn import HypercleanedRegressor
from metastep.sklearn._weighted_ridge import error_slopes, fit_ridge


def test_scikit_learn_accepts_it():
    check_estimator(HypercleanedRegressor(), on_skip=None)


def test_the_hypergradient_is_that_of_central_differences():
    rng = np.random.default_rng(0)
    rows = np.insert(rng.standard_normal((20, 3)), 0, 1.0, axis=1)
    judges = np.insert(rng.standard_normal((9, 3)), 0, 1.0, axis=1)
    targets, truth, weights = rng.standard_normal(20), rng.standard_normal(9), rng.random(20)

    def error(weights):
        return np.mean((judges @ fit_ridge(rows, targets, weights, 0.1) - truth) ** 2)

    steps = 1e-5 * np.eye(20)
    slopes = [(error(weights + step) - error(weights - step)) / 2e-5 for step in steps]
    found = error_slopes(rows, targets, weights, 0.1, judges, truth)
    # Truncation and rounding of central differences in float64.
    assert np.allclose(found, slopes, atol=1e-8)


@pytest.fixture(scope="module")
def spoiled():
    """Diabetes with every tenth target drawn from all targets, shifted by their range."""
    features, targets = load_diabetes(return_X_y=True)
    wrong = np.arange(len(targets)) % 10 == 0
    sign = np.where(np.arange(len(targets)) % 20 == 0, 1, -1)
    return features, targets + 300 * sign * wrong, wrong, targets


def test_it_ranks_every_target(spoiled):
    features, given, wrong, _ = spoiled
    model = HypercleanedRegressor(random_state=0).fit(features, given)
    assert average_precision_score(wrong, model.label_scores_) > 0.95
    # Errors of the model itself reach those of the mistakes: a tenth of the suspects may be right.
    assert np.mean(wrong[model.suspects_]) > 0.9 and len(model.suspects_) > 0.9 * wrong.sum()
    assert np.allclose(model.sample_weight_, 1 - model.label_scores_)
    frame = pd.DataFrame(features, index=[f"patient {row}" for row in range(len(given))])
    named = HypercleanedRegressor(random_state=0).fit(frame, given).suspects_
    assert list(named.index) == [f"patient {row}" for row in model.suspects_]


def test_a_validation_set_tunes_the_weights(spoiled):
    features, given, wrong, targets = spoiled
    valid = np.arange(len(given)) % 3 == 1
    train = ~valid
    data = features[train], given[train], features[valid], targets[valid]
    model = HypercleanedRegressor().fit(*data)
    # A tenth is wrong: chance would give .1.
    assert average_precision_score(wrong[train], model.label_scores_) > 0.4
    plain = HypercleanedRegressor(max_iter=1, learning_rate=1e-9).fit(*data)
    assert model.score(*data[2:]) > plain.score(*data[2:])


@pytest.mark.parametrize("factor", [2.0**-300, 2.0**270])
def test_the_unit_of_targets_does_not_matter(spoiled, factor):
    """The squares of the slopes were 0 or infinite, and no target was suspect."""
    features, given, _, targets = spoiled
    data = lambda by: (features[::2], by * given[::2], features[1::2], by * targets[1::2])
    plain = HypercleanedRegressor(max_iter=3).fit(*data(1))
    scaled = HypercleanedRegressor(max_iter=3).fit(*data(factor))
    assert np.allclose(scaled.label_scores_, plain.label_scores_, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": -1}, "rounds == -1, must be >= 0"),
        ({"rounds": 1.5}, "rounds must be an instance of int"),
        ({"regularization": 0.0}, "regularization == 0.0, must be > 0"),
        ({"threshold": 2.0}, "threshold == 2.0, must be <= 1"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
    ],
)
def test_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        HypercleanedRegressor(**settings).fit(np.eye(6), np.arange(6.0))


def test_negative_weights_of_examples_are_refused():
    with pytest.raises(ValueError, match="Negative values"):
        HypercleanedRegressor().fit(np.eye(6), np.arange(6.0), sample_weight=[1, 1, 1, 1, 1, -1])
