"""A small run by both samplers, its claims, and bad configurations."""

import numpy as np
import pytest

from metastep_lab import cli
from metastep_lab.claims import evaluate
from metastep_lab.runs.running import read_record
from metastep_lab.wang2021.least_squares.experiment import EXPERIMENT, Config

SMALL = ["--set=dim=60", "--set=tasks=40", "--set=horizon=20", "--set=samples=30,240"]


def small_run(tmp_path, capsys, *settings):
    """Run a small configuration; return its record and its verdicts."""
    arguments = ["run", "least-squares", "--out", str(tmp_path / "run"), *SMALL, *settings]
    assert cli.invoke(arguments, (EXPERIMENT.listing,)) == 0, capsys.readouterr().err
    record = read_record(tmp_path / "run", EXPERIMENT)
    optimum = record.tables["optimum"]
    train = optimum["mode"] == "train-by-train"
    assert np.all(optimum["step_size"][train] > optimum["step_size"][~train])
    return {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, record)}


def test_examples_drawn_one_by_one_show_what_the_paper_shows(tmp_path, capsys):
    settings = "--set=sampler=dense", "--set=descent_steps=0", "--set=noise=1,4"
    claims = small_run(tmp_path, capsys, *settings)
    for name in ("train-by-train-overfits", "validation-generalises", "gap-grows-with-noise"):
        assert claims[name]
    assert claims["theorem-5"] and claims["theorem-6"] and claims["closed-form"]
    assert claims["descent-finds-the-optimum"] is None


def test_the_spectral_sampler_and_meta_gradient_descent_do_too(tmp_path, capsys):
    claims = small_run(tmp_path, capsys, "--set=noise=2", "--set=descent_tasks=40")
    for name in ("train-by-train-overfits", "validation-generalises", "closed-form"):
        assert claims[name]
    assert claims["gap-grows-with-noise"] is None
    assert claims["descent-finds-the-optimum"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"tasks": 0}, "tasks is 0"),
        ({"test_tasks": 0}, "test_tasks is 0"),
        ({"descent_steps": -1}, "descent_steps is -1"),
        ({"noise": (1.0, -1.0)}, "noise is"),
        ({"noise": ()}, "noise is"),
        ({"noise": (1.0, 1.0)}, "noise is"),
        ({"samples": (1,)}, "samples is"),
        ({"samples": ()}, "samples is"),
        ({"grid": ()}, "grid is"),
        ({"grid": (0.0,)}, "grid is"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0"),
        ({"validation_fraction": 1.5}, "validation_fraction is 1.5"),
        ({"samples": (2,), "validation_fraction": 0.9}, "validation_fraction is 0.9"),
    ],
)
def test_bad_configuration(changed, message):
    with pytest.raises(ValueError, match=message):
        Config(**changed)


def test_bad_settings_leave_nothing_behind(tmp_path, capsys):
    for setting in ("grid=", "noise=-1", "validation_fraction=2", "sampler=fast"):
        out = tmp_path / "run"
        arguments = ["run", "least-squares", "--set", setting, "--out", str(out)]
        assert cli.invoke(arguments, (EXPERIMENT.listing,)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and setting.partition("=")[0] in error
        assert not out.exists()
