"""What a driven run refuses, and that nothing is lost by it."""

import errno
import os
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep import files
from metastep.driven import records
from metastep.saving import CheckpointError
from tests.driven_run import EXAMPLES, OUTER, bits, problem, same_problem

KEY = jax.random.key(0)
HORIZON = 6
FOLDER = {"save_every": 0.0}


def driven(batches=EXAMPLES, outer=OUTER, estimator=None, key=KEY, horizon=HORIZON, **options):
    same = batches is EXAMPLES
    one = same_problem(horizon) if same else problem(ms.Batches(batches), horizon)
    estimator = estimator or ms.Reverse(ms.Binomial(2))
    return ms.driven_hypergradient(one, outer, estimator, key=key, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_batch_the_second_time_is_refused_and_the_run_goes_on_with_the_right_one(tmp_path):
    asked = []

    def load(t):
        asked.append(t)
        return EXAMPLES[t] + (1e-6 if asked.count(4) > 1 else 0.0)

    with pytest.raises(ValueError, match="batch 4 is another one than before"):
        driven(load, directory=tmp_path, **FOLDER)
    assert bits(driven(directory=tmp_path)) == bits(driven())


def test_other_data_when_a_run_goes_on_are_refused(tmp_path):
    def load(t):
        if t == 5:
            raise OSError("the network is gone")
        return EXAMPLES[t]

    with pytest.raises(OSError, match="the network is gone"):
        driven(load, directory=tmp_path, **FOLDER)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="batch 4 is another one"):
        driven(lambda t: EXAMPLES[t] + (t == 4), directory=tmp_path)
    assert contents(tmp_path).keys() >= before.keys() - {"run"}
    assert bits(driven(directory=tmp_path)) == bits(driven())


OTHERS = {
    "hyperparameters": {"outer": {"decay": 0.2, "step_size": 0.05}},
    "key": {"key": jax.random.key(1)},
    "horizon": {"horizon": 5},
    "segments": {"estimator": ms.Reverse(2)},
    "window": {"estimator": ms.TruncatedReverse(6)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_the_directory_of_another_run_is_refused_and_left_as_it_is(other, tmp_path_factory, shared):
    before = contents(shared)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        driven(directory=shared, **other)
    assert contents(shared) == before


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The directory of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    driven(directory=folder)
    return folder


def test_another_loss_is_another_run(shared):
    one = ms.TrainingProblem(
        loss=lambda w, outer, batch: 1.1 * problem(None).loss(w, outer, batch),
        objective=lambda w, outer: jnp.sum(jnp.sin(w)),
        init_params=jnp.ones(3),
        optimizer=lambda outer: optax.adam(outer["step_size"], eps_root=1e-8),
        horizon=HORIZON,
        batch=ms.Batches(EXAMPLES),
    )
    with pytest.raises(CheckpointError, match="belongs to another run"):
        ms.driven_hypergradient(one, OUTER, ms.Reverse(ms.Binomial(2)), key=KEY, directory=shared)


def test_another_window_is_another_run(tmp_path):
    driven(estimator=ms.TruncatedReverse(3), directory=tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        driven(estimator=ms.TruncatedReverse(4), directory=tmp_path)


def test_another_start_is_another_run(shared):
    one = same_problem(HORIZON)
    other = eqx.tree_at(lambda one: one.init_params, one, 1.1 * one.init_params)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        ms.driven_hypergradient(other, OUTER, ms.Reverse(ms.Binomial(2)), key=KEY, directory=shared)


def test_a_damaged_file_is_named(tmp_path):
    driven(directory=tmp_path)
    content = bytearray((tmp_path / "run").read_bytes())
    content[-40] ^= 1
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(CheckpointError, match="run is damaged"):
        driven(directory=tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "estimate").touch()
    with pytest.raises(CheckpointError, match="has estimate of a run, and no file 'run'"):
        driven(directory=tmp_path)


def test_a_disk_that_is_too_small_is_noticed_before(tmp_path, monkeypatch):
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"needs up to \d+ more bytes in .* 100 are free") as caught:
        driven(directory=tmp_path)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("after", [1, 9])
def test_a_disk_that_fills_up_loses_nothing(after, tmp_path, monkeypatch):
    count = [0]

    def full(descriptor):
        count[0] += 1
        if count[0] > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            driven(directory=tmp_path, **FOLDER)
    assert not [*tmp_path.glob("*.tmp")]
    assert bits(driven(directory=tmp_path)) == bits(driven())


SOURCES = {
    "too few": (EXAMPLES[:4], "the source has 4 batches, and horizon is 6"),
    "none": (lambda t: None if t == 3 else EXAMPLES[t], "batch 3 is missing: .* returned None"),
    "missing": (lambda t: {0: EXAMPLES[0]}[t], "batch 1 is missing: .* KeyError"),
    "smaller": (lambda t: EXAMPLES[t][: 4 - (t == 2)], "batch 2, .*changed .*4, 3.* to .*3, 3"),
    "text": (lambda t: {"x": EXAMPLES[t], "name": "first"}, r"batch 0\['name'\] is a str"),
}


@pytest.mark.parametrize(("source", "message"), SOURCES.values(), ids=SOURCES)
def test_batches_that_cannot_be_used(source, message):
    with pytest.raises(ValueError, match=message):
        driven(source)


ARGUMENTS = {
    "estimator": ({"estimator": ms.Forward()}, "estimator is Forward.*Reverse and Truncated"),
    "window": ({"estimator": ms.TruncatedReverse(7)}, "window is 7"),
    "checkpoint": ({"estimator": ms.Reverse(checkpoint=0)}, "checkpoint is 0"),
    "memory": ({"memory": -1}, "memory is -1"),
    "no room": ({"memory": 10}, "memory is 10 bytes, and 2 states"),
    "every": ({"save_every": -1.0}, "save_every is -1.0"),
    "integer": ({"outer": {"decay": 1, "step_size": 0.1}}, "has dtype int32.*Write 1.0"),
    "lost": ({"outer": OUTER | {"unused": 1.0}}, r"outer\['unused'\] cannot influence"),
}


@pytest.mark.parametrize(("options", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_cannot_be_used(options, message):
    with pytest.raises(ValueError, match=message):
        driven(**options)


def test_integer_parameters_are_refused():
    one = ms.TrainingProblem(
        lambda w, outer, batch: w, lambda w, outer: w, jnp.array(1), optax.sgd(0.1), 3
    )
    with pytest.raises(ValueError, match="no array of floating-point numbers"):
        ms.driven_hypergradient(one, 0.1, ms.Reverse(), key=KEY)


def test_a_run_that_diverges_is_not_gone_back_over():
    asked = []
    load = lambda t: asked.append(t) or EXAMPLES[t] * np.inf
    estimate = driven(load)
    assert estimate.result == ms.RESULTS.nonfinite_inner
    assert int(estimate.stats["first_nonfinite_step"]) == 1
    assert np.isnan(estimate.grad["decay"]) and asked.count(HORIZON - 1) == 1
