"""A validation set in other units: transformed by routing, and warned of where it is not."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from metastep.sklearn import (
    DifferentFeaturesWarning,
    HypercleanedClassifier,
    HypergradientLogisticRegression,
    HypergradientRidge,
)
from metastep.sklearn._same_features import warn_if_different

ESTIMATORS = {
    "hypercleaned": HypercleanedClassifier(max_iter=2),
    "ridge": HypergradientRidge(max_iter=2),
    "logistic": HypergradientLogisticRegression(groups=np.zeros(13), max_iter=1),
}


def wine(seed):
    """Return 128 examples of which 20 have wrong labels, 50 with right ones, and the wrong rows."""
    X, y = datasets.load_wine(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    valid, train = order[:50], order[50:]
    labels, wrong = y[train].copy(), rng.choice(len(train), 20, replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 3, 20)) % 3
    return (X[train], labels, X[valid], y[valid]), wrong


def fit_routed(estimator, X, y, X_valid, y_valid, transform_input=("X_valid",)):
    """Return the estimator, fitted behind a scaler by metadata routing."""
    with sklearn.config_context(enable_metadata_routing=True):
        last = sklearn.clone(estimator).set_fit_request(X_valid=True, y_valid=True)
        steps = [("scale", StandardScaler()), ("last", last)]
        pipeline = Pipeline(steps, transform_input=list(transform_input))
        return pipeline.fit(X, y, X_valid=X_valid, y_valid=y_valid)["last"]


def test_all_wrong_labels_are_found_in_a_pipeline():
    data, wrong = wine(1)
    alone = HypercleanedClassifier().fit(*data)
    routed = fit_routed(HypercleanedClassifier(), *data)
    assert np.isin(wrong, alone.suspects_).sum() == 20
    assert np.isin(wrong, routed.suspects_).sum() == 20
    pipeline = make_pipeline(StandardScaler(), HypercleanedClassifier())
    keys = "hypercleanedclassifier__X_valid", "hypercleanedclassifier__y_valid"
    with pytest.warns(DifferentFeaturesWarning, match="metadata routing"):
        pipeline.fit(*data[:2], **dict(zip(keys, data[2:], strict=True)))
    assert np.isin(wrong, pipeline[-1].suspects_).sum() < 10
    assert not sklearn.get_config()["enable_metadata_routing"]


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_routing_transforms_both_sets(estimator):
    """The columns are standardized inside, too: only rounding to float32 can differ."""
    data, _ = wine(0)
    alone = sklearn.clone(estimator).fit(*data)
    routed = fit_routed(estimator, *data)
    scales = StandardScaler().fit(data[0]).scale_
    np.testing.assert_allclose(routed.coef_, alone.coef_ * scales, rtol=1e-3, atol=1e-5)
    with pytest.warns(DifferentFeaturesWarning, match=r"^X_valid plainly differs from X"):
        fit_routed(estimator, *data, transform_input=())


def test_the_warning_names_the_line_that_fits_and_can_be_filtered():
    data, _ = wine(0)
    shifted = data[2] + 1000 * np.eye(13)[4]
    with pytest.warns(DifferentFeaturesWarning, match=r"\(columns: 1\). Column 4 has") as found:
        HypergradientRidge(max_iter=1).fit(*data[:2], shifted, data[3])
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DifferentFeaturesWarning)
        HypergradientRidge(max_iter=1).fit(*data[:2], shifted, data[3])


def warned(train, validation):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_if_different(train, validation, stacklevel=1)
    return bool(found)


def made_up():
    """Return features of which single values say little: heavy tails, rare and constant ones."""
    rng = np.random.default_rng(0)
    heavy = rng.standard_cauchy((200, 8))
    rare = (rng.random((200, 40)) < 0.01) * rng.random((200, 40))
    constant = np.tile([0.0, 3.3, 1e9], (200, 1))
    return np.concatenate([heavy, rare, np.eye(20)[rng.integers(0, 20, 200)], constant], axis=1)


DATA = {
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "iris": datasets.load_iris,
    "diabetes": datasets.load_diabetes,
}


def features(name):
    return made_up() if name == "made up" else DATA[name](return_X_y=True)[0]


@pytest.mark.parametrize("name", [*DATA, "made up"])
def test_random_divisions_are_not_warned_of(name):
    """At most one of 100,000 divisions may be: among 300 any alarm is a defect."""
    X, rng = features(name), np.random.default_rng(0)
    sizes = (1, 2, 3, 5, 10, 50)
    alarms = {size: 0 for size in sizes}
    for size in sizes * (10 if name == "digits" else 50):
        order = rng.permutation(len(X))
        alarms[size] += warned(X[order[size:]], X[order[:size]])
    assert not any(alarms.values()), alarms


@pytest.mark.parametrize("examples", [10, 50])
@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), RobustScaler(), PCA()])
@pytest.mark.parametrize("name", ["wine", "breast cancer", "digits", "iris"])
def test_a_validation_set_that_was_not_transformed_is_warned_of(name, scaler, examples):
    X = np.random.default_rng(1).permutation(features(name))
    valid, train = X[:examples], scaler.fit_transform(X[examples:])
    assert warned(train, valid) and not warned(train, scaler.transform(X[:examples]))


CONSTANT = 3.3
others = lambda rows, changed: np.where(rows == CONSTANT, rows, changed)
constant = lambda rows, value: np.where(rows == CONSTANT, value, rows)
DIFFERENCES = {
    "location": (lambda rows: others(rows, rows + 5), True),
    "scale": (lambda rows: others(rows, 10 * rows), True),
    "smaller scale": (lambda rows: others(rows, rows / 10), True),
    "one column": (lambda rows: rows + 5 * np.eye(6)[2], True),
    "a little": (lambda rows: others(rows, 1.3 * rows + 0.3), False),
    "rounding of a constant": (lambda rows: constant(rows, np.nextafter(CONSTANT, 4)), False),
    "another constant": (lambda rows: constant(rows, 3.4), True),
}


@pytest.mark.parametrize(("change", "expected"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_differences_of_location_and_scale(change, expected):
    rng = np.random.default_rng(2)
    rows = np.insert(rng.standard_normal((150, 5)), 0, CONSTANT, axis=1)
    assert warned(rows[:100], change(rows[100:])) == expected


def test_balanced_classes_beside_rare_ones_are_not_warned_of():
    """A column that separates the classes: half of the validation set is of a rare class."""
    rng = np.random.default_rng(3)
    column = lambda labels: (20 * labels + rng.standard_normal(len(labels)))[:, None]
    assert not warned(column(np.arange(500) % 100 == 0), column(np.arange(60) % 2))
