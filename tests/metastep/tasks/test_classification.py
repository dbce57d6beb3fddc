"""The classification task against plain formulas, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from metastep.tasks import StoredTwice, WeightedClassification, accuracy, cross_entropy

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
    assert np.isclose(
        task().loss(jnp.asarray(params), jnp.asarray(logits)), expected, rtol=1e-13, atol=0
    )
    scores = log_softmax(ARRAYS["validation_features"] @ params.T, axis=1)
    expected = -np.mean(scores[np.arange(7), ARRAYS["validation_labels"]])
    value = task().validation_loss(jnp.asarray(params), jnp.asarray(logits))
    assert np.isclose(value, expected, rtol=1e-13, atol=0)


def test_accuracy_counts():
    params = jnp.eye(3)
    features = jnp.array([[2.0, 0.0, 1.0], [0.0, 0.1, 0.2], [5.0, 6.0, 0.0]])
    assert np.isclose(accuracy(params, features, jnp.array([0, 2, 2])), 2 / 3)


def reference(params, features, labels):
    log_probabilities = jax.nn.log_softmax(features @ params.T)
    return -log_probabilities[jnp.arange(labels.size), labels]


DERIVATIVES = {
    "value": lambda f, w, v: f(w),
    "reverse": lambda f, w, v: jax.grad(f)(w),
    "forward": lambda f, w, v: jax.jvp(f, (w,), (v,)),
    "reverse-over-reverse": lambda f, w, v: jax.grad(lambda w: jnp.vdot(jax.grad(f)(w), v))(w),
    "forward-over-reverse": lambda f, w, v: jax.jvp(jax.grad(f), (w,), (v,)),
    "reverse-over-forward": lambda f, w, v: jax.grad(lambda w: jax.jvp(f, (w,), (v,))[1])(w),
    "third-order": lambda f, w, v: jax.jvp(jax.jacfwd(jax.grad(f)), (w,), (v,))[1],
    "batch": lambda f, w, v: jax.vmap(jax.grad(f))(jnp.stack([w, v])),
    "batch-of-products": lambda f, w, v: jax.vmap(lambda t: jax.jvp(jax.grad(f), (w,), (t,))[1])(
        jnp.stack([w, v])
    ),
}


MODES = [(name, True) for name in DERIVATIVES] + [("forward-over-reverse", False)]


@pytest.mark.parametrize("store", [lambda x: x, StoredTwice], ids=["array", "stored-twice"])
@pytest.mark.parametrize(("name", "jit"), MODES)
def test_derivatives_of_every_order_and_mode(name, jit, store):
    """The cross-entropy and its products have rules of their own; all must agree with plain JAX."""
    params, direction = jnp.asarray(RNG.standard_normal((2, 3, 5)))
    features, labels = jnp.asarray(ARRAYS["features"]), jnp.asarray(ARRAYS["labels"])
    stored, weights = store(features), jnp.arange(1.0, 13.0)
    ours = lambda w: jnp.sum(weights * cross_entropy(w, stored, labels) ** 2)
    theirs = lambda w: jnp.sum(weights * reference(w, features, labels) ** 2)
    derivative = lambda f: (jax.jit if jit else lambda g: g)(
        lambda w, v: DERIVATIVES[name](f, w, v)
    )(params, direction)
    mine, other = jax.tree.leaves(derivative(ours)), jax.tree.leaves(derivative(theirs))
    for one, expected in zip(mine, other, strict=True):
        assert np.allclose(one, expected, rtol=1e-11, atol=1e-11)


def test_a_stored_matrix_is_a_constant():
    features, labels = jnp.asarray(ARRAYS["features"]), jnp.asarray(ARRAYS["labels"])
    loss = lambda features: jnp.sum(cross_entropy(jnp.ones((3, 5)), StoredTwice(features), labels))
    with pytest.raises(ValueError, match="is a constant and cannot be differentiated"):
        jax.grad(loss)(features)


@pytest.mark.parametrize("width", [1, 8, 9, 10, 16, 17, 40])
def test_products_of_every_width(width):
    """Padding to full registers must not show."""
    matrix, right = RNG.standard_normal((7, 4)), RNG.standard_normal((4, width))
    stored = StoredTwice(jnp.asarray(matrix))
    assert np.allclose(stored @ jnp.asarray(right), matrix @ right, rtol=1e-13, atol=0)
    pulled = jax.vjp(lambda x: stored @ x, jnp.asarray(right))[1](jnp.ones((7, width)))[0]
    assert np.allclose(pulled, matrix.T @ np.ones((7, width)), rtol=1e-13, atol=0)


def test_a_batch_of_matrices():
    matrices, right = jnp.asarray(RNG.standard_normal((3, 7, 4))), jnp.ones((4, 10))
    products = jax.vmap(lambda matrix: StoredTwice(matrix) @ right)(matrices)
    assert np.allclose(products, matrices @ right, rtol=1e-13, atol=0)


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
