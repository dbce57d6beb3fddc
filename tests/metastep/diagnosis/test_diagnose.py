"""The advisor: its measurements against independent ones, its warnings where they are due."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metastep as ms
from metastep.diagnosis.bias_curve import bias_curve
from metastep.problems.base import split_keys
from metastep.trees import cosine
from tests.cases import BRIEF, PROBLEMS, TUNED_START
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")
KEY = 20


class Logistic(ms.AbstractProblem):
    """The logistic map, chaotic at rate 3.9."""

    horizon: int = 200

    def init(self, outer, key):
        return jnp.array(0.3)

    def step(self, inner, outer, t, key):
        return outer * inner * (1 - inner)

    def objective(self, inner, outer, key):
        return inner


def counterexample():
    """Strongly convex, and one-step truncation diverges at every outer step size."""
    hessian = jnp.array([[5.0, -2.0], [-2.0, 1.0]])
    coupling = jnp.diag(jnp.array([1.0, 0.25]))
    judge = lambda w, outer: w @ jnp.array([[1.0, -2.0], [-2.0, 5.0]]) @ w / 2
    problem = ms.QuadraticProblem(hessian, coupling, jnp.zeros(2), judge, 0.17, 1000)
    return problem, jnp.array([1.0, 2.0])


CASES = {
    "quadratic": PROBLEMS["quadratic"],
    "momentum": BRIEF["brief"],
    "start": TUNED_START["start"],
    "counterexample": counterexample,
    "logistic": lambda: (Logistic(), jnp.array(3.9)),
}


@functools.cache
def diagnosed(name):
    problem, outer = CASES[name]()
    return problem, outer, ms.diagnose(problem, outer, key=jax.random.key(KEY))


def kinds(name):
    return {warning.kind for warning in diagnosed(name)[2].warnings}


@pytest.mark.parametrize(("name", "stored"), [("quadratic", False), ("start", True)])
def test_one_pass_gives_what_every_window_gives(name, stored, key):
    """Whether every step's residuals are stored or the state of some."""
    problem, outer = (PROBLEMS | TUNED_START)[name]()
    windows = (1, 5, problem.horizon)

    @jax.jit
    def curve(outer, key):
        return bias_curve(problem, outer, split_keys(key), windows, stored=stored)

    found = curve(outer, key)
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    assert relative_distance(found.exact, exact.grad) < 1e-12
    assert jnp.allclose(found.value, exact.value, rtol=1e-13, atol=0)
    for i, window in enumerate(windows):
        one = ms.hypergradient(problem, outer, ms.TruncatedReverse(window), key=key)
        truncated = jax.tree.map(lambda x, i=i: x[i], found.truncated)
        assert relative_distance(truncated, one.grad) < 1e-12
        assert jnp.allclose(
            found.adjoint_norms[window], one.stats["adjoint_at_cut"], rtol=1e-12, atol=0
        )


def test_contraction_and_curvature_are_those_of_the_hessian():
    problem, _, found = diagnosed("quadratic")
    eigenvalues = problem.step_size * np.linalg.eigvalsh(problem.hessian)
    # Two products span the plane: the projection is exact.
    assert np.allclose(found.inner_curvature, (eigenvalues[0], eigenvalues[-1]), rtol=1e-10, atol=0)
    assert np.isclose(found.contraction, 1 - eigenvalues[0], rtol=1e-10, atol=0)
    assert found.symmetric
    assert found.state_bytes == problem.start.nbytes
    assert not diagnosed("momentum")[2].symmetric


@pytest.mark.parametrize("name", ["quadratic", "counterexample"])
def test_the_error_is_below_the_bound_of_the_paper(name):
    """Equation 10, on problems that meet its assumptions: constant Jacobians, w_0 constant."""
    for row in diagnosed(name)[2].windows:
        assert row.relative_error <= row.bound


def test_the_lyapunov_exponent_of_the_logistic_map():
    _, _, found = diagnosed("logistic")
    # 0.4945 at rate 3.9 for an infinite orbit; 200 steps scatter by about 0.6 / sqrt(200).
    assert abs(found.lyapunov_exponent - 0.4945) < 0.13


