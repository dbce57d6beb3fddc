"""Segments against the estimators, compilations, memory, and a run that stops and goes on."""

import json
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
from tests.helpers import compilations, relative_distance

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
    assert np.isclose((2 * parts[0].value + 4 * parts[1].value) / 6, whole.value, rtol=1e-6, atol=0)
    assert np.isclose(mean, whole.value, rtol=1e-6, atol=0)


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


def test_nothing_compiles_after_three_segments_and_resuming_changes_no_bit(key, tmp_path):
    counts = []
    with compilations() as compiled:
        add = lambda updates, history: counts.append(compiled[0])
        whole = meta_train(SETTING, key, callback=add)
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
    others = {"clip": 1.0}, {"meta_optimizer": optax.adam(0.02)}, {"tasks": lambda i: task(i + 1)}
    for setting, other_key in (
        (SETTING, jax.random.key(99)),
        *((replace(SETTING, **other), key) for other in others),
    ):
        with pytest.raises(CheckpointError, match="belongs to another run: its problem, data"):
            meta_train(setting, other_key, checkpoint=where(True))
    (tmp_path / "state").write_bytes(b"metastep checkpoint 1 sha256 0")
    with pytest.raises(CheckpointError, match="damaged"):
        meta_train(SETTING, key, checkpoint=where(True))


def standing_still(tmp_path, key, tasks, **changed):
    """Meta-train without learning, and return what was drawn, update by update."""
    path, places = tmp_path / "state", []

    def look(updates, history):
        header = json.loads(path.read_bytes().split(b"\n")[1])
        places.append([tuple(place) for place in header["notes"]["places"]])

    unrolls = Unrolls(
        length=1, length_mean=20.0, count=1, count_mean=20.0, longest=1000, horizon=10**4, block=64
    )
    setting = MetaTraining(
        tasks=tasks,
        optimizer=LearnedSGD(1e-30),
        objective=on_training,
        meta_optimizer=optax.sgd(0.0),
        unrolls=unrolls,
        **changed,
    )
    run = meta_train(setting, key, checkpoint=ms.Checkpoint(path, every=1), callback=look)
    return run.history, places


def test_every_trajectory_and_every_segment_is_drawn_apart(tmp_path, key):
    """One task for all, and parameters that never move: a value is that of a drawn start."""
    alike = lambda number: task(0)
    history, places = standing_still(tmp_path, key, alike, updates=8, trajectories=8)
    assert len(set(history.value)) == 8
    # Updates and trajectories go together here: lengths and counts come from streams of their own.
    lengths = [row[turn][2] for turn, row in enumerate(places)]
    counts = [row[turn][1] for turn, row in enumerate(places)]
    assert len(set(lengths)) >= 5 and len(set(counts)) >= 5
    assert np.corrcoef(lengths, counts)[0, 1] < 0.99


def test_a_new_trajectory_is_not_the_one_it_replaces(tmp_path, key):
    alike = lambda number: task(0)
    monitor = Monitor([task(0), task(0)], every=4, steps=1)
    whole = {"trajectories": 1, "unrolls": Unrolls(2, 0.0, 1, 0.0, 4, 4, 4)}
    setting = replace(
        SETTING, tasks=alike, optimizer=LearnedSGD(1e-30), meta_optimizer=optax.sgd(0.0), updates=4
    )
    history = meta_train(replace(setting, monitor=monitor, **whole), key).history
    assert len(set(history.value)) == 4
    # The runs that judge are drawn apart, too, and stay the same from one judgement to the next.
    once = meta_train(replace(setting, monitor=replace(monitor, tasks=[task(0)]), **whole), key)
    assert once.history.monitored[0][1] == once.history.monitored[1][1]
    assert history.monitored[0][1] != once.history.monitored[0][1]


def test_the_key_of_a_step_is_its_own(key):
    """The objective is what it draws; segments continue the stream."""
    drawn = lambda task, params, key: jax.random.normal(key) + 0 * jnp.sum(params)
    problem = LearnedTraining(task(0), LearnedSGD(1e-30), drawn, 4)
    weights = LearnedSGD(1e-30).initial_weights(key)
    state, values = first_state(problem, weights, key), []
    for _ in range(4):
        segment = run_segment(problem, weights, state, jnp.asarray(1), 2, 2)
        state, values = segment.state, [*values, float(segment.value)]
    assert len(set(values)) == 4
    expected = [jax.random.normal(jax.random.fold_in(state.key, t)) for t in range(4)]
    assert np.allclose(values, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", [FAMILY, CoordinatewiseLSTM(3, 2)], ids=str)
def test_weights_of_equal_shapes_are_drawn_apart(family, key):
    one, other = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(family.initial_weights(key))])
        for key in (key, jax.random.key(21))
    )
    one, other = one[one != 0], other[other != 0]
    # Constants (biases of gates, time scales) are few.
    assert len(np.unique(one)) > 0.6 * one.size
    assert len(np.intersect1d(one, other)) < 0.4 * one.size


def test_objectives_of_half_precision_are_added_in_single_precision(key):
    """In bfloat16 256 + 1 is 256."""
    family = LearnedSGD(0.1)
    one = lambda task, params, key: jnp.ones((), jnp.bfloat16)
    problem = LearnedTraining(task=task(0), optimizer=family, measure=one, horizon=1000)
    nothing = lambda task, params, key: jnp.zeros(())
    _, mean = train_from_scratch(problem, family.initial_weights(key), key, nothing, 1000)
    assert mean == 1


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
