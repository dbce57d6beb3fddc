"""The outer loop: what it optimises, what it survives, what it refuses."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.saving import CheckpointError, load, save

CENTER = jnp.array([1.0, -2.0])


# One object each: the compiled loop is found again by every test that asks for the same.
SGD, ADAM = optax.sgd(0.4), optax.adam(0.1)


def pull(w, outer, batch):
    return jnp.sum((w - outer) ** 2)


def distance(w, outer):
    return jnp.sum((w - CENTER) ** 2)


def problem(loss=pull, batch=None):
    return ms.TrainingProblem(loss, distance, jnp.zeros(2), SGD, 20, batch)


def drawn(key):
    """A distribution of problems: the target differs from task to task."""
    target = CENTER + jax.random.normal(key, (2,))
    judge = lambda w, outer: jnp.sum((w - target) ** 2)
    return ms.TrainingProblem(pull, judge, jnp.zeros(2), SGD, 20)


def minimize(which, key, steps=30, **options):
    options = {"optimizer": ADAM} | options
    return ms.minimize(which, jnp.zeros(2), ms.Reverse(), steps=steps, key=key, **options)


def test_finds_the_minimum_and_writes_history(key):
    run = minimize(problem(), key, steps=200, every=50)
    assert jnp.allclose(run.outer, CENTER, atol=1e-3)
    assert run.result == ms.RESULTS.successful
    assert run.skipped == 0
    assert run.history.value.shape == run.history.gradient_norm.shape == (200,)
    # The first entry is measured at the start, before any update: |CENTER|^2 = 5.
    assert jnp.isclose(run.history.value[0], 5.0, rtol=1e-5, atol=0)
    assert (run.history.result == ms.RESULTS.successful).all()


def test_the_driver_adds_nothing_to_plain_gradient_descent(key):
    run = minimize(problem(), key, steps=5, optimizer=optax.sgd(0.1))
    outer = jnp.zeros(2)
    for step in range(5):
        step_key = jax.random.fold_in(key, step)
        outer -= 0.1 * ms.hypergradient(problem(), outer, ms.Reverse(), key=step_key).grad
    assert jnp.allclose(run.outer, outer, rtol=1e-6, atol=0)


@pytest.mark.parametrize("which", [problem(), drawn], ids=["fixed", "drawn"])
def test_how_often_python_looks_changes_no_bit(which, key):
    options = {} if isinstance(which, ms.AbstractProblem) else {"meta_batch": 4}
    runs = [minimize(which, key, every=every, **options) for every in (1, 7, 30)]
    for run in runs[1:]:
        assert jnp.array_equal(run.outer, runs[0].outer)
        assert jnp.array_equal(run.history.value, runs[0].history.value)


def test_a_meta_batch_is_the_mean_over_tasks(key):
    run = minimize(drawn, key, steps=1, optimizer=optax.sgd(1.0), meta_batch=3)
    grads = []
    for task in jax.random.split(jax.random.fold_in(key, 0), 3):
        task_key, estimate_key = jax.random.split(task)
        estimate = ms.hypergradient(drawn(task_key), jnp.zeros(2), ms.Reverse(), key=estimate_key)
        grads.append(estimate.grad)
    assert jnp.allclose(run.outer, -jnp.mean(jnp.stack(grads), axis=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("tasks_at_once", [1, 3, 9])
def test_tasks_at_once_changes_rounding_only(tasks_at_once, key):
    reference = minimize(drawn, key, meta_batch=4)
    run = minimize(drawn, key, meta_batch=4, tasks_at_once=tasks_at_once)
    assert reference.tasks_at_once == 4, "small states advance together"
    assert run.tasks_at_once == tasks_at_once
    assert jnp.allclose(run.outer, reference.outer, rtol=1e-4, atol=0)


def test_large_tasks_advance_one_by_one_on_a_cpu(key):
    if jax.default_backend() != "cpu":
        pytest.skip("on an accelerator all tasks advance together")

    def large(key):
        loss = lambda w, outer, batch: jnp.sum((w - outer[0]) ** 2)
        zeros = jnp.zeros(20_000)
        return ms.TrainingProblem(loss, lambda w, outer: jnp.sum(w), zeros, optax.sgd(0.1), 2)

    run = ms.minimize(
        large, jnp.ones(2), ms.Reverse(), optimizer=optax.sgd(0.0), steps=1, key=key, meta_batch=3
    )
    assert run.tasks_at_once == 1


def test_project_and_record(key):
    run = minimize(
        problem(),
        key,
        project=lambda outer: jnp.clip(outer, -0.5, 0.5),
        record=lambda step, outer, estimate: {"outer": outer, "step": step},
    )
    assert jnp.allclose(run.outer, jnp.array([0.5, -0.5]))
    assert jnp.array_equal(run.history.recorded["step"], jnp.arange(30))
    assert jnp.array_equal(run.history.recorded["outer"][0], jnp.zeros(2))
    assert jnp.abs(run.history.recorded["outer"]).max() <= 0.5


def test_recorded_numbers_are_arrays(key):
    run = minimize(problem(), key, steps=3, record=lambda step, outer, estimate: {"two": 2.0})
    assert run.history.recorded["two"].tolist() == [2.0, 2.0, 2.0]


def test_a_callback_sees_progress_and_stops(key):
    seen = []

    def callback(report):
        seen.append((report.step, report.steps))
        return report.step >= 12

    run = minimize(problem(), key, every=6, callback=callback)
    assert seen == [(6, 30), (12, 30)]
    assert run.history.value.shape == (12,)
    assert jnp.array_equal(run.outer, minimize(problem(), key, steps=12).outer)


def sometimes_nan(w, outer, batch):
    return jnp.sum((w - outer) ** 2) * jnp.where(batch, jnp.nan, 1.0)


def test_failures_are_skipped_and_said(key):
    """One run in three has a NaN batch: its update is left out and nothing else changes."""
    batch = lambda t, key: (t == 3) & (jax.random.uniform(key) < 1 / 3)
    run = minimize(problem(sometimes_nan, batch), key)
    failed = run.history.result != ms.RESULTS.successful
    assert 0 < run.skipped == int(failed.sum()) < 30
    assert run.result == ms.RESULTS.nonfinite_inner
    assert jnp.isfinite(run.outer).all()
    assert jnp.isnan(run.history.value[failed]).all()


def test_failures_raise_with_the_step_and_the_reason(key):
    broken = problem(sometimes_nan, lambda t, key: jax.random.uniform(key) < 0.02)
    run = minimize(broken, key)
    first = int(np.flatnonzero(run.history.result != ms.RESULTS.successful)[0])
    with pytest.raises(ms.HypergradientError, match=f"outer step {first}: The inner state became"):
        minimize(broken, key, on_failure="raise", every=30)


def test_a_skipped_failure_does_not_stop_a_resumed_run(tmp_path, key):
    broken = problem(lambda w, outer, batch: jnp.sum((w - outer) ** 2) * jnp.nan)
    path = tmp_path / "state"
    once = lambda report: True
    minimize(broken, key, checkpoint=ms.Checkpoint(path, every=1), callback=once)
    with pytest.raises(ms.HypergradientError, match="outer step 1: The inner state became"):
        minimize(broken, key, checkpoint=ms.Checkpoint(path, resume=True), on_failure="raise")


def kept(step, outer, estimate):
    return outer


@pytest.mark.parametrize("stop", [1, 29])
@pytest.mark.parametrize("which", [problem(), drawn], ids=["fixed", "drawn"])
def test_resume_ends_with_the_same_bits(which, stop, tmp_path, key):
    options = {} if isinstance(which, ms.AbstractProblem) else {"meta_batch": 3}
    whole = minimize(which, key, record=kept, **options)
    path = tmp_path / "state"
    minimize(
        which,
        key,
        record=kept,
        checkpoint=ms.Checkpoint(path, every=1),
        callback=lambda report: report.step == stop,
        **options,
    )
    resumed = minimize(
        which, key, record=kept, checkpoint=ms.Checkpoint(path, every=4, resume=True), **options
    )
    assert jnp.array_equal(resumed.outer, whole.outer)
    assert jnp.array_equal(resumed.history.value, whole.history.value)
    assert jnp.array_equal(resumed.history.recorded, whole.history.recorded)
    again = minimize(
        which, key, record=kept, checkpoint=ms.Checkpoint(path, resume=True), **options
    )
    assert jnp.array_equal(again.outer, whole.outer), "a finished run is read back"


KILLED = """
    import jax, jax.numpy as jnp, optax, pathlib, sys, metastep as ms
    problem = ms.TrainingProblem(
        lambda w, outer, batch: jnp.sum((w - outer) ** 2), lambda w, outer: jnp.sum((w - 3.0) ** 2),
        jnp.zeros(2), optax.sgd(0.4), 20,
    )
    checkpoint = ms.Checkpoint(pathlib.Path(sys.argv[1]), every=1, resume=True)
    run = ms.minimize(
        problem, jnp.zeros(2), ms.Reverse(), optimizer=optax.adam(0.01), steps=400,
        key=jax.random.key(1), checkpoint=checkpoint, progress=False,
        callback=lambda report: print(report.step, flush=True),
    )
    print(run.outer.tobytes().hex() if hasattr(run.outer, "tobytes") else None)
