"""Meta-batches over devices and processes, in processes of their own: see `sharded.py`."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests import sharded, sharded_states

ROOT = Path(__file__).resolve().parents[2]


def program(*arguments, module="tests.sharded"):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def answer(process):
    try:
        output, _ = process.communicate(timeout=1500)  # 90 s of processor time
    finally:
        process.kill()
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


# Sums in another order: some units of the last place.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def agree(found, precision, names, counts):
    differences = {f"{name} {devices}" for name in names for devices in counts}
    assert differences <= set(found)
    for name in differences | {"inner batches"}:
        assert found[name] < TOLERANCE[precision], name


def test_several_devices_give_the_hypergradient_of_one():
    names = ("evolution",)  # draws numbers of its own; `make test-slow` has them all
    found = answer(program("float64", *names))
    agree(found, "float64", names, (8,))
    alone, shared = found["memory"]
    # A task keeps its trajectory of 50 states; what is left over is small.
    assert shared < 0.2 * alone
    indivisible, single = found["refused"]
    assert "meta_batch is 12" in indivisible and "multiples of the 8 devices" in indivisible
    assert "None for a single problem" in single


@pytest.mark.parametrize("precision", TOLERANCE)
def test_every_estimator(precision):
    agree(answer(program(precision)), precision, sharded.ESTIMATORS, (4, 8))


def test_two_processes_train_like_one_and_save_once(tmp_path, x64):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = tmp_path / "state"
    processes = [program("process", rank, port, path) for rank in (0, 1)]
    first, second = map(answer, processes)
    assert first == second and path.exists() and [*tmp_path.iterdir()] == [path]
    mesh = jax.make_mesh((1,), ("tasks",))
    assert first == pytest.approx(sharded.train(mesh), rel=TOLERANCE["float64"])


def check_states(found, precision, names):
    for name in names:
        assert found[name] < TOLERANCE[precision], name
    explicit, elsewhere = found["refused"]
    assert "explicit axes" in explicit and "lie on different devices" in elsewhere


def test_states_over_devices_give_the_hypergradient_of_one():
    names = ("driven",)
    found = answer(program("float64", *names, module="tests.sharded_states"))
    check_states(found, "float64", names)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_states_over_devices_for_every_reverse_mode(precision):
    found = answer(program(precision, module="tests.sharded_states"))
    check_states(found, precision, (*sharded_states.ESTIMATORS, *sharded_states.DRIVEN))
    alone, spread = found["temporaries"]
    assert spread < 0.2 * alone
    # What is left over of a state is what every device has: the bias, counters. To go back over a
    # step, a device gathers one of the two matrices at a time.
    (state, at_work), (state_spread, at_work_spread) = found["segment"]
    assert state_spread < 0.15 * state and at_work_spread < 0.6 * at_work
