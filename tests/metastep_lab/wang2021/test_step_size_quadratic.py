"""Tiny runs: what their tables hold, their claims, and the configurations they refuse."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import metastep as ms
from metastep.tasks import random_quadratic
from metastep_lab.cli import invoke
from metastep_lab.runs.running import read_record
from metastep_lab.wang2021.step_size_quadratic import experiment, reference
from metastep_lab.wang2021.step_size_quadratic.methods import METHODS, without_second_derivatives
from tests.metastep_lab.doctored import verdicts

# P0, where float32 overflows at the second start and not at the first.
TINY = {
    "horizons": "40",
    "start_step_sizes": "0.01,0.1",
    "meta_steps": "320",
    "methods": "log-domain,reverse-float32,stop-gradient-rmsprop",
}
COLUMNS = {
    "trajectory": "method horizon start step step_size meta_gradient meta_objective",
    "convergence": "method horizon start final_step_size optimal_step_size relative_error_300 "
    "relative_error_1000 relative_error_last status failed_steps zero_steps",
    "optimum": "horizon optimal_step_size predicted_steps",
    "limit": "horizon optimal_step_size limit",
    "overflow": "horizon start log10_bound log10_loss",
    "accuracy": "method horizon step_size meta_gradient relative_error",
    "stop_gradient": "horizon step_size true stop_gradient",
}
HESSIAN, START = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, -0.5])


def run(directory, settings):
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    arguments = ["run", "step-size-quadratic", *flags, "--out", str(directory)]
    return invoke(arguments, (experiment.EXPERIMENT.listing,))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step-size-quadratic")
    path, directory = folder / "problem.npz", folder / "run"
    with jax.enable_x64(True):
        task = random_quadratic(0, 20)
        np.savez(path, H=task.hessian, w0=task.start)
    assert run(directory, TINY | {"problem": path}) == 0
    path.unlink()
    return directory


@pytest.fixture(scope="module")
def record(directory):
    return read_record(directory, experiment.EXPERIMENT)


def test_tables_and_figures(record, directory):
    for name, columns in COLUMNS.items():
        assert list(record.tables[name]) == columns.split()
    assert record.tables["trajectory"]["step"].size == 3 * 2 * 320
    for stem, (_, text) in experiment.EXPERIMENT.figures(record).items():
        assert text
        assert (directory / "figures" / f"{stem}.png").stat().st_size > 1000


def test_claims_of_a_run(record):
    claims = verdicts(experiment.EXPERIMENT, record)
    decided = ("log-domain-is-exact", "float32-stuck-by-overflow", "meta-gradient-bounded")
    assert all(claims[name] for name in decided)
    assert claims["figure-1-within-300-steps"] is False  # k* = 2542 on P0
    assert claims["second-derivatives-off-is-the-same-setting"] is False
    assert claims["gd-fails-with-the-exact-gradient"] is None


def test_float32_is_stuck_and_the_exact_gradient_is_not(record):
    table = record.tables["convergence"]
    columns = (table[name] for name in ("method", "start", "status"))
    status = {(m, start): how for m, start, how in zip(*columns, strict=True)}
    assert status["reverse-float32", 0.1] == status["stop-gradient-rmsprop", 0.1] == "stuck"
    assert status["stop-gradient-rmsprop", 0.01] == "converged"
    assert status["log-domain", 0.1] in ("converged", "oscillating")
    stuck = (table["method"] == "reverse-float32") & (table["start"] == 0.1)
    assert table["failed_steps"][stuck] == 320
    assert np.isclose(table["final_step_size"][stuck], 0.1)
    assert np.all(np.isnan(table["relative_error_1000"]))


def test_the_descent_of_theorem_4(record):
    """Every update of `log-domain` is eta - 0.01 F' / sqrt(k), reset to zero where negative."""
    table = record.tables["trajectory"]
    keep = (table["method"] == "log-domain") & (table["start"] == 0.1)
    eta, slope = table["step_size"][keep], table["meta_gradient"][keep]
    after = np.maximum(eta - 0.01 * slope / np.sqrt(1 + np.arange(eta.size)), 0)
    np.testing.assert_allclose(eta[1:], after[:-1], rtol=1e-12, atol=1e-15)


