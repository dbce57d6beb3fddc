"""A tiny run, interrupted and resumed; claims on tables made by hand; bad configurations."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from metastep_lab.claims import evaluate
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.shaban2019.task_interaction.experiment import EXPERIMENT, Config
from metastep_lab.tables import Record, columns

TINY = Config(
    examples=6,
    trials=2,
    windows=(1,),
    horizon=3,
    outer_steps=5,
    measure_every=2,
    smoothness=4.0,
)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """One run on features of the user, and one that was stopped half-way and resumed."""
    base = tmp_path_factory.mktemp("task-interaction")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.standard_normal((60, 4)) + np.eye(3, 4)[labels]
    np.savez(base / "features.npz", features=features, labels=labels)
    config = replace(TINY, features=str(base / "features.npz"))
    undrawn = replace(EXPERIMENT, figures=lambda record: {})
    whole = Request(undrawn, config, "quick", (), seed=0, directory=base / "whole")

    def keep(message):
        if message.startswith("trial 1"):
            shutil.copytree(base / "whole", base / "parts")

    execute(whole, say=keep)
    execute(replace(whole, directory=base / "parts", resume=True))
    return base / "whole", base / "parts"


def test_a_resumed_run_ends_with_the_same_bits(directories):
    for name in ("summary", "history"):
        first, second = (path / "tables" / f"{name}.csv" for path in directories)
        assert first.read_bytes() == second.read_bytes()


def test_tables_and_figures(directories):
    record = read_record(directories[0], EXPERIMENT)
    history, summary = record.tables["history"], record.tables["summary"]
    assert sorted(set(history["step"])) == [0, 2, 4]
    assert list(summary["method"]) == ["untuned", "1-RMD"] * 2
    # Before the first update nothing is tuned.
    first = history["validation_loss"][history["step"] == 0]
    assert np.array_equal(first, summary["validation_loss"][::2])
    assert np.all(summary["validation_loss"][1::2] < summary["validation_loss"][::2])
    assert np.all(np.isfinite(history["cosine"])) and np.all(history["successful"] == 1)
    assert record.tables["cost"]["relative_error"][0] > 0
    assert record.arrays["coupling"].shape == (1, 2, 3, 3)
    assert {claim.id for claim in evaluate(EXPERIMENT.claims, record)} >= EXPERIMENT.reproducible
    assert all(claim.evidence for claim in evaluate(EXPERIMENT.claims, record))
    assert len(EXPERIMENT.figures(record)) == 2


def invented(
    loss=(1.0, 0.9), accuracy=(0.5, 0.5), cosine=0.95, stability=0.9, noise=1e-3, best=0.6
):
    """A record of two windows and four trials."""
    rng = np.random.default_rng(0)
    summary, history = [], []
    for trial in range(4):
        summary.append(("untuned", np.nan, trial, 2.0, 0.4, 0.4, 1.0, 0.1, 0.1, 0, 0))
        for place, window in enumerate((5, 100)):
            shift = noise * rng.standard_normal()
            row = (loss[place] + shift, accuracy[place] + shift, best, loss[place] + shift)
            summary.append((f"{window}-RMD", window, trial, *row, 3.0, stability, 2, 0))
            history.append((window, trial, 90, 1.0, 1.0, 1.0, cosine, 0.5, stability, 1))
    names = "method window trial validation_loss test_accuracy best_test_accuracy gradient_norm "
    names += "largest_coupling stability guarded_steps failed_steps"
    tables = {"summary": columns(names, summary)}
    names = "window trial step validation_loss estimate_norm gradient_norm cosine test_accuracy "
    tables["history"] = columns(names + "stability successful", history)
    cost = [(5, 0.5, 0.5, 1.0, 1.0), (100, 0.0, 1.0, 2.0, 10.0)]
    names = "window relative_error cosine seconds mebibytes"
    tables["cost"] = columns(names, cost)
    return Record(Config(windows=(5, 100), outer_steps=100), tables, {}, {})


@pytest.mark.parametrize(
    ("changed", "name", "verdict"),
    [
        ({}, "tuning-helps", True),
        ({"loss": (1.0, 2.5)}, "tuning-helps", False),
        ({}, "loss-falls-with-window", True),
        ({"loss": (0.9, 1.0)}, "loss-falls-with-window", False),
        ({"noise": 1.0}, "loss-falls-with-window", False),
        ({"noise": 1e-4}, "accuracy-gaps-are-small", True),
        ({"accuracy": (0.5, 0.5025), "noise": 1e-4}, "accuracy-gaps-are-small", False),
        ({"accuracy": (0.4, 0.5)}, "accuracy-gaps-are-small", False),
        ({"noise": 0.1}, "accuracy-gaps-are-small", None),
        ({"best": 0.61}, "table-3-accuracy", True),
        ({"best": 0.59}, "table-3-accuracy", False),
        ({}, "cosine-goes-to-one", True),
        ({"cosine": -0.1}, "cosine-goes-to-one", False),
        ({}, "negative-cosine", None),
        ({}, "window-one-is-cheaper", None),
        ({}, "never-diverges", True),
        ({"stability": 1.1}, "never-diverges", False),
    ],
)
def test_claims(changed, name, verdict):
    found = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, invented(**changed))}
    assert found[name] is verdict


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"coupling": 0.0}, "coupling is 0.0"),
        ({"windows": (5, 1)}, r"windows is \(5, 1\)"),
        ({"windows": (101,)}, "up to the horizon, 100"),
        ({"stability_limit": 0.4}, "stability_limit is 0.4; .* above .* = 0.5"),
    ],
)
def test_bad_configuration(changed, message):
    with pytest.raises(ValueError, match=message):
        Config(**changed)
