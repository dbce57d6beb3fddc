"""Run directories and sweeps that a stranger may have made: one sentence, and never a traceback."""

import json
import re
from functools import reduce

import pytest

from metastep_lab.cli import invoke
from metastep_lab.runs.records import read_result
from metastep_lab.runs.running import Request, execute
from metastep_lab.terminal import plain
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, Config

ENTRY = {"key": "rate=1-0", "values": {"rate": 1.0}, "seed": 0}
SWEEP = {"schema": 1, "experiment": "fake-walk", "runs": [ENTRY]}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return execute(
        Request(EXPERIMENT, Config(steps=1), "quick", (), 0, tmp_path_factory.mktemp("run"))
    )


def one_line(capsys, arguments):
    """Run a command that must refuse its input; return what it says."""
    status = invoke(arguments, (EXPERIMENT.listing,))
    errors = capsys.readouterr().err
    assert status == 2 and errors.startswith("metastep: ")
    assert errors.count("\n") == 1 and len(errors) < 500
    return errors


HOSTILE = {
    "half a surrogate pair": ("question", "\ud800"),
    "half a pair in a key": ("environment", {"\udfff": 1}),
    "a huge integer": ("seed", 10**400),
    "a huge metric": ("metrics", {"last": 10**400}),
    "a negative seed": ("seed", -1),
    "a seed that is true": ("seed", True),
    "an answer that is a number": ("answer", 1),
    "a question that is a list": ("question", []),
    "a figure named null": ("figures", [{"name": None, "alt": "x"}]),
    "a figure in another folder": ("figures", [{"name": "../x", "alt": "x"}]),
    "a figure with a line break": ("figures", [{"name": "x\n", "alt": "x"}]),
    "figures that are null": ("figures", None),
    "a claim that holds a bit": ("claims", [{"id": "a", "text": "", "evidence": "", "holds": 1}]),
    "a metric that is a text": ("metrics", {"last": "1"}),
    "a metric that is true": ("metrics", {"last": True}),
    "seconds that are a text": ("timing", {"seconds": "1"}),
    "seconds before the beginning": ("timing", {"seconds": -1.0}),
    "versions in depth": ("environment", {"versions": {"jax": [[1]]}}),
    "a command that is a list": ("command", ["rm"]),
    "a schema that is true": ("schema", True),
    "a status of another kind": ("status", ["complete"]),
    "deep": ("config", reduce(lambda inner, _: [inner], range(100), 1)),
}
TEXTS = {
    "Infinity": ('"seed": 0', '"seed": Infinity'),
    "NaN": ('"seed": 0', '"seed": NaN'),
    "beyond floats": ('"seed": 0', '"seed": 1e999'),
    "very deep": ('"seed": 0', f'"seed": {"[" * 100_000}'),
}


@pytest.mark.parametrize("name", [*HOSTILE, *TEXTS])
def test_hostile_result(tmp_path, capsys, result, name):
    """`check`, `report`, a run to resume and the status of a sweep read it."""
    key, value = HOSTILE.get(name, ("seed", 0))
    text = json.dumps({**result, key: value}).replace(*TEXTS.get(name, ("", "")))
    run = tmp_path / "runs" / ENTRY["key"]
    run.mkdir(parents=True)
    (run / "result.json").write_text(text)
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    page = tmp_path / "page.html"
    for arguments in (
        ["check", str(run)],
        ["report", str(run), "--out", str(page)],
        ["run", "fake-walk", "--set", "steps=1", "--out", str(run), "--resume"],
    ):
        assert "result.json" in one_line(capsys, arguments)
    assert invoke(["sweep", "--status", str(tmp_path)], (EXPERIMENT.listing,)) == 0
    assert "failed" in capsys.readouterr().out
    assert (run / "result.json").read_text() == text and not page.exists()


@pytest.mark.parametrize(
    "key", [1, None, "a\0b", "../../elsewhere", "..", "a/b", "/tmp", "", "\udc80"]
)
def test_hostile_name_of_a_run_in_a_sweep(tmp_path, capsys, key):
    (tmp_path / "sweep.json").write_text(json.dumps({**SWEEP, "runs": [{**ENTRY, "key": key}]}))
    assert "sweep.json" in one_line(capsys, ["sweep", "--status", str(tmp_path)])


@pytest.mark.parametrize(
    "part",
    [
        {"runs": [ENTRY, ENTRY]},
        {"runs": [ENTRY, {**ENTRY, "key": "b", "values": {"steps": 1}}]},
        {"runs": [{**ENTRY, "seed": 2**32}]},
        {"runs": [{**ENTRY, "values": {"rate": {}}}]},
        {"runs": {}},
        {"experiment": None},
    ],
    ids=str,
)
def test_hostile_sweep(tmp_path, capsys, part):
    (tmp_path / "sweep.json").write_text(json.dumps({**SWEEP, **part}))
    assert "sweep.json" in one_line(capsys, ["sweep", "--status", str(tmp_path)])


@pytest.mark.parametrize(
    "config", [{"steps": "5"}, {"steps": 5.0}, {"steps": True}, {"windows": 1}, {"windows": ["1"]}]
)
def test_a_configuration_of_other_types_is_refused(tmp_path, capsys, result, config):
    text = json.dumps({**result, "config": {**result["config"], **config}})
    (tmp_path / "result.json").write_text(text)
    assert "configuration is damaged" in one_line(capsys, ["check", str(tmp_path)])


def test_what_a_version_does_not_know_is_kept(tmp_path, result):
    (tmp_path / "result.json").write_text(json.dumps({**result, "more": [1]}))
    assert read_result(tmp_path) == {**result, "more": [1]}


def test_texts_of_a_run_do_not_steer_the_terminal(tmp_path, capsys, result):
    run = tmp_path / "runs" / ENTRY["key"]
    run.mkdir(parents=True)
    changed = {**result, "status": "failed", "error": "\x1b]0;x\x07\x9b31m"}
    (run / "result.json").write_text(json.dumps(changed))
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP))
    assert invoke(["sweep", "--status", str(tmp_path)], (EXPERIMENT.listing,)) == 0
    assert not re.search("[\x1b\x07\x9b]", capsys.readouterr().out)
    assert plain("two\nlines") == "two\nlines"
