"""The toy problem of the paper against the values of an independent study (25 digits)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep_lab.shaban2019.truncation_toy.experiment import toy
from metastep_lab.theory import truncation as theory
from tests.cases import PROBLEMS
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")

EXACT = (11.09251166892877258295583, 10.98945195431627807668516)
WINDOWS = {
    1: ((1.1092806309, 0.5527451415), 14.4426, 29.7556, 0.949721, 0.075382),
    5: ((4.5426151118, 2.5008297541), 10.7218, 24.2361, 0.961748, 0.319393),
    10: ((7.2249839091, 4.4359241458), 7.60963, 18.7534, 0.973643, 0.528652),
}


def test_exact_values(key):
    problem = toy("f", 100)
    estimate = ms.hypergradient(problem, jnp.ones(2), ms.Reverse(), key=key)
    end = ms.unroll(problem, jnp.ones(2), key)
    assert np.allclose(end, (1.0000265613988877, 1.005920529220334), rtol=1e-14, atol=0)
    assert np.isclose(estimate.value, 16.227327212223283, rtol=1e-14, atol=0)
    assert np.allclose(estimate.grad, EXACT, rtol=1e-14, atol=0)
    assert np.isclose(estimate.stats["gradient_norm"], 15.614476276249128, rtol=1e-14, atol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_windows(window, key):
    grad, error, bound, cosine, ratio = WINDOWS[window]
    comparison = ms.compare(
        toy("f", 100), jnp.ones(2), [ms.TruncatedReverse(window)], key=key, repeats=1
    )
    row = comparison.rows[0]
    # The table gives ten digits of the gradient, and six of the rest.
    assert np.allclose(row.estimate.grad, grad, rtol=0, atol=6e-11)
    assert np.isclose(row.relative_error * 15.614476276249128, error, rtol=5e-6, atol=0)
    assert np.isclose(row.cosine, cosine, atol=6e-7)
    assert np.isclose(row.estimate.grad @ np.array(EXACT) / 15.614476276249128**2, ratio, atol=6e-7)
    final_gradient = np.array((11.092806309381938, 11.054902829546563))
    assert np.isclose(
        theory.bias_bound(
            window,
            step_size=0.1,
            strong_convexity=0.5,
            final_gradient_norm=np.linalg.norm(final_gradient),
            largest_response=0.1,
        ),
        bound,
        rtol=5e-6,
        atol=0,
    )


@pytest.mark.parametrize("window", [1, 3, 17, 39, 40])
def test_windows_equal_the_closed_form(window, key):
    problem, outer = PROBLEMS["quadratic"]()
    final_gradient = jnp.cos(ms.unroll(problem, outer, key))
    closed_form = 2 * outer + theory.truncated_gradient(
        problem.hessian, problem.coupling, final_gradient, 0.1, window
    )
    estimate = ms.hypergradient(problem, outer, ms.TruncatedReverse(window), key=key)
    assert relative_distance(estimate.grad, closed_form) < 1e-12


@pytest.mark.parametrize("name", ["momentum-batches", "adam-batches"])
@pytest.mark.parametrize("window", [1, 11])
def test_the_cut_resets_nothing(window, name, key):
    """The value is that of the whole run: momentum, batches and step index go on unchanged."""
    problem, outer = PROBLEMS[name]()
    whole = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    cut = ms.hypergradient(problem, outer, ms.TruncatedReverse(window), key=key)
    assert float(cut.value) == pytest.approx(float(whole.value), rel=1e-14)


def test_adjoint_at_the_cut(key):
    """|A^K d_w f| for a symmetric A, from the closed form."""
    problem = toy("f", 100)
    for window in (1, 10, 100):
        estimate = ms.hypergradient(problem, jnp.ones(2), ms.TruncatedReverse(window), key=key)
        final_gradient = np.array((11.092806309381938, 11.054902829546563))
        expected = np.linalg.norm(np.array((0.9, 0.95)) ** window * final_gradient)
        assert np.isclose(estimate.stats["adjoint_at_cut"], expected, rtol=1e-12, atol=0)


def test_memory_falls_with_window_and_checkpointing(key):
    """Temporary bytes of the compiled programs, for a state of 1000 numbers and 400 steps."""
    size, horizon = 1000, 400
    diagonal = jnp.linspace(0.1, 1.0, size)

    def loss(params, outer, batch):
        return jnp.sum(diagonal * jnp.log(jnp.cosh(params - outer)))

    problem = ms.TrainingProblem(
        loss, lambda params, outer: jnp.sum(params**2), jnp.zeros(size), optax.sgd(0.1), horizon
    )
    outer = jnp.ones(size)
    estimators = [ms.Reverse(), ms.Reverse("sqrt"), ms.TruncatedReverse(4), ms.TruncatedReverse(40)]
    rows = ms.compare(problem, outer, estimators, key=key, repeats=1).rows
    full, checkpointed, short, longer = (row.temporary_bytes for row in rows)
    assert checkpointed < full / 5
    assert short < full / 20
    assert longer < full / 5


@pytest.mark.parametrize("window", [0, -1, 101, True])
def test_bad_windows(window, key):
    with pytest.raises(ValueError, match=r"window is .*; allowed are the integers from 1 to the"):
        ms.TruncatedReverse(window).estimate(toy("f", 100), jnp.ones(2), None, key)


@pytest.mark.parametrize("checkpoint", [0, -3, True])
def test_bad_checkpoints(checkpoint, key):
    with pytest.raises(ValueError, match=r"checkpoint is .*; allowed are None"):
        ms.Reverse(checkpoint).estimate(toy("f", 100), jnp.ones(2), None, key)


@pytest.mark.parametrize("chunk", [0, -1, False])
def test_bad_chunks(chunk, key):
    with pytest.raises(ValueError, match=r"chunk is .*; allowed are None"):
        ms.Forward(chunk).estimate(toy("f", 100), jnp.ones(2), None, key)


def test_forward_takes_memory_independent_of_the_horizon(key):
    memory = []
    for horizon in (10, 1000):
        problem = toy("f", horizon)
        row = ms.compare(problem, jnp.ones(2), [ms.Forward()], key=key, repeats=1).rows[0]
        memory.append(row.temporary_bytes)
    assert memory[1] == memory[0]


def test_jit_does_not_change_the_estimate(key):
    problem, outer = PROBLEMS["quadratic"]()
    plain = ms.TruncatedReverse(3).estimate(problem, outer, None, key)[0]
    jitted = ms.hypergradient(problem, outer, ms.TruncatedReverse(3), key=key)
    assert relative_distance(plain.grad, jitted.grad) < 1e-13
    assert jax.tree.structure(plain.grad) == jax.tree.structure(jitted.grad)


class Counter(ms.AbstractProblem):
    """A state without a floating-point number: the objective alone depends on `outer`."""

    horizon: int = eqx.field(static=True, default=4)

    def init(self, outer, key):
        return jnp.zeros((), jnp.int32)

    def step(self, inner, outer, t, key):
        return inner + 1

    def objective(self, inner, outer, key):
        return outer**2 * inner


def test_a_state_without_a_floating_point_number(key):
    found = ms.hypergradient(Counter(), 2.0, ms.TruncatedReverse(2), key=key)
    assert (found.value, found.grad) == (16.0, 16.0) and found.result == ms.RESULTS.successful
