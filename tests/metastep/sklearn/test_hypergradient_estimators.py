"""Ridge and logistic regression with tuned regularization: exactness, equality, what is refused."""

import pickle

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import metastep as ms
from metastep.sklearn import HypergradientLogisticRegression, HypergradientRidge
from metastep.sklearn.hypergradient_logistic_regression import Labelled, logistic_fold
from metastep.sklearn.hypergradient_ridge import Weighted, ridge_fold
from tests.helpers import relative_distance

ESTIMATORS = {"ridge": HypergradientRidge, "logistic": HypergradientLogisticRegression}


CHECKED = {
    "ridge": HypergradientRidge(),
    "logistic": HypergradientLogisticRegression(),
    "logistic, soon done": HypergradientLogisticRegression(cv=2, max_iter=5),
}


@pytest.mark.parametrize("estimator", CHECKED.values(), ids=CHECKED)
def test_scikit_learn_accepts_it(estimator):
    # Repeated rows are dealt to other folds than one row of twice the weight.
    folds = {"check_sample_weight_equivalence_on_dense_data": "repeated rows are in other folds"}
    check_estimator(estimator, on_skip=None, expected_failed_checks=folds)


def ridge_case(rng):
    """Return our fold, and the same training run for metastep: loss, objective, parameters."""
    train, valid = rng.standard_normal((40, 3)), rng.standard_normal((20, 3))
    targets, expected = train[:, 0] + rng.standard_normal(40), valid[:, 0] + 1
    factors, importance = rng.uniform(0.5, 1.5, 40), rng.uniform(0.5, 1.5, 20)
    ones = lambda rows: jnp.insert(jnp.asarray(rows), 0, 1.0, axis=1)
    x, v = ones(train), ones(valid)

    def loss(params, outer, batch):
        errors = x @ params - targets
        return (factors @ errors**2 + jnp.exp(outer) @ params[1:] ** 2) / 80

    objective = lambda params, outer: importance @ (v @ params - expected) ** 2
    fold = ridge_fold(
        Weighted(train, targets, np.sqrt(factors)), Weighted(valid, expected, np.sqrt(importance))
    )
    return fold, loss, objective, jnp.zeros(4)


def logistic_case(classes):
    def case(rng):
        train, valid = (
            Labelled(
                np.insert(rng.standard_normal((n, 3)), 0, 1.0, axis=1),
                np.eye(classes)[np.arange(n) % classes],
                rng.uniform(0.5, 1.5, n),
            )
            for n in (40, 20)
        )
        rows = 1 if classes == 2 else classes
        full = lambda params: jnp.pad(params, ((classes - rows, 0), (0, 0)))

        def losses(params, part):
            labels = jnp.argmax(part.targets, axis=1)
            scores = jnp.asarray(part.features) @ full(params).T
            return part.weights @ optax.softmax_cross_entropy_with_integer_labels(scores, labels)

        def loss(params, outer, batch):
            penalty = jnp.sum(jnp.exp(outer) * params[:, 1:] ** 2) / 2
            return (losses(params, train) + penalty) / 40

        objective = lambda params, outer: losses(params, valid)
        return logistic_fold(train, valid), loss, objective, jnp.zeros((rows, 4))

    return case


