"""Segments against the estimators, compilations, memory, and a run that stops and goes on."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

import metastep as ms
from metastep.learned import CoordinatewiseLSTM, LearnedSGD, MLPOptimizer
from metastep.learned.meta_training import MetaTraining, Monitor, Unrolls, meta_train
from metastep.learned.segment import (
    LearnedTraining,
    first_state,
    run_segment,
    train_from_scratch,
)
from metastep.saving import CheckpointError
from tests.helpers import relative_distance

FAMILY = MLPOptimizer(hidden=4)


class Bowl(eqx.Module):
    """Minimize a quartic of one vector, with noise that repeats."""

    center: Array
    broken: Array

    def init(self, key):
        return jax.random.normal(key, self.center.shape)

    def loss(self, params, step):
        shift = 0.1 * jnp.sin(step.astype(self.center.dtype))
        return self.objective(params + shift) + self.broken * jnp.sum(params)

    def objective(self, params):
        return jnp.mean((params - self.center) ** 2 + 0.1 * params**4)


def on_training(task, params, key):
    return task.objective(params)


def task(number, size=5):
    return Bowl(jax.random.normal(jax.random.key(number), (size,)), jnp.zeros(()))


@pytest.mark.parametrize(
    ("family", "first_order"),
    [(FAMILY, True), (CoordinatewiseLSTM(3, 1), False)],
)
def test_segment_agrees_with_reverse_mode(family, first_order, key, x64):
    weights = jax.tree.map(lambda leaf: leaf.astype(float), family.initial_weights(key))
    problem = LearnedTraining(task(0), family, on_training, 7, first_order)
    expected = ms.hypergradient(problem, weights, ms.Reverse(), key=key)
    state = first_state(problem, weights, ms.problems.base.split_keys(key).init)
    segment = run_segment(problem, weights, state, jnp.asarray(7), 3, 4)
    # Float64, and only the order of summation differs.
    assert relative_distance(segment.grad, expected.grad) < 1e-12
    assert abs(segment.value - expected.value) < 1e-13
    assert int(segment.state.step) == 7


def test_segments_continue_the_trajectory(key):
    family = LearnedSGD(0.1, 0.5)
    weights = family.initial_weights(key)
    problem = LearnedTraining(task(0), family, on_training, 6)
    state = first_state(problem, weights, key)
    parts = [run_segment(problem, weights, state, jnp.asarray(2), 3, 4)]
    parts.append(run_segment(problem, weights, parts[0].state, jnp.asarray(4), 3, 4))
    whole = run_segment(problem, weights, state, jnp.asarray(6), 3, 4)
    end, mean = train_from_scratch(problem, weights, key, lambda task, params, key: params, 3)
    last = jax.tree.map(lambda leaf: leaf[-1], end)
    for params in (parts[1].state.params, last):
        assert relative_distance(params, whole.state.params) < 1e-6  # float32
    assert np.isclose((2 * parts[0].value + 4 * parts[1].value) / 6, whole.value, rtol=1e-6)
    assert np.isclose(mean, whole.value, rtol=1e-6)


def test_memory_of_a_long_segment(key):
    family, size = LearnedSGD(0.1, 0.5), 20_000
    weights = family.initial_weights(key)
    problem = LearnedTraining(task(0, size), family, on_training, 1000)
    state = problem.init(weights, key)

    def bytes_of(steps):
        segment = lambda weights, state: run_segment.__wrapped__(
            problem, weights, state, jnp.asarray(steps), 32, -(-steps // 32)
        )
        memory = jax.jit(segment).lower(weights, state).compile().memory_analysis()
        return memory.temp_size_in_bytes

    data = 4 * size
    assert bytes_of(1000) <= 2 * (bytes_of(32) + data)


SETTING = MetaTraining(
    tasks=task,
    optimizer=FAMILY,
    objective=on_training,
    meta_optimizer=optax.adam(0.01),
    updates=9,
    unrolls=Unrolls(
        length=3, length_mean=2.0, count=2, count_mean=0.5, longest=8, horizon=12, block=4
    ),
    trajectories=2,
    monitor=Monitor([task(-1)], every=4, steps=10),
)


class Compilations:
    """Counts what XLA compiles."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self)

    def __call__(self, event, seconds, **more):
        self.count += event == "/jax/core/compile/backend_compile_duration"