# P0 of an independent study: eta*, k* and both derivatives of log f at t = 40.
OPTIMA = {
    10: (0.0289702, 1124),
    20: (0.0298851, 1182),
    40: (0.0306123, 2542),
    80: (0.0310595, 4178),
}
DERIVATIVES = {0.001: (-1072, -1860), 0.01: (-129, -285), 0.1: (952, 20), 1.0: (81, 2)}


@pytest.mark.usefixtures("x64")
def test_reference_values_of_p0():
    task = random_quadratic(0, 20)
    arrays = np.asarray(task.hessian), np.asarray(task.start)
    config = experiment.Config(horizons=tuple(OPTIMA))
    for horizon, best, steps in zip(*reference.optimum(config, *arrays).values(), strict=True):
        # As many digits as the reference gives.
        assert np.allclose((best, steps), OPTIMA[horizon], rtol=(2e-6, 1e-3), atol=0)
    table = reference.stop_gradient(experiment.Config(horizons=(40,)), task)
    for _, step_size, true, left in zip(*table.values(), strict=True):
        assert np.allclose((true, left), DERIVATIVES[step_size], rtol=5e-3, atol=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step_size", [0.01, 0.05, 0.3])
def test_stop_gradient_has_its_closed_form(step_size, key):
    """Without second derivatives d w_t / d eta is (w_t - w_0) / eta."""
    task = random_quadratic(3, 5)
    row = METHODS["stop-gradient-constant"]
    assert row.inner is without_second_derivatives
    problem = row.problem(task, 8)
    assert problem.horizon == 7
    found = ms.hypergradient(problem, step_size, row.estimator, key=key)
    w = start = np.asarray(task.start)
    hessian = np.asarray(task.hessian)
    for _ in range(7):
        w = w - step_size * hessian @ w
    loss, slope = w @ hessian @ w / 2, hessian @ w
    # Divided by the number of steps, as F is.
    assert np.isclose(found.value, np.log(loss) / 7, rtol=1e-12, atol=0)
    expected = 2 * slope @ (w - start) / step_size / (w @ hessian @ w) / 7
    assert np.isclose(found.grad, expected, rtol=1e-12, atol=0)


def test_tensorflow_updates_descend_log_f_clipped():
    for kind, first in (("constant", 1e-3 * 1e4), ("rmsprop", 1e-3 / np.sqrt(0.1))):
        optimizer = METHODS[f"reverse-{kind}"].meta_optimizer(0.01, 39)
        for gradient in (1e4, 1e20):  # 39 times as much is beyond the clip
            update, _ = optimizer.update(gradient * np.ones(()), optimizer.init(np.ones(())))
            assert np.isclose(-update, first, rtol=1e-5, atol=0)
    update, _ = (
        METHODS["reverse-constant"]
        .meta_optimizer(0.01, 39)
        .update(np.ones(()), METHODS["reverse-constant"].meta_optimizer(0.01, 39).init(np.ones(())))
    )
    assert np.isclose(-update, 39e-3)


PATHS = {
    "converged": np.full(201, 0.0309),
    "oscillating": 0.03 + 0.01 * (-1.0) ** np.arange(201),
    "stuck": np.append(np.linspace(0, 0.1, 100), np.full(101, 0.1)),
    "nan": np.append(np.full(200, 0.03), np.nan),
}


@pytest.mark.parametrize("expected", PATHS)
def test_status(expected):
    assert experiment.status(PATHS[expected], 0.03) == expected


def test_errors():
    path = 0.03 * (1 + 1 / np.arange(1, 1002))
    after_300, after_1000, last = experiment.errors(path, 0.03)
    assert np.allclose((after_300, after_1000, last), (1 / 301, 1 / 1001, 1 / 902))
    assert np.isnan(experiment.errors(path[:300], 0.03)[:2]).all()


def test_a_run_is_checked_without_the_file_of_its_problem(directory, record, capsys):
    """`record` was read after the file was gone; the run holds the problem itself."""
    task = random_quadratic(0, 20)
    assert not Path(record.config.problem).exists()
    np.testing.assert_allclose(record.arrays["hessian"], task.hessian, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(record.arrays["start"], task.start, rtol=1e-6)
    invoke(["check", str(directory)], (experiment.EXPERIMENT.listing,))
    assert "meta-gradient-bounded" in capsys.readouterr().out


class Enough(Exception):
    """What the fake context raises when it has seen enough."""


def test_the_seed_names_the_problem():
    def keep(arrays):
        raise Enough(arrays)

    with pytest.raises(Enough) as stopped:
        experiment.run(experiment.Config(dim=6), SimpleNamespace(seed=3, arrays=keep))
    task, arrays = random_quadratic(3, 6), stopped.value.args[0]
    np.testing.assert_allclose(arrays["hessian"], task.hessian, rtol=1e-6, atol=1e-6)
    assert arrays["hessian"].dtype == np.float64


BAD = {
    "small dimension": ({"dim": "1"}, "dim is 1; allowed are integers from 2"),
    "no horizon": ({"horizons": ""}, "horizons is (); allowed are integers from 2"),
    "horizon zero": ({"horizons": "0,10"}, "horizons is (0, 10); allowed are integers from 2"),
    "horizon zero alone": (
        {"horizons": "0", "methods": "log-domain"},
        "horizons is (0,); allowed are integers from 1",
    ),
    "same horizons": ({"horizons": "10,10"}, "horizons is (10, 10); allowed are values that"),
    "no start": ({"start_step_sizes": ""}, "start_step_sizes is (); allowed are numbers from 0"),
    "negative start": ({"start_step_sizes": "-0.1"}, "start_step_sizes is (-0.1,); allowed"),
    "no update": ({"meta_steps": "0"}, "meta_steps is 0; allowed are integers from 1"),
    "no scale": ({"meta_step_scale": "0"}, "meta_step_scale is 0.0; allowed are positive"),
    "no method": ({"methods": ""}, "methods is ''; allowed are log-domain"),
    "unknown method": ({"methods": "adam"}, "methods is 'adam'; allowed are log-domain"),
}


def refused(directory, settings, message, capsys):
    assert run(directory, settings) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert not directory.exists()


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_bad_settings_end_with_status_two_and_one_line(settings, message, tmp_path, capsys):
    refused(tmp_path / "run", settings, message, capsys)


BAD_FILES = {
    "no H": ({"w0": START}, "lacks H or w0"),
    "no w0": ({"H": HESSIAN}, "lacks H or w0"),
    "text": ({"H": np.full((2, 2), "a"), "w0": START}, "not real numbers"),
    "complex": ({"H": HESSIAN * 1j, "w0": START}, "not real numbers"),
    "objects": ({"H": np.full((2, 2), None), "w0": START}, "cannot be read"),
    "a vector": ({"H": START, "w0": START}, "hessian has shape (2,)"),
    "empty": ({"H": np.zeros((0, 0)), "w0": np.zeros(0)}, "H (hessian)"),
    "NaN": ({"H": HESSIAN * np.nan, "w0": START}, "allowed are finite square matrices"),
    "not symmetric": ({"H": np.triu(HESSIAN), "w0": START}, "hessian is not symmetric"),
    "not definite": ({"H": HESSIAN - 3 * np.eye(2), "w0": START}, "positive definite matrices"),
    "L = alpha": ({"H": np.eye(2), "w0": START}, "smallest eigenvalues differ"),
    "other length": ({"H": HESSIAN, "w0": np.ones(3)}, "start has shape (3,)"),
    "zero start": ({"H": HESSIAN, "w0": np.zeros(2)}, "start is the zero vector"),
    "orthogonal": ({"H": np.diag([1.0, 2.0]), "w0": [1.0, 0.0]}, "orthogonal to the eigenvector"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_problems_end_with_status_two_and_one_line(arrays, message, tmp_path, capsys):
    path = tmp_path / "problem.npz"
    np.savez(path, **arrays)
    refused(tmp_path / "run", {"problem": path}, message, capsys)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 damaged"])
def test_files_that_are_no_archive(content, tmp_path, capsys):
    path = tmp_path / "problem.npz"
    if content is not None:
        path.write_bytes(content)
    refused(tmp_path / "run", {"problem": path}, "problem.npz', which cannot be read", capsys)


def test_a_lone_array_is_no_problem(tmp_path, capsys):
    path = tmp_path / "problem.npy"
    np.save(path, HESSIAN)
    refused(tmp_path / "run", {"problem": path}, "which cannot be read", capsys)


def test_methods_leave_the_precision_as_it_was():
    before = jax.numpy.zeros(()).dtype
    reference.stop_gradient(experiment.Config(horizons=(2,)), random_quadratic(0, 3))
    assert jax.numpy.zeros(()).dtype == before