CASES = {"ridge": ridge_case, "binary": logistic_case(2), "multinomial": logistic_case(3)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_the_gradient_is_metasteps_hypergradient(make, key):
    fold, loss, objective, params = make(np.random.default_rng(5))
    logarithms = jnp.array([0.0, 1.5, 3.0])
    # Gradient descent contracts by about 0.7 per step here: 300 reach float64's rounding.
    problem = ms.TrainingProblem(loss, objective, params, optax.sgd(0.5), 300)
    estimate = ms.hypergradient(problem, logarithms, ms.Implicit(), key=key)
    value, slope = fold(np.exp(logarithms))
    assert np.isclose(value, estimate.value, rtol=1e-12, atol=0)
    # The tolerance of Implicit's linear solver is eps^(3/4) = 2e-12, relative.
    assert relative_distance(np.exp(logarithms) * slope, estimate.grad) < 1e-9


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_weight_is_a_number_of_copies(make):
    """With a validation set there are no folds; rows of weight 0 have no effect."""
    X, y = load_iris(return_X_y=True)
    X, y, V, v = X[::2], y[::2], X[1::2], y[1::2]
    counts = np.arange(len(y)) % 3
    # L-BFGS takes other steps after a few, where rounding decides its line search.
    weighted = make(max_iter=2).fit(X, y, V, v, sample_weight=counts)
    repeated = make(max_iter=2).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts), V, v)
    assert np.allclose(weighted.alpha_, repeated.alpha_, rtol=1e-8, atol=0)
    assert np.allclose(weighted.coef_, repeated.coef_, rtol=1e-8, atol=0)
    plain = make(max_iter=2, random_state=0).fit(X, y)
    doubled = make(max_iter=2, random_state=0).fit(
        np.concatenate([X, 1000 + X]), np.tile(y, 2), sample_weight=np.repeat([1.0, 0.0], len(y))
    )
    assert np.allclose(plain.coef_, doubled.coef_, rtol=1e-8, atol=0)


@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS)
def test_weights_may_be_shares(make):
    """The least alpha was 0.1 for weights of every size, which is much for a sum of 1."""
    X, y = load_iris(return_X_y=True)
    plain = make(max_iter=2, random_state=0).fit(X, y)
    shares = np.full(len(y), 2.0**-8)
    shared = make(max_iter=2, random_state=0).fit(X, y, sample_weight=shares)
    # Newton's method stops at a size of the loss that is not relative.
    assert np.allclose(plain.alpha_, shared.alpha_ * 2**8, rtol=1e-6, atol=0)
    assert np.allclose(plain.coef_, shared.coef_, rtol=1e-6, atol=1e-9)