"""


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    """kill -9 at several moments: every checkpoint on the disk is whole, and nothing is lost."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "killed")]
    uninterrupted = [*command[:-1], str(tmp_path / "whole")]
    expected = subprocess.run(uninterrupted, capture_output=True, text=True, check=True)
    reached = 0
    for stop in (3, 150):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            first = int(process.stdout.readline())
            assert first >= reached, "the saved steps are not done again"
            for line in process.stdout:
                reached = int(line)
                if reached >= first + stop:
                    process.kill()
                    break
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == expected.stdout.splitlines()[-1]
    assert not list(tmp_path.glob(".killed*.tmp")) or (tmp_path / "killed").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path, key):
    path = tmp_path / "state"
    minimize(problem(), key, steps=3, checkpoint=ms.Checkpoint(str(path)))
    whole = path.read_bytes()
    resume = ms.Checkpoint(path, resume=True)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    early = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for damaged in (b"", b"{}\n", whole[:-1], whole[:middle], flipped, early, b"no checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"state is damaged.*delete it"):
            minimize(problem(), key, steps=3, checkpoint=resume)
        assert path.read_bytes() == damaged, "nothing is overwritten"


def test_a_checkpoint_of_another_run_is_refused(tmp_path, key):
    path = tmp_path / "state"
    minimize(problem(), key, steps=3, checkpoint=ms.Checkpoint(path))
    with pytest.raises(CheckpointError, match="belongs to another run"):
        minimize(problem(), key, steps=4, checkpoint=ms.Checkpoint(path, resume=True))
    with pytest.raises(FileExistsError, match="resume=True"):
        minimize(problem(), key, steps=3, checkpoint=ms.Checkpoint(path))


# One change each that leaves every name, shape and dtype of the state as it was.
OTHERS = {
    "key": {"key": jax.random.key(9)},
    "loss": {"which": problem(lambda w, outer, batch: 2 * jnp.sum((w - outer) ** 2))},
    "data": {"which": problem(lambda w, outer, batch: jnp.sum((w - outer - CENTER) ** 2))},
    "horizon": {"which": ms.TrainingProblem(pull, distance, jnp.zeros(2), SGD, 21)},
    "start": {"outer": jnp.ones(2)},
    "estimator": {"estimator": ms.TruncatedReverse(3)},
    "optimizer": {"optimizer": optax.adam(0.2)},
    "project": {"project": lambda outer: jnp.clip(outer, -1, 1)},
}


@pytest.mark.parametrize("change", OTHERS)
def test_a_run_that_differs_in_numbers_alone_is_refused(change, tmp_path, key):
    def run(resume, **other):
        settings = {"which": problem(), "outer": jnp.zeros(2), "estimator": ms.Reverse()} | other
        named = {"optimizer": ADAM, "key": key} | settings
        first = named.pop("which"), named.pop("outer"), named.pop("estimator")
        checkpoint = ms.Checkpoint(tmp_path / "state", resume=resume)
        return ms.minimize(*first, steps=3, checkpoint=checkpoint, **named)

    run(False)
    saved = (tmp_path / "state").read_bytes()
    with pytest.raises(CheckpointError, match="belongs to another run: its problem, data"):
        run(True, **OTHERS[change])
    assert (tmp_path / "state").read_bytes() == saved
    # What changes no number does not matter: the same run, written anew.
    again = {"which": problem(lambda w, outer, batch: jnp.sum((w - outer) ** 2)), "every": 2}
    run(True, **again)


def test_a_run_on_other_batches_is_refused(tmp_path, key):
    """They are no part of the program, which asks for them by a callback."""

    def run(data, resume):
        checkpoint = ms.Checkpoint(tmp_path / "state", resume=resume)
        problem = ms.TrainingProblem(
            lambda w, outer, batch: jnp.sum((w - outer * batch) ** 2),
            lambda w, outer: jnp.sum(w**2),
            jnp.zeros(3),
            optax.sgd(0.1),
            horizon=1,
            batch=ms.Batches(data),
        )
        options = {"optimizer": optax.sgd(0.1), "steps": 1, "key": key, "checkpoint": checkpoint}
        return ms.minimize(problem, 1.0, ms.Reverse(), **options)

    first = run(np.ones((2, 3)), resume=False)
    assert run(np.ones((2, 3)), resume=True).outer == first.outer
    with pytest.raises(CheckpointError, match="another run: its problem, data"):
        run(2 * np.ones((2, 3)), resume=True)


def test_checkpoints_keep_every_kind_of_array(tmp_path):
    tree = {
        "key": jax.random.key(3),
        "old_key": jax.random.PRNGKey(3),
        "flags": jnp.array([True, False]),
        "half": jnp.array([1.5], jnp.bfloat16),
        "name": "kept",
    }
    path = tmp_path / "tree"
    save(path, tree, {"step": 4})
    restored, notes = load(path, tree)
    assert notes == {"step": 4}
    assert restored["name"] == "kept"
    assert jnp.array_equal(jax.random.key_data(restored["key"]), jax.random.key_data(tree["key"]))
    for name in ("old_key", "flags", "half"):
        assert restored[name].dtype == tree[name].dtype
        assert jnp.array_equal(restored[name], tree[name])


def test_nothing_recompiles(key):
    """The loss counts its traces: neither steps, stretches nor a second run add any."""
    traces = []

    def loss(w, outer, batch):
        traces.append(1)
        return jnp.sum((w - outer) ** 2)

    counted = problem(loss)
    minimize(counted, key, every=30)
    once = len(traces)
    minimize(counted, key, every=7)
    minimize(counted, jax.random.key(9), every=1)
    assert len(traces) == once


WRONG = {
    "steps": (problem(), {"steps": 0}, "steps is 0; allowed are the integers from 1"),
    "every": (problem(), {"every": -1}, "every is -1; allowed are the integers from 1"),
    "meta_batch": (problem(), {"meta_batch": 4}, "meta_batch is 4; allowed are None for a single"),
    "no-meta-batch": (drawn, {}, "meta_batch is None; allowed are the integers from 1"),
    "tasks": (drawn, {"meta_batch": 2, "tasks_at_once": 0}, "tasks_at_once is 0; allowed"),
    "project": (problem(), {"project": lambda outer: outer[:1]}, "project changed the leaf itself"),
}


@pytest.mark.parametrize(("which", "options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(which, options, message, key):
    with pytest.raises(ValueError, match=message):
        minimize(which, key, **options)
