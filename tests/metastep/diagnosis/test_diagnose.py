"""The advisor: its measurements against independent ones, its warnings where they are due."""

import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.diagnosis.bias_curve import bias_curve
from metastep.diagnosis.clock import Clock
from metastep.diagnosis.diagnose import judge
from metastep.diagnosis.measure import measure
from metastep.diagnosis.sizes import compiled_bytes
from metastep.optimizers import adam
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
    problem, outer, found = diagnosed(name)
    for row in found.windows:
        assert row.relative_error <= row.bound
    key = jax.random.key(KEY)
    shortest = ms.hypergradient(problem, outer, ms.TruncatedReverse(1), key=key)
    error = relative_distance(shortest.grad, found.exact)
    assert np.isclose(found.windows[0].relative_error, error, rtol=1e-9, atol=0)


def test_the_lyapunov_exponent_of_the_logistic_map():
    _, _, found = diagnosed("logistic")
    # 0.4945 at rate 3.9 for an infinite orbit; 200 steps scatter by about 0.6 / sqrt(200).
    assert abs(found.lyapunov_exponent - 0.4945) < 0.13
    assert np.isclose(
        199 * found.lyapunov_exponent, np.log(found.adjoint_decay), rtol=1e-12, atol=0
    )


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
    assert "chaotic" not in kinds("momentum") | kinds("start")
    assert diagnosed("quadratic")[2].digits_lost < 1


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


def test_every_training_that_looks_for_a_smooth_step_counts(monkeypatch):
    """One at the hyperparameters and two for each length: three if the first length will do."""
    problem, outer, found = diagnosed("momentum")
    monkeypatch.setattr("metastep.diagnosis.measure.SMOOTH", 2.0)  # no length will do
    again = ms.diagnose(problem, outer, key=jax.random.key(KEY))
    assert np.isclose(again.work - found.work, (7 - 3) / 3, rtol=1e-9, atol=0)


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


def layer(examples=16, width=24, **options):
    """A layer of 8 x 24 weights, whose residuals are most of what reverse mode needs."""
    inputs = jnp.sin(jnp.arange(8.0 * examples)).reshape(examples, 8)
    error = lambda w, outer, batch: jnp.mean(jnp.tanh(inputs @ w) ** 2) + outer * jnp.sum(w**2)
    start = jnp.cos(jnp.arange(8.0 * width)).reshape(8, width)
    problem = training(error, lambda w, outer: jnp.sum(w**3), 50, init_params=start, **options)
    return problem, jnp.array(0.3)


def test_without_memory_for_all_residuals_it_measures_the_same(key):
    problem, outer = layer()
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    needed = compiled_bytes(ms.Reverse(), problem, outer, key)
    memory = needed // 2
    scarce = ms.diagnose(problem, outer, key=key, memory=memory)
    assert not scarce.option(ms.Reverse()).measured and scarce.option(ms.Reverse("sqrt")).measured
    assert relative_distance(scarce.exact, exact.grad) < 1e-12
    assert np.isclose(scarce.option(ms.Reverse()).memory, needed, rtol=0.2, atol=0)
    assert scarce.recommendation.estimator != ms.Reverse()
    assert scarce.option(scarce.recommendation.estimator).memory <= memory


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


def test_a_spectrum_has_no_eigenvalues_beyond_its_krylov_space(key):
    """All curvatures are 2: one vector spans the space, and a second one would be zero."""
    found = ms.diagnose(training(distance, lambda w, outer: jnp.sum(w**2)), 0.3, key=key)
    assert np.allclose(found.inner_curvature, (0.2, 0.2), rtol=1e-5, atol=0)


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


@pytest.mark.parametrize(
    ("outer", "said"), [({}, "has no leaves"), ({"spare": 1.0}, "cannot influence")]
)
def test_without_a_hyperparameter_that_matters_it_says_so(outer, said, key):
    problem = training(lambda w, o, batch: jnp.sum((w - 1) ** 2), lambda w, o: jnp.sum(w))
    with pytest.raises(ValueError, match=said):
        ms.diagnose(problem, outer, key=key)


def training(loss, objective, horizon=6, **options):
    """Two numbers trained by gradient descent."""
    defaults = {"init_params": jnp.array([0.5, -0.3]), "optimizer": optax.sgd(0.1)}
    return ms.TrainingProblem(
        loss=loss, objective=objective, horizon=horizon, **(defaults | options)
    )


def distance(w, outer, batch):
    return jnp.sum((w - outer) ** 2)


def test_a_constant_objective_has_no_recommendation_and_says_so(key):
    problem = training(distance, lambda w, outer: jnp.sum(0 * w) + 1.0)
    found = ms.diagnose(problem, 0.3, key=key)
    assert found.recommendation.estimator is None
    assert found.warnings[0].kind == "zero-gradient" and "does not change" in str(found)


