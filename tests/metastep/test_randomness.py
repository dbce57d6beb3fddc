"""Random numbers: different for every step, member and key, the same wherever a run is cut."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.bilevel import F2SA, SOBA, AmIGO
from metastep.compilation import compiled
from metastep.curvature import (
    SymmetricMatrix,
    diagonal,
    hutchinson_trace,
    hutchpp_trace,
    log_determinant,
    spectral_density,
    xtrace,
)
from metastep.problems.base import advance, advance_checkpointed, split_keys, start
from metastep.tasks import random_least_squares, random_quadratic, random_sinusoid
from metastep.tasks.few_shot import AMPLITUDES, INPUTS, PHASES
from tests.metastep.bilevel import quadratics

HORIZON = 12


class Recording(ms.AbstractProblem):
    """Writes down what it draws; the outer loss weighs the steps by `outer` and is log-friendly."""

    horizon: int = eqx.field(static=True, default=HORIZON)
    offset: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(()))

    def init(self, outer, key):
        return {"start": self.offset + jax.random.normal(key), "steps": jnp.zeros(HORIZON)}

    def step(self, inner, outer, t, key):
        drawn = outer["scale"] * jax.random.normal(key)
        return inner | {"steps": inner["steps"].at[t].set(drawn)}

    def objective(self, inner, outer, key):
        drawn = jnp.sum(inner["steps"]) + inner["start"] + jax.random.normal(key)
        return jnp.exp(drawn / 10) + 0.1 * outer["spare"] ** 2


class Normals(Recording):
    """The same without its own start, so that a full window is exact."""

    def init(self, outer, key):
        return {"start": jnp.zeros(()), "steps": jnp.zeros(HORIZON)}


OUTER = {"scale": 0.7, "spare": 1.0}


def outer_arrays():
    return jax.tree.map(jnp.asarray, OUTER)


def require_different(numbers):
    """Every two of the numbers differ: two draws of 24 bits agree once in ten million."""
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(numbers)])
    assert len(np.unique(flat)) == flat.size


def equal(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def close(one, other):
    """Two programs round the same draws differently, in the last digit of float32."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, rtol=1e-6, atol=0) for a, b in pairs)


def loop_keys(key):
    """The keys of a trajectory as the interface defines them, by hand."""
    init, steps, objective = jax.random.split(key, 3)
    return [init, *(jax.random.fold_in(steps, t) for t in range(HORIZON)), objective]


def test_every_key_of_a_trajectory_is_another(key):
    keys = split_keys(key)
    drawn = [keys.init, *(keys.step(t) for t in range(50)), keys.objective]
    require_different([jax.random.bits(one) for one in drawn])
    traced = jax.jit(lambda t: jax.random.key_data(keys.step(t)))(jnp.asarray(7))
    assert np.array_equal(traced, jax.random.key_data(keys.step(7)))


@compiled
def walked(problem, outer, key):
    return ms.unroll(problem, outer, key)


def test_a_trajectory_draws_from_the_keys_of_its_steps(key):
    inner = walked(Recording(), outer_arrays(), key)
    first, *steps, _ = (jax.random.normal(one) for one in loop_keys(key))
    # float32: one product.
    assert np.allclose(inner["steps"], 0.7 * jnp.stack(steps), rtol=1e-6, atol=0)
    assert np.isclose(inner["start"], first, rtol=1e-6, atol=0)
    require_different([inner, walked(Recording(), outer_arrays(), KEYS[1])])
    assert equal(inner, walked(Recording(), outer_arrays(), key))


# Steps of the parts, and the segment that reverse mode stores.
CUTS = {
    "early": ((1, 11), None),
    "three": ((5, 4, 3), None),
    "segments": ((HORIZON,), 5),
    "cut segments": ((2, 10), 4),
}


@pytest.mark.parametrize(("parts", "segment"), CUTS.values(), ids=CUTS)
def test_a_cut_trajectory_draws_what_the_uncut_one_draws(parts, segment, key):
    problem, outer = Recording(), outer_arrays()

    @jax.jit
    def run(key):
        keys = split_keys(key)
        point = start(problem, outer, keys)
        for steps in parts:
            if segment is None:
                point = advance(problem, outer, point, keys, steps)
            else:
                point = advance_checkpointed(problem, outer, point, keys, steps, segment)
        return point.inner

    assert close(run(key), walked(problem, outer, key))


KEYS = [jax.random.key(3), jax.random.key(4)]
WALKERS = {
    "reverse": ms.Reverse(),
    "binomial": ms.Reverse(ms.Binomial(3)),
    "forward": ms.Forward(),
    "window in segments": ms.TruncatedReverse(HORIZON, checkpoint=7),
    "differences": ms.CentralDifferences(),
}


