"""Implicit differentiation: right at fixed points, and loud everywhere else."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

import metastep as ms
from metastep_lab.shaban2019.truncation_toy.experiment import toy
from tests.cases import IMPLICIT
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")

SGD = optax.sgd(0.2)  # one object: what was compiled for it is found again
CURVATURE = jnp.array([1.0, 0.4])


def loss(params, outer, batch):
    return jnp.sum(CURVATURE * (params - outer["center"]) ** 2) / 2 + jnp.exp(
        outer["decay"]
    ) * jnp.sum(jnp.log(jnp.cosh(params)))


def objective(params, outer):
    return jnp.sum(params**2) + jnp.sum(jnp.sin(params)) + outer["decay"] ** 2


def make(optimizer, horizon=600, **more):
    problem = ms.TrainingProblem(loss, objective, jnp.array([2.0, 1.0]), optimizer, horizon)
    return problem, {"center": jnp.array([0.7, -0.3]), "decay": jnp.array(-1.0), **more}


@pytest.mark.parametrize("name", IMPLICIT)
def test_equals_the_unrolled_gradient_at_a_fixed_point(name, key):
    problem, outer = make(SGD)
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    estimate = ms.hypergradient(problem, outer, IMPLICIT[name](), key=key)
    assert estimate.result == ms.RESULTS.successful
    # The default conjugate gradients stop at a relative residual of 2e-12.
    assert relative_distance(estimate.grad, exact.grad) < 1e-11
    assert estimate.stats["stationarity"] < 1e-12
    assert estimate.stats["linear_residual"] < 1e-11


GENERAL = {
    "momentum-gmres": (optax.sgd(0.1, momentum=0.8), lx.GMRES(rtol=1e-12, atol=1e-12)),
    "adam-lu": (optax.adam(0.05), lx.LU()),
}


@pytest.mark.parametrize(("optimizer", "solver"), GENERAL.values(), ids=GENERAL)
def test_general_solvers_see_through_the_optimizer_state(optimizer, solver, key):
    problem, outer = make(optimizer, horizon=2500)
    exact = ms.hypergradient(problem, outer, ms.Reverse("sqrt"), key=key)
    estimate = ms.hypergradient(problem, outer, ms.Implicit(solver), key=key)
    # Adam's own path depends on eps at the 1e-8 level.
    assert relative_distance(estimate.grad, exact.grad) < 1e-6
    assert estimate.result == ms.RESULTS.successful
    broken = ms.hypergradient(problem, outer, ms.Implicit(), key=key)
    assert broken.result == ms.RESULTS.linear_solve_failed
    assert broken.stats["linear_residual"] > 1e-3


def test_toy_values(key):
    """Implicit at w* and at w_T, from an independent study."""
    outer = jnp.ones(2)
    at_limit = ms.hypergradient(toy("f", 5000), outer, ms.Implicit(), key=key)
    assert np.allclose(at_limit.grad, 11.092974268, rtol=1e-9, atol=0)
    at_end = ms.hypergradient(toy("f", 100), outer, ms.Implicit(), key=key)
    assert np.allclose(at_end.grad, (11.092806309381938, 11.054902829546563), rtol=1e-12, atol=0)
    gap = at_limit.value - at_end.value
    # First order in the distance to the fixed point, 6e-3.
    assert np.isclose(at_end.stats["objective_gap"], gap, rtol=2e-2, atol=0)


@pytest.mark.parametrize("terms", [1, 50])
def test_neumann_is_truncated_reverse_at_a_fixed_point(terms, key):
    """Proposition 3.6, with K-RMD computed independently."""
    problem, outer = make(SGD)
    window = ms.hypergradient(problem, outer, ms.TruncatedReverse(terms), key=key)
    series = ms.hypergradient(problem, outer, ms.Implicit(ms.Neumann(terms)), key=key)
    assert relative_distance(series.grad, window.grad) < 1e-11


def test_neumann_diverges_loudly(key):
    """A step size beyond 2 / smoothness, from the fixed point itself: the series explodes."""
    hessian = jnp.diag(jnp.array([1.0, 0.5]))
    problem = ms.QuadraticProblem(
        hessian, hessian, jnp.ones(2), lambda w, outer: jnp.sum(w**2), 2.5, 3
    )
    estimate = ms.hypergradient(problem, jnp.ones(2), ms.Implicit(ms.Neumann(40)), key=key)
    assert estimate.result == ms.RESULTS.linear_solve_failed
    assert "Neumann" in ms.RESULTS[estimate.result]


@pytest.mark.parametrize("horizon", [5, 30])
def test_an_unconverged_loop_is_reported(horizon, key):
    problem, outer = make(optax.sgd(0.02), horizon)
    estimate = ms.hypergradient(problem, outer, ms.Implicit(), key=key)
    assert estimate.result == ms.RESULTS.not_stationary
    assert "converged" in ms.RESULTS[estimate.result]


OPTIMIZER_ONLY = {
    "sgd": (lambda o: optax.sgd(o["rate"]), 0.2, 400),
    "sgd-just-converged": (lambda o: optax.sgd(o["rate"]), 0.2, 60),
    "momentum": (lambda o: optax.sgd(0.1, momentum=o["rate"]), 0.8, 400),
    "adam-rate": (lambda o: optax.adam(o["rate"]), 0.05, 2500),
}


@pytest.mark.parametrize("name", OPTIMIZER_ONLY)
def test_a_leaf_that_only_shapes_the_optimizer(name, key):
    """The trap of optimistix, whose implicit adjoint returns 0.0 without a word."""
    optimizer, rate, horizon = OPTIMIZER_ONLY[name]
    problem, outer = make(optimizer, horizon, rate=jnp.array(rate))
    estimate = ms.hypergradient(problem, outer, ms.Implicit(lx.LU()), key=key)
    assert estimate.result == ms.RESULTS.unseen_by_implicit
    assert jnp.isnan(estimate.grad["rate"])
    seen = {name: bool(hidden) for name, hidden in estimate.stats["unseen"].items()}
    assert seen == {"center": False, "decay": False, "rate": True}
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key).grad
    for leaf in ("center", "decay"):
        assert jnp.allclose(estimate.grad[leaf], exact[leaf], rtol=2e-2, atol=0)


def test_a_step_size_is_seen_through_in_float32_too(key):
    """Where rounding stops the loop before the step size's response has quite vanished."""
    with jax.enable_x64(False):
        problem, outer = make(lambda o: optax.sgd(o["rate"]), 400, rate=jnp.float32(0.2))
        outer = jax.tree.map(lambda x: x.astype(jnp.float32), outer)
        estimate = ms.hypergradient(problem, outer, ms.Implicit(), key=key)
    assert {name: bool(hidden) for name, hidden in estimate.stats["unseen"].items()} == {
        "center": False,
        "decay": False,
        "rate": True,
    }


