"""Data and tasks, a tiny run that is interrupted and resumed, its claims, and what is refused."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from metastep_lab.cli import invoke
from metastep_lab.runs.running import read_record
from metastep_lab.tables import Record, columns, where
from metastep_lab.wang2021.mlp_optimizer import experiment as mlp_optimizer
from metastep_lab.wang2021.mlp_optimizer import rows
from metastep_lab.wang2021.mlp_optimizer import study as mlp_optimizer_study
from metastep_lab.wang2021.mlp_optimizer.samples import few, many, sizes
from metastep_lab.wang2021.mlp_optimizer.setting import PRESETS
from metastep_lab.wang2021.mlp_optimizer.size_claims import mean_gaps
from tests.metastep_lab import small
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

EXPERIMENT = mlp_optimizer.EXPERIMENT
run = partial(small.run, "mlp-optimizer")


def test_pool_and_tasks():
    pool = mlp_optimizer_study.load_pool("digits", True, 0.2, None, 0)
    clean = mlp_optimizer_study.load_pool("digits", True, 0.0, None, 0)
    assert len(pool.labels) == 1258 and len(pool.test_labels) == 539
    assert np.array_equal(clean.inputs, pool.inputs) and pool.inputs.max() <= 1
    # A tenth of the replaced labels stays right: 0.18; four standard errors.
    assert abs(np.mean(pool.labels != clean.labels) - 0.18) < 4 * np.sqrt(0.02 / 1258)
    assert abs(np.mean(pool.test_noisy != pool.test_labels) - 0.18) < 4 * np.sqrt(0.02 / 539)
    found = few(50)
    tasks = {
        mode: mlp_optimizer_study.draw_task(pool, arm, 4, None, (0, 1), (8,)).task
        for mode, arm in found.items()
    }
    once, twice = tasks["train-by-train"], tasks["train-by-train-2n"]
    both = tasks["train-by-validation"]
    assert len(once.labels) == len(both.labels) == len(both.validation_labels) == 50
    assert np.array_equal(once.inputs, both.inputs) and len(twice.labels) == 100
    assert np.array_equal(twice.inputs[50:], both.validation_inputs)
    assert many(60000)["train-by-validation"][:2] == (50000, 10000)


def test_the_sizes_of_the_papers():
    found = sizes(PRESETS["paper-sizes"], 60000)
    assert [(size.samples, size.test_steps) for size in found] == [
        *((1000, 4000), (12000, 40000), (60000, 40000))
    ]
    # Three trajectories on each of a hundred problems, then the same again.
    pool = mlp_optimizer_study.load_pool("digits", True, 0.2, None, 0)
    config = replace(
        PRESETS["paper"],
        hidden=(2,),
        horizon=4,
        test_steps=4,
        monitor_tasks=1,
        beyond=True,
        measure_every=1,
    )
    tasks = mlp_optimizer_study.meta_setting(config, pool, few(32)["train-by-train"], (0, 0)).tasks
    same = lambda one, other: np.array_equal(tasks(one).inputs, tasks(other).inputs)
    assert same(0, 2) and not same(2, 3) and same(299, 297) and same(0, 300)


def test_no_random_stream_is_that_of_another_purpose(monkeypatch):
    drawn, draw = [], mlp_optimizer_study.draw_task
    keep = lambda *arguments: drawn.append(arguments[4]) or draw(*arguments)
    for module in (mlp_optimizer_study, rows):
        monkeypatch.setattr(module, "draw_task", keep)
    monkeypatch.setattr(mlp_optimizer_study, "tune", lambda *arguments: None)
    pool = mlp_optimizer_study.load_pool("digits", True, 0.2, None, 0)
    config = replace(PRESETS["quick"], hidden=(2,), horizon=4, test_steps=4, measure_every=1)
    (size,) = sizes(replace(config, samples=32), 1258)
    rows.test_tasks(config, pool, size, 0, (2,))
    mlp_optimizer_study.tune_baselines(pool, size, 3, 0, (2,))
    for meta_seed in range(5):
        setting = mlp_optimizer_study.meta_setting(
            config, pool, size.arms["train-by-validation"], (0, meta_seed)
        )
        setting.tasks(0)
    # By the first numbers: NumPy pads seeds with zeros, so that streams of two lengths may be one.
    first = [np.random.default_rng(stream).integers(2**62) for stream in (*drawn, 0)]
    assert len(set(first)) == len(first) == 3 + 3 + 5 * 5 + 1


SIZES = (
    "samples=none totals=48 hidden=4 horizon=16 updates=4 meta_seeds=1 tests=1 test_steps=8 "
    "long_test_steps=24 beyond=true measure_every=8 segment=4 unrolls=4 longest_segment=4 block=4 "
    "trajectories=1 monitor_every=4 monitor_tasks=1 tuning_tasks=1 standardize=true problems=1 "
    "repeats=2 noise=0 modes=train-by-validation"
).split()


def test_a_tiny_run_with_a_total_tested_beyond_the_horizon(tmp_path, monkeypatch):
    monkeypatch.setattr(mlp_optimizer_study, "RATES", (0.01,))
    monkeypatch.setattr(mlp_optimizer_study, "ADAM_RATES", (0.01,))
    monkeypatch.setattr(mlp_optimizer_study, "LearnedAdam", mlp_optimizer_study.LearnedSGD)
    flags = [part for setting in SIZES for part in ("--set", setting)]
    arguments = ["run", "mlp-optimizer", *flags, "--out", str(tmp_path / "run")]
    assert invoke(arguments, (EXPERIMENT.listing,)) == 0
    record = read_record(tmp_path / "run", EXPERIMENT)
    assert record.frames["summary"]["step"].unique().tolist() == [24]
    names = {name.rsplit(".", 2)[0] for name in record.arrays}
    assert names == {"train-by-validation-48.0.0.0"}
    assert {*EXPERIMENT.figures(record)} == {"accuracy-noise-0-samples-48", "meta-training"}
    assert set(verdicts(EXPERIMENT, record).values()) == {None}


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(mlp_optimizer_study, "RATES", (0.01,))
    monkeypatch.setattr(mlp_optimizer_study, "ADAM_RATES", (0.01,))
    # Half of the test is compilation, and SGD is compiled already.
    monkeypatch.setattr(mlp_optimizer_study, "LearnedAdam", mlp_optimizer_study.LearnedSGD)
    progress = mlp_optimizer_study.meta_train

    def copied(setting, key, checkpoint, callback):
        """Keep what a process that is killed after four updates would leave."""

        def copy(done, history):
            if done == 4:
                shutil.copytree(tmp_path / "whole", tmp_path / "run")
            callback(done, history)

        return progress(setting, key, checkpoint=checkpoint, callback=copy)

    monkeypatch.setattr(mlp_optimizer_study, "meta_train", copied)
    assert run(tmp_path / "whole") == 0
    monkeypatch.setattr(mlp_optimizer_study, "meta_train", progress)
    assert run(tmp_path / "run", "--resume") == 0
    record, whole = (read_record(tmp_path / name, EXPERIMENT) for name in ("run", "whole"))
    for name, table in record.tables.items():
        for column, values in table.items():
            assert np.array_equal(values.astype(str), whole.tables[name][column].astype(str))
    for name, columns_of in mlp_optimizer.COLUMNS.items():
        assert list(record.tables[name]) == columns_of.split()
    accuracy, summary = (
        where(record.frames[name], mode="train-by-validation", checkpoint="best", split="train")
        for name in ("accuracy", "summary")
    )
    assert accuracy["step"].tolist() == [0, 8, 16] * 2
    row, last = summary.iloc[0], where(accuracy, step=16)["accuracy"]
    assert np.isclose(row["accuracy"], last.mean())
    assert np.isclose(row["sd_tests"], last.std(ddof=1))
    assert np.isnan(row["sd_meta_seeds"])
    assert len(where(record.frames["monitor"], best=1)) == 1
    assert len(record.arrays) == 4
    assert set(verdicts(EXPERIMENT, record).values()) == {None}
    assert set(EXPERIMENT.figures(record)) == {"accuracy-noise-20", "meta-training"}


TRAINED, DOUBLE, VALIDATED = "train-by-train", "train-by-train-2n", "train-by-validation"


GAPS = {(1000, 0.2): 0.2, (1000, 0.0): 0.05, (2400, 0.2): 0.1, (2400, 0.0): 0.025}
GAPS |= {(7000, 0.2): 0.02, (7000, 0.0): 0.001}


def held(steps=4000):
    """Return a run of which every claim holds: three meta-seeds, gaps that fall with samples."""
    rng, rows = np.random.default_rng(0), []
    for (samples, noise), gap in GAPS.items():
        for seed in range(3):
            for mode in (TRAINED, DOUBLE, VALIDATED):
                more = gap * (mode == VALIDATED)
                for split, level in (("train", 0.98 - more), ("test clean", 0.7 + more)):
                    value = level + 0.001 * rng.random()
                    rows.append((noise, samples, mode, "best", seed, 0, steps, split, value, 1.0))
        rows.append((noise, samples, "SGD", "tuned", 0, 0, steps, "test clean", 0.75, 1.0))
    table = columns(mlp_optimizer.COLUMNS["accuracy"], rows)
    config = mlp_optimizer.Config(horizon=4000, totals=(2400, 7000))
    return Record(config, {"accuracy": table}, {}, {})


def at(mode, split="test clean", noise=0.2, samples=1000):
    cell = f"noise == {noise} and mode == '{mode}' and split == '{split}'"
    return f"{cell} and samples == {samples}"


def lower(points):
    """Return the accuracies less some points: the differences keep their spread."""
    return {"accuracy": lambda rows: rows["accuracy"] - points / 100}


SPOILED = (
    ("validation-beats-training", "accuracy", at(VALIDATED), lower(15)),
    ("training-memorizes-noise", "accuracy", at(TRAINED, "train"), lower(2)),
    ("validation-resists-noise", "accuracy", at(TRAINED, "train"), lower(20)),
    ("validation-resists-noise", "accuracy", at(VALIDATED, "train"), lower(-18)),
    ("noise-widens-the-gap", "accuracy", at(TRAINED, noise=0.0), lower(20)),
    ("more-samples-do-not-help-training", "accuracy", at(DOUBLE), lower(-30)),
    ("better-than-tuned-sgd", "accuracy", at("SGD"), lower(-20)),
    ("paper-steps", "accuracy", at(VALIDATED), lower(15)),
    ("gap-falls-with-samples", "accuracy", at(VALIDATED, samples=2400), lower(-20)),
    ("gap-falls-with-samples-clean", "accuracy", at(TRAINED, noise=0.0, samples=7000), lower(5)),
    ("equal-with-all-samples", "accuracy", at(TRAINED, noise=0.0, samples=7000), lower(2)),
    ("noise-hurts-with-all-samples", "accuracy", at(TRAINED, samples=7000), lower(-5)),
    (
        "sgd-is-better-with-all-samples",
        "accuracy",
        at(VALIDATED, noise=0.0, samples=7000),
        lower(-9),
    ),
    ("noise-widens-every-gap", "accuracy", at(TRAINED, samples=2400), lower(-9)),
)


def test_every_claim_can_fail():
    check_every_claim(EXPERIMENT, SPOILED, held())


def test_gaps_by_samples():
    rows = mean_gaps(held(), 0.2)
    assert rows.index.tolist() == [1000, 2400, 7000]
    assert np.allclose(rows["gap"], [0.2, 0.1, 0.02], atol=1e-3)


def test_claims_need_two_standard_errors_and_the_steps_of_the_paper():
    assert verdicts(EXPERIMENT, held(steps=1400))["paper-steps"] is None
    level = changed(held(), "accuracy", at(VALIDATED), **lower(20))
    assert verdicts(EXPERIMENT, level)["validation-beats-training"] is None
    unrun = changed(held(), "accuracy", at(TRAINED), checkpoint="final")
    assert verdicts(EXPERIMENT, unrun)["validation-beats-training"] is None


REFUSED = {
    "samples": ("samples=900", "samples has 900, of which train-by-validation needs 1800"),
    "few": ("samples=8", "samples is 8; allowed are none and integers from 32"),
    "noise": ("noise=1.5", "noise is (1.5,)"),
    "hidden": ("hidden=", "hidden is ()"),
    "modes": ("modes=train-by-train,train-by-train", "different entries"),
    "all": ("samples=none", "totals is (); allowed without samples is at least one integer"),
    "twice": ("totals=200", "totals is (200,); allowed are integers other than samples"),
    "total": ("totals=1300", "totals has 1300, of which train-by-train needs 1300; allowed are at"),
    "beyond": ("test_steps=600", "allowed without beyond are 1 to the horizon, 500"),
    "every": ("measure_every=7", "divisors of test_steps, 400"),
    "segment": ("longest_segment=10", "integers from segment, 25"),
    "step size": ("meta_step_size=0", "meta_step_size is 0.0"),
    "mean": ("unrolls_mean=-1", "unrolls_mean is -1.0; allowed are numbers from 0"),
}


@pytest.mark.parametrize(("setting", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(setting, message, tmp_path, capsys):
    more = ["--set", "long_test_steps=400"] if "totals" in setting else []
    arguments = ["run", "mlp-optimizer", "--set", setting, *more, "--out", str(tmp_path / "run")]
    assert invoke(arguments, (EXPERIMENT.listing,)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
