"""Estimators that draw random numbers: unbiased for what they say, errors as they say."""

import jax
import jax.numpy as jnp
import optax
import pytest

import metastep as ms
from tests.cases import PROBLEMS

pytestmark = pytest.mark.usefixtures("x64")

SIGMA = 0.15
OUTER = {"pull": (0.6, -0.1)}
HORIZON, WINDOW = 4, 2


class Walk(ms.AbstractProblem):
    """w_T = T sum(outer), judged by w_T^4: smoothing changes its gradient by a known amount."""

    horizon: int = HORIZON

    def init(self, outer, key):
        return jnp.zeros(())

    def step(self, inner, outer, t, key):
        return inner + sum(outer["pull"])

    def objective(self, inner, outer, key):
        return inner**4


class Stairs(Walk):
    """The same walk, judged by a staircase of slope 1 that has no derivative anywhere."""

    def objective(self, inner, outer, key):
        return jnp.round(20 * inner) / 20


def smoothed_gradient(variance):
    """4 T E (m + e)^3 with e of the given variance, the same for both coordinates."""
    mean = HORIZON * sum(OUTER["pull"])
    return 4 * HORIZON * (mean**3 + 3 * variance * mean)


# Two coordinates: w_T has variance 2 (T sigma)^2 if the perturbation is the same in all T steps,
# and 2 (T / K) (K sigma)^2 if it is drawn anew in each window of K.
SAMPLED = {
    "evolution": (
        lambda pairs: ms.EvolutionStrategies(SIGMA, pairs),
        smoothed_gradient(2 * (HORIZON * SIGMA) ** 2),
    ),
    "persistent": (
        lambda pairs: ms.PersistentEvolutionStrategies(WINDOW, SIGMA, pairs),
        smoothed_gradient(2 * HORIZON * WINDOW * SIGMA**2),
    ),
    "directions": (ms.RandomDirections, smoothed_gradient(0.0)),
}


def over_one_trajectory(estimator, problem, outer, key):
    """Average the estimates of as many calls as a trajectory has windows; one if there are none."""
    windows = problem.horizon // getattr(estimator, "window", problem.horizon)
    state, grads = estimator.init(problem, outer, key), []
    for call_key in jax.random.split(key, windows):
        estimate, state = estimator.estimate(problem, outer, state, call_key)
        grads.append(estimate.grad)
    return jax.tree.map(lambda *leaves: sum(leaves) / windows, *grads)


def draws(estimator, count):
    keys = jax.random.split(jax.random.key(3), count)
    outer = jax.tree.map(jnp.asarray, OUTER)
    one = lambda key: jnp.stack(over_one_trajectory(estimator, Walk(), outer, key)["pull"])
    return jax.jit(jax.vmap(one))(keys)


@pytest.mark.parametrize(("make", "exact"), SAMPLED.values(), ids=SAMPLED)
def test_the_mean_over_keys_is_the_gradient_that_the_docstring_names(make, exact):
    samples = draws(make(4), 10_000)
    error = jnp.std(samples, axis=0) / jnp.sqrt(len(samples))
    assert jnp.all(jnp.abs(jnp.mean(samples, axis=0) - exact) < 4 * error)
    # The test can tell the smoothed gradient from the true one.
    if make is not ms.RandomDirections:
        assert jnp.all(jnp.abs(exact - smoothed_gradient(0.0)) > 8 * error)


@pytest.mark.parametrize(("make", "exact"), SAMPLED.values(), ids=SAMPLED)
def test_the_standard_error_shrinks_like_one_over_the_square_root(make, exact):
    few, many = (jnp.std(draws(make(pairs), 4000), axis=0) for pairs in (4, 64))
    # 4000 samples of a number with heavier tails than a Gaussian give the deviation within 5 %.
    assert jnp.allclose(few / many, 4.0, rtol=0.15, atol=0)


@pytest.mark.parametrize("make", [row[0] for row in SAMPLED.values()], ids=SAMPLED)
def test_the_reported_standard_error_is_that_of_the_estimate(make):
    estimator, outer = make(64), jax.tree.map(jnp.asarray, OUTER)

    def one(key):
        state = estimator.init(Walk(), outer, key)
        estimate, _ = estimator.estimate(Walk(), outer, state, key)
        return estimate.grad["pull"][0], estimate.stats["standard_error"]["pull"][0]

    grads, errors = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 2000))
    # Each error comes from 64 samples; their mean is good to a few percent.
    assert jnp.allclose(jnp.mean(errors), jnp.std(grads), rtol=0.1, atol=0)


SMALL = {
    "evolution": (ms.EvolutionStrategies(1e-4, 100, chunk=40), "momentum-batches"),
    "persistent": (ms.PersistentEvolutionStrategies(8, 1e-4, 100), "quadratic"),
}