def test_one_group_is_scikit_learns_ridge():
    X, y = load_diabetes(return_X_y=True)
    model = HypergradientRidge(groups=np.zeros(10), random_state=0).fit(X, y)
    assert np.ptp(model.alpha_) == 0
    scaler = StandardScaler().fit(X)
    theirs = Ridge(alpha=model.alpha_[0]).fit(scaler.transform(X), y)
    assert np.allclose(model.predict(X), theirs.predict(scaler.transform(X)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("classes", (2, 3))
def test_one_group_is_scikit_learns_logistic_regression(classes):
    X, y = load_iris(return_X_y=True)
    X, y = X[y >= 3 - classes], y[y >= 3 - classes]
    model = HypergradientLogisticRegression(groups=list("aaaa"), random_state=0).fit(X, y)
    assert np.ptp(model.alpha_) == 0
    scaler = StandardScaler().fit(X)
    theirs = LogisticRegression(C=1 / model.alpha_[0], tol=1e-8, max_iter=1000)
    theirs.fit(scaler.transform(X), y)
    # lbfgs stops at gradients of 1e-8; ours is at rounding.
    assert np.allclose(model.predict_proba(X), theirs.predict_proba(scaler.transform(X)), atol=1e-5)
    assert np.allclose(model.coef_ * scaler.scale_, theirs.coef_, rtol=1e-4, atol=1e-4)


def informative(estimator):
    """Return 15 columns of which the first two matter, in units that differ by 10^4."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((1200, 15)) * np.geomspace(0.01, 100, 15)
    y = X @ np.insert(np.zeros(13), 0, [100, -50]) + 0.5 * rng.standard_normal(1200)
    return X, y if estimator is HypergradientRidge else y > 0


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_tuning_each_feature_helps_on_new_examples(estimator):
    X, y = informative(estimator)
    data = X[:100], y[:100], X[100:200], y[100:200]
    model = estimator().fit(*data)
    shared = estimator(groups=np.zeros(15)).fit(*data)
    assert model.score(X[200:], y[200:]) > shared.score(X[200:], y[200:])
    curve = model.validation_loss_curve_
    assert np.all(np.diff(curve) <= 1e-12) and curve[-1] < shared.validation_loss_curve_[-1]
    assert model.n_iter_ == len(curve) - 1
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.predict(X), model.predict(X))


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_group_of_noise_drops_out(estimator):
    X, y = informative(estimator)
    groups = np.array(["signal"] * 2 + ["noise"] * 13)
    model = estimator(groups=groups, random_state=0).fit(X[:200], y[:200])
    assert model.alpha_.shape == (15,) and np.unique(model.alpha_).size == 2
    assert model.alpha_[0] < model.alpha_[2] / 10


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_more_features_than_examples_and_a_constant_one(estimator):
    rng = np.random.default_rng(0)
    X = np.insert(rng.standard_normal((20, 40)), 0, 1.0, axis=1)
    y = X[:, 1] > 0  # separable: only the regularization keeps the coefficients finite
    model = estimator(groups=np.arange(41) % 2, cv=3, random_state=0).fit(X, y)
    assert np.unique(model.alpha_).size == 2
    assert np.all(np.isfinite(model.coef_)) and np.all(model.coef_[..., 0] == 0)


def test_a_class_of_one_example_is_always_trained_on():
    X, y = load_iris(return_X_y=True)
    y[0] = 3
    model = HypergradientLogisticRegression(groups=np.zeros(4), random_state=0).fit(X, y)
    assert np.all(np.isfinite(model.coef_)) and model.coef_.shape == (4, 4)


REFUSED = {
    "groups": ({"groups": [0, 1]}, None, "groups has 2 entries, but X has 4 features"),
    "groups-2d": ({"groups": np.zeros((4, 2))}, None, "1d array"),
    "no-iterations": ({"max_iter": 0}, None, "max_iter == 0, must be >= 1"),
    "folds": ({"cv": 1000}, None, "n_splits=1000 greater than the number of samples"),
    "tolerance": ({"tol": -1.0}, None, "tol == -1.0, must be >= 0"),
    "nan": ({}, lambda X, y: (np.where(X > 6, np.nan, X), y), "contains NaN"),
    "nan-valid": ({}, lambda X, y: (X, y, X * np.nan, y), "contains NaN"),
    "half-a-set": ({}, lambda X, y: (X, y, X), "y_valid is None"),
    "columns-valid": ({}, lambda X, y: (X, y, X[:, 1:], y), "has 3 features, but"),
    "lengths-valid": ({}, lambda X, y: (X, y, X, y[1:]), "inconsistent numbers of samples"),
}
REFUSED_LABELS = {
    "one-class": (lambda X, y: (X[:9], y[:9]), "only one class: 0"),
    "missing-class": (lambda X, y: (X, y, X[:100], y[:100]), r"no samples of the classes \[2\]"),
    "unseen-class": (lambda X, y: (X[:100], y[:100], X, y), r"unseen labels: \[2\]"),
    "regression": (lambda X, y: (X, X[:, 0]), "Unknown label type: continuous"),
}


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
@pytest.mark.parametrize(("settings", "change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(estimator, settings, change, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        estimator(**settings).fit(*(change(X, y) if change else (X, y)))


def test_targets_of_the_validation_set_are_finite_and_may_be_constant():
    X, y = load_diabetes(return_X_y=True)
    with pytest.raises(ValueError, match="y_valid contains NaN"):
        HypergradientRidge().fit(X, y, X, np.where(y > 100, np.nan, y))
    model = HypergradientRidge(random_state=0).fit(X, np.full(len(X), 3.0))
    assert np.all(model.predict(X) == 3)


@pytest.mark.parametrize(("change", "message"), REFUSED_LABELS.values(), ids=REFUSED_LABELS)
def test_refused_labels(change, message):
    with pytest.raises(ValueError, match=message):
        HypergradientLogisticRegression().fit(*change(*load_iris(return_X_y=True)))