def test_a_leaf_of_the_initial_state_is_refused(key):
    problem = ms.TrainingProblem(
        lambda w, outer, batch: jnp.sum((w - outer["center"]) ** 2),
        lambda w, outer: jnp.sum(w**2),
        lambda outer, key: outer["start"],
        optax.sgd(0.1),
        200,
    )
    outer = {"start": jnp.ones(2), "center": jnp.zeros(2)}
    with pytest.raises(ValueError, match=r"outer\['start'\] cannot influence.*`init`"):
        ms.hypergradient(problem, outer, ms.Implicit(), key=key)
    with pytest.raises(ValueError, match=r"outer\['start'\] cannot influence.*Reverse"):
        ms.hypergradient(problem, outer, ms.TruncatedReverse(5), key=key)
    assert ms.hypergradient(problem, outer, ms.Reverse(), key=key).result == ms.RESULTS.successful


def test_stochastic_batches_have_no_fixed_point(key):
    noisy = lambda w, outer, batch: jnp.sum((w - outer - batch) ** 2)
    problem = ms.TrainingProblem(
        noisy,
        lambda w, outer: jnp.sum(w**2),
        jnp.ones(2),
        optax.sgd(0.1),
        300,
        batch=lambda t, key: jax.random.normal(key, (2,)),
    )
    estimate = ms.hypergradient(problem, jnp.ones(2), ms.Implicit(), key=key)
    assert estimate.result == ms.RESULTS.not_stationary


@pytest.mark.parametrize("matrix", [np.eye(3), np.diag([1.0, 2.0, 4.0])], ids=["identity", "diag"])
def test_conjugate_gradients_return_the_solution(matrix):
    """Traps (a) and (b): an iterate before the last one, or a scaled step, would show here."""
    rhs = jnp.array([1.0, 1.0, 1.0])
    solver = ms.Implicit()
    solution, residual = solver._solve(lambda v: v - jnp.asarray(matrix) @ v, rhs)
    assert np.allclose(solution, np.linalg.solve(matrix, rhs), rtol=1e-12, atol=0)
    assert residual < 1e-12


@pytest.mark.parametrize("terms", [0, -1, True])
def test_bad_terms(terms):
    with pytest.raises(ValueError, match=r"terms is .*; allowed are the integers from 1"):
        ms.Neumann(terms)
