"""A tiny run, its claims, resumption to the same bits, and bad configurations."""

from dataclasses import replace

import numpy as np
import pytest

from metastep_lab import cli
from metastep_lab.claims import evaluate
from metastep_lab.runs.running import read_record
from metastep_lab.wu2022.downstream_transfer import experiment as downstream_transfer
from metastep_lab.wu2022.downstream_transfer import text as downstream_transfer_text
from metastep_lab.wu2022.downstream_transfer.experiment import EXPERIMENT, Config
from metastep_lab.wu2022.language import train

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
    holds = {claim.id: claim.holds for claim in evaluate(EXPERIMENT.claims, finished)}
    for name in ("silencing-is-cheap", "shifts-are-free", "constant", "bound-holds"):
        assert holds[name], name
    assert holds["anchored-heads-do-not"] and not holds["text-bound-is-informative"]
    table = finished.tables["accuracy"]
    assert np.all(table["agreement"][table["family"] == "teacher"] == 1)
    assert np.all(table["divergence"][table["family"] == "shifted"] < 1e-12)


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": 0}, "models is 0"),
        ({"places": 0}, "places is 0"),
        ({"steps": 20}, "steps is 20"),
        ({"noise": ()}, "noise is"),
        ({"shifted": (1.0, 1.0)}, "shifted is"),
        ({"silenced": (-1.0,)}, "silenced is"),
        ({"positive": ()}, "positive is"),
        ({"negative": ("can",)}, "negative is"),
        ({"top": 5000}, "top is 5000"),
        ({"hidden": 6}, "hidden is 6"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_bad_configuration(changed, message):
    with pytest.raises(ValueError, match=message):
        Config(**changed)


def test_a_text_without_the_words_leaves_nothing_behind(tmp_path, capsys, text):
    wrong = [*arguments(tmp_path / "run", text)[:-1], "--set=negative=absent"]
    assert cli.invoke(wrong, (EXPERIMENT.listing,)) == 2
    assert "negative is" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
