"""Weights that find wrong labels, padding that changes nothing, and what is refused."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import average_precision_score
from sklearn.model_selection import ShuffleSplit
from sklearn.utils.estimator_checks import check_estimator

import metastep as ms
from metastep.sklearn import HypercleanedClassifier
from metastep.sklearn._parts import Standardization
from metastep.sklearn._weighted_training import (
    Labelled,
    Settings,
    make_problem,
    tune_weights,
)
from metastep.tasks import WeightedClassification
from tests.helpers import relative_distance


def test_scikit_learn_accepts_it():
    # Equal up to the tolerance of L-BFGS, where sparse columns are not centered.
    sparse = {"check_sample_weight_equivalence_on_sparse_data": "stops at another rounding"}
    check_estimator(HypercleanedClassifier(), on_skip=None, expected_failed_checks=sparse)


def labelled(rng, examples):
    features = np.insert(rng.standard_normal((examples, 4)), 0, 1.0, axis=1)
    return Labelled(features, np.arange(examples) % 3)


def test_the_padded_problem_is_that_of_hypercleaning(key):
    """Value and hypergradient are those of `WeightedClassification`, with free intercepts."""
    rng = np.random.default_rng(0)
    train, valid = labelled(rng, 30), labelled(rng, 18)
    settings = Settings(3, regularization=0.01, horizon=20, window=5, learning_rate=0.1, steps=1)
    padded = make_problem(train, valid, settings)
    arrays = jnp.asarray(train.features, jnp.float32), jnp.asarray(train.labels)
    judges = jnp.asarray(valid.features, jnp.float32), jnp.asarray(valid.labels)
    task = WeightedClassification(*arrays, *judges, 3, 0.0)
    plain = ms.TrainingProblem(
        lambda params, outer, batch: task.loss(params, outer) + 0.01 * jnp.sum(params[:, 1:] ** 2),
        task.validation_loss,
        task.initial_params(),
        padded.optimizer,
        settings.horizon,
    )
    assert plain.init_params.shape == (3, 5) and padded.init_params.shape == (4, 16)
    outer, estimator = jnp.linspace(-1, 1, 30), ms.TruncatedReverse(settings.window)
    there = ms.hypergradient(padded, jnp.pad(outer, (0, 34)), estimator, key=key)
    here = ms.hypergradient(plain, outer, estimator, key=key)
    # Sums of float32 in another order.
    assert relative_distance(there.value, here.value) < 1e-6
    assert relative_distance(there.grad[:30], here.grad) < 1e-5
    assert not np.any(there.grad[30:])


@pytest.fixture(scope="module")
def iris():
    features, labels = load_iris(return_X_y=True)
    valid = np.arange(0, 150, 5)
    train = np.setdiff1d(np.arange(150), valid)
    rng = np.random.default_rng(1)
    given = labels[train].copy()
    wrong = rng.random(len(train)) < 0.3
    given[wrong] = (given[wrong] + rng.integers(1, 3, wrong.sum())) % 3
    names = np.array(["setosa", "versicolor", "virginica"])
    return features[train], names[given], features[valid], names[labels[valid]], wrong


def test_it_finds_wrong_labels(iris):
    *data, wrong = iris
    model = HypercleanedClassifier().fit(*data)
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    assert np.mean(model.predict(data[2]) == data[3]) >= 0.9
    # 36 wrong labels of 120: chance would hit 30 %.
    assert np.mean(wrong[model.suspects_[:20]]) >= 0.9
    assert np.mean(model.sample_weight_[wrong]) < 0.2 < 0.7 < np.mean(model.sample_weight_[~wrong])
    assert np.all(np.diff(model.suspect_scores_) <= 0)
    assert np.all(model.sample_weight_[model.suspects_] < 0.25)
    assert np.allclose(model.suspect_scores_, 1 - model.sample_weight_[model.suspects_])
    assert model.validation_loss_curve_.shape == (model.n_iter_,) == (30,)
    assert model.validation_loss_curve_[-1] < model.validation_loss_curve_[0] - 0.1
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.predict_proba(data[0]), model.predict_proba(data[0]))
    assert np.array_equal(clone(model).fit(*data).coef_, model.coef_)


def test_weights_move_by_how_much_an_example_matters():
    """The first update is the hypergradient over its typical size, in which padding has no part."""
    rng = np.random.default_rng(0)
    train, valid = labelled(rng, 30), labelled(rng, 18)
    settings = Settings(3, regularization=0.01, horizon=20, window=5, learning_rate=2.0, steps=1)
    problem, estimator = make_problem(train, valid, settings), ms.TruncatedReverse(5)
    slopes = ms.hypergradient(problem, jnp.zeros(64), estimator, key=jax.random.key(0)).grad[:30]
    unit = np.sum(slopes**2) / np.sum(np.abs(slopes))
    # Sums of float32 in another order.
    assert relative_distance(tune_weights(train, valid, settings).logits, -2 * slopes / unit) < 1e-5


def test_units_do_not_matter(iris):
    """Only rounding of the standardized columns to float32 differs."""
    *data, _ = iris
    scale = np.array([1e-3, 1.0, 50.0, 1e6])
    here = HypercleanedClassifier().fit(*data)
    there = HypercleanedClassifier().fit(data[0] * scale + 7, data[1], data[2] * scale + 7, data[3])
    assert np.allclose(here.sample_weight_, there.sample_weight_, atol=1e-3)


def test_every_label_is_ranked_without_a_validation_set(iris):
    features, labels, _, _, wrong = iris
    model = HypercleanedClassifier(random_state=0).fit(features, labels)
    assert np.mean(wrong[model.suspects_[:30]]) >= 0.9
    # The scores rank all examples, not the suspects alone: 36 of 120 would be .3 by chance.
    assert average_precision_score(wrong, model.label_scores_) > 0.9
    assert np.mean(model.sample_weight_[wrong]) < 0.5 < 0.9 < np.mean(model.sample_weight_[~wrong])
    assert abs(len(model.suspects_) - wrong.sum()) <= 8
    assert np.all(model.suggested_labels_[model.suspects_] != labels[model.suspects_])
    assert np.array_equal(model.suspect_scores_, model.label_scores_[model.suspects_])
    every = HypercleanedClassifier(random_state=0, threshold=0.0).fit(features, labels)
    assert len(every.suspects_) == len(labels)


def test_a_label_that_occurs_once_is_suspect(iris):
    features, labels = iris[:2]
    labels = labels.astype("<U10")
    labels[0] = "orchid"
    with pytest.warns(UserWarning, match=r"label of row 0 \(1 such rows\).*whatever the example"):
        model = HypercleanedClassifier(random_state=0).fit(features, labels)
    assert 0 in model.suspects_ and "orchid" in model.classes_


def test_a_frame_brings_its_index(iris):
    features, labels = iris[:2]
    frame = pd.DataFrame(features, index=[f"flower {row}" for row in range(len(labels))])
    frame.columns = ["a", "b", "c", "d"]
    model = HypercleanedClassifier(random_state=0).fit(frame, pd.Series(labels, frame.index))
    plain = HypercleanedClassifier(random_state=0).fit(features, labels)
    assert list(model.suspects_.columns) == ["given", "suggested", "score"]
    assert list(model.suspects_.index) == [f"flower {row}" for row in plain.suspects_]
    assert list(model.suspects_["given"]) == list(labels[plain.suspects_])
    assert list(model.feature_names_in_) == ["a", "b", "c", "d"]


COLUMNS = {
    "mean 0": lambda rows: rows - rows.mean(axis=0),
    "without a zero": lambda rows: rows,
    "years": lambda rows: rows + np.array([2000, 1e6, 0, 0]),
    "constant": lambda rows: np.insert(rows, 2, 0.1, axis=1),
}


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
def test_sparse_rows_rank_as_dense_ones(iris, make):
    """Columns of mean 0 or without a zero: both standardizations are the same then."""
    features, labels = iris[:2]
    features = make(features)
    dense = HypercleanedClassifier(random_state=0).fit(features, labels)
    sparse = HypercleanedClassifier(random_state=0).fit(csr_array(features), labels)
    # L-BFGS takes other roundings.
    assert np.allclose(dense.label_scores_, sparse.label_scores_, atol=0.02)
    assert np.allclose(sparse.predict_proba(csr_array(features)), sparse.predict_proba(features))
    with pytest.raises(ValueError, match=r"X is sparse, .*TruncatedSVD"):
        HypercleanedClassifier().fit(csr_array(features), labels, features, labels)


@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_columns_are_scaled_as_by_scikit_learn(weighted):
    rng = np.random.default_rng(0)
    rows = rng.normal(3, 1, (60, 5)) * (rng.random((60, 5)) < 0.5)
    # Full and almost constant, full where it counts, constant, zero.
    rows[:, 0] = 1e6 + rng.random(60)
    weights = rng.random(60) * (np.arange(60) % 7 > 0) if weighted else np.ones(60)
    rows[:, 1] = np.where(weights > 0, 0.1, 0)
    rows[:, 2], rows[:, 3] = 1 / 3, 0
    dense, sparse = (Standardization.of(kind(rows), weights) for kind in (np.asarray, csr_array))
    # Rounding of values of 10^6 whose deviation is 0.3.
    assert np.allclose(sparse.scales, dense.scales, rtol=1e-8, atol=0)
    full = np.all(rows != 0, axis=0)
    assert np.allclose(sparse.means, np.where(full, dense.means, 0), rtol=1e-12, atol=0)


def test_weights_of_examples_may_be_shares(iris):
    """Classes were recognized by the sum of the weights: hardly ever where that is 1."""
    features, labels = iris[:2]
    plain = HypercleanedClassifier(random_state=0).fit(features, labels)
    shares = np.full(len(labels), 1 / len(labels))
    shared = HypercleanedClassifier(random_state=0).fit(features, labels, sample_weight=shares)
    # Rounding of the shares, which L-BFGS amplifies.
    assert np.allclose(plain.label_scores_, shared.label_scores_, atol=1e-6)
    assert np.array_equal(plain.suspects_, shared.suspects_)


def test_examples_of_weight_zero_train_nothing_and_are_ranked(iris):
    features, labels, _, _, wrong = iris
    factors = np.where(np.arange(len(labels)) % 4 == 0, 0.0, 2.0)
    silent = factors == 0
    model = HypercleanedClassifier(random_state=0).fit(features, labels, sample_weight=factors)
    # Twice what chance gives among these 30 examples.
    precision = average_precision_score(wrong[silent], model.label_scores_[silent])
    assert precision > 2 * wrong[silent].mean()
    moved = np.where(silent, labels[0], labels)
    there = HypercleanedClassifier(random_state=0, cv=[(np.arange(120),) * 2])
    here = clone(there).fit(features, moved, sample_weight=factors)
    there.fit(features, labels, sample_weight=factors)
    assert np.allclose(here.coef_, there.coef_)
    with pytest.raises(ValueError, match="at least one non-zero"):
        HypercleanedClassifier().fit(features, labels, sample_weight=0 * factors)


def test_weights_of_examples_count_with_a_validation_set(iris):
    """An example of weight 0 has no hypergradient: it keeps the weight from which all start."""
    *data, _ = iris
    factors = np.where(np.arange(120) < 20, 0.0, 1.0)
    model = HypercleanedClassifier().fit(*data, sample_weight=factors)
    assert np.all(model.sample_weight_[:20] == 0.5) and np.all(model.sample_weight_[20:] != 0.5)


def test_constant_columns_are_ignored(iris):
    *data, _ = iris
    add = lambda rows: np.insert(rows, 2, 3.0, axis=1)
    model = HypercleanedClassifier().fit(add(data[0]), data[1], add(data[2]), data[3])
    assert np.all(model.coef_[:, 2] == 0)
    assert np.allclose(np.delete(model.coef_, 2, axis=1), HypercleanedClassifier().fit(*data).coef_)


def without(rows, y, label):
    keep = y != label
    return rows[keep], y[keep]


def far(rows):
    return np.concatenate([[[1e45, *rows[0, 1:]]], rows[1:]])


REFUSED = {
    "window-above-horizon": ({"window": 101}, None, "window == 101, must be <= horizon == 100"),
    "no-window": ({"window": 0}, None, "window == 0, must be >= 1"),
    "one-fold": ({"cv": 1}, lambda X, y, V, v: (X, y), "cv == 1, must be >= 2"),
    "folds": ({"cv": ShuffleSplit(3)}, lambda X, y, V, v: (X, y), "every example once"),
    "rounds": ({"rounds": -1}, None, "rounds == -1, must be >= 0"),
    "negative-penalty": ({"regularization": -1.0}, None, "regularization == -1.0, must be >= 0"),
    "threshold": ({"threshold": 1.5}, None, "threshold == 1.5, must be <= 1"),
    "threshold-nan": ({"threshold": np.nan}, None, "threshold == nan, must be finite"),
    "penalty-nan": ({"regularization": np.nan}, None, "regularization == nan, must be finite"),
    "rate-inf": ({"learning_rate": np.inf}, None, "learning_rate == inf, must be finite"),
    "one-class": ({}, lambda X, y, V, v: (X[:5], y[:5] * 0 + 1), "only one class: 1"),
    "nan": ({}, lambda X, y, V, v: (np.where(X > 6, np.nan, X), y), "contains NaN"),
    "huge": ({}, lambda X, y, V, v: (X * 1e200, y), r"X holds .*e\+200 in column 0, whose"),
    "huge-sparse": ({}, lambda X, y, V, v: (csr_array(-1e200 * X), y), "whose squares overflow"),
    "far-valid": ({}, lambda X, y, V, v: (X, y, far(V), v), r"1e\+45 in row 0, too far from"),
    "nan-valid": ({}, lambda X, y, V, v: (X, y, V * np.nan, v), "contains NaN"),
    "no-labels-valid": ({}, lambda X, y, V, v: (X, y, V), "y_valid is None"),
    "columns-valid": ({}, lambda X, y, V, v: (X, y, V[:, 1:], v), "has 3 features, but"),
    "lengths-valid": ({}, lambda X, y, V, v: (X, y, V, v[1:]), "inconsistent numbers of samples"),
    "missing-class": ({}, lambda X, y, V, v: (X, y, *without(V, v, 2)), r"classes \[2\]"),
    "unseen-class": ({}, lambda X, y, V, v: (*without(X, y, 0), V, v), r"unseen labels: \[0\]"),
    "regression": ({}, lambda X, y, V, v: (X, X[:, 0]), "Unknown label type: continuous"),
}


@pytest.mark.parametrize(("settings", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(settings, change, message):
    X, y = load_iris(return_X_y=True)
    data = X[::2], y[::2], X[1::2], y[1::2]
    with pytest.raises(ValueError, match=message):
        HypercleanedClassifier(**settings).fit(*(change(*data) if change else data))


def test_jax_is_not_left_in_another_precision(iris):
    HypercleanedClassifier().fit(*iris[:4])
    assert jnp.zeros(()).dtype == jnp.float32 and not jax.config.jax_enable_x64