def test_nothing_compiles_after_three_segments_and_resuming_changes_no_bit(key, tmp_path):
    compilations, counts = Compilations(), []

    def callback(updates, history):
        counts.append(compilations.count)

    whole = meta_train(SETTING, key, callback=callback)
    jax.monitoring.clear_event_listeners()
    assert counts[2] > 0 and counts[-1] == counts[2]

    def stop(updates, history):
        if updates == 5:
            raise KeyboardInterrupt

    where = lambda resume: ms.Checkpoint(tmp_path / "state", 2, resume)
    with pytest.raises(KeyboardInterrupt):
        meta_train(SETTING, key, checkpoint=where(False), callback=stop)
    with pytest.raises(FileExistsError, match="resume=True"):
        meta_train(SETTING, key, checkpoint=where(False))
    resumed = meta_train(SETTING, key, checkpoint=where(True))
    assert resumed.history == whole.history and resumed.horizon == whole.horizon
    for one, other in zip(jax.tree.leaves(resumed[:2]), jax.tree.leaves(whole[:2]), strict=True):
        assert np.array_equal(one, other)
    monitored = dict(whole.history.monitored)
    assert list(monitored) == [0, 4, 8, 9]
    assert monitored[whole.best_update] == min(monitored.values())
    assert 3 <= whole.horizon <= 12 and set(whole.history.nonfinite) == {0}
    (tmp_path / "state").write_bytes(b"metastep checkpoint 1 sha256 0")
    with pytest.raises(CheckpointError, match="damaged"):
        meta_train(SETTING, key, checkpoint=where(True))


def test_what_is_not_finite_is_counted_and_replaced(key):
    broken = lambda number: eqx.tree_at(lambda task: task.broken, task(number), jnp.nan * number)
    tasks = lambda number: broken(number) if number == 1 else task(number)
    run = meta_train(replace(SETTING, tasks=tasks, updates=6), key)
    history = run.history
    failed = [update for update, count in enumerate(history.nonfinite) if count]
    assert failed == [1]  # trajectory 1 has the second turn, and is replaced
    assert history.result[1] == ms.RESULTS.nonfinite_inner
    assert all(history.result[at] == ms.RESULTS.successful for at in range(6) if at != 1)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(run.weights))


def test_persistent_evolution_strategies_take_it_as_a_problem(key, x64):
    family = LearnedSGD(0.1)
    weights = family.initial_weights(key)
    problem = LearnedTraining(task(0), family, on_training, 6, first_order=False)
    exact = ms.hypergradient(problem, weights, ms.Reverse(), key=key)
    sampled = ms.PersistentEvolutionStrategies(window=6, sigma=1e-4, pairs=4)
    estimate = ms.hypergradient(problem, weights, sampled, key=key)
    # One hyperparameter: every pair gives slope * e^2 with a standard normal e.
    draws = estimate.grad["log step size"] / exact.grad["log step size"]
    assert 0 < draws < 5


REFUSED = {
    "updates": (lambda: replace(SETTING, updates=0), "updates is 0"),
    "clip": (lambda: replace(SETTING, clip=0.0), "clip is 0.0"),
    "length": (lambda: Unrolls(length=0), "length is 0"),
    "longest": (lambda: Unrolls(length=50, longest=40), "length is 50; allowed are 1 to longest"),
    "mean": (lambda: Unrolls(count_mean=-1.0), "count_mean is -1.0"),
    "monitor": (
        lambda: replace(SETTING, monitor=Monitor([task(0)], every=1, steps=13)),
        "allowed are steps from 1 to the horizon, 12",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
