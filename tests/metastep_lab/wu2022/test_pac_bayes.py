"""Table C.8 recomputed, a tiny run that is interrupted and resumed, its claims, and bad input."""

import numpy as np
import pytest

from metastep.pac_bayes import bound
from metastep_lab import cli
from metastep_lab.runs.running import read_record
from metastep_lab.tables import Record, columns
from metastep_lab.wu2022.pac_bayes import experiment as pac_bayes
from metastep_lab.wu2022.pac_bayes.thesis import table_c8
from tests.metastep_lab.doctored import check_every_claim, verdicts

EXPERIMENT = pac_bayes.EXPERIMENT
TINY = (
    "hidden=4 train=1000 training_epochs=2 epochs=2 interval=1 draws=500 seeds=1 "
    "methods=base,iter labels=random"
).split()


def test_table_c8_follows_from_its_columns():
    table = table_c8()
    below = table["ceiling"] == 0
    assert below.sum() == 29 and np.all(np.abs(table["difference"][below]) < 1e-4)
    found = dict(zip(table["printed"].tolist(), table["recomputed"].tolist(), strict=True))
    # Where the prior variance is at its ceiling the printed bounds are too low: the union bound
    # runs over j from 1, and the weight of j near 0 turned negative.
    assert np.all(table["difference"][~below] > 1e-4)
    # Computed by hand with j = 1, to five decimals.
    for printed, corrected in {0.4165: 0.41675, 0.2145: 0.21485, 0.2311: 0.23144}.items():
        assert abs(found[printed] - corrected) < 1e-5


@pytest.mark.parametrize("error", [0.01, 0.05, 0.3])
def test_measuring_the_training_error_costs_less_than_a_hundredth(error):
    """The correction of Langford and Caruana (2001), which the thesis's code leaves out."""
    found = bound(error, 500.0, 60_000, j=20, draws=50_000)
    assert 0 < found.value - found.uncorrected < 0.01


def run(directory, *more):
    flags = [part for setting in TINY for part in ("--set", setting)]
    arguments = ["run", "pac-bayes", "--preset", "quick", *flags, "--out", str(directory), *more]
    return cli.invoke(arguments, (EXPERIMENT.listing,))


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    cell, calls = pac_bayes._cell, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cell(*arguments)

    monkeypatch.setattr(pac_bayes, "_cell", interrupted)
    assert run(tmp_path / "run") == 130
    assert run(tmp_path / "run", "--resume") == 0
    assert len(calls) == 3  # two cells, one of them begun twice
    record = read_record(tmp_path / "run", EXPERIMENT)
    bounds = record.tables["bounds"]
    assert list(bounds) == pac_bayes.BOUND_COLUMNS.split()
    assert len(record.tables["history"]["epoch"]) == 2 * 2
    assert np.all(bounds["uncorrected"] <= bounds["bound"]) and np.all(bounds["holds"] == 1)
    # Coins cannot be learned: 797 of them, four standard errors.
    assert np.all(np.abs(bounds["network_test_error"] - 0.5) < 0.071)
    found = verdicts(EXPERIMENT, record)
    assert found["bounds-hold"] and found["random-labels"] is None
    # Coins cannot be learned, and a bound that holds is above a half.
    assert np.all(bounds["bound"] > 0.5)
    assert found["ours-below-base"] is None and found["iter-below-appr"] is None
    assert set(EXPERIMENT.figures(record)) == {"bounds", "history", "thesis", "variances"}


def good(methods=("base", "appr", "iter")):
    """Return a record of three seeds in which every claim holds."""
    config = pac_bayes.Config(methods=methods, labels=("true", "random"))
    bound = {"base": 0.5, "appr": 0.45, "iter": 0.4}
    at = [(labels, seed, name) for labels in config.labels for seed in range(3) for name in methods]
    bounds = [(*one, bound[one[2]] + 0.01 * one[1], 0.3, 0.3, 1) for one in at]
    variances = [
        (labels, name, index, index if name == "iter" else index % 2)
        for labels, seed, name in at
        if seed == 0
        for index in range(1, 5)
    ]
    tables = {
        "bounds": columns("labels seed method bound train_error test_error holds", bounds),
        "variances": columns("labels method index log_variance", variances),
    }
    return Record(config, tables, {}, {})


SPOILED = (
    ("ours-below-base", "bounds", "seed == 1 and method != 'base'", {"bound": 0.501}),
    ("iter-below-base", "bounds", "seed == 1 and method == 'iter'", {"bound": 0.501}),
    ("iter-below-appr", "bounds", "method == 'iter'", {"bound": 0.47}),
    ("bounds-hold", "bounds", "seed == 2 and method == 'appr'", {"test_error": 0.48}),
    ("bounds-hold", "bounds", "seed == 2 and method == 'appr'", {"holds": 0}),
    ("random-labels", "bounds", "labels == 'random' and method == 'base'", {"bound": 0.41}),
    ("variance-follows-curvature", "variances", "method == 'iter'", {"log_variance": 1.0}),
    (
        "variance-follows-curvature",
        "variances",
        "",
        {"log_variance": lambda rows: range(len(rows))},
    ),
)


def test_every_claim_can_hold_and_fail():
    check_every_claim(EXPERIMENT, SPOILED, good())


def test_claims_without_their_methods_or_seeds_are_open():
    found = verdicts(EXPERIMENT, good(("appr", "iter")))
    assert [name for name, holds in found.items() if holds is not None] == [
        "iter-below-appr", "bounds-hold", "variance-follows-curvature"
    ]  # fmt: skip
    few = good()
    rows = few.frames["bounds"].query("seed < 2")
    few = Record(few.config, {**few.tables, "bounds": rows.to_dict("series")}, {}, {})
    assert verdicts(EXPERIMENT, few)["ours-below-base"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ()}, "methods is"),
        ({"methods": ("base", "base")}, "methods is"),
        ({"labels": ()}, "labels is"),
        ({"hidden": ()}, "hidden is"),
        ({"hidden": (0,)}, "hidden is"),
        ({"train": 99}, "train is 99"),
        ({"epochs": 0}, "epochs is 0"),
        ({"training_epochs": 0}, "training_epochs is 0"),
        ({"interval": 0}, "interval is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"step_size": 0.0}, "step_size is 0"),
        ({"initial_scale": -1.0}, "initial_scale is -1"),
    ],
)
def test_bad_configuration(settings, message):
    with pytest.raises(ValueError, match=message):
        pac_bayes.Config(**settings)


def test_too_many_examples_leave_nothing_behind(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["run", "pac-bayes", "--preset", "quick", "--set", "train=1797", "--out", str(out)]
    assert cli.invoke(arguments, (EXPERIMENT.listing,)) == 2
    assert "train is 1797" in capsys.readouterr().err and not out.exists()
