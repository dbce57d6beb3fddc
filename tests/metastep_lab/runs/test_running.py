"""Runs: what they leave behind, interrupted, resumed, killed and refused."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from metastep_lab.configuration import config_as_json, config_from_json, describe, parse_settings
from metastep_lab.errors import RefusedError, RunDirectoryError, RunFailedError
from metastep_lab.runs.directories import occupied
from metastep_lab.runs.records import read_result
from metastep_lab.runs.running import Request, execute, read_record
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, TRAP, Config

SCRIPT = Path(__file__).parents[1] / "report" / "fake_experiment.py"


@pytest.fixture
def trap(monkeypatch):
    """A function that makes the fake experiment raise before one of its steps."""

    def set_trap(at, error=None):
        monkeypatch.setitem(TRAP, "at", at)
        monkeypatch.setitem(TRAP, "error", error or KeyboardInterrupt())

    return set_trap


def request(directory, resume=False, seed=3, **changes):
    config = replace(Config(), **changes)
    return Request(EXPERIMENT, config, "quick", (), seed, directory, resume=resume)


def content(directory):
    """Everything of a run that must not depend on interruptions."""
    files = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "result.json"
    }
    result = read_result(directory)
    return files, {key: result[key] for key in result if key != "timing"}


def test_complete_run_holds_what_the_contract_says(tmp_path):
    result = execute(request(tmp_path / "a" / "b"))
    assert result == json.loads((tmp_path / "a" / "b" / "result.json").read_text())
    assert (result["schema"], result["status"], result["seed"]) == (1, "complete", 3)
    assert result["config"] == config_as_json(Config())
    assert result["metrics"]["nothing"] is None
    assert [claim["holds"] for claim in result["claims"]] == [True, None, False]
    assert set(result["environment"]) >= {"versions", "device", "precision"}
    names = {path.name for path in (tmp_path / "a" / "b").rglob("*") if path.is_file()}
    figure = {f"sum-figure.{kind}" for kind in ("svg", "png", "json")}
    assert names == {"result.json", "sums.csv", "arrays.npz"} | figure
    assert not (tmp_path / "a" / "b" / "checkpoint").exists()


def test_record_reads_back_to_the_same_numbers(tmp_path):
    execute(request(tmp_path, windows=(4, 5), limit=7))
    record = read_record(tmp_path, EXPERIMENT)
    assert record.config == Config(windows=(4, 5), limit=7)
    np.testing.assert_array_equal(record.arrays["sums"], record.tables["sums"]["sum"])
    assert record.metrics["last"] == record.arrays["sums"][-1]
    assert np.isnan(record.metrics["nothing"])


@pytest.mark.parametrize("at", [0, 1, 4])
def test_interrupted_and_resumed_run_ends_with_the_same_bytes(tmp_path, trap, at):
    execute(request(tmp_path / "whole"))
    trap(at)
    with pytest.raises(KeyboardInterrupt):
        execute(request(tmp_path / "parts"))
    assert read_result(tmp_path / "parts")["status"] == "interrupted"
    trap(None)
    result = execute(request(tmp_path / "parts", resume=True))
    assert result["timing"]["sessions"] == 2
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_failed_run_says_why_and_can_be_resumed(tmp_path, trap):
    trap(2, RuntimeError("no memory\nat all"))
    with pytest.raises(RunFailedError, match="no memory at all"):
        execute(request(tmp_path))
    result = read_result(tmp_path)
    assert (result["status"], result["error"]) == ("failed", "RuntimeError: no memory at all")
    trap(None)
    assert execute(request(tmp_path, resume=True))["status"] == "complete"


def test_value_error_after_the_first_table_is_a_failure(tmp_path):
    with pytest.raises(RunFailedError, match="no such luck"):
        execute(request(tmp_path, mode="clumsy"))


def test_failure_in_the_figures_is_recorded(tmp_path):
    broken = replace(EXPERIMENT, figures=lambda record: {"../bad": None})
    with pytest.raises(RunFailedError):
        execute(replace(request(tmp_path), experiment=broken))
    assert read_result(tmp_path)["status"] == "failed"


@pytest.mark.parametrize("mode", ["missing", "impossible"])
def test_refusal_before_anything_is_written_leaves_nothing(tmp_path, mode):
    with pytest.raises(RefusedError):
        execute(request(tmp_path / "a" / "b", mode=mode))
    assert list(tmp_path.iterdir()) == []


def test_refusal_on_resume_leaves_the_run_as_it_was(tmp_path, trap):
    trap(2)
    with pytest.raises(KeyboardInterrupt):
        execute(request(tmp_path))
    before = (tmp_path / "result.json").read_bytes()
    missing = replace(EXPERIMENT, run=lambda config, context: open(tmp_path / "none"))
    with pytest.raises(RefusedError):
        execute(replace(request(tmp_path, resume=True), experiment=missing))
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"rate": 0.5}, "rate is 0.1 there and 0.5 here"),
        ({}, r"already \(complete\)"),
    ],
)
def test_directory_of_another_run_is_refused(tmp_path, changes, message):
    execute(request(tmp_path))
    before = content(tmp_path)
    with pytest.raises(RefusedError, match=message):
        execute(request(tmp_path, **changes))
    assert content(tmp_path) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run that a refusal leaves as it is."""
    directory = tmp_path_factory.mktemp("finished")
    execute(request(directory))
    return directory


