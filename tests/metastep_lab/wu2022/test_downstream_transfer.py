"""A tiny run, its claims, resumption to the same bits, and bad configurations."""

from dataclasses import replace

import numpy as np
import pytest

from metastep.anchors.transfer import Assumption, TransferReport
from metastep_lab import cli
from metastep_lab.runs.running import read_record
from metastep_lab.wu2022.downstream_transfer import experiment as downstream_transfer
from metastep_lab.wu2022.downstream_transfer import text as downstream_transfer_text
from metastep_lab.wu2022.downstream_transfer.experiment import EXPERIMENT
from metastep_lab.wu2022.downstream_transfer.rows import failing_names
from metastep_lab.wu2022.language import train
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

SMALL = (
    "models=1 noise=0.001,0.3 vocabulary=16 hidden=8 steps=16 batch=2 context=16 places=40 top=1 "
    "architecture=gru perturbed=0.1,1 shifted=1,10 silenced=1,8 text={text}"
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences in which what comes before a word of interest says which one it is."""
    rng = np.random.default_rng(0)
    subjects, objects = ["cats", "dogs", "birds"], ["eat", "sleep", "sing", "run"]
    lines = [
        f"{rng.choice(subjects)} can {rng.choice(objects)} well ."
        if rng.random() < 0.5
        else f"that is not {rng.choice(objects)} and never was ."
        for _ in range(400)
    ]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines))
    return path


def arguments(out, text):
    settings = [f"--set={setting}" for setting in SMALL.format(text=text).split()]
    words = "--set=positive=can,well,absent", "--set=negative=not,never"
    return ["run", "downstream-transfer", "--out", str(out), *settings, *words]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text):
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.invoke(arguments(out, text), (EXPERIMENT.listing,)) == 0
    return read_record(out, EXPERIMENT)


def test_a_small_run_shows_what_the_theorems_say(finished):
    found = verdicts(EXPERIMENT, finished)
    for name in ("silencing-is-cheap", "shifts-are-free", "constant", "anchored-heads-do-not"):
        assert found[name], name
    assert found["bound-holds"] is None and not found["text-bound-is-informative"]
    table = finished.frames["accuracy"]
    assert np.all(table.query("family == 'teacher'")["agreement"] == 1)
    assert np.all(table.query("family == 'shifted'")["divergence"] < 1e-12)


ORDINARY = "family in ('less trained', 'perturbed') and logits == '{}'"
LAST = "family == '{}' and fitted_on == 'teacher' and strength == {} and logits == '{}'"
SPOILED = (
    ("silencing-is-cheap", "counterexample", "shift == 5", {"closed_form_error": 1e-9}),
    ("silencing-is-cheap", "counterexample", "shift == 5", {"anchored_change": 1e-9}),
    ("silencing-is-cheap", "counterexample", "shift == 5", {"over_bound": 0.6}),
    ("shifts-are-free", "counterexample", "theorem == '3.3.2'", {"divergence": 1e-9}),
    ("shifts-are-free", "counterexample", "theorem == '3.3.2'", {"head_error": 1e-9}),
    ("shifts-are-free", "counterexample", "theorem == '3.3.2'", {"anchored_change": 1e-9}),
    ("constant", "constant", "error_ratio == 0", {"needed": 300.0}),
    ("constant", "constant", "error_ratio == 0", {"exact": 513.0}),
    ("bound-holds", "bound", "strength == 0.3", {"error": 0.7}),
    ("bound-is-informative", "bound", "", {"printed": 1.5}),
    ("assumptions-hold", "assumptions", "family == 'teacher' and task == 'sure'", {"holds": 0}),
    ("text-bound-is-informative", "text_bound", "", {"printed": 1.5}),
    ("raw-heads-break", "accuracy", "family == 'shifted'", {"divergence": 1e-9}),
    ("raw-heads-break", "accuracy", "family == 'shifted'", {"agreement": 0.8}),
    ("anchored-heads-do-not", "accuracy", LAST.format("shifted", 10, "anchored"),
     {"agreement": 0.98}),
    ("silenced-words-break-both", "accuracy", LAST.format("silenced", 8, "anchored"),
     {"agreement": 0.8}),
    ("silenced-words-break-both", "accuracy", LAST.format("silenced", 8, "raw"),
     {"divergence": 0.2}),
    ("errors-grow-with-divergence", "accuracy", ORDINARY.format("anchored"), {"agreement": 0.5}),
    ("anchors-help-ordinary-students", "accuracy", "family == 'perturbed' and strength == 1",
     {"agreement": 0.5}),
)  # fmt: skip


def test_failing_assumptions_are_named():
    each = tuple(Assumption(name, name == "b", 0.0, 0.0, "") for name in "abc")
    reports = (TransferReport(*[0.0] * 8, words=0, assumptions=some) for some in (each, ()))
    assert [failing_names(report) for report in reports] == ["a+c", "none"]


def test_every_claim_can_hold_and_fail(finished):
    better = finished
    for table, where, values in (
        ("bound", "", {"error": 0.2, "printed": 0.6, "proven": 2.4, "failing": "none"}),
        ("assumptions", "", {"holds": 1}),
        ("text_bound", "", {"proven": 2.0, "printed": 0.5}),
        ("accuracy", "family == 'silenced'", {"agreement": 0.5, "divergence": 0.05}),
        ("accuracy", "family == 'shifted' and logits == 'raw'", {"agreement": 0.5}),
        ("accuracy", ORDINARY.format("raw"), {"agreement": 0.1}),
        ("accuracy", ORDINARY.format("anchored"), {"agreement": lambda r: 0.9 - r.divergence / 9}),
    ):
        better = changed(better, table, where, **values)
    check_every_claim(EXPERIMENT, SPOILED, better)
    vacuous = changed(better, "bound", printed=1.5)
    assert verdicts(EXPERIMENT, vacuous)["bound-holds"] is None
    none = verdicts(EXPERIMENT, changed(better, "bound", failing="margin"))
    assert none["bound-holds"] is None and none["bound-is-informative"] is None


def test_an_interrupted_run_continues_to_the_same_bits(tmp_path, text, finished, monkeypatch):
    calls = iter(range(100))

    def train_or_stop(*args):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(downstream_transfer_text, "train", train_or_stop)
    quick, out = replace(EXPERIMENT, figures=lambda record: {}), tmp_path / "run"
    monkeypatch.setattr(downstream_transfer, "EXPERIMENT", quick)
    assert cli.invoke(arguments(out, text), (quick.listing,)) == 130
    assert cli.invoke([*arguments(out, text), "--resume"], (quick.listing,)) == 0
    assert next(calls) == 17, "the five parts that were done are not trained again"
    found = read_record(out, EXPERIMENT)
    for name, table in finished.tables.items():
        for column, values in table.items():
            np.testing.assert_array_equal(found.tables[name][column], values)


def test_a_text_without_the_words_leaves_nothing_behind(tmp_path, capsys, text):
    wrong = [*arguments(tmp_path / "run", text)[:-1], "--set=negative=absent"]
    assert cli.invoke(wrong, (EXPERIMENT.listing,)) == 2
    assert "negative is" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
