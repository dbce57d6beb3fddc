"""Claims on tables made by hand, small runs by both samplers, and what is refused."""

from dataclasses import replace

import numpy as np

from metastep_lab import cli
from metastep_lab.runs.running import read_record
from metastep_lab.tables import Record, columns
from metastep_lab.wang2021.least_squares.experiment import EXPERIMENT, Config
from tests.metastep_lab.doctored import check_every_claim, verdicts

SMALL = ["--set=dim=60", "--set=tasks=40", "--set=horizon=20", "--set=samples=30,240"]


def small_run(tmp_path, capsys, *settings):
    """Run a small configuration; return its verdicts."""
    arguments = ["run", "least-squares", "--out", str(tmp_path / "run"), *SMALL, *settings]
    assert cli.invoke(arguments, (EXPERIMENT.listing,)) == 0, capsys.readouterr().err
    record = read_record(tmp_path / "run", EXPERIMENT)
    optimum = record.tables["optimum"]
    train = optimum["mode"] == "train-by-train"
    assert np.all(optimum["step_size"][train] > optimum["step_size"][~train])
    return verdicts(EXPERIMENT, record)


def test_examples_drawn_one_by_one_show_what_the_paper_shows(tmp_path, capsys):
    settings = "--set=sampler=dense", "--set=descent_steps=0", "--set=noise=1,4"
    claims = small_run(tmp_path, capsys, *settings)
    for name in ("train-by-train-overfits", "validation-generalises", "gap-grows-with-noise"):
        assert claims[name]
    assert claims["closed-form"]
    assert claims["descent-finds-the-optimum"] is None


def test_the_spectral_sampler_and_meta_gradient_descent_do_too(tmp_path, capsys):
    claims = small_run(tmp_path, capsys, "--set=noise=2", "--set=descent_tasks=40")
    for name in ("train-by-train-overfits", "validation-generalises", "closed-form"):
        assert claims[name]
    assert claims["gap-grows-with-noise"] is None
    assert claims["descent-finds-the-optimum"]


TRAIN, VALID = "train-by-train", "train-by-validation"


def held():
    """Return a run of which every claim holds."""
    config = Config(dim=10, noise=(1.0, 2.0), samples=(5, 10, 20, 40), test_tasks=10)
    # Training and test error of train-by-train, then of train-by-validation.
    errors = {
        (1.0, 5): (0.3, 2.0, 1.0, 1.2),
        (2.0, 5): (0.6, 4.0, 1.8, 2.2),
        (1.0, 10): (0.3, 3.0, 1.0, 2.3),
        (1.0, 20): (0.7, 1.4, 0.9, 1.2),
        (1.0, 40): (0.9, 1.15, 0.9, 1.1),
    }
    cells = [(mode, split) for mode in (TRAIN, VALID) for split in ("training", "test")]
    rmse = [
        (*setting, *cell, value)
        for setting, values in errors.items()
        for cell, value in zip(cells, values, strict=True)
    ]
    population = [(1.0, 1.0, 0.01, 1.01, -1.0), (1.0, 1.0, 0.01, 0.99, 1.0)]
    tables = {
        "rmse": columns("noise samples mode split mean", rmse),
        "population": columns("noise objective standard_error population z", population),
        "descent_end": columns("noise mode step_size grid_step_size", [(1.0, TRAIN, 0.1, 0.101)]),
    }
    return Record(config, tables, {}, {})


TRAIN_TEST = f"mode == '{TRAIN}' and split == 'test'"
VALID_TEST = f"mode == '{VALID}' and split == 'test'"
SPOILED = (
    ("train-by-train-overfits", "rmse", "split == 'training'", {"mean": 1.0}),
    ("train-by-train-overfits", "rmse", f"{TRAIN_TEST} and noise == 2", {"mean": 1.9}),
    ("validation-generalises", "rmse", f"{VALID_TEST} and noise == 2", {"mean": 4.1}),
    ("validation-generalises", "rmse", "split == 'training'", {"mean": 0.5}),
    ("gap-grows-with-noise", "rmse", f"{TRAIN_TEST} and noise == 2", {"mean": 2.9}),
    ("gap-decreases-with-samples", "rmse", f"{TRAIN_TEST} and samples == 40", {"mean": 1.4}),
    ("gap-closes-beyond-dim", "rmse", f"{TRAIN_TEST} and samples == 40", {"mean": 1.2}),
    ("double-descent", "rmse", f"{TRAIN_TEST} and samples == 20", {"mean": 3.1}),
    ("closed-form", "population", "", {"objective": 1.2}),
    ("descent-finds-the-optimum", "descent_end", "", {"step_size": 0.12}),
)


def test_every_claim_can_fail():
    check_every_claim(EXPERIMENT, SPOILED, held())


def test_claims_need_few_samples_and_many():
    few = {"train-by-train-overfits", "validation-generalises", "gap-grows-with-noise"}
    many = {"gap-closes-beyond-dim", "double-descent"}
    for dim, undecided in ((4, few | many), (50, many)):
        record = replace(held(), config=replace(held().config, dim=dim))
        found = verdicts(EXPERIMENT, record)
        assert {name for name, holds in found.items() if holds is None} == undecided


def test_bad_settings_leave_nothing_behind(tmp_path, capsys):
    for setting in ("grid=", "noise=-1", "validation_fraction=2", "sampler=fast"):
        out = tmp_path / "run"
        arguments = ["run", "least-squares", "--set", setting, "--out", str(out)]
        assert cli.invoke(arguments, (EXPERIMENT.listing,)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and setting.partition("=")[0] in error
        assert not out.exists()
