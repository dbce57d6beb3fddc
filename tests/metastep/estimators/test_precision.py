"""Training in 16 bits with a float32 master copy: every estimator against float64.

The parameters of the problem are the master copy; the loss casts them. Tolerances are twice what
was measured; half precision has 11 bits (5e-4), bfloat16 8 bits (4e-3), in every operation of every
step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep import step_sizes
from metastep.optimizers import adamw
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")

BFLOAT, HALF, DOUBLE = jnp.bfloat16, jnp.float16, jnp.float64
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((96, 8))
TARGETS = np.tanh(INPUTS @ RNG.standard_normal(8) / 2)
START = {
    "in": RNG.standard_normal((8, 16)) / 3,
    "bias": np.zeros(16),
    "out": RNG.standard_normal(16) / 4,
}
HORIZON = 20


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def network(master, compute, size=1.0, scale=1.0):
    """A ReLU network on AdamW with warm-up and cosine; the last 32 examples judge."""
    inputs, targets = cast((INPUTS, TARGETS), compute)

    def errors(params, rows):
        params = cast(params, compute)
        hidden = jax.nn.relu(inputs[rows] @ params["in"] + params["bias"])
        return (hidden @ params["out"] - targets[rows]).astype(master)

    def optimizer(outer):
        rate = step_sizes.warmup_cosine_decay_schedule(0.0, jnp.exp(outer["peak"]), 4, HORIZON)
        return optax.chain(
            optax.scale(1 / scale), adamw(rate, weight_decay=jnp.exp(outer["decay"]))
        )

    return ms.TrainingProblem(
        loss=lambda params, outer, rows: (
            scale
            * size
            * jnp.mean(jax.nn.sigmoid(outer["weights"][rows]) * errors(params, rows) ** 2)
        ),
        objective=lambda params, outer: jnp.mean(errors(params, slice(64, 96)) ** 2),
        init_params=cast(START, master),
        optimizer=optimizer,
        horizon=HORIZON,
        batch=lambda t, key: jax.random.randint(key, (16,), 0, 64),
    )


def regression(master, compute):
    """A logistic regression with weight decay that converges within the horizon."""
    inputs, signs = cast((INPUTS, np.sign(TARGETS)), compute)
    losses = lambda w, rows: jax.nn.softplus(-signs[rows] * (inputs[rows] @ w.astype(compute)))
    mean = lambda w, rows: jnp.mean(losses(w, rows).astype(master))
    return ms.TrainingProblem(
        loss=lambda w, outer, _: mean(w, slice(0, 64)) + jnp.exp(outer["decay"]) * jnp.sum(w**2),
        objective=lambda w, outer: mean(w, slice(64, 96)),
        init_params=jnp.zeros(8, master),
        optimizer=optax.sgd(1.0),
        horizon=100,
    )


def quadratic(master, compute):
    """Dynamics that scale with their state."""
    curvature = jnp.array([1.0, 0.5, 0.1], compute)
    halves = lambda w: jnp.sum((curvature * w.astype(compute) ** 2).astype(master)) / 2
    return ms.TrainingProblem(
        loss=lambda w, outer, _: halves(w),
        objective=lambda w, outer: jnp.sum(w**2),
        init_params=jnp.ones(3, master),
        optimizer=lambda outer: optax.sgd(outer["rate"]),
        horizon=50,
    )


OF_NETWORK = {
    "decay": jnp.float32(np.log(0.01)),
    "peak": jnp.float32(np.log(0.02)),
    "weights": jnp.zeros(64, jnp.float32),
}
OF_REGRESSION = {"decay": jnp.float32(-3.0)}
# Estimator, problem and hyperparameters; the relative distances allowed to bfloat16 and float16.
ROWS = {
    "reverse": (ms.Reverse(), network, OF_NETWORK, 0.03, 1e-3),
    "mixed": (ms.Reverse("sqrt", mixed=True), network, OF_NETWORK, 0.03, 1e-3),
    "truncated": (ms.TruncatedReverse(5), network, OF_NETWORK, 0.03, 1e-3),
    "forward": (ms.Forward(chunk=22), network, OF_NETWORK, 0.03, 1e-3),
    "implicit": (ms.Implicit(linear_tolerance=0.05), regression, OF_REGRESSION, 2e-3, 2e-4),
    # Three roundings of the objective over the step, 3 * 0.34 * 2^-8 / 0.5, of a gradient of 0.092;
    # of float16 an eighth. Which numbers are rounded depends on the processor.
    "differences": (ms.CentralDifferences(step=0.5), regression, OF_REGRESSION, 0.08, 0.01),
    "log domain": (ms.LogDomain(), quadratic, {"rate": jnp.float32(0.3)}, 4e-3, 4e-4),
    "evolution": (ms.EvolutionStrategies(0.3, 4), regression, OF_REGRESSION, 1e-3, 1e-3),
}


def gradient(problem, outer, estimator, key):
    estimate = ms.hypergradient(problem, outer, estimator, key=key)
    assert estimate.result == ms.RESULTS.successful
    return estimate.grad


@pytest.mark.parametrize("row", ROWS)
def test_master_copy_in_float32(row, key):
    estimator, problem, outer, *allowed = ROWS[row]
    exact = gradient(problem(DOUBLE, DOUBLE), outer, estimator, key)
    for compute, tolerance in zip((BFLOAT, HALF), allowed, strict=True):
        found = gradient(problem(jnp.float32, compute), outer, estimator, key)
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        assert relative_distance(found, exact) < tolerance


@pytest.mark.parametrize("dtype", [BFLOAT, HALF])
def test_no_master_copy(dtype, key):
    """The derivative is that of what was computed: of another, rougher trajectory."""
    exact = gradient(network(DOUBLE, DOUBLE), OF_NETWORK, ms.Reverse(), key)
    found = gradient(network(dtype, dtype), OF_NETWORK, ms.Reverse(), key)
    assert 0.01 < relative_distance(found, exact) < 0.1


def test_a_python_number_is_an_array_of_it(key):
    """A weak type would leave the products of the step in float16."""
    problem = ms.TrainingProblem(
        lambda w, outer, batch: jnp.sum((w - outer) ** 2 * outer),
        lambda w, outer: jnp.sum(w**2),
        jnp.ones(3, HALF),
        optax.sgd,
        5,
    )
    weak, strong = (
        ms.hypergradient(problem, outer, ms.Reverse(), key=key) for outer in (0.1, jnp.array(0.1))
    )
    assert weak.grad == strong.grad and not weak.grad.weak_type


def test_a_scaled_loss_keeps_small_gradients_of_float16(key):
    """Gradients of about 1e-7 and their derivatives leave float16; times 2^16 they do not."""
    estimate = lambda *given: ms.hypergradient(network(*given), OF_NETWORK, ms.Reverse(), key=key)
    exact = estimate(DOUBLE, DOUBLE, 1e-6)
    scaled = estimate(jnp.float32, HALF, 1e-6, 2.0**16)
    assert estimate(jnp.float32, HALF, 1e-6).result == ms.RESULTS.nonfinite_gradient
    assert scaled.result == ms.RESULTS.successful
    assert relative_distance(scaled.grad, exact.grad) < 0.01


class Walk(ms.AbstractProblem):
    """w_T = T outer: every step adds 1 to the derivative."""

    horizon: int = 1000

    def init(self, outer, key):
        return jnp.zeros((), jnp.float32)

    def step(self, inner, outer, t, key):
        return inner + outer.astype(jnp.float32)

    def objective(self, inner, outer, key):
        return inner


REVERSE = {
    "plain": (ms.Reverse(), 1000),
    "binomial": (ms.Reverse("binomial"), 1000),
    "truncated": (ms.TruncatedReverse(900), 900),
    "persistent": (ms.PersistentReverse(1000, runs=2), 1000),
}


@pytest.mark.parametrize(("estimator", "exact"), REVERSE.values(), ids=REVERSE)
def test_a_sum_over_many_steps_does_not_stop_growing(estimator, exact, key):
    """In bfloat16 256 + 1 is 256."""
    found = ms.hypergradient(Walk(), jnp.asarray(0.1, BFLOAT), estimator, key=key)
    assert found.grad.dtype == BFLOAT and found.grad == jnp.asarray(exact, BFLOAT)


def test_a_driven_run_and_a_diagnosis_add_up_alike(key):
    outer = jnp.asarray(0.1, BFLOAT)
    driven = ms.driven_hypergradient(Walk(), outer, ms.Reverse(checkpoint=500), key=key)
    assert driven.grad.dtype == BFLOAT and driven.grad == 1000
    assert ms.diagnose(Walk(), outer, key=key).exact == 1000