def test_a_gradient_that_is_nan_has_no_recommendation_and_says_so(key):
    """The root at zero: a value, and no derivative."""
    root = lambda w, outer: jnp.sum(jnp.sqrt(w - jax.lax.stop_gradient(w))) + jnp.sum(w)
    found = ms.diagnose(training(distance, root), 0.3, key=key)
    assert not found.finite and not found.chaotic
    assert found.recommendation.estimator is None and found.warnings[0].kind == "not-finite"


def test_one_step_is_enough(key):
    found = ms.diagnose(training(distance, lambda w, outer: jnp.sum(w**3), 1), 0.3, key=key)
    assert found.recommendation.estimator is not None
    assert len(str(found).splitlines()) <= 30


@pytest.mark.parametrize("budget", [0.0, -1.0, 1e-6])
def test_a_budget_that_is_too_small_says_how_much_would_do(budget, key):
    with pytest.raises(ValueError, match=r"budget is .*(allowed|Allowed)"):
        ms.diagnose(training(distance, lambda w, o: jnp.sum(w**3)), 0.3, key=key, budget=budget)


def test_what_the_budget_does_not_allow_is_named(key):
    """The clock is spent after the exact hypergradient."""
    clock = Clock(100.0)
    problem, outer = training(distance, lambda w, o: jnp.sum(w**3)), jnp.array(0.3)
    clock.allows = lambda seconds, what: bool(clock.left_out.append(what))
    found = judge(problem, outer, key, measure(problem, outer, key, 2**30, clock), 2**30, clock)
    assert "metasmoothness" in found.left_out and "left out" in str(found)
    assert found.response is None and np.isnan(found.digits_lost) and not found.chaotic
    assert found.recommendation.estimator is not None


def test_a_model_that_holds_functions_is_counted(key):
    """Weights and biases 3 x 4 + 4 and 4 x 1 + 1, twice for Adam's moments, and counters."""
    model = eqx.nn.MLP(3, 1, 4, 1, key=key)
    inputs = jnp.eye(3)
    error = lambda model, outer, batch: jnp.mean(jax.vmap(model)(inputs) ** 2) * jnp.exp(outer)
    problem = training(
        error,
        lambda m, outer: error(m, 0.0, None),
        init_params=lambda o, k: model,
        optimizer=adam(0.1),
    )
    found = ms.diagnose(problem, 0.3, key=key)
    numbers = 3 * (3 * 4 + 4 + 4 + 1)
    assert 8 * numbers <= found.state_bytes <= 8 * numbers + 64
    assert not found.chaotic


# Descent stores little of its state for the backward pass, Adam all of it. With 400 examples and
# 200 units, activations of 50 steps exceed 64 MiB: `Reverse()` then chooses mixed mode, a window of
# five steps does not.
MEMORY = {
    "descent": (layer, [ms.Reverse(), ms.Reverse("sqrt"), ms.TruncatedReverse(20)]),
    "adam": (lambda: layer(4, optimizer=adam(0.1)), [ms.Reverse(), ms.TruncatedReverse(20)]),
    "mixed": (lambda: layer(400, 200), [ms.Reverse(), ms.TruncatedReverse(5)]),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_that_of_the_compiler(name, key):
    """Within a fifth, for whatever stores residuals or states of the steps."""
    make, estimators = MEMORY[name]
    problem, outer = make()
    found = ms.diagnose(problem, outer, key=key)
    for estimator in estimators:
        true = compiled_bytes(estimator, problem, outer, key)
        assert np.isclose(found.option(estimator).memory, true, rtol=0.2, atol=0)


def test_it_becomes_a_dictionary_of_plain_values():
    _, _, found = diagnosed("momentum")
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["recommendation"]["estimator"] == str(found.recommendation.estimator)
    assert plain["windows"][0]["window"] == 1
    assert np.allclose(plain["exact"]["center"], found.exact["center"])


def test_the_suggested_step_lowers_the_objective():
    """By a descent step of the suggested size, which goes as far as the parabola's minimum.

    The parabola has the value, the slope, and the value at twice the measured length.
    """
    problem, outer, found = diagnosed("start")
    key, length = jax.random.key(KEY), found.response.length
    uphill, unflatten = ravel_pytree(found.exact)
    value = lambda outer: problem.objective(ms.unroll(problem, outer, key), outer, key)
    step = unflatten(-found.response.descent_step_size * uphill)
    assert value(jax.tree.map(jnp.add, outer, step)) < value(outer)
    smooth = ms.metasmoothness(problem, outer, key=key, direction=unflatten(-uphill), length=length)
    assert np.isclose(found.response.score, smooth.score, rtol=1e-9, atol=0) and smooth.score > 0.9
    slope, (here, _, beyond) = np.linalg.norm(uphill), smooth.values
    minimum = slope * length / (slope + (beyond - here) / (2 * length))
    assert np.isclose(found.response.reach, minimum, rtol=1e-6, atol=0) and minimum < 2 * length