# Every field, each by the least that its type allows.
OTHER = {
    "steps": 6,
    "rate": np.nextafter(0.1, 1).item(),
    "mode": "clumsy",
    "windows": (2, 1),
    "label": "Sum",
    "limit": 0,
    "loud": True,
}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", [field.name for field in fields(Config)])
def test_a_changed_field_is_another_run(finished, name, resume):
    before = content(finished)
    with pytest.raises(RefusedError, match=f"another run: {name} is"):
        execute(request(finished, resume=resume, **{name: OTHER[name]}))
    assert content(finished) == before


@pytest.mark.parametrize("resume", [False, True])
def test_another_experiment_or_seed_is_another_run(finished, resume):
    other = replace(EXPERIMENT, listing=replace(EXPERIMENT.listing, name="other-walk"))
    with pytest.raises(RefusedError, match="experiment is 'fake-walk' there and 'other-walk' here"):
        execute(replace(request(finished, resume=resume), experiment=other))
    with pytest.raises(RefusedError, match="seed is 3 there and 0 here"):
        execute(request(finished, resume=resume, seed=0))
    with pytest.raises(RunDirectoryError, match="is of the experiment 'fake-walk'"):
        read_record(finished, other)


def test_resume_of_nothing_starts_and_of_a_complete_run_does_nothing(tmp_path):
    execute(request(tmp_path, resume=True))
    before = (tmp_path / "result.json").read_bytes()
    (tmp_path / "checkpoint").mkdir()
    said = []
    assert execute(request(tmp_path, resume=True), said.append)["status"] == "complete"
    assert "complete already" in said[0]
    assert (tmp_path / "result.json").read_bytes() == before
    assert not (tmp_path / "checkpoint").exists()


