"""The corruption, a tiny run that is interrupted and resumed, its claims, and what is refused."""

import builtins

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metastep_lab.claims import evaluate
from metastep_lab.cli import invoke
from metastep_lab.runs.running import read_record
from metastep_lab.studies.label_noise import experiment as label_noise
from metastep_lab.studies.label_noise import methods as label_noise_methods
from metastep_lab.studies.label_noise.methods import METHODS
from metastep_lab.tables import Record, columns
from tests.metastep_lab.doctored import check_every_claim, verdicts

EXPERIMENT = label_noise.EXPERIMENT
TINY = "train=150 validation=100 seeds=2 outer_steps=20 noise=uniform-50".split()
ARMS = [(name, level) for name, (_, levels) in METHODS.items() for level in levels]


def test_corruption():
    labels = np.repeat(np.arange(10), 2000)
    draw = lambda noise: label_noise.corrupt(labels, noise, np.random.default_rng(0))
    for noise, wrong in {"uniform-20": 0.18, "uniform-50": 0.45}.items():
        # 20000 labels: a standard error below 0.004; four of them.
        assert abs(np.mean(draw(noise) != labels) - wrong) < 0.016
    flipped = draw("class-dependent")
    assert np.all(flipped[labels == 4] == 4)
    assert set(flipped[labels == 5]) == {5, 6} and set(flipped[labels == 2]) == {2, 7}
    # 2000 labels of a class: a standard error of 0.011; four of them.
    assert abs(np.mean(flipped[labels == 3] == 8) - 0.4) < 0.044


def run(directory, *more):
    flags = [part for setting in TINY for part in ("--set", setting)]
    arguments = ["run", "label-noise", "--preset", "quick", *flags, "--out", str(directory), *more]
    return invoke(arguments, (EXPERIMENT.listing,))


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    judge, calls = label_noise._judge_all, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(label_noise, "_judge_all", interrupted)
    monkeypatch.setattr(label_noise_methods, "PENALTIES", (0.3, 0.03))
    assert run(tmp_path / "run") == 130
    assert run(tmp_path / "run", "--resume") == 0
    assert len(calls) == 3  # two repetitions, one of them begun twice
    record = read_record(tmp_path / "run", EXPERIMENT)
    detection, summary = record.tables["detection"], record.tables["summary"]
    assert list(detection) == label_noise.COLUMNS.split()
    assert len(detection["f1"]) == 2 * len(ARMS) and len(summary["f1"]) == len(ARMS)
    hits = detection["recall"] * detection["wrong"]
    assert np.allclose(hits, detection["precision"] * detection["flagged"])
    f1 = 2 * hits / (detection["wrong"] + detection["flagged"])
    assert np.allclose(detection["f1"], f1)
    by_arm = record.frames["detection"].set_index(["method", "validation"])["f1"].sort_index()
    pair, ours = (
        by_arm.loc[arm].to_numpy() for arm in (("small loss", "none"), ("hypercleaning", "clean"))
    )
    rows = record.frames["summary"].set_index(["method", "validation"])
    row = rows.sort_index().loc["small loss", "none"]
    assert np.isclose(row["f1"], pair.mean())
    assert np.isclose(row["f1_error"], abs(pair[0] - pair[1]) / 2)
    lead = ours - pair
    assert np.isclose(row["f1_lead"], lead.mean())
    assert np.isclose(row["f1_lead_error"], abs(lead[0] - lead[1]) / 2)
    found = {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}
    assert set(found) >= EXPERIMENT.reproducible
    assert all(claim.holds is None and claim.evidence for claim in found.values())
    assert set(EXPERIMENT.figures(record)) == {"f1", "roc-auc", "test-accuracy"}


def handmade(gap, seeds=5, noise=("uniform-20", "uniform-50", "class-dependent")):
    """Return a record in which hypercleaning is better by a gap, with the same scatter for all."""
    scatter = lambda seed, place: 0.01 * (seed * (place % 4 + 1) % 5)
    rows = [
        (kind, seed, *arm, *2 * [scatter(seed, place) + gap * (arm[0] == "hypercleaning")])
        for kind in noise
        for place, arm in enumerate(ARMS)
        for seed in range(seeds)
    ]
    table = columns("noise seed method validation f1 test_accuracy", rows)
    config = label_noise.Config(noise=noise, seeds=seeds)
    return Record(config, {"detection": table}, {}, {})


SPOILED = {
    "beats-confident-learning": ("uniform-50", "confident learning", "none"),
    "at-equal-information": ("uniform-50", "confident learning", "clean"),
    "beats-validation-model": ("uniform-20", "validation model", "clean"),
    "little-noise": ("uniform-20", "confident learning", "clean"),
    "class-dependent-noise": ("class-dependent", "confident learning", "none"),
    "noisy-validation": ("uniform-50", "confident learning", "noisy"),
    "noisy-validation-by-class": ("class-dependent", "confident learning", "noisy"),
    "better-model": ("uniform-50", "plain training", "none"),
    "better-model-at-equal-information": ("uniform-50", "plain training", "clean"),
}


def test_every_claim_can_hold_and_fail():
    where = "noise == '{}' and method == '{}' and validation == '{}'"
    spoiled = [
        (name, "detection", where.format(*arm), {"f1": 0.9, "test_accuracy": 0.9})
        for name, arm in SPOILED.items()
    ]
    check_every_claim(EXPERIMENT, spoiled, handmade(0.1))


def test_claims_need_two_standard_errors_five_seeds_and_their_noise():
    for record in (handmade(0.0), handmade(0.1, seeds=4)):
        assert set(verdicts(EXPERIMENT, record).values()) == {None}
    found = verdicts(EXPERIMENT, handmade(0.1, noise=("uniform-50",)))
    assert found["little-noise"] is None and found["better-model"]


def test_the_penalty_is_the_best_of_all_where_the_loss_has_one_minimum():
    config = label_noise.Config(dataset="digits", train=150, validation=50)
    split = label_noise.prepare(config, None, "uniform-50", (0, 0))
    few = label_noise_methods.PENALTIES[1:8:2]
    losses = {}
    folds = KFold(label_noise_methods.PENALTY_FOLDS, shuffle=True, random_state=4)
    for penalty in few:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.005 / penalty))
        losses[penalty] = -np.mean(
            cross_val_score(model, *split.train, cv=folds, scoring="neg_log_loss")
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_noise_methods, "PENALTIES", few)
        assert label_noise_methods.choose_penalty(split.train, 4) == min(losses, key=losses.get)


REFUSED = {
    "noise": ("noise=uniform-30", "uniform-20, uniform-50, class-dependent"),
    "noise-twice": ("noise=uniform-20,uniform-20", "different kinds"),
    "seeds": ("seeds=0", "seeds is 0; allowed are integers from 1"),
    "too-many": ("train=1700", "1700"),
}


@pytest.mark.parametrize(("setting", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(setting, message, tmp_path, capsys):
    arguments = ["run", "label-noise", "--preset", "quick", "--set", setting]
    assert invoke([*arguments, "--out", str(tmp_path / "run")], (EXPERIMENT.listing,)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_cleanlab_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    load = builtins.__import__

    def missing(name, *arguments):
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert run(tmp_path / "run") == 2
    assert "pip install 'metastep-lab[label-noise]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