@pytest.mark.parametrize("estimator", WALKERS.values(), ids=WALKERS)
def test_every_estimator_walks_the_trajectory_of_its_key(estimator, key, x64):
    """Value and gradient by hand from the draws: d f / d scale = f / 10 times their sum."""
    found = ms.hypergradient(Normals(), outer_arrays(), estimator, key=key)
    _, *steps, last = (jax.random.normal(one) for one in loop_keys(key))
    value = jnp.exp((0.7 * sum(steps) + last) / 10)
    # Rounding, and the fourth order of the differences.
    assert np.isclose(found.value, value + 0.1, rtol=1e-13, atol=0)
    assert np.isclose(found.grad["scale"], value * sum(steps) / 10, rtol=1e-10, atol=0)


@pytest.mark.parametrize("window", [1, 5])
def test_a_window_sees_the_draws_of_the_last_steps(window, key, x64):
    found = ms.hypergradient(Normals(), outer_arrays(), ms.TruncatedReverse(window), key=key)
    _, *steps, last = (jax.random.normal(one) for one in loop_keys(key))
    value = jnp.exp((0.7 * sum(steps) + last) / 10)
    expected = value * sum(steps[-window:]) / 10
    assert np.isclose(found.grad["scale"], expected, rtol=1e-12, atol=0)


class Growth(Recording):
    """w <- w exp(scale z) with normal z: the logarithm of the end is a sum of draws."""

    def init(self, outer, key):
        return jnp.ones(2)

    def step(self, inner, outer, t, key):
        return inner * jnp.exp(outer["scale"] * jax.random.normal(key))

    def objective(self, inner, outer, key):
        return jnp.sum(inner**2) / 2


def test_the_logarithm_is_of_the_same_trajectory(key, x64):
    outer = {"scale": jnp.array(0.7)}
    found = ms.hypergradient(Growth(), outer, ms.LogDomain(), key=key)
    steps = sum(jax.random.normal(one) for one in loop_keys(key)[1:-1])
    # The sum passes zero by less than it is long: rounding of numbers of size one.
    assert np.isclose(found.value, 2 * 0.7 * steps / HORIZON, rtol=1e-12, atol=0)
    assert np.isclose(found.grad["scale"], 2 * steps / HORIZON, rtol=1e-12, atol=0)


class Linear(ms.AbstractProblem):
    """sum(outer), whatever is drawn: all that differs is what the estimator draws."""

    horizon: int = 2

    def init(self, outer, key):
        return jnp.zeros(())

    def step(self, inner, outer, t, key):
        return inner + jnp.sum(outer * jnp.array([1.0, 2.0, 4.0]))

    def objective(self, inner, outer, key):
        return inner


SAMPLED = {
    "evolution": ms.EvolutionStrategies(0.1, 4),
    "persistent": ms.PersistentEvolutionStrategies(1, 0.1, 4),
    "random directions in chunks": ms.RandomDirections(4, chunk=3),
    "differences along random directions": ms.CentralDifferences(2),
}


@pytest.mark.parametrize("estimator", SAMPLED.values(), ids=SAMPLED)
def test_sampled_estimators_draw_anew_for_every_key(estimator, x64):
    outer = jnp.array([0.2, 0.5, -0.3])

    @jax.jit
    def run(key):
        state = estimator.init(Linear(), outer, key)
        estimate = estimator.estimate(Linear(), outer, state, key)[0]
        return estimate.grad, estimate.stats.get("standard_error", 1.0)

    (one, error), (other, _), (again, _) = (run(key) for key in (*KEYS, KEYS[0]))
    assert np.array_equal(one, again)
    require_different([one, other])
    # Members that share a draw have no spread.
    assert np.all(error > 1e-3)


def test_every_pair_and_every_window_has_perturbations_of_its_own(x64):
    outer = jnp.array([0.2, 0.5, -0.3])
    estimator = ms.PersistentEvolutionStrategies(1, 0.1, 2)
    run = jax.jit(lambda state, key: estimator.estimate(Linear(), outer, state, key)[1])
    second = run(estimator.init(Linear(), outer, KEYS[0]), KEYS[0])
    third = run(second, KEYS[1])
    require_different([second.perturbations, third.perturbations - second.perturbations])
    # After the horizon the sum begins anew.
    assert np.array_equal(run(third, KEYS[0]).perturbations, second.perturbations)


def alike(count):
    return eqx.filter_vmap(lambda offset: Recording(offset=offset))(jnp.zeros(count))


