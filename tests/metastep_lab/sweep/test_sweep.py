"""The command, with processes: few of them, because each takes half a second to start."""

import json
import os
import random
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from pyarrow import csv

from metastep_lab.cli import invoke
from metastep_lab.runs.directories import occupied
from metastep_lab.sweep import command as sweep_module
from tests.metastep_lab.sweep.kills import ROOT, content, descendants, disturb, sweep_command
from tests.metastep_lab.sweep.light_experiment import EXPERIMENT


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Sweep in this process; return status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*options):
        status = invoke(["sweep", "light-walk", "--out", "s", *options], (EXPERIMENT.listing,))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def table(folder):
    return csv.read_csv(folder / "s" / "sweep.csv").to_pydict()


BAD_INPUT = [
    ([], "the sweep is empty"),
    (["--grid", "rate="], "--grid is 'rate='; allowed"),
    (["--grid", "rte=1"], "unknown field 'rte' (did you mean 'rate'?)"),
    (["--grid", "rate=0.1,x"], "rate is 'x'; allowed: a finite number"),
    (["--grid", "steps=1,2,0"], "steps is 0; allowed: integers from 1"),
    (["--seeds", "5:5"], "--seeds is '5:5'"),
    (["--seeds", "0:2", "--set", "stps=1"], "unknown field 'stps'"),
    (["--seeds", "0:2", "--preset", "slow"], "--preset is 'slow'"),
    (["--seeds", "0:2", "--engine", "slurm"], "--engine"),
    (["--seeds", "0:2", "--retries", "-1"], "--retries"),
    (["--seeds", "0:2", "--cpus", "5000"], "--cpus is 5000 for each"),
    (["--seeds", "0:2", "--gpus", "5000"], "--gpus is 5000 for each"),
    (["--seeds", "0:2", "--data", "nowhere"], "--data is nowhere, which is no folder"),
    (["--seeds", "0:2", "--address", "127.0.0.1:1"], "--address goes with --engine ray"),
    (["--seeds", "0:2", "--out", "file"], "is no folder"),
    (["--seeds", "0:2", "--out", "full"], "other files"),
    (["--seeds", "0:2", "--out", "other"], "holds a sweep of another; choose another --out"),
    (["--seeds", "0:2", "--out", "broken"], "damaged"),
    (["--seeds", "0:2", "--out", "/proc/no/sweep"], "/proc"),
    (["--status", "nowhere"], "nowhere holds no sweep"),
    (["--status", "broken"], "damaged"),
]


