"""The engine `ray`: one Ray for the module, because it takes seconds to start."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from pyarrow import csv

from metastep_lab.cli import invoke
from metastep_lab.sweep import on_ray
from tests.metastep_lab.sweep.kills import ROOT, content, descendants, start, sweep_command
from tests.metastep_lab.sweep.light_experiment import EXPERIMENT

ray = pytest.importorskip("ray")
# Ray leaves files and sockets to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*Ray.*:FutureWarning")

GRID = ["--seeds", "0:2", "--set", "steps=12", "--set", "pause=0.05"]


@pytest.fixture(scope="module")
def on_this_machine():
    """Ray with one core, whose worker finds the tests."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("PYTHONPATH", str(ROOT))
        ray.init(
            "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        yield
        ray.shutdown()


def sweep(out, *options):
    return invoke(["sweep", "light-walk", "--out", str(out), *options], (EXPERIMENT.listing,))


@pytest.mark.usefixtures("on_this_machine")
def test_the_same_bits_as_local_processes_with_retries_and_failures(tmp_path, capsys):
    modes = ["--grid", "mode=plain,flaky,failing", "--cpus", "1"]
    assert sweep(tmp_path / "ray", *modes, "--engine", "ray") == 1
    assert "2 of 3 runs are complete" in capsys.readouterr().out
    on_ray_ = csv.read_csv(tmp_path / "ray" / "sweep.csv").to_pydict()
    assert on_ray_["status"] == ["complete"] * 2 + ["failed"]
    assert on_ray_["attempts"] == [1, 2, 2]
    assert on_ray_["message"][2] == "RunFailedError: ArithmeticError: it never works"
    assert sweep(tmp_path / "ray", "--grid", "mode=plain,flaky", "--engine", "ray") == 0
    assert sweep(tmp_path / "local", "--grid", "mode=plain,flaky") == 0
    expected = content(tmp_path / "local")
    here = content(tmp_path / "ray")
    assert {name: here[name] for name in expected} == expected


@pytest.mark.usefixtures("on_this_machine")
def test_ray_repeats_a_run_whose_worker_was_killed(tmp_path):
    options = ["--grid", "mode=killed", "--engine", "ray", "--cpus", "1"]
    assert sweep(tmp_path / "s", *options, "--retries", "0") == 1
    (message,) = csv.read_csv(tmp_path / "s" / "sweep.csv")["message"].to_pylist()
    assert message.startswith("WorkerCrashedError")
    (run,) = (tmp_path / "s" / "runs").iterdir()
    (run / ".tried").unlink()
    assert sweep(tmp_path / "s", *options, "--retries", "1") == 0


@pytest.mark.usefixtures("on_this_machine")
def test_more_than_any_machine_has_is_refused(tmp_path, capsys):
    assert sweep(tmp_path / "s", *GRID, "--engine", "ray", "--gpus", "4000") == 2
    assert "the largest machine of the cluster has 1 and" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.fixture
def listener():
    """A server that accepts and answers what it is told, or nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize(
    ("answer", "message"),
    [(None, "no cluster answers"), (b"HTTP/1.1 400 Bad\r\n", "something else than Ray answers")],
)
def test_where_no_cluster_answers_a_message_comes_in_time(
    tmp_path, capsys, monkeypatch, listener, answer, message
):
    monkeypatch.setattr(on_ray, "PATIENCE", 0.2)
    if answer:
        threading.Thread(target=lambda: listener.accept()[0].sendall(answer), daemon=True).start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    status = sweep(tmp_path / "s", *GRID, "--engine", "ray", "--address", address)
    errors = capsys.readouterr().err
    assert status == 2 and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_cluster_that_is_there_is_joined(tmp_path, listener):
    port = listener.getsockname()[1]
    listener.close()
    # Another mode would leave a token in the home folder.
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    ray = str(Path(sys.executable).with_name("ray"))
    options = f"--head --port {port} --num-cpus 2 --include-dashboard false --disable-usage-stats"
    head = subprocess.Popen(
        [ray, "start", "--block", *options.split()], env=env, stdout=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, 60)
        address = ["--engine", "ray", "--address", f"127.0.0.1:{port}"]
        command = sweep_command(tmp_path / "s", *GRID, *address)
        finished = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
        )
    finally:
        head.terminate()
        head.wait(30)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "s" / "sweep.csv").read_text().count('"complete"') == 2


def wait_for_port(port, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "auto", "localhost:99999", ":80"])
def test_impossible_addresses(tmp_path, capsys, address):
    begin = time.monotonic()
    assert sweep(tmp_path / "s", *GRID, "--engine", "ray", "--address", address) == 2
    assert time.monotonic() - begin < 10
    errors = capsys.readouterr().err
    assert errors.startswith(f"metastep: --address is {address!r}"[:22]) and errors.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_without_ray_there_is_one_clear_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep(tmp_path / "s", *GRID, "--engine", "ray") == 2
    errors = capsys.readouterr().err
    assert "pip install 'metastep-lab[distributed]'" in errors and errors.count("\n") == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("victim", ["driver", "raylet", "gcs_server"])
def test_where_ray_is_killed_the_same_command_finishes(tmp_path, victim):
    options = ["--seeds", "0:6", "--set", "steps=12", "--set", "pause=0.15"]
    command = sweep_command(tmp_path / "s", *options, "--engine", "ray")
    driver = start(command, tmp_path / "log.txt")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "s").glob("runs/*/checkpoint/walk")):
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.05)
    below = descendants(driver.pid)
    os.kill(driver.pid if victim == "driver" else _named(victim, below), signal.SIGKILL)
    driver.wait(timeout=200)
    assert start(command, tmp_path / "log.txt").wait(timeout=200) == 0
    assert sweep(tmp_path / "quiet", *options) == 0
    assert content(tmp_path / "s") == content(tmp_path / "quiet")


def _named(name, pids):
    for pid in pids:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if name in file.read().split(b"\0")[0].decode():
                return pid
    raise AssertionError(f"no process {name}")