@pytest.mark.parametrize(("estimator", "name"), SMALL.values(), ids=SMALL)
def test_the_limit_of_small_perturbations_is_the_true_gradient(estimator, name, key):
    problem, outer = PROBLEMS[name]()
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    run = jax.jit(lambda state, key: estimator.estimate(problem, outer, state, key))
    state, grads, variances = estimator.init(problem, outer, key), [], []
    windows = problem.horizon // getattr(estimator, "window", problem.horizon)
    for window in range(windows):
        # The trajectory's own randomness is that of its first key.
        estimate, state = run(state, jax.random.fold_in(key, window) if window else key)
        grads.append(estimate.grad)
        variances.append(jax.tree.map(jnp.square, estimate.stats["standard_error"]))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / windows, *grads)
    error = jax.tree.map(lambda *leaves: jnp.sqrt(sum(leaves)) / windows, *variances)
    close = jax.tree.map(lambda a, b, e: jnp.all(jnp.abs(a - b) < 4 * e), mean, exact.grad, error)
    assert all(jax.tree.leaves(close))


def test_a_full_window_of_persistent_is_plain_evolution(key):
    """One window as long as the horizon has nothing to remember."""
    problem, outer = PROBLEMS["quadratic"]()
    plain = ms.hypergradient(problem, outer, ms.EvolutionStrategies(0.1, 8), key=key)
    persistent = ms.PersistentEvolutionStrategies(problem.horizon, 0.1, 8)
    windowed = ms.hypergradient(problem, outer, persistent, key=key)
    assert jnp.allclose(plain.grad, windowed.grad, rtol=1e-12, atol=0)


def test_no_derivative_is_needed(key):
    """Stairs much finer than the perturbations: the smoothed slope of w_T = T sum(outer) is T."""
    with pytest.raises(ValueError, match="cannot influence"):
        ms.hypergradient(Stairs(), OUTER, ms.Reverse(), key=key)
    estimate = ms.hypergradient(Stairs(), OUTER, ms.EvolutionStrategies(SIGMA, 1000), key=key)
    slope, error = estimate.grad["pull"][0], estimate.stats["standard_error"]["pull"][0]
    assert abs(slope - HORIZON) < 4 * error < 0.3 * HORIZON


LOST = [
    ms.EvolutionStrategies(0.1),
    ms.PersistentEvolutionStrategies(2, 0.1),
    ms.RandomDirections(),
]


@pytest.mark.parametrize("estimator", LOST, ids=str)
def test_a_hyperparameter_that_nothing_uses_is_refused(estimator, key):
    with pytest.raises(ValueError, match=r"outer\['spare'\] cannot influence"):
        ms.hypergradient(Walk(), OUTER | {"spare": 1.0}, estimator, key=key)


BAD = {
    "sigma": lambda: ms.EvolutionStrategies(0.0),
    "pairs": lambda: ms.PersistentEvolutionStrategies(2, 0.1, 0),
    "chunk": lambda: ms.EvolutionStrategies(0.1, 4, 0),
    "window": lambda: ms.PersistentEvolutionStrategies(0, 0.1),
    "directions": lambda: ms.RandomDirections(0),
}


LOST = {
    "evolution": ms.EvolutionStrategies(1e-20, 4),
    "persistent": ms.PersistentEvolutionStrategies(WINDOW, 1e-20, 4),
    "differences": ms.CentralDifferences(step=1e-20),
}


@pytest.mark.parametrize("estimator", LOST.values(), ids=LOST)
def test_a_perturbation_that_rounding_removes_gives_no_gradient_of_zero(estimator, key):
    found = ms.hypergradient(Walk(), OUTER, estimator, key=key)
    assert found.result == ms.RESULTS.nonfinite_gradient
    assert all(jnp.isnan(x) for x in found.grad["pull"])


@pytest.mark.parametrize(("name", "make"), BAD.items(), ids=BAD)
def test_wrong_choices_are_named(name, make):
    with pytest.raises(ValueError, match=f"{name} is"):
        make()


def test_a_window_divides_the_horizon(key):
    estimator = ms.PersistentEvolutionStrategies(3, 0.1)
    with pytest.raises(ValueError, match="divisors of the horizon, 4"):
        ms.hypergradient(Walk(), OUTER, estimator, key=key)


def test_carried_trajectories_need_one_problem(key):
    """A distribution of problems would continue the trajectory of one task on another."""
    with pytest.raises(ValueError, match="carries trajectories"):
        ms.minimize(
            lambda key: Walk(),
            OUTER,
            ms.PersistentEvolutionStrategies(2, 0.1),
            optimizer=optax.sgd(0.1),
            steps=1,
            key=key,
            meta_batch=2,
        )