@pytest.mark.parametrize(("options", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_writes_nothing(sweep, tmp_path, options, message):
    (tmp_path / "file").write_text("a file")
    for name, file, text in (
        ("full", "thesis.tex", "mine"),
        ("broken", "sweep.json", "{"),
        ("other", "sweep.json", '{"schema": 1, "experiment": "another", "runs": []}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    status, _, errors = sweep(*options)
    assert status == 2
    assert errors.startswith("metastep: ") and message in errors
    assert errors.count("\n") == 1 and errors.endswith("\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_failures_retries_and_only_what_is_missing(sweep, tmp_path, monkeypatch):
    modes = ["--grid", "mode=plain,flaky,killed,full,failing,missing"]
    status, output, errors = sweep(*modes, "--retries", "1")
    assert (status, errors) == (1, "")
    assert "failed: RunFailedError: ArithmeticError: it never works" in output
    assert "4 of 6 runs are complete; the table: s/sweep.csv" in output
    assert "\x1b" not in output and "\r" not in output
    first = table(tmp_path)
    for key, message in zip(first["key"][4:], first["message"][4:], strict=True):
        assert output.rindex(f"failed {key}: {message}\n") < output.index("4 of 6 runs are")
    assert first["status"] == ["complete"] * 4 + ["failed"] * 2
    assert first["attempts"] == [1, 2, 2, 2, 2, 0]
    assert first["message"][4:] == [
        "RunFailedError: ArithmeticError: it never works",
        "MNIST was not found: point --data to the folder that holds it.",
    ]
    assert first["metric_last"][:4] == [first["metric_last"][0]] * 4
    assert first["claim_small"] == [True] * 4 + [None] * 2
    status, output, _ = sweep("--status", "s")
    assert status == 0 and "4 complete, 2 failed, 6 runs in all" in output
    assert "it never works" in output and "MNIST was not found" in output

    result = tmp_path / "s" / "runs" / first["key"][0] / "result.json"
    before = result.stat().st_mtime_ns
    monkeypatch.setattr("metastep_lab.sweep.command.run_locally", _nothing_to_do)
    status, output, _ = sweep("--grid", "mode=plain,flaky")
    assert status == 0 and "2 runs in s, 0 to do" in output
    assert result.stat().st_mtime_ns == before
    assert table(tmp_path)["key"] == first["key"][:2]


def _nothing_to_do(jobs, *_):
    assert not jobs
    yield from ()


def test_damaged_files_are_made_anew_to_the_same_bits(sweep, tmp_path):
    options = ["--seeds", "0:3", "--grid", "rate=0.1"]
    assert sweep(*options)[0] == 0
    expected = content(tmp_path / "s")
    runs = sorted((tmp_path / "s" / "runs").iterdir())
    whole = json.loads((runs[0] / "result.json").read_text())
    (runs[0] / "result.json").write_text(json.dumps({**whole, "status": "interrupted"}))
    (runs[0] / "checkpoint").mkdir()
    (runs[0] / "checkpoint" / "walk").write_bytes(b"metastep checkpoint 1 sha256 0\nnonsense")
    (runs[1] / "result.json").write_text('{"schema": 1, "sta')
    shutil.rmtree(runs[2])
    (tmp_path / "s" / "sweep.csv").write_text("nonsense")
    (tmp_path / "s" / "sweep.parquet").unlink()
    status, output, _ = sweep(*options)
    assert status == 0 and "3 runs in s, 3 to do" in output
    assert content(tmp_path / "s") == expected
    logs = "".join(path.read_text() for path in (tmp_path / "s" / "logs").iterdir())
    assert logs.count("The run starts afresh.") == 2


QUIET = ["--seeds", "0:4", "--set", "steps=12", "--set", "pause=0.1"]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """What an undisturbed sweep leaves."""
    out = tmp_path_factory.mktemp("sweep") / "quiet"
    assert invoke(["sweep", "light-walk", "--out", str(out), *QUIET], (EXPERIMENT.listing,)) == 0
    return content(out)


def test_a_second_driver_is_told_so(sweep, tmp_path):
    with occupied(tmp_path / "s", "sweep.json"):
        status, _, errors = sweep(*QUIET)
    assert status == 2
    assert errors == "metastep: another process is running in s; wait, or end it\n"


def test_an_interrupted_sweep_continues_to_the_same_bits(sweep, tmp_path, quiet):
    def interrupt():
        while not list((tmp_path / "s" / "runs").glob("*/checkpoint/walk")):
            time.sleep(0.02)
        # On a busy machine the runs would end while their status is read.
        workers = descendants(os.getpid())
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        seen.append(invoke(["sweep", "--status", "s"], (EXPERIMENT.listing,)))
        os.kill(os.getpid(), signal.SIGINT)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)

    seen: list[int] = []
    thread = threading.Thread(target=interrupt)
    # Tests that a script starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread.start()
    status, output, errors = sweep(*QUIET)
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert (status, seen) == (130, [0])
    assert errors == "metastep: interrupted; the same command continues\n"
    assert "running     seed=" in output and "missing     seed=3" in output
    assert {"interrupted", "missing"} == set(table(tmp_path)["status"])
    begun = [path.parent for path in (tmp_path / "s" / "runs").glob("*/result.json")]
    assert any((run / "checkpoint" / "walk").exists() for run in begun)
    assert not any((run / ".lock").exists() for run in begun), "they ended by themselves"
    assert sweep(*QUIET)[0] == 0
    assert content(tmp_path / "s") == quiet


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, quiet):
    command = sweep_command(tmp_path / "s", *QUIET, "--retries", "3")
    count = disturb(command, tmp_path / "log.txt", kills=4, chance=random.Random(1), pause=0.7)
    assert count["driver"] + count["other"] >= 2, "most of the kills met a living process"
    assert content(tmp_path / "s") == quiet


def test_durations_do_not_depend_on_a_clock_that_jumps():
    for path in Path(sweep_module.__file__).parent.glob("*.py"):
        assert not re.search(r"time\.time\b|datetime|import time\b", path.read_text()), path
