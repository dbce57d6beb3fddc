"""Complex parameters: they descend, and every estimator differentiates the run that they make.

The loss is a function of w and its conjugate that no complex-linear map describes; the reference
are central differences of the objective.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.bilevel import F2SA, SOBA, AmIGO
from metastep.optimizers import adam
from metastep.trees import cosine, inner_product, norm, real_variables
from tests.helpers import central_differences, relative_distance

pytestmark = pytest.mark.usefixtures("x64")

TARGET = np.array([1 + 1j, 0.5 - 2j])
WEIGHTS = np.array([1.0, 2.0])


def inner_loss(params, outer, batch):
    w, b = params["w"], params["b"]
    rotated = jnp.abs(w - outer["center"] * TARGET) ** 2
    bent = jnp.exp(outer["decay"]) * jnp.abs(w) ** 4 + 0.3 * (w[0] * w[1]).real
    return jnp.sum(rotated) / 2 + jnp.sum(bent) / 4 + (b - w[0].imag) ** 2 / 2


def outer_loss(params, outer):
    return jnp.sum(WEIGHTS * jnp.abs(params["w"]) ** 2) + params["w"][1].real * params["b"]


def start():
    return {"w": jnp.array([0.1 + 0.2j, -0.3j]), "b": jnp.array(0.1)}


def hyperparameters(step_size=True):
    outer = {"center": jnp.array([0.7, 0.4]), "decay": jnp.array(-2.0)}
    return outer | ({"step_size": jnp.array(0.2)} if step_size else {})


def training(horizon=12):
    momentum = lambda outer: optax.sgd(outer["step_size"], momentum=0.5)
    return ms.TrainingProblem(inner_loss, outer_loss, start(), momentum, horizon)


def converged():
    return ms.TrainingProblem(inner_loss, outer_loss, start(), optax.sgd(0.3), 300)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1), adam(0.1)])
def test_complex_parameters_are_two_real_ones(optimizer, key):
    """The same run in real and imaginary parts; for Adam, whose moduli differ, it descends."""
    loss = lambda w, outer, batch: jnp.sum(jnp.abs(w - outer * (1 + 1j)) ** 2)
    as_pair = lambda w, outer, batch: loss(w[0] + 1j * w[1], outer, batch)
    make = lambda loss, start: ms.TrainingProblem(
        loss, lambda w, outer: loss(w, outer, None), start, optimizer, 10
    )
    found = ms.hypergradient(make(loss, jnp.zeros(2, complex)), 1.0, ms.Reverse(), key=key)
    pair = ms.hypergradient(make(as_pair, jnp.zeros((2, 2))), 1.0, ms.Reverse(), key=key)
    assert found.value < 4 and found.result == ms.RESULTS.successful
    if isinstance(optimizer.init(jnp.zeros(1))[0], optax.EmptyState):
        # Every step leaves 1 - 2 * 0.1 of the distance: 4 * 0.8^20.
        assert np.isclose(found.value, 4 * 0.8**20, rtol=1e-12, atol=0)
        assert np.isclose(found.value, pair.value, rtol=1e-12, atol=0)
        assert np.isclose(found.grad, pair.grad, rtol=1e-12, atol=0)


EXACT = {
    "reverse": ms.Reverse(),
    "segments": ms.Reverse(checkpoint=5),
    "binomial": ms.Reverse(ms.Binomial(3)),
    "window": ms.TruncatedReverse(12),
    "forward": ms.Forward(),
}


@pytest.fixture(scope="module")
def slopes():
    with jax.enable_x64(True):
        return central_differences(training(), hyperparameters(), jax.random.key(20))


@pytest.mark.parametrize("estimator", EXACT.values(), ids=EXACT)
def test_exact_estimators(estimator, slopes, key):
    estimate = ms.hypergradient(training(), hyperparameters(), estimator, key=key)
    assert estimate.result == ms.RESULTS.successful
    assert relative_distance(estimate.grad, slopes) < 1e-8  # width^2 of the differences


def test_central_differences(slopes, key):
    found = ms.hypergradient(training(), hyperparameters(), ms.CentralDifferences(), key=key)
    assert relative_distance(found.grad, slopes) < 1e-8


SAMPLED = {
    "random-directions": ms.RandomDirections(400),
    "evolution": ms.EvolutionStrategies(1e-3, 400),
    "persistent": ms.PersistentEvolutionStrategies(12, 1e-3, 400),
}


@pytest.mark.parametrize("estimator", SAMPLED.values(), ids=SAMPLED)
def test_sampled_estimators(estimator, slopes, key):
    estimate = ms.hypergradient(training(), hyperparameters(), estimator, key=key)
    flat = lambda tree: ravel_pytree(tree)[0]
    apart = jnp.abs(flat(estimate.grad) - flat(slopes))
    assert jnp.all(apart < 4 * flat(estimate.stats["standard_error"]))
    assert norm(estimate.stats["standard_error"]) < 0.3 * norm(slopes)


IMPLICIT = {
    "cg": None,
    "gmres": lx.GMRES(rtol=1e-12, atol=1e-12),
    "lu": lx.LU(),
    "neumann": ms.Neumann(200),
}


@pytest.fixture(scope="module")
def limit():
    with jax.enable_x64(True):
        return central_differences(converged(), hyperparameters(False), jax.random.key(20))


@pytest.mark.parametrize("solver", IMPLICIT.values(), ids=IMPLICIT)
def test_implicit_solves_a_real_system(solver, limit, key):
    found = ms.hypergradient(converged(), hyperparameters(False), ms.Implicit(solver), key=key)
    assert found.result == ms.RESULTS.successful
    assert relative_distance(found.grad, limit) < 1e-8
    assert jnp.abs(found.stats["objective_gap"]) < 1e-10


BILEVEL = {
    "soba": SOBA(optax.sgd(0.3)),
    "amigo": AmIGO(optax.sgd(0.3), 5, 5),
    "f2sa": F2SA(penalty=1e5, inner_steps=5),
}


@pytest.mark.parametrize("solver", BILEVEL.values(), ids=BILEVEL)
def test_bilevel_solvers_reach_the_derivative_of_the_minimum(solver, limit, key):
    """Hyperparameters at rest: after many steps each solver returns the implicit gradient."""
    run = ms.minimize(
        converged(),
        hyperparameters(False),
        solver,
        optimizer=optax.sgd(0.0),
        steps=300,
        every=300,
        key=key,
        record=lambda step, outer, estimate: estimate.grad,
    )
    last = jax.tree.map(lambda x: x[-1], run.history.recorded)
    # The penalty leaves 1 / lambda.
    assert relative_distance(last, limit) < (1e-4 if isinstance(solver, F2SA) else 1e-8)


def test_log_domain_scales_complex_states(key):
    """Homogeneous dynamics: (1/T) log of an objective that plain reverse mode can still hold."""
    loss = lambda w, outer, batch: jnp.sum(WEIGHTS * jnp.abs(w) ** 2) / 2 + 0.3 * (w[0] * w[1]).real
    problem = ms.TrainingProblem(
        loss, lambda w, outer: loss(w, outer, None), start()["w"], optax.sgd, 30
    )
    found = ms.hypergradient(problem, 0.3, ms.LogDomain(), key=key)
    plain = ms.hypergradient(problem, 0.3, ms.Reverse(), key=key)
    assert found.result == ms.RESULTS.successful
    assert np.isclose(found.value, jnp.log(plain.value) / 30, rtol=1e-12, atol=0)
    assert np.isclose(found.grad, plain.grad / plain.value / 30, rtol=1e-10, atol=0)


def test_scaled_hypergradient(slopes, key):
    found = ms.scaled_hypergradient(training(), hyperparameters(), key=key)
    grad = jax.tree.map(lambda s, m: s * jnp.exp(m), found.sign, found.log_magnitude)
    assert relative_distance(grad, slopes) < 1e-8


def test_a_diagnosis_counts_both_parts(limit, key):
    """Eigenvalues are those of the real Jacobian, and the state has two numbers for each entry."""
    found = ms.diagnose(converged(), hyperparameters(False), key=key)
    assert found.state_bytes == 5 * 8 + 4 + 8  # the step and the key of the run
    assert found.symmetric
    end = ms.unroll(converged(), hyperparameters(False), key).params
    variables, restore = real_variables(end)
    flat, unflatten = ravel_pytree(variables)
    of_flat = lambda x: inner_loss(restore(unflatten(x)), hyperparameters(False), None)
    step = np.eye(5) - 0.3 * jax.hessian(of_flat)(flat)
    assert np.isclose(found.contraction, np.abs(np.linalg.eigvalsh(step)).max(), rtol=1e-8, atol=0)
    assert found.option(ms.Forward()).memory >= 3 * 2 * 40  # and what the compiler adds
    assert relative_distance(found.exact, limit) < 1e-8


def test_trees_are_real_vectors():
    tree = {"w": jnp.array([3 + 4j, 1j]), "x": jnp.array([2.0]), "n": 3, "f": jnp.tanh}
    variables, restore = real_variables(tree)
    assert np.allclose([norm(tree), norm(variables)], np.sqrt(30.0), rtol=1e-15, atol=0)
    assert inner_product(tree, tree) == 30
    assert np.isclose(cosine(*(eqx.filter(tree, eqx.is_inexact_array),) * 2), 1)
    turned = {"w": 1j * tree["w"], "x": jnp.zeros(1)}
    assert inner_product({"w": tree["w"], "x": tree["x"]}, turned) == 0
    back = restore(variables)
    assert jnp.array_equal(back["w"], tree["w"]) and (back["n"], back["f"]) == (3, jnp.tanh)
