"""(1/T) log f and its gradient against 80-digit arithmetic; and what the premise excludes."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.compilation import compiled
from metastep.optimizers import adam
from metastep.tasks import random_quadratic
from tests.high_precision import Spectral, descent

# What the project promises for step sizes of [0, 10] and horizons from 10 to 5000. An error above
# that of rounding comes from cancellation: near the optimum the gradient goes through zero.
TOLERANCE = {np.float32: 3e-4, np.float64: 1e-12}
PROBLEMS = {"P0": (0, 20), "P5": (5, 40), "ours": (11, 20)}
STEP_SIZES = np.concatenate([[0.0, 1e-6], np.logspace(-4, 1, 25)])
SGD = lambda outer: optax.sgd(outer["step_size"], momentum=outer.get("momentum"))


def paper_problem(name, dtype):
    seed, rows = PROBLEMS[name]
    task = random_quadratic(seed, rows=rows)
    return np.asarray(task.hessian, dtype), np.asarray(task.start, dtype)


def training(hessian, start, horizon, optimizer=SGD):
    loss = lambda w, outer, batch: w @ hessian @ w / 2
    objective = lambda w, outer: loss(w, outer, None)
    return ms.TrainingProblem(loss, objective, jnp.asarray(start), optimizer, horizon)


def estimates(problem, outers, estimator):
    """Estimate at many points at once."""
    one = lambda outer: estimator.estimate(problem, outer, None, jax.random.key(0))[0]
    found = compiled(jax.vmap(one))(outers)
    assert np.all(found.result == ms.RESULTS.successful)
    return found


@pytest.mark.parametrize(
    ("name", "horizon", "estimator", "dtype"),
    [
        ("P0", 10, ms.Reverse(), np.float32),
        ("P0", 1000, ms.Reverse(checkpoint="sqrt"), np.float64),
        ("P0", 5000, ms.Forward(), np.float32),
        ("P5", 80, ms.Reverse(), np.float32),
        ("P5", 80, ms.Reverse(), np.float64),
        ("P5", 5000, ms.Forward(), np.float64),
        ("ours", 200, ms.Reverse(), np.float32),
    ],
    ids=str,
)
def test_one_step_size(name, horizon, estimator, dtype):
    with jax.enable_x64(dtype is np.float64):
        hessian, start = paper_problem(name, dtype)
        truth = Spectral(hessian, start)
        steps = jnp.asarray(STEP_SIZES, dtype)
        problem = training(hessian, start, horizon)
        found = estimates(problem, {"step_size": steps}, ms.LogDomain(estimator))
        for index, step_size in enumerate(np.asarray(steps)):
            value, slope = truth.derivative(step_size, horizon)
            slopes = found.grad["step_size"]
            assert abs(float(slopes[index]) - slope) <= TOLERANCE[dtype] * abs(slope)
            assert abs(float(found.value[index]) - value) <= 8 * np.finfo(dtype).eps * max(
                1, abs(value)
            )


def hyperparameters(kind, size, horizon, rng):
    if kind == "coordinates":
        return {"step_size": size * rng.uniform(0.3, 1.0, 20)}
    if kind == "schedule":
        return {"step_size": size * rng.uniform(0.3, 1.0, horizon)}
    return {"step_size": size, "momentum": 0.9}


OPTIMIZERS = {
    "coordinates": lambda outer: optax.sgd(outer["step_size"]),
    "schedule": lambda outer: optax.sgd(lambda count: outer["step_size"][count]),
    "momentum": SGD,
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "horizon", "sizes", "dtype"),
    [("P5", 40, (0.01, 0.1, 3.0), np.float32), ("P0", 200, (0.1,), np.float64)],
)
def test_many_hyperparameters(kind, name, horizon, sizes, dtype):
    """Stable, unstable and far beyond: plain back-propagation is NaN or 0 for the last two."""
    with jax.enable_x64(dtype is np.float64):
        rng = np.random.default_rng(3)
        hessian, start = paper_problem(name, dtype)
        outers = [hyperparameters(kind, size, horizon, rng) for size in sizes]
        batched = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), dtype), *outers)
        problem = training(hessian, start, horizon, OPTIMIZERS[kind])
        found = estimates(problem, batched, ms.LogDomain())
        for index in range(len(sizes)):
            outer, grad = (jax.tree.map(lambda x, i=index: x[i], t) for t in (batched, found.grad))
            steps = np.broadcast_to(_rows(kind, outer["step_size"]), (horizon, 20))
            momentum = outer.get("momentum", 0.0)
            value, by_step, by_momentum = descent(hessian, start, steps, momentum)
            truth = {"coordinates": by_step.sum(0), "schedule": by_step.sum(1)}
            _close(grad["step_size"], truth.get(kind, by_step.sum()), TOLERANCE[dtype])
            if kind == "momentum":
                _close(grad["momentum"], by_momentum, TOLERANCE[dtype])
            # The value passes through zero: relative to its terms, which are about one.
            assert abs(float(found.value[index]) - value) <= 16 * np.finfo(dtype).eps


def _rows(kind, steps):
    steps = np.asarray(steps)
    return steps[:, None] if kind == "schedule" else steps


def _close(actual, expected, tolerance):
    """Hold vectors against each other by their distance relative to the length."""
    actual = np.array([float(x) for x in np.ravel(actual)])
    expected = np.array([float(x) for x in np.ravel(np.asarray(expected, object))])
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


def test_plain_back_propagation_fails_where_this_does_not(key):
    """Both faces of the failure: NaN, and a zero that looks like an optimum."""
    hessian, start = paper_problem("P0", np.float32)
    problem = training(hessian, start, 80)
    logged = ms.TrainingProblem(
        problem.loss,
        ms.log_transformed(problem.objective_of_params, 80),
        start,
        SGD,
        80,
    )
    plain = [
        ms.hypergradient(logged, {"step_size": s}, ms.Reverse(), key=key) for s in (0.06, 0.1, 0.5)
    ]
    grads = [float(one.grad["step_size"]) for one in plain]
    assert not any(one.result == ms.RESULTS.successful for one in plain[1:])
    assert not np.isfinite(grads[1:]).any()
    stable = ms.hypergradient(problem, {"step_size": 0.5}, ms.LogDomain(), key=key)
    assert stable.result == ms.RESULTS.successful and np.isfinite(stable.grad["step_size"])


def test_memory_of_forward_does_not_grow_with_the_horizon(key):
    hessian, start = paper_problem("P5", np.float32)

    def temporary_bytes(horizon):
        problem = training(hessian, start, horizon)
        estimate = lambda outer: ms.LogDomain(ms.Forward()).estimate(problem, outer, None, key)[0]
        compiled = jax.jit(estimate).lower({"step_size": jnp.array(0.01)}).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(10**6) <= temporary_bytes(100) + 64


def test_a_million_steps(x64, key):
    hessian, start = paper_problem("P5", np.float64)
    problem = training(hessian, start, 10**6)
    estimator = ms.LogDomain(ms.Forward())
    found = ms.hypergradient(problem, {"step_size": 0.5}, estimator, key=key)
    value, slope = Spectral(hessian, start).derivative(0.5, 10**6)
    np.testing.assert_allclose(float(found.value), float(value), rtol=1e-12)
    np.testing.assert_allclose(float(found.grad["step_size"]), float(slope), rtol=1e-10)


def least_squares(samples, dim, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples, dim))
    return jnp.asarray(inputs), jnp.asarray(inputs @ rng.standard_normal(dim) + 1.0)


@pytest.mark.parametrize(("samples", "dim", "excess"), [(6, 10, False), (12, 5, True)])
def test_least_squares_in_residuals(x64, key, samples, dim, excess):
    """Against (I - eta K)^T in the eigenbasis, at a loss of e-100 and below."""
    inputs, targets = least_squares(samples, dim)
    horizon, step_size = 1000, 0.5
    problem = ms.ResidualProblem(inputs, targets, horizon, excess=excess)
    found = ms.hypergradient(problem, {"step_size": step_size}, ms.LogDomain(), key=key)
    left, values, _ = np.linalg.svd(np.asarray(inputs), full_matrices=False)
    start, rates = left.T @ np.asarray(targets), values**2 / samples
    factors = 1 - step_size * rates
    losses = start**2 * (factors / np.abs(factors).max()) ** (2 * horizon)
    value = np.log(losses.sum() / (2 * samples)) / horizon + 2 * np.log(np.abs(factors).max())
    slope = np.sum(losses * -2 * rates / factors) / losses.sum()
    assert found.result == ms.RESULTS.successful
    assert float(found.value) < (-0.1 if excess else 0)
    # The slowest rate decides, and a relative error of 1e-15 in it is multiplied by 2 T.
    np.testing.assert_allclose(found.value, value, rtol=1e-11)
    np.testing.assert_allclose(found.grad["step_size"], slope, rtol=1e-10)


@pytest.mark.parametrize("excess", [False, True])
@pytest.mark.parametrize(("samples", "dim"), [(6, 10), (12, 5)])
def test_residuals_are_those_of_descent_on_the_weights(x64, key, samples, dim, excess):
    inputs, targets = least_squares(samples, dim)
    half_mean = lambda r: jnp.sum(r**2) / (2 * samples)
    loss = lambda w, outer, batch: half_mean(inputs @ w - targets)
    lowest = loss(jnp.linalg.lstsq(inputs, targets)[0], None, None) if excess else 0.0
    objective = lambda w, outer: loss(w, outer, None) - lowest
    in_weights = ms.TrainingProblem(loss, objective, jnp.zeros(dim), SGD, 20)
    problem = ms.ResidualProblem(inputs, targets, 20, excess=excess)
    one, other = (
        ms.hypergradient(p, {"step_size": 0.2}, ms.Reverse(), key=key)
        for p in (in_weights, problem)
    )
    np.testing.assert_allclose(other.value, one.value, rtol=1e-9)
    np.testing.assert_allclose(other.grad["step_size"], one.grad["step_size"], rtol=1e-9)


def test_examples_that_repeat_each_other_have_an_excess_too(x64, key):
    """Two examples at 1 with targets 0 and 2: the minimum is 1/2, the excess of w = 0 also 1/2."""
    problem = ms.ResidualProblem(
        jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([0.0, 2.0]), 1, excess=True
    )
    found = ms.hypergradient(problem, {"step_size": 0.5}, ms.Reverse(), key=key)
    np.testing.assert_allclose(found.value, 0.5 * 0.5**2, rtol=1e-12)


@pytest.mark.parametrize(
    ("rows", "horizon", "message"), [(4, 5, r"targets has .* allowed is \(3,\)"), (3, 0, "horizon")]
)
def test_bad_residual_problem(rows, horizon, message):
    with pytest.raises(ValueError, match=message):
        ms.ResidualProblem(jnp.ones((3, 2)), jnp.ones(rows), horizon)


def shifted(hessian, start, horizon):
    """The minimiser is not 0: neither step nor objective scale with w."""
    loss = lambda w, outer, batch: (w - 0.1) @ hessian @ (w - 0.1) / 2
    objective = lambda w, outer: loss(w, outer, None)
    return ms.TrainingProblem(loss, objective, jnp.asarray(start), SGD, horizon)


def with_floor(hessian, start, horizon):
    """The step scales; the objective has a positive minimum."""
    objective = lambda w, outer: w @ hessian @ w / 2 + 1.0
    problem = training(hessian, start, horizon)
    return ms.TrainingProblem(problem.loss, objective, jnp.asarray(start), SGD, horizon)


def adaptive(hessian, start, horizon):
    return training(hessian, start, horizon, lambda outer: adam(outer["step_size"]))


def clipped(hessian, start, horizon):
    clip = optax.clip_by_global_norm(100.0)
    return training(
        hessian, start, horizon, lambda outer: optax.chain(clip, optax.sgd(outer["step_size"]))
    )


def bounded(hessian, start, horizon):
    return ms.Bounded(training(hessian, start, horizon), radius=1e4)


@cache
def made(make):
    """Return one and the same problem for all its rows, which is compiled once."""
    hessian, start = paper_problem("P0", np.float32)
    return make(jnp.asarray(hessian), start, 60)


@pytest.mark.parametrize(
    ("make", "step_size", "covered"),
    [
        (training, 0.02, True),
        (shifted, 0.005, False),
        (with_floor, 0.005, False),
        (adaptive, 0.1, False),
        (clipped, 0.5, False),  # bites: the gradients of the true run pass 100
        (clipped, 0.002, False),  # never does, but would at 2^3 times the first gradient
        (bounded, 0.5, False),
        (bounded, 0.002, True),  # never leaves the ball, and shrinks
    ],
)
def test_the_premise_is_checked_and_not_trusted(make, step_size, covered, key):
    found = ms.hypergradient(made(make), {"step_size": step_size}, ms.LogDomain(), key=key)
    if covered:
        assert found.result == ms.RESULTS.successful and np.isfinite(found.value)
    else:
        assert found.result == ms.RESULTS.not_homogeneous
        assert np.isnan(found.value) and np.isnan(found.grad["step_size"])
        assert "minimiser" in ms.RESULTS[found.result]


def test_other_degrees_and_piecewise_linear_dynamics(x64, key):
    """A cubic objective, and a step that scales with positive factors only."""
    loss = lambda w, outer, batch: jnp.sum(jnp.where(w > 0, 2.0, 0.5) * w**2) / 2
    start = jnp.array([1.0, -2.0, 0.3])
    objective = lambda w, outer: jnp.sum(jnp.abs(w) ** 3)
    problem = ms.TrainingProblem(loss, objective, start, SGD, 30)
    found = ms.hypergradient(problem, {"step_size": 0.2}, ms.LogDomain(), key=key)
    factors = np.where(np.asarray(start) > 0, 1 - 0.2 * 2.0, 1 - 0.2 * 0.5)
    rates = np.where(np.asarray(start) > 0, 2.0, 0.5)
    ends = np.abs(start * factors**30) ** 3
    assert float(found.stats["degree"]) == 3
    np.testing.assert_allclose(found.value, np.log(ends.sum()) / 30, rtol=1e-13)
    slope = np.sum(ends * -3 * rates / factors) / ends.sum()
    np.testing.assert_allclose(found.grad["step_size"], slope, rtol=1e-13)


def test_an_objective_that_is_not_positive(key):
    """Negative and zero."""
    loss = lambda w, outer, batch: jnp.sum(w**2) / 2
    objective = lambda w, outer: jnp.sum(w * jnp.abs(w))
    for start in (-jnp.ones(2), jnp.zeros(2)):
        problem = ms.TrainingProblem(loss, objective, start, SGD, 5)
        found = ms.hypergradient(problem, {"step_size": 0.1}, ms.LogDomain(), key=key)
        assert found.result == ms.RESULTS.not_positive and np.isnan(found.value)


def test_nan_in_the_data_is_named_as_such(key):
    problem = training(jnp.full((2, 2), jnp.nan), np.ones(2), 5)
    found = ms.hypergradient(problem, {"step_size": 0.1}, ms.LogDomain(), key=key)
    assert found.result == ms.RESULTS.nonfinite_inner


def test_a_hyperparameter_without_influence_is_refused(key):
    hessian, start = paper_problem("P5", np.float32)
    outer = {"step_size": 0.01, "unused": 1.0}
    with pytest.raises(ValueError, match="unused"):
        ms.hypergradient(training(hessian, start, 5), outer, ms.LogDomain(), key=key)


def test_minimize_finds_the_optimal_step_size(x64, key):
    from metastep_lab.theory import quadratic_step_size as theory

    hessian, start = paper_problem("P0", np.float64)
    run = ms.minimize(
        training(hessian, start, 40),
        {"step_size": 0.01},
        ms.LogDomain(ms.Forward()),
        optimizer=optax.sgd(lambda count: 0.001 / jnp.sqrt(count + 1)),
        steps=1000,
        key=key,
        every=1000,
    )
    best = theory.optimal_step_size(hessian, start, 40)
    np.testing.assert_allclose(run.outer["step_size"], best, rtol=1e-9)
