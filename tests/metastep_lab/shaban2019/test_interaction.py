"""The interacting classes against plain formulas, and the guard against divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from metastep_lab.shaban2019.task_interaction.interaction import (
    Guard,
    InteractingClasses,
    Interaction,
    interaction,
)

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(4)
CLASSES = 3


def random_interaction():
    return Interaction(jnp.asarray(RNG.standard_normal((CLASSES, CLASSES))), jnp.array(-0.5))


def task():
    features, others = RNG.standard_normal((2, 6, 4))
    labels = jnp.arange(6) % CLASSES
    return InteractingClasses(jnp.asarray(features), labels, jnp.asarray(others), labels)


def test_losses_are_the_formulas():
    examples, outer = task(), random_interaction()
    params = RNG.standard_normal((CLASSES, 4))
    strengths, rho = outer.strengths()
    assert np.allclose(strengths, strengths.T) and np.all(strengths > 0) and rho > 0
    apart = sum(
        float(strengths[i, j]) * np.sum((params[i] - params[j]) ** 2)
        for i in range(CLASSES)
        for j in range(CLASSES)
    )
    entropy = lambda x: -np.mean(log_softmax(x @ params.T, axis=1)[np.arange(6), examples.labels])
    expected = entropy(examples.features.rows) + apart + float(rho) * np.sum(params**2)
    assert np.isclose(examples.loss(jnp.asarray(params), outer), expected, rtol=1e-12, atol=0)
    found = examples.validation_loss(jnp.asarray(params), outer)
    assert np.isclose(found, entropy(examples.validation_features), rtol=1e-12, atol=0)


def test_the_smoothness_is_the_largest_curvature():
    examples, outer = task(), random_interaction()
    zeros = jnp.zeros((CLASSES, 4))
    penalties = lambda w: examples.loss(w, outer) - examples.loss(w, None)
    curvature = lambda loss: np.linalg.eigvalsh(
        np.reshape(jax.jit(jax.hessian(loss))(zeros), (zeros.size, zeros.size))
    )
    assert np.isclose(outer.smoothness(), curvature(penalties)[-1], rtol=1e-10, atol=0)
    assert curvature(lambda w: examples.loss(w, None))[-1] < examples.smoothness


def test_one_pair_reaches_the_limit_at_two_and_a_half():
    """The paper's step size 0.1: 8 C_ij = 2 / 0.1 (the double sum counts each pair twice)."""
    coupling = jnp.full((2, 2), jnp.log(jnp.expm1(1.25)))
    outer = Interaction(coupling, jnp.array(-60.0))
    assert np.isclose(outer.strengths()[0][0, 1], 2.5)
    guard = Guard(jnp.array(0.1), jnp.array(0.0), None)
    assert np.isclose(guard.stability(outer), 1, rtol=1e-12, atol=0)


def test_initial_values():
    strengths, rho = interaction(4, 0.002, 0.001).strengths()
    assert np.allclose(strengths, 0.002, rtol=1e-12, atol=0) and np.isclose(
        rho, 0.001, rtol=1e-12, atol=0
    )


def test_the_guard_scales_down_to_its_limit_and_touches_nothing_below():
    guard = Guard(jnp.array(0.1), jnp.array(3.0), jnp.array(0.9))
    small, large = interaction(CLASSES, 0.1, 0.01), random_interaction()
    for kept, given in zip(guard(small), small, strict=True):
        assert np.array_equal(kept, given)
    large = large.scaled(jnp.array(100.0))
    assert guard.stability(large) > 1
    guarded = guard(large)
    assert np.isclose(guard.stability(guarded), 0.9, rtol=1e-10, atol=0)
    ratio = guarded.strengths()[0] / large.strengths()[0]
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("limit", "diverges"), [(0.99, False), (1.01, True)])
def test_stability_decides_whether_descent_diverges(limit, diverges):
    scaled = Guard(jnp.array(0.1), jnp.array(0.0), jnp.array(limit))
    outer = scaled(random_interaction().scaled(jnp.array(100.0)))
    examples = task()
    penalties = lambda w: examples.loss(w, outer) - examples.loss(w, None)
    params = jnp.asarray(RNG.standard_normal((CLASSES, 4)))
    move = lambda w, _: (w - 0.1 * jax.grad(penalties)(w), None)
    end, _ = jax.lax.scan(move, params, None, length=1000)
    assert bool(jnp.linalg.norm(end) > jnp.linalg.norm(params)) is diverges


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 0.1, 0.1), "classes is 1"),
        ((3, 0.0, 0.1), "coupling is 0.0"),
        ((3, 0.1, -1.0), "regularization is -1.0"),
    ],
)
def test_wrong_use(values, message):
    with pytest.raises(ValueError, match=message):
        interaction(*values)
