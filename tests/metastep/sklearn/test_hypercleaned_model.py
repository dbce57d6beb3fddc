"""A model given as (init, apply) finds wrong labels with and without checked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import average_precision_score
from sklearn.utils.estimator_checks import check_estimator

from metastep.sklearn import HypercleanedModel


def init(key, features, classes):
    """Draw the parameters of a network with one hidden layer."""
    one, two = jax.random.split(key)
    hidden, output = jax.random.normal(one, (features, 8)), jax.random.normal(two, (8, classes))
    return {"hidden": 0.3 * hidden, "output": 0.3 * output, "bias": jnp.zeros(classes)}


def apply(params, inputs):
    """Return scores of the classes."""
    return jnp.tanh(inputs @ params["hidden"]) @ params["output"] + params["bias"]


@pytest.fixture(scope="module")
def iris():
    features, labels = load_iris(return_X_y=True)
    rng = np.random.default_rng(0)
    given, wrong = labels.copy(), rng.random(150) < 0.25
    given[wrong] = (given[wrong] + rng.integers(1, 3, wrong.sum())) % 3
    return features, np.array(["a", "b", "c"])[given], np.array(["a", "b", "c"])[labels], wrong


def test_it_ranks_every_label(iris):
    features, given, labels, wrong = iris
    model = HypercleanedModel(init, apply, steps=60, learning_rate=0.03, random_state=0)
    model.fit(features, given)
    assert average_precision_score(wrong, model.label_scores_) > 0.85
    assert np.mean(model.predict(features) == labels) > 0.9
    assert np.all(model.suggested_labels_[model.suspects_] != given[model.suspects_])
    assert np.allclose(model.predict_proba(features).sum(axis=1), 1)
    again = clone(model).fit(features, given)
    assert np.array_equal(again.label_scores_, model.label_scores_)


def test_a_validation_set_tunes_the_weights(iris):
    features, given, labels, wrong = iris
    valid = np.arange(150) % 3 == 1
    data = features[~valid], given[~valid], features[valid], labels[valid]
    model = HypercleanedModel(init, apply, steps=60, learning_rate=0.03, max_iter=10).fit(*data)
    # A quarter is wrong, which chance would give.
    assert average_precision_score(wrong[~valid], model.label_scores_) > 0.75
    assert np.allclose(model.sample_weight_, 1 - model.label_scores_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps == 0, must be >= 1"),
        ({"rounds": 1.5}, "rounds must be an instance of int"),
        ({"weight_decay": -1.0}, "weight_decay == -1.0, must be >= 0"),
        (
            {"apply": lambda params, inputs: apply(params, inputs)[:, :2]},
            r"shape \(150, 2\); expected \(150, 3\)",
        ),
        ({"apply": lambda params, inputs: apply(params, inputs) > 0}, "apply has no derivative"),
        ({"learning_rate": 1e38, "steps": 5}, "apply returned NaN after training"),
    ],
)
def test_refused(iris, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        HypercleanedModel(**{"init": init, "apply": apply, **settings}).fit(*iris[:2])


def test_scikit_learn_accepts_it():
    """Weights of examples change the runs by roundings of float32, which Adam amplifies."""
    inexact = {
        f"check_sample_weight_equivalence_on_{kind}_data": "float32" for kind in ("dense", "sparse")
    }
    model = HypercleanedModel(init, apply, steps=100, learning_rate=0.05, rounds=1, random_state=0)
    check_estimator(model, on_skip=None, expected_failed_checks=inexact)
