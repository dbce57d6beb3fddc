"""The classification task against plain formulas, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from metastep.tasks import WeightedClassification, accuracy, cross_entropy

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(5)
ARRAYS = {
    "features": RNG.random((12, 5)),
    "labels": RNG.integers(0, 3, 12),
    "validation_features": RNG.random((7, 5)),
    "validation_labels": RNG.integers(0, 3, 7),
}


def task(classes=3, **changes):
    arrays = {name: jnp.asarray(value) for name, value in (ARRAYS | changes).items()}
    return WeightedClassification(classes=classes, regularization=0.01, **arrays)


def test_losses_are_the_formulas():
    params, logits = RNG.standard_normal((3, 5)), RNG.standard_normal(12)
    scores = log_softmax(ARRAYS["features"] @ params.T, axis=1)
    losses = -scores[np.arange(12), ARRAYS["labels"]]
    expected = np.mean(expit(logits) * losses) + 0.01 * np.sum(params**2)
    assert np.isclose(task().loss(jnp.asarray(params), jnp.asarray(logits)), expected, rtol=1e-13)
    scores = log_softmax(ARRAYS["validation_features"] @ params.T, axis=1)
    expected = -np.mean(scores[np.arange(7), ARRAYS["validation_labels"]])
    value = task().validation_loss(jnp.asarray(params), jnp.asarray(logits))
    assert np.isclose(value, expected, rtol=1e-13)


def test_accuracy_counts():
    params = jnp.eye(3)
    features = jnp.array([[2.0, 0.0, 1.0], [0.0, 0.1, 0.2], [5.0, 6.0, 0.0]])
    assert np.isclose(accuracy(params, features, jnp.array([0, 2, 2])), 2 / 3)


def reference(params, features, labels):
    log_probabilities = jax.nn.log_softmax(features @ params.T)
    return -log_probabilities[jnp.arange(labels.size), labels]


@pytest.mark.parametrize("order", ["grad", "jvp", "reverse-reverse", "forward-reverse", "vmap"])
def test_derivatives_of_every_order_and_mode(order):
    """The cross-entropy has a derivative rule of its own; all uses must agree with plain JAX."""
    params = jnp.asarray(RNG.standard_normal((3, 5)))
    direction = jnp.asarray(RNG.standard_normal((3, 5)))
    features, labels = jnp.asarray(ARRAYS["features"]), jnp.asarray(ARRAYS["labels"])

    def total(function, params, features=features):
        return jnp.sum(jnp.arange(1.0, 13.0) * function(params, features, labels) ** 2)

    def derivative(function):
        scalar = lambda params: total(function, params)
        if order == "grad":
            return jax.grad(total, argnums=(1, 2))(function, params, features)
        if order == "jvp":
            return jax.jvp(scalar, (params,), (direction,))
        if order == "reverse-reverse":
            return jax.grad(lambda w: jnp.sum(jax.grad(scalar)(w) * direction))(params)
        if order == "forward-reverse":
            return jax.jvp(jax.grad(scalar), (params,), (direction,))
        return jax.vmap(jax.grad(scalar))(jnp.stack([params, 2 * params]))

    ours, theirs = derivative(cross_entropy), derivative(reference)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.allclose(mine, other, rtol=1e-11, atol=1e-12)


def test_large_scores_do_not_overflow():
    losses = cross_entropy(1e4 * jnp.eye(3), jnp.eye(3), jnp.array([0, 0, 2]))
    assert np.allclose(losses, [0.0, 1e4, 0.0])


with_nan = ARRAYS["features"].copy()
with_nan[4, 2] = np.nan
WRONG = {
    "nan": ({"features": with_nan}, "features has NaN or infinity in 1 rows, the first .* row 4"),
    "infinite": ({"validation_features": np.full((7, 5), np.inf)}, "validation_features has NaN"),
    "label-above": ({"labels": np.full(12, 3)}, r"labels\[0\] is 3; allowed are 0 to 2"),
    "label-below": ({"labels": np.full(12, -1)}, r"labels\[0\] is -1; allowed are 0 to 2"),
    "fewer-labels": ({"labels": np.zeros(11, int)}, r"shape \(12, 5\) and labels \(11,\)"),
    "columns": ({"validation_features": np.ones((7, 4))}, "validation_features has 4 columns"),
    "no-examples": ({"features": np.ones((0, 5)), "labels": np.zeros(0, int)}, "at least one"),
    "one-class": ({"classes": 1}, "classes is 1; allowed are the integers from 2"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_bad_data(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)
