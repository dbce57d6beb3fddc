"""A run whose numbers leave the range of floating point says so, on its last line too."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest

from metastep_lab.cli import invoke
from metastep_lab.runs import choosing
from metastep_lab.runs.divergence import ADVICE
from metastep_lab.runs.records import read_result
from tests.metastep_lab.report import fake_experiment

OVERFLOW = "overflow encountered in cast"


@dataclass(frozen=True)
class Config:
    rate: float = 0.1
    warning: str = ""
    fails: bool = False
    bounds: tuple[float, ...] = (-np.inf, np.inf)


def run(config, context):
    """Descend on w^2 / 2 from 1, and note a column that may be empty."""
    rate = np.float32(config.rate)
    if config.warning:
        warnings.warn(config.warning, stacklevel=2)
    places = np.clip((1 - np.float64(rate)) ** np.arange(5), *config.bounds)
    context.table("walk", {"place": places, "mean": [np.nan] * 5})
    if config.fails:
        raise ArithmeticError("no number is left")
    return {"last": places[-1], "nothing": float("nan")}


EXPERIMENT = replace(
    fake_experiment.EXPERIMENT,
    config=Config,
    presets={"quick": Config()},
    run=run,
    claims=lambda record: (),
    figures=lambda record: {},
    answer=lambda record: "It went.",
    finite=("walk.place", "never.written"),
)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the experiment with settings; return status, output lines, errors and the directory."""
    monkeypatch.setattr(choosing, "load", lambda listing: EXPERIMENT)

    def call(*settings):
        flags = [f"--set={setting}" for setting in settings]
        out = tmp_path / "run"
        status = invoke(["run", "fake-walk", *flags, "--out", str(out)], (EXPERIMENT.listing,))
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err, out

    return call


def test_large_but_finite_numbers_are_no_divergence(command):
    status, lines, errors, out = command("rate=1e30")
    assert (status, errors, read_result(out)["diverged"]) == (0, "", "")
    assert lines[-1].startswith("figures and tables")


@pytest.mark.filterwarnings("default")
def test_a_run_that_diverges_says_so(command):
    status, lines, errors, out = command("rate=1e308")
    assert (status, errors) == (0, "")
    result = read_result(out)
    assert result["diverged"] == f"The run diverged: last, walk.place not finite; {ADVICE}."
    assert result["answer"] == f"{result['diverged']} It went."
    assert lines[-1] == result["diverged"]
    assert sum(OVERFLOW in line for line in lines) == 1


@pytest.mark.filterwarnings("default")
def test_overflow_without_a_number_that_is_not_finite_is_divergence_too(command):
    _, lines, _, _ = command("rate=1e308", "bounds=-1,1")
    assert lines[-1] == f"The run diverged: {OVERFLOW}; {ADVICE}."


@pytest.mark.filterwarnings("default")
def test_overflow_before_a_failure_is_named_in_its_message(command):
    status, lines, errors, _ = command("rate=1e308", "fails=true")
    assert status == 1
    assert errors == f"metastep: the run failed: ArithmeticError: no number is left ({ADVICE})\n"
    assert sum(OVERFLOW in line for line in lines) == 1


@pytest.mark.filterwarnings("default")
def test_other_warnings_are_lines_of_the_run(command):
    status, lines, errors, out = command("warning=<old> file")
    assert (status, errors, read_result(out)["diverged"]) == (0, "", "")
    assert any(line.endswith("UserWarning: <old> file") for line in lines)
    assert lines[-1].startswith("figures and tables")
