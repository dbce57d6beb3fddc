"""A tiny run: what its tables hold, its claims, and the configurations it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from metastep_lab.claims import evaluate
from metastep_lab.cli import invoke
from metastep_lab.runs.running import read_record
from metastep_lab.theory import least_squares_sgd as theory
from metastep_lab.wang2021.least_squares_sgd import experiment as experiment

TINY = {
    "dims": "8,12",
    "tasks": "16",
    "test_tasks": "100",
    "grid_points": "10",
    "multiples": "4,16",
    "validation_multiples": "1,4",
    "simulations": "4000",
}
COLUMNS = {
    "objective": "dim samples horizon mode step_size objective mean_squared_error",
    "optimum": "dim samples horizon mode range step_size at_boundary objective "
    "step_size_times_dim step_size_times_horizon error standard_error error_over_noise_variance "
    "median_error low_error initial_error diverging",
    "simulation": "mode dim samples horizon step_size quantity expected simulated standard_error z",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("least-squares-sgd") / "run"
    flags = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    arguments = ["run", "least-squares-sgd", *flags, "--out", str(directory)]
    assert invoke(arguments, (experiment.EXPERIMENT.listing,)) == 0
    return directory


@pytest.fixture(scope="module")
def record(directory):
    return read_record(directory, experiment.EXPERIMENT)


def test_tables_and_figures(record, directory):
    for name, columns in COLUMNS.items():
        assert set(record.tables[name]) == set(columns.split())
        numbers = [column for column in record.tables[name].values() if column.dtype.kind == "f"]
        assert all(np.all(np.isfinite(column)) for column in numbers)
    for stem, (_, text) in experiment.EXPERIMENT.figures(record).items():
        assert text
        assert (directory / "figures" / f"{stem}.png").stat().st_size > 1000


def test_the_claims_hold(record):
    claims = {claim.id: claim for claim in evaluate(experiment.EXPERIMENT.claims, record)}
    assert set(claims) >= experiment.EXPERIMENT.reproducible
    assert all(claim.evidence and "\n" not in claim.evidence for claim in claims.values())
    failed = {name: claims[name].evidence for name in experiment.EXPERIMENT.reproducible}
    assert {name for name in failed if not claims[name].holds} == set(), failed


def test_minimizers_are_minima_of_the_table(record):
    """No row of `objective` within the range is below the refined minimum."""
    objective, optimum = record.tables["objective"], record.tables["optimum"]
    for row in range(optimum["dim"].size):
        same = np.all(
            [
                objective[name] == optimum[name][row]
                for name in ("dim", "samples", "horizon", "mode")
            ],
            axis=0,
        )
        if optimum["range"][row] == "stated":
            dim = int(optimum["dim"][row])
            limits = {
                "train-by-train": theory.train_by_train_range(dim),
                "train-by-validation": theory.train_by_validation_range(dim),
            }
            limit = limits[optimum["mode"][row]]
            assert optimum["step_size"][row] <= limit * (1 + 1e-12)
            same &= objective["step_size"] <= limit
        assert np.sum(same) >= 10
        assert optimum["objective"][row] <= np.min(objective["objective"][same])


def test_a_single_case_leaves_the_claims_about_scaling_open(record):
    config = replace(record.config, dims=(8,), validation_multiples=(1,))
    tables = {}
    for name, table in record.tables.items():
        keep = table["dim"] == 8
        tables[name] = {column: values[keep] for column, values in table.items()}
    one = replace(record, config=config, tables=tables)
    claims = {claim.id: claim.holds for claim in evaluate(experiment.EXPERIMENT.claims, one)}
    assert claims["train-by-train-step-size"] is None
    assert claims["train-by-validation-step-size"] is None


BAD = {
    "no dimension": ("dims=", "dims is ()"),
    "no multiple of four": ("dims=8,10", "dims is (8, 10); allowed are multiples of 4 from 8"),
    "small noise": ("noise=0.5", "noise is 0.5; allowed are numbers from 1"),
    "no task": ("tasks=0", "tasks is 0; allowed are integers from 1"),
    "one test task": ("test_tasks=1", "test_tasks is 1; allowed are integers from 2"),
    "two grid points": ("grid_points=2", "grid_points is 2; allowed are integers from 3"),
    "zero steps": ("multiples=0,4", "multiples is (0, 4); allowed are integers from 1 to 1000"),
    "no horizon": ("validation_multiples=", "validation_multiples is (); allowed are"),
    "underflow": ("long_multiple=2147483647", "long_multiple is 2147483647; allowed are"),
    "one simulation": ("simulations=1", "simulations is 1; allowed are integers from 2"),
}


@pytest.mark.parametrize(("setting", "message"), BAD.values(), ids=BAD)
def test_bad_settings_end_with_status_two_and_one_line(setting, message, tmp_path, capsys):
    arguments = ["run", "least-squares-sgd", "--set", setting, "--out", str(tmp_path / "run")]
    assert invoke(arguments, (experiment.EXPERIMENT.listing,)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
