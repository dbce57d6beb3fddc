"""Windows of runs that go on: each is the truncated gradient of its own run."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.problems.base import split_keys
from tests.cases import training
from tests.helpers import problem_value

pytestmark = pytest.mark.usefixtures("x64")

HORIZON, WINDOW, RUNS = 12, 3, 4
momentum = lambda outer: optax.sgd(outer["step_size"], momentum=0.9)


def with_own_start():
    """Draw the parameters of each run from its own key; a function is part of the model."""
    draw = lambda outer, key: {
        "w": jax.random.normal(key, (3,)),
        "b": jnp.array(0.1),
        "activation": jnp.tanh,
    }
    return training(lambda outer: optax.sgd(outer["step_size"]), HORIZON, init_params=draw)()


@eqx.filter_jit
def estimated(estimator, problem, outer, state, key):
    return estimator.estimate(problem, outer, state, key)


def estimates(problem, outer, estimator, count, key):
    """Return what `count` estimates in a row give, and the runs after each."""
    state = estimator.init(problem, outer, key)
    rows = []
    for call in jax.random.split(key, count):
        estimate, state = estimated(estimator, problem, outer, state, call)
        rows.append((estimate, state))
    return rows


def test_a_single_run_gives_the_truncated_gradients_of_its_own_trajectory(key):
    problem, outer = training(momentum, 2 * WINDOW)()
    rows = estimates(problem, outer, ms.PersistentReverse(WINDOW, runs=1), 3, key)
    assert [int(estimate.stats["ages"][0]) for estimate, _ in rows] == [3, 6, 3]
    for estimate, _ in rows:
        horizon = int(estimate.stats["ages"][0])
        shorter = training(problem.optimizer, horizon)()[0]
        expected = ms.hypergradient(shorter, outer, ms.TruncatedReverse(WINDOW), key=key)
        # The trajectory does not depend on the key here; both sum the same 3 steps in float64.
        np.testing.assert_allclose(estimate.value, expected.value, rtol=1e-12, atol=0)
        for name, grad in expected.grad.items():
            np.testing.assert_allclose(estimate.grad[name], grad, rtol=1e-9, atol=1e-14)


def test_runs_end_by_turns_and_begin_with_keys_of_their_own(key):
    problem, outer = with_own_start()
    rows = estimates(problem, outer, ms.PersistentReverse(WINDOW, runs=RUNS), 12, key)
    ages = np.stack([estimate.stats["ages"] for estimate, _ in rows])
    windows = HORIZON // WINDOW
    np.testing.assert_array_equal(ages[0], WINDOW)
    for row in ages[windows:]:  # from then on all ages are there, one each
        np.testing.assert_array_equal(np.sort(row), WINDOW * np.arange(1, windows + 1))
    starts = {
        tuple(np.asarray(jax.random.key_data(state.keys.init[run])))
        for _, state in rows
        for run in range(RUNS)
    }
    assert len(starts) == RUNS + 11  # one run is replaced before each estimate but the first
    for _, state in rows:
        params = np.asarray(state.points.inner.params["w"])
        assert len(np.unique(params[:, 0])) == RUNS


def test_the_gradient_is_the_mean_over_the_runs(key):
    problem, outer = with_own_start()
    estimator = ms.PersistentReverse(WINDOW, runs=RUNS)
    state = estimator.init(problem, outer, key)
    estimate, _ = estimated(estimator, problem, outer, state, key)
    first = training(problem.optimizer, WINDOW, init_params=problem.init_params)()[0]

    @jax.jit
    def one(run_key):
        keys = split_keys(run_key)
        inner = first.init(outer, keys.init)

        def judged(outer):
            state = inner
            for t in range(WINDOW):
                state = first.step(state, outer, t, keys.step(t))
            return first.objective(state, outer, keys.objective)

        return jax.grad(judged)(outer)

    grads = [one(run_key) for run_key in jax.random.split(key, RUNS)]
    expected = jax.tree.map(lambda *leaves: sum(leaves) / RUNS, *grads)
    for name, grad in expected.items():
        np.testing.assert_allclose(estimate.grad[name], grad, rtol=1e-10, atol=1e-14)
    for option in ({"together": 3}, {"checkpoint": "sqrt", "mixed": True}):
        same = ms.PersistentReverse(WINDOW, RUNS, **option)
        other, _ = estimated(same, problem, outer, state, key)
        for name, grad in expected.items():
            np.testing.assert_allclose(other.grad[name], grad, rtol=1e-10, atol=1e-14)


def test_a_run_that_diverged_is_replaced(key):
    problem, outer = training(lambda outer: optax.sgd(outer["step_size"]), HORIZON)()
    estimator = ms.PersistentReverse(WINDOW, runs=2)
    state = estimator.init(problem, outer, key)
    weights = lambda state: state.points.inner.params["w"]
    state = eqx.tree_at(weights, state, weights(state).at[1].set(jnp.inf))
    bad, state = estimated(estimator, problem, outer, state, key)
    assert bad.result == ms.RESULTS.nonfinite_inner
    good, _ = estimated(estimator, problem, outer, state, jax.random.key(9))
    assert good.result == ms.RESULTS.successful
    np.testing.assert_array_equal(good.stats["ages"], [2 * WINDOW, WINDOW])


def test_minimize_carries_the_population_along(key):
    problem, outer = with_own_start()
    outer = {**outer, "weights": jnp.zeros(4)}
    run = ms.minimize(
        problem, outer, ms.PersistentReverse(WINDOW), optimizer=optax.adam(0.02), steps=40, key=key
    )
    assert run.result == ms.RESULTS.successful
    value = jax.jit(jax.vmap(lambda outer, key: problem_value(problem, outer, key), (None, 0)))
    fresh = jax.random.split(jax.random.key(0), 8)
    assert jnp.mean(value(run.outer, fresh)) < jnp.mean(value(outer, fresh))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            lambda: ms.PersistentReverse(5),
            "window is 5; allowed are the divisors of the horizon, 12",
        ),
        (lambda: ms.PersistentReverse(0), "window is 0"),
        (lambda: ms.PersistentReverse(3, runs=0), "runs is 0"),
        (lambda: ms.PersistentReverse(3, together=0), "together is 0"),
    ],
)
def test_wrong_use_is_refused(key, estimator, message):
    problem, outer = training(momentum, HORIZON)()
    with pytest.raises(ValueError, match=message):
        estimator().init(problem, outer, key)


def test_an_initialisation_alone_is_refused(key):
    draw = lambda outer, key: {"w": outer["start"], "b": jnp.array(0.0)}
    problem, outer = training(lambda outer: optax.sgd(0.1), HORIZON, init_params=draw)()
    outer["start"] = jnp.ones(3)
    with pytest.raises(ValueError, match=r"outer\['start'\].*PersistentReverse"):
        ms.PersistentReverse(WINDOW).init(problem, outer, key)