DUE = {
    "quadratic": {"implicit-wrong"},
    "momentum": {"implicit-wrong"},
    "counterexample": {"not-descent", "descent-not-guaranteed", "vanishing"},
    "logistic": {"chaotic", "neumann-diverges", "implicit-wrong"},
}


@pytest.mark.parametrize("name", DUE)
def test_warnings_are_given_where_they_are_due(name):
    assert DUE[name] <= kinds(name)


def test_warnings_are_not_given_where_they_are_not():
    assert not {"not-descent", "chaotic", "neumann-diverges", "not-finite"} & kinds("quadratic")
    assert not {"implicit-wrong", "neumann-diverges", "chaotic"} & kinds("counterexample")


@pytest.mark.parametrize("name", [name for name in CASES if name != "logistic"])
def test_the_advice_is_right(name):
    """The recommended estimator points along the exact gradient, as the table said it would."""
    problem, outer, found = diagnosed(name)
    key = jax.random.key(KEY)
    estimator = found.recommendation.estimator
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    advised = ms.hypergradient(problem, outer, estimator, key=key)
    angle = float(cosine(advised.grad, exact.grad))
    assert angle >= 0.95
    assert np.isclose(angle, found.option(estimator).cosine, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "start"])
def test_it_costs_at_most_five_exact_hypergradients(name):
    """In inner steps and products with their Jacobians."""
    assert diagnosed(name)[2].work <= 5


@pytest.mark.parametrize("name", ["momentum", "counterexample"])
def test_implicit_differentiation_is_as_far_off_as_it_says(name):
    """By GMRES, and by conjugate gradients, on the trajectory that everything else is read off."""
    problem, outer, found = diagnosed(name)
    key = jax.random.key(KEY)
    (option,) = (o for o in found.options if isinstance(o.estimator, ms.Implicit))
    estimate = ms.hypergradient(problem, outer, option.estimator, key=key)
    # Both stop at a residual of 1e-4.
    distance = relative_distance(estimate.grad, found.exact)
    assert np.isclose(distance, option.relative_error, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert ms.RESULTS[estimate.result] == found.implicit_message


def test_without_memory_for_all_residuals_it_measures_the_same():
    problem, outer, found = diagnosed("quadratic")
    residuals = found.option(ms.Reverse()).memory
    scarce = ms.diagnose(problem, outer, key=jax.random.key(KEY), memory=residuals // 2)
    assert not scarce.option(ms.Reverse()).measured and scarce.option(ms.Reverse("sqrt")).measured
    assert relative_distance(scarce.exact, found.exact) < 1e-12
    assert scarce.recommendation.estimator != ms.Reverse()
    assert scarce.option(scarce.recommendation.estimator).memory <= residuals // 2


def test_without_a_meaningful_gradient_none_is_recommended():
    _, _, found = diagnosed("logistic")
    assert isinstance(found.recommendation.estimator, ms.EvolutionStrategies)
    assert "not meaningful" in found.recommendation.reason
    exact = found.option(ms.Reverse())
    assert exact.relative_error > 0.5


def test_it_reads_as_text():
    found = diagnosed("counterexample")[2]
    lines = str(found).splitlines()
    assert lines[0].startswith(f"Use {found.recommendation.estimator}.")
    assert len(lines) <= 30 and max(map(len, lines)) <= 100
    for part in ("contraction", "window", "TruncatedReverse(window=1)", "not-descent"):
        assert part in found.details()


def test_a_diverging_run_has_no_recommendation(key):
    diverging = ms.QuadraticProblem(
        jnp.eye(1), jnp.eye(1), jnp.ones(1), lambda w, outer: jnp.sum(w**2), 1e9, 60
    )
    found = ms.diagnose(diverging, jnp.ones(1), key=key)
    assert found.recommendation.estimator is None
    assert found.warnings[0].kind == "not-finite"


def test_a_leaf_that_nothing_uses_is_refused(key):
    problem, outer = PROBLEMS["sgd"]()
    with pytest.raises(ValueError, match=r"outer\['spare'\] cannot influence"):
        ms.diagnose(problem, outer | {"spare": 1.0}, key=key)
