"""Small runs of `maml-linear` and `maml-wishart`, and their claims."""

import numpy as np
import pytest

from metastep_lab import cli
from metastep_lab.bernacchia2021 import curves as maml_curves
from metastep_lab.bernacchia2021.maml_linear import experiment as maml_linear
from metastep_lab.bernacchia2021.maml_wishart import experiment as maml_wishart
from metastep_lab.runs.running import read_record
from tests.metastep_lab.doctored import verdicts

SMALL = {
    # One setting in each regime, the second one weakly parameterized, both panels in the first.
    "maml-linear": (
        maml_linear.EXPERIMENT,
        "setting=2,6c dim=24,10 train_samples=12 validation_samples=1,4 tasks=2,5 target_samples=8 "
        "noise=1 variability=0.5 center=0.1 train_rate_limit=2 rates=9 runs=600 tested=",
    ),
    "maml-wishart": (
        maml_wishart.EXPERIMENT,
        "dim=24 train_samples=12 validation_samples=1 tasks=2 target_samples=8 rates=9 runs=600 "
        "covariances=2",
    ),
}
EXPECTED = {
    "maml-linear": {
        "negative-train-rate-overparameterized",
        "negative-train-rate-underparameterized",
        "slope-positive",
        "eq-8",
        "positive-test-rate",
        "exact-at-zero",
    },
    "maml-wishart": {
        "negative-train-rate",
        "negative-for-every-draw",
        "positive-test-rate",
        "analytic-test-loss",
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_shows_what_the_paper_shows(tmp_path, capsys, name):
    experiment, settings = SMALL[name]
    settings += " test_runs=20 test_tasks=5"
    changes = [part for setting in settings.split() for part in ("--set", setting)]
    arguments = ["run", name, "--out", str(tmp_path / "run"), *changes]
    assert cli.invoke(arguments, (experiment.listing,)) == 0, capsys.readouterr().err
    record = read_record(tmp_path / "run", experiment)
    table = record.tables["loss"]
    assert set(table["panel"]) >= {"a", "b"}
    assert np.all(table["standard_error"] > 0)
    assert len(record.tables["test_data"]["analytic"]) == (8 if name == "maml-wishart" else 0)
    claims = verdicts(experiment, record)
    assert {claim for claim, holds in claims.items() if holds} >= EXPECTED[name], claims


def test_extrema_and_errors_of_curves():
    rates = maml_curves.rate_grid(2.0, 9)
    assert rates[4] == 0 and rates[-1] == -rates[0] == 2
    curve = (rates + 0.3) ** 2
    # A cubic spline is exact for parabolas.
    assert maml_curves.best_rate(rates, curve) == pytest.approx(-0.3)
    assert maml_curves.best_rate(rates, curve, largest=True) == 2
    # The jackknife of a mean is the usual standard error, for groups of one run.
    values = np.random.default_rng(0).standard_normal((20, 1))
    mean, error = maml_curves.jackknife(values, lambda mean: mean.item())
    expected = maml_curves.mean_and_error(values)
    np.testing.assert_allclose([mean, error], np.concatenate(expected), rtol=1e-12)
