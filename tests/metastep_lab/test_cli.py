"""The command line: help, completion, statuses, and one line for every mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from metastep_lab.cli import invoke
from metastep_lab.runs.records import read_result
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, TRAP


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run one command in an empty folder; return its exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        status = invoke(list(arguments), (EXPERIMENT.listing,))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


BAD_INPUT = [
    (["run", "fake-wlak"], "unknown experiment 'fake-wlak' (did you mean 'fake-walk'?)"),
    (["run"], "Missing argument 'NAME'"),
    (["run", "fake-walk", "--sed", "3"], "No such option"),
    (["run", "fake-walk", "more"], "unexpected extra argument"),
    (["run", "fake-walk", "--seed", "x"], "--seed"),
    (["run", "fake-walk", "--seed", "-1"], "--seed"),
    (["run", "fake-walk", "--seed", str(2**32)], "--seed"),
    (["run", "fake-walk", "--set"], "--set"),
    (["run", "fake-walk", "--set", "stps=1"], "unknown field 'stps'"),
    (["run", "fake-walk", "--set", "steps=x"], "steps is 'x'; allowed: an integer"),
    (["run", "fake-walk", "--set", f"steps={10**20}"], "; allowed: integers from -2147483647 to"),
    (["run", "fake-walk", "--set", "steps=0"], "steps is 0; allowed: integers from 1"),
    (["run", "fake-walk", "--preset", "slow"], "--preset is 'slow'; allowed for fake-walk: quick"),
    (["run", "fake-walk", "--set", "mode=missing"], "MNIST was not found"),
    (["run", "fake-walk", "--set", "mode=impossible"], "windows is (9, 9); allowed: less"),
    (["run", "fake-walk", "--data", "nowhere"], "--data is nowhere, which is no folder"),
    (["run", "fake-walk", "--out", "file"], "is no folder"),
    (["run", "fake-walk", "--out", "file/deep/er"], "is no folder"),
    (["run", "fake-walk", "--out", "full"], "other files"),
    (["run", "fake-walk", "--out", "x" * 300], "File name too long"),
    (["run", "fake-walk", "--out", "/proc/no/run"], "/proc"),
    (["run", "fake-walk", "--out", ""], "--out': it is empty"),
    (["run", "fake-walk", "--data", ""], "--data': it is empty"),
    (["run", "fake-walk", "--data", "x" * 5000], "is no folder"),
    (["run", "fake-walk", "--out", "x" * 5000], "File name too long"),
    (["run", "fake-walk", "--seed", "1" * 400], "--seed"),
    (["run", "fake-walk", "--set", f"steps={'1' * 400}"], "allowed: integers from -2147483647 to"),
    (
        ["run", "fake-walk", "--set", f"windows=1,{'1' * 5000}"],
        "allowed: integers from -2147483647 to",
    ),
    (["run", "fake-walk", "--set", f"steps={'x' * 5000}"], "an integer\n"),
    (["run", "fake-walk", "--set", f"rate=1{'0' * 400}"], "a finite number\n"),
    (["run", "fake-walk", "--set", "label=\udcff"], "--set is"),
    (["x" * 5000], "No such command"),
    (["check", "x" * 5000], "File name too long"),
    (["report", "x" * 5000], "File name too long"),
    (["report", ""], "it is empty"),
    (["sweep", "--status", "x" * 5000], "File name too long"),
    (["sweep", "--status", ""], "it is empty"),
    (["sweep", "fake-walk", "--seeds", "1" * 400], "--seeds"),
    (["sweep", "fake-walk", "--seeds", "0:2", "--cpus", "1" * 400], "--cpus"),
    (["sweep", "fake-walk", "--seeds", "0:2", "--gpus", "1" * 400], "--gpus"),
    (
        ["sweep", "fake-walk", "--grid", f"steps={'1' * 400}"],
        "allowed: integers from -2147483647 to",
    ),
    (["doctor", "--data", "x" * 5000], "does not exist"),
    (["doctor", "--seeds", "0:2", "--set", "steps=1"], "--set, --seeds goes with --plan alone"),
    (["doctor", "--preset", "paper"], "--preset goes with --plan alone"),
    (["sweeep"], "No such command"),
    (["check"], "Missing argument"),
    (["check", "nowhere"], "nowhere holds no run"),
    (["check", "file"], "file holds no run"),
    (["check", "broken"], "damaged"),
    (["report"], "Missing argument"),
    (["report", "nowhere"], "nowhere holds no run"),
    (["report", "broken"], "damaged"),
    (["doctor", "--data", "nowhere"], "nowhere"),
    (["doctor", "extra"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_writes_nothing(command, tmp_path, arguments, message):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text('{"schema": 1, "sta')
    before = sorted(tmp_path.rglob("*"))
    status, _, errors = command(*arguments)
    assert status == 2
    assert errors.startswith("metastep: ") and message in errors
    assert errors.count("\n") == 1 and errors.endswith("\n") and len(errors) < 500
    assert sorted(tmp_path.rglob("*")) == before


def test_list_shows_names_questions_and_minutes_in_80_columns(command):
    status, output, _ = command("list")
    assert status == 0
    for words in ("fake-walk", "quick 0.1", "paper 2", "How far does a walk <go>?", "Nobody 2020"):
        assert words in output
    assert max(map(len, output.splitlines())) <= 80


COMMANDS = ("list", "run", "check", "report", "sweep", "doctor")


@pytest.mark.parametrize("name", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_fits_80_columns_and_ends_with_examples(command, capsys, name):
    status, output, _ = command(*name, "--help")
    assert status == 0
    assert max(map(len, output.splitlines())) <= 80
    example = output.split("Examples:\n")[1].splitlines()[0]
    assert example.startswith("    metastep " + " ".join(name))


def test_the_shell_completes_commands(command, monkeypatch, capsys):
    monkeypatch.setenv("_METASTEP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "metastep re")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        command()
    assert capsys.readouterr().out.split() == ["report"]


@pytest.mark.parametrize(("plain", "colored"), [("", True), ("1", False)])
def test_colors_are_for_terminals_and_can_be_switched_off(command, monkeypatch, plain, colored):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", plain)
    command("run", "fake-walk")
    _, output, _ = command("check", "runs/fake-walk")
    assert ("\x1b[32m" in output) == colored


def test_list_as_json(command):
    _, output, _ = command("list", "--json")
    (listed,) = json.loads(output)
    assert (listed["name"], listed["minutes"]["paper"]) == ("fake-walk", 2)
    assert listed["fields"]["steps"] == "an integer"
    assert listed["presets"]["paper"]["steps"] == 50


def test_run_check_and_report(command, tmp_path):
    status, output, errors = command("run", "fake-walk", "--set", "steps=3", "--seed", "5")
    assert (status, errors) == (0, "")
    assert "adding: 3 of 3\n" in output and "added <everything>" in output
    assert "adding: 2 of 3, 0.0 s left\n" in output
    assert "\x1b" not in output and "\r" not in output
    assert "3 claims: holds 1, does not hold 1, undecided 1\n" in output
    assert output.endswith("metastep report runs/fake-walk\n")
    assert "It took 3 steps & <stopped>." in output
    assert max(map(len, output.splitlines())) <= 80
    result = read_result(tmp_path / "runs" / "fake-walk")
    assert result["command"] == "metastep run fake-walk --preset quick --set steps=3 --seed 5"
    status, output, _ = command("check", "runs/fake-walk")
    assert status == 0
    assert "holds         small  (must hold)" in output
    assert "does not hold exact" in output and "undecided     open" in output
    assert max(map(len, output.splitlines())) <= 80
    status, output, _ = command("report", "runs/fake-walk", "--out", "pages/report.html")
    assert status == 0
    assert (tmp_path / "pages" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_second_run_needs_resume_and_then_does_nothing(command, tmp_path):
    command("run", "fake-walk", "--out", "a")
    before = (tmp_path / "a" / "result.json").read_bytes()
    status, _, errors = command("run", "fake-walk", "--out", "a")
    assert (status, errors.count("\n")) == (2, 1)
    status, output, _ = command("run", "fake-walk", "--out", "a", "--resume")
    assert status == 0 and "complete already" in output
    assert command("run", "fake-walk", "--out", "a", "--resume", "--seed", "1")[0] == 2
    assert (tmp_path / "a" / "result.json").read_bytes() == before


def test_interruption_prints_a_command_that_continues(command, monkeypatch):
    monkeypatch.setitem(TRAP, "at", 2)
    arguments = ["run", "fake-walk", "--set", "label=two words", "--out", "a"]
    status, _, errors = command(*arguments)
    assert status == 130
    continuing = (
        "metastep run fake-walk --preset quick --set 'label=two words' --seed 0 --out a --resume"
    )
    assert errors == f"metastep: interrupted; continue with: {continuing}\n"
    status, _, errors = command("check", "a")
    assert status == 2 and "interrupted" in errors
    assert command("report", "a")[0] == 0
    monkeypatch.setitem(TRAP, "at", None)
    assert command(*arguments, "--resume")[0] == 0
    assert command("check", "a")[0] == 0


def test_failure_is_one_line_and_a_traceback_only_on_request(command, monkeypatch):
    status, _, errors = command("run", "fake-walk", "--set", "mode=clumsy")
    assert status == 1
    assert errors == "metastep: the run failed: ValueError: no such luck\n"
    monkeypatch.setenv("METASTEP_DEBUG", "1")
    assert "Traceback" in command("run", "fake-walk", "--set", "mode=clumsy", "--out", "b")[2]


def test_check_recomputes_claims_from_the_tables(command, tmp_path):
    command("run", "fake-walk", "--out", "a")
    table = tmp_path / "a" / "tables" / "sums.csv"
    table.write_text(table.read_text() + "5,1000.0\n")
    status, output, _ = command("check", "a")
    assert status == 1
    assert "does not hold small" in output and "result.json says: holds" in output
    assert "must hold and do not: small" in output


@pytest.mark.parametrize("damage", ["step,sum\n1\n", "", "step,total\n1,2\n"])
def test_check_of_a_damaged_table_is_one_line(command, tmp_path, damage):
    command("run", "fake-walk", "--out", "a")
    (tmp_path / "a" / "tables" / "sums.csv").write_text(damage)
    status, _, errors = command("check", "a")
    assert (status, errors.count("\n")) == (2, 1)


def test_doctor_shows_versions_devices_and_data(command):
    status, output, _ = command("doctor")
    assert status == 0
    for word in ("python", "metastep", "jaxlib", "devices", "precision", "cores", "data mnist"):
        assert word in output


def test_the_version_is_that_of_the_package(command):
    assert command("--version") == (0, f"{version('metastep')}\n", "")


def test_without_arguments_there_is_help(command):
    status, output, _ = command()
    assert status == 0 and "doctor" in output


@pytest.mark.parametrize("columns", ["0", "1", "\N{SUPERSCRIPT TWO}", "-5", "9" * 30, ""])
def test_any_width_prints_everything(command, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    status, output, _ = command("list")
    assert status == 0 and "fake-walk" in output and len(output) < 10_000


def test_without_a_device_nothing_is_written(command, monkeypatch, tmp_path):
    def no_device():
        raise RuntimeError("Unable to initialize backend 'abacus'")

    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    monkeypatch.setattr("jax.devices", no_device)
    for arguments in (["run", "fake-walk"], ["doctor"]):
        status, _, errors = command(*arguments)
        assert (status, errors.count("\n")) == (2, 1)
        assert "JAX_PLATFORMS is 'abacus'" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_second_interruption_adds_no_traceback(command, monkeypatch):
    def again(self):
        raise KeyboardInterrupt

    monkeypatch.setitem(TRAP, "at", 2)
    monkeypatch.setattr("metastep_lab.terminal.Display.clear", again)
    status, _, errors = command("run", "fake-walk")
    assert status == 130 and "Traceback" not in errors


def test_ctrl_c_again_and_again_adds_no_traceback(tmp_path):
    module = [sys.executable, "-m", "tests.metastep_lab.report.fake_experiment", "run", "fake-walk"]
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    environment = {**os.environ, "FAKE_PAUSE": "0.2", "PYTHONPATH": path}
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        module, cwd=tmp_path, env=environment, text=True, stdout=-1, stderr=-1
    ) as process:
        signal.signal(signal.SIGINT, inherited)
        while "adding" not in process.stdout.readline():
            pass
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        errors = process.stderr.read()
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in errors
    assert read_result(tmp_path / "runs" / "fake-walk")["status"] == "interrupted"


def test_an_unknown_platform_is_one_line(tmp_path):
    """In a process of its own, where JAX itself looks for the platform."""
    module = [sys.executable, "-m", "tests.metastep_lab.report.fake_experiment", "run", "fake-walk"]
    environment = {**os.environ, "JAX_PLATFORMS": "abacus", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        module, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_module_runs_as_a_program(tmp_path):
    command = [sys.executable, "-m", "metastep_lab", "check", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