def test_two_processes_cannot_run_in_one_directory(tmp_path):
    with occupied(tmp_path):
        with pytest.raises(RefusedError, match="another process is running"):
            execute(request(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_foreign_directory_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RefusedError, match="other files"):
        execute(request(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("kills", [2, 6])
def test_killed_at_any_moment_the_directory_reads_and_resumes(tmp_path, kills):
    """Every file is whole after SIGKILL, and the resumed run equals an unbroken one."""
    arguments = ["--seed", "3", "--set", "steps=100", "--resume", "--out", str(tmp_path / "killed")]
    random = np.random.default_rng(0)
    for _ in range(kills):
        command = [sys.executable, "-u", str(SCRIPT), "run", "fake-walk", *arguments]
        environment = {**os.environ, "FAKE_PAUSE": "0.01"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        process.stdout.readline()
        threading.Timer(random.uniform(0.0, 0.12), process.kill).start()
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        if (tmp_path / "killed" / "result.json").exists():
            assert read_result(tmp_path / "killed")["status"] == "interrupted"
            read_record(tmp_path / "killed", EXPERIMENT)
    execute(request(tmp_path / "killed", resume=True, steps=100))
    execute(request(tmp_path / "whole", steps=100))
    assert content(tmp_path / "killed")[0] == content(tmp_path / "whole")[0]


def test_control_c_ends_with_130_and_the_command_that_continues(tmp_path):
    command = [sys.executable, "-u", str(SCRIPT), "run", "fake-walk", "--set", "steps=30"]
    environment = {**os.environ, "FAKE_PAUSE": "0.1"}
    # A shell that starts the tests in the background ignores SIGINT, and children inherit that.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "a run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    signal.signal(signal.SIGINT, inherited)
    assert process.stdout is not None
    while "adding" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "metastep run fake-walk --preset quick --set steps=30 --seed 0" in errors
    assert f"--out '{tmp_path}/a run' --resume" in errors
    assert read_result(tmp_path / "a run")["status"] == "interrupted"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema": 2}',
        b'{"schema": 1, "status": "done"}',
        b'{"schema": 1, "status": "complete"}',
        b"[" * 100_000,
    ],
)
def test_damaged_result_is_one_clear_line(tmp_path, damage):
    (tmp_path / "result.json").write_bytes(damage)
    with pytest.raises(RunDirectoryError, match=r"result\.json"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    "part", [{"claims": [{"id": 3}]}, {"metrics": {"a": "b"}}, {"figures": [{"name": "../x"}]}]
)
def test_damaged_part_of_the_result_is_refused(tmp_path, part):
    result = execute(request(tmp_path))
    (tmp_path / "result.json").write_text(json.dumps({**result, **part}))
    with pytest.raises(RunDirectoryError, match="damaged"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("steps=7", "steps", 7),
        ("rate=1e-3", "rate", 0.001),
        ("rate=2", "rate", 2.0),
        ("mode=missing", "mode", "missing"),
        ("windows=3, 4,5", "windows", (3, 4, 5)),
        ("windows=3", "windows", (3,)),
        ("windows=", "windows", ()),
        ("label=a=b", "label", "a=b"),
        ("limit=3", "limit", 3),
        ("limit=none", "limit", None),
        ("loud=True", "loud", True),
        ("loud=false", "loud", False),
    ],
)
def test_settings_are_read(setting, field, value):
    config = parse_settings(Config(limit=9, loud=True), [setting])
    assert getattr(config, field) == value
    assert type(getattr(config, field)) is type(value)
    assert config_from_json(Config, json.loads(json.dumps(config_as_json(config)))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["step=7"], "unknown field 'step' (did you mean 'steps'?); allowed: steps, rate, mode"),
        (["steps"], "--set is 'steps'; allowed: field=value"),
        (["steps=2.5"], "steps is '2.5'; allowed: an integer"),
        (["steps="], "steps is ''; allowed: an integer"),
        (["steps=0"], "steps is 0; allowed: integers from 1"),
        (["steps=1", "steps=2"], "steps is set twice"),
        (["rate=nan"], "rate is 'nan'; allowed: a finite number"),
        (["rate=inf"], "rate is 'inf'; allowed: a finite number"),
        (["mode=fast"], "mode is 'fast'; allowed: plain, missing, impossible, clumsy"),
        (["windows=1,x"], "windows is '1,x'; allowed: a list separated by commas"),
        (["windows=1,,2"], "windows is '1,,2'; allowed: a list"),
        (["limit=many"], "limit is 'many'; allowed: an integer, or none"),
        (["loud=yes"], "loud is 'yes'; allowed: true or false"),
    ],
)
def test_impossible_settings_name_field_value_and_what_is_allowed(settings, message):
    with pytest.raises(ValueError) as caught:
        parse_settings(Config(), settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_kind_of_field_is_described():
    assert describe(tuple[float, ...]) == "a list separated by commas, each entry a finite number"


@pytest.mark.parametrize("values", [{}, {**config_as_json(Config()), "steps": "many"}])
def test_configuration_of_another_version_is_refused(values):
    with pytest.raises(ValueError, match="configuration"):
        config_from_json(Config, values)
