"""A tiny run: what its tables hold, and its claims."""

from dataclasses import replace

import numpy as np
import pytest

from metastep_lab.cli import invoke
from metastep_lab.runs.running import read_record
from metastep_lab.tables import Record, columns, where
from metastep_lab.theory import least_squares_sgd as theory
from metastep_lab.wang2021.least_squares_sgd.experiment import EXPERIMENT, Config
from tests.metastep_lab.doctored import check_every_claim, verdicts

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
TRAIN, VALID = "train-by-train", "train-by-validation"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("least-squares-sgd") / "run"
    flags = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    arguments = ["run", "least-squares-sgd", *flags, "--out", str(directory)]
    assert invoke(arguments, (EXPERIMENT.listing,)) == 0
    return directory


@pytest.fixture(scope="module")
def record(directory):
    return read_record(directory, EXPERIMENT)


def test_tables_figures_and_claims(record, directory):
    for name, names in COLUMNS.items():
        assert set(record.tables[name]) == set(names.split())
        numbers = [column for column in record.tables[name].values() if column.dtype.kind == "f"]
        assert all(np.all(np.isfinite(column)) for column in numbers)
    for stem, (_, text) in EXPERIMENT.figures(record).items():
        assert text
        assert (directory / "figures" / f"{stem}.png").stat().st_size > 1000
    claims = verdicts(EXPERIMENT, record)
    assert all(claims[name] for name in EXPERIMENT.reproducible)


def test_minimizers_are_minima_of_the_table(record):
    """No row of `objective` within the range is below the refined minimum."""
    limits = {TRAIN: theory.train_by_train_range, VALID: theory.train_by_validation_range}
    names = ("dim", "samples", "horizon", "mode")
    for best in record.frames["optimum"].to_dict("records"):
        rows = where(record.frames["objective"], **{name: best[name] for name in names})
        if best["range"] == "stated":
            limit = limits[best["mode"]](int(best["dim"]))
            assert best["step_size"] <= limit * (1 + 1e-12)
            rows = rows[rows["step_size"] <= limit]
        assert len(rows) >= 10
        assert best["objective"] <= rows["objective"].min()


def held():
    """Return a run of which every claim holds: d = 8 and 16 at two horizons."""
    config = Config(dims=(8, 16), multiples=(4,), long_multiple=10**6, validation_multiples=(1,))
    optimum = []
    for dim in config.dims:
        limit, small = theory.train_by_train_range(dim), theory.train_by_validation_range(dim)
        cases = (
            # samples, horizon, mode, range, step size, at the boundary, error, first percentile
            (dim // 2, 4 * dim, TRAIN, "wide", 0.5 / dim, 0, 4.0, 1.0),
            (dim // 2, 4 * dim, TRAIN, "stated", limit, 1, 1.0, 1.0),
            (dim // 2, 10**6 * dim, TRAIN, "stated", limit, 1, 3.0, 1.0),
            *(
                (dim // parts, 1 / small, VALID, name, 0.8 * small, 0, 0.9, 0.9)
                for parts in (2, 4)
                for name in ("stated", "wide")
            ),
        )
        for samples, horizon, mode, name, step_size, end, error, low in cases:
            scaled = step_size * dim, step_size * horizon
            fresh = error, 0.01, error / 4, error, low, 0.1 * (name == "wide")
            cell = dim, samples, horizon, mode, name, step_size, end
            optimum.append((*cell, 1.0, *scaled, *fresh))
    names = COLUMNS["optimum"].replace("initial_error ", "")
    simulation = {"z": np.array([0.5, -1.0])}
    return Record(config, {"optimum": columns(names, optimum), "simulation": simulation}, {}, {})


WIDE = f"mode == '{TRAIN}' and range == 'wide'"
STATED = f"mode == '{TRAIN}' and range == 'stated'"
VALIDATED = f"mode == '{VALID}' and range == 'stated'"
SPOILED = (
    ("train-by-train-step-size", "optimum", f"{WIDE} and dim == 8", {"step_size_times_dim": 2.1}),
    ("train-by-train-step-size", "optimum", f"{WIDE} and dim == 8", {"at_boundary": 1}),
    ("train-by-train-stated-range", "optimum", f"{STATED} and dim == 8", {"at_boundary": 0}),
    ("train-by-train-stated-range", "optimum", f"{STATED} and dim == 8", {"step_size": 1e-9}),
    ("train-by-train-error", "optimum", f"{WIDE} and dim == 8", {"low_error": 0.39}),
    ("train-by-train-error", "optimum", f"{STATED} and horizon > 1e6", {"low_error": 0.39}),
    ("unrestricted-step-size-diverges", "optimum", WIDE, {"diverging": 0}),
    *(
        ("train-by-validation-step-size", "optimum", f"{VALIDATED} and samples == 2", values)
        for values in ({"step_size_times_horizon": 4.0}, {"at_boundary": 1}, {"step_size": 1.0})
    ),
    *(
        (
            "train-by-validation-error",
            "optimum",
            f"{VALIDATED} and samples == {n}",
            {"error": 0.991},
        )
        for n in (2, 8)
    ),
    (
        "train-by-validation-error",
        "optimum",
        f"{VALIDATED} and samples == 2",
        {"standard_error": 0.06},
    ),
    ("validation-generalizes-better", "optimum", f"{VALIDATED} and samples == 2", {"error": 1.1}),
    ("simulation-agrees", "simulation", "z < 0", {"z": -5.1}),
)


def test_every_claim_can_fail():
    check_every_claim(EXPERIMENT, SPOILED, held())


def test_a_single_case_leaves_the_claims_about_scaling_open():
    record = held()
    one = Record(replace(record.config, dims=(8,)), record.tables, {}, {})
    undecided = {name for name, holds in verdicts(EXPERIMENT, one).items() if holds is None}
    assert undecided == {"train-by-train-step-size", "train-by-validation-step-size"}