def test_a_persistent_trajectory_keeps_the_keys_of_its_first_window(x64):
    problem, estimator = Recording(), ms.PersistentEvolutionStrategies(HORIZON // 2, 0.1, 2)
    outer = jax.tree.map(jnp.asarray, OUTER)
    state = estimator.init(problem, outer, jax.random.key(9))
    run = jax.jit(lambda state, key: estimator.estimate(problem, outer, state, key)[1])
    for number, first in enumerate([0, 0, 2, 2]):
        state = run(state, jax.random.key(number))
        drawn = state.points.inner["start"]
        expected = jax.random.normal(split_keys(jax.random.key(first)).init)
        np.testing.assert_allclose(drawn, jnp.full((2, 2), expected), rtol=1e-15)


def test_members_of_an_average_are_independent(key):
    """The members are one and the same problem: what differs is drawn."""
    problem = ms.Averaged(alike(3))
    inner = walked(problem, outer_arrays(), key)
    assert inner["steps"].shape == (3, HORIZON)
    require_different(inner)
    same = jax.tree.map(jnp.zeros_like, inner)
    judged = jax.random.split(split_keys(key).objective, 3)
    expected = jnp.mean(jnp.stack([jnp.exp(jax.random.normal(one) / 10) for one in judged])) + 0.1
    found = problem.objective(same, outer_arrays(), split_keys(key).objective)
    assert np.isclose(found, expected, rtol=1e-6, atol=0)


def test_a_bounded_problem_passes_on_the_keys_of_its_steps(key):
    bounded = walked(ms.Bounded(Recording(), 1e9, steps_of), outer_arrays(), key)
    assert close(bounded.inner, walked(Recording(), outer_arrays(), key))


def steps_of(inner):
    return inner["steps"]


@functools.partial(jax.jit, static_argnums=0)
def drawn_by_training(horizon, key):
    """Each batch is written into its own entry of the parameters."""
    problem = ms.TrainingProblem(
        loss=lambda w, outer, batch: -jnp.sum(w * batch) * outer,
        objective=lambda w, outer: jnp.sum(w),
        init_params=jnp.zeros(6),
        optimizer=optax.sgd(1.0),
        horizon=horizon,
        batch=lambda t, key: jnp.zeros(6).at[t].set(jax.random.normal(key)),
    )
    return ms.unroll(problem, jnp.array(1.0), key).params


def test_training_draws_another_batch_at_every_step():
    long, short, other = (
        drawn_by_training(*row) for row in ((6, KEYS[0]), (3, KEYS[0]), (6, KEYS[1]))
    )
    require_different([long, other])
    # The first steps of a long run are those of a short one.
    assert close(short[:3], long[:3]) and not np.any(short[3:])
    _, run_key = jax.random.split(split_keys(KEYS[0]).init)
    by_hand = [jax.random.normal(jax.random.fold_in(run_key, t)) for t in range(6)]
    assert close(long, jnp.stack(by_hand))


class Noise(ms.AbstractProblem):
    """Its task and its objective are two random numbers, seen by two hyperparameters."""

    task: jax.Array
    horizon: int = eqx.field(static=True, default=1)

    def init(self, outer, key):
        return jnp.zeros(2)

    def step(self, inner, outer, t, key):
        return inner + outer * jnp.stack([self.task, self.task**2])

    def objective(self, inner, outer, key):
        return jnp.sum(inner) + jnp.sum(outer**2) * jax.random.normal(key)


NOISE = lambda key: Noise(jax.random.normal(key))
RECORD = lambda step, outer, estimate: (estimate.grad, estimate.value)
STILL = optax.sgd(0.0)


def noisy_run(key):
    """Return, for each outer step of two tasks, what they drew: noise, mean and mean square."""
    run = ms.minimize(
        NOISE,
        jnp.array([1.0, 1.0]),
        ms.Reverse(),
        optimizer=STILL,
        steps=6,
        key=key,
        meta_batch=2,
        record=RECORD,
    )
    grads, values = run.history.recorded
    # f = a + b + 2 noise, and its derivatives are a + 2 noise and b + 2 noise.
    noise = (jnp.sum(grads, axis=1) - values) / 2
    return noise, grads[:, 0] - 2 * noise, grads[:, 1] - 2 * noise


def test_every_outer_step_and_every_task_of_it_is_drawn_apart(x64):
    one, other = noisy_run(KEYS[0]), noisy_run(KEYS[1])
    require_different([one, other])
    _, mean, square = one
    # Two tasks that are the same have no variance.
    assert jnp.all(square - mean**2 > 1e-8)


MATRIX = np.diag(np.arange(1.0, 7.0)) + 0.1 * np.cos(np.add.outer(np.arange(6), np.arange(6)))
STOCHASTIC = {
    "hutchinson": lambda operator, key: hutchinson_trace(operator, 6, key=key),
    "diagonal": lambda operator, key: diagonal(operator, 6, key=key),
    "hutch++": lambda operator, key: hutchpp_trace(operator, 6, key=key),
    "xtrace": lambda operator, key: xtrace(operator, 4, key=key),
    "density": lambda operator, key: spectral_density(operator, steps=2, probes=3, key=key),
    "log-determinant": lambda operator, key: log_determinant(
        operator, damping=0.1, steps=2, probes=3, key=key
    ),
}


@pytest.mark.parametrize("estimate", STOCHASTIC.values(), ids=STOCHASTIC)
def test_curvature_draws_anew_for_every_key(estimate):
    operator = SymmetricMatrix(jnp.asarray(MATRIX))
    one, other, again = (estimate(operator, key) for key in (*KEYS, KEYS[0]))
    assert equal(one, again)
    assert not equal(one, other)


def test_random_vectors_of_one_estimate_are_different():
    operator = SymmetricMatrix(jnp.asarray(MATRIX))
    density = spectral_density(operator, steps=2, probes=3, key=KEYS[0])
    require_different(density.nodes)
    for estimate in (hutchinson_trace, xtrace):
        assert estimate(operator, 4, key=KEYS[0]).standard_error > 1e-4


TASKS = {
    "quadratic": random_quadratic,
    "least squares": lambda seed: random_least_squares(
        jax.random.key(seed), dim=4, samples=4, noise=1.0
    ),
    "sinusoid": lambda seed: random_sinusoid(jax.random.key(seed), samples=3, validation_samples=3),
}


@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_a_task_is_named_by_its_seed(make):
    one, other, again = (eqx.filter(make(seed), eqx.is_array) for seed in (1, 2, 1))
    assert equal(one, again)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(not np.any(a == b) for a, b in pairs)


def test_the_parts_of_a_task_are_drawn_apart():
    task = random_least_squares(KEYS[0], dim=4, samples=4, noise=1.0)
    # Dividing by the norm leaves the direction of w* as drawn.
    unit = lambda x: x / jnp.linalg.norm(x)
    noise = lambda examples: examples.targets - examples.inputs @ task.truth
    parts = [task.truth, *(unit(row) for row in task.training.inputs)]
    parts += [unit(row) for row in task.validation.inputs]
    parts += [unit(noise(task.training)), unit(noise(task.validation))]
    for one, other in itertools.combinations(parts, 2):
        assert abs(one @ other) < 0.9999
    wave = random_sinusoid(KEYS[0], samples=5, validation_samples=5)
    inputs = jnp.concatenate([wave.training.inputs, wave.validation.inputs])[:, 0]
    share = lambda x, bounds: (x - bounds[0]) / (bounds[1] - bounds[0])
    drawn = [share(inputs, INPUTS), share(wave.amplitude, AMPLITUDES), share(wave.phase, PHASES)]
    drawn = np.sort(np.concatenate([np.ravel(x) for x in drawn]))
    # The same uniform number with other bounds would agree to rounding.
    assert np.diff(drawn).min() > 1e-6


def test_single_examples_follow_their_keys():
    task = random_least_squares(KEYS[0], dim=4, samples=50, noise=1.0)
    keys = jax.random.split(KEYS[0], 40)
    drawn = jax.vmap(lambda key: task.one_example(0, key).targets[0])(keys)
    # 40 of 50 with replacement: 27 different ones on average, with a deviation of 2.
    assert 18 < len(np.unique(drawn)) < 36


SOLVERS = {
    "SOBA": SOBA(optax.sgd(0.1)),
    "AmIGO": AmIGO(optax.sgd(0.1), inner_steps=2, linear_steps=2),
    "F2SA": F2SA(7.0, inner_steps=3),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_bilevel_solvers_draw_every_batch_with_a_key_of_its_own(solver):
    """Over two outer steps, inner and outer batches."""
    seen = {"inner": [], "outer": []}

    def draw(name):
        def batch(t, key):
            jax.debug.callback(seen[name].append, jax.random.bits(key))
            return t % quadratics.BATCHES

        return batch

    problem = quadratics.problem(draw("inner"), draw("outer"))
    outer = quadratics.hyperparameters()
    state = solver.init(problem, outer, KEYS[0])
    jax.effects_barrier()
    seen["inner"].clear(), seen["outer"].clear()
    estimate = jax.jit(lambda state, key: solver.estimate(problem, outer, state, key)[1])
    for key in KEYS:
        state = estimate(state, key)
    jax.effects_barrier()
    assert len(seen["inner"]) == int(state.calls.inner_batches)
    assert len(seen["outer"]) == int(state.calls.outer_batches)
    require_different([*seen["inner"], *seen["outer"]])
