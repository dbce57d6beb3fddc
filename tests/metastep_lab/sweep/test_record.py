"""Which finished runs a sweep may take for its own."""

import json
from dataclasses import fields, replace

import pytest

from metastep_lab.runs.running import Request, execute
from metastep_lab.sweep.grid import cells
from metastep_lab.sweep.record import is_complete, read_row, run_directory
from tests.metastep_lab.sweep.light_experiment import EXPERIMENT, Config

NAME = EXPERIMENT.name
# Every field, each by the least that its type allows.
OTHER = {
    "steps": 5,
    "rate": 0.1 + 2**-56,
    "windows": (2, 1),
    "pause": 5e-324,
    "burn": 5e-324,
    "mode": "full",
}


def cell(seeds="3", settings=()):
    (found,) = cells(EXPERIMENT, "quick", settings, (), seeds)
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of a sweep with one run that is complete."""
    folder = tmp_path_factory.mktemp("sweep")
    where = run_directory(folder, cell().entry.key)
    execute(Request(EXPERIMENT, Config(), "quick", (), 3, where))
    return folder


def test_a_finished_run_is_found_again(out):
    assert is_complete(out, cell(), NAME)
    assert read_row(out, cell().entry).status == "complete"


@pytest.mark.parametrize("name", [field.name for field in fields(Config)])
def test_a_changed_field_is_a_new_run(out, name):
    """Also where the key, which ends with a hash of eight digits, were the same."""
    changed = replace(cell(), config=replace(Config(), **{name: OTHER[name]}))
    assert changed.config != Config()
    assert not is_complete(out, changed, NAME)
    text = ",".join(map(str, OTHER[name])) if name == "windows" else str(OTHER[name])
    assert cell(settings=(f"{name}={text}",)).entry.key != cell().entry.key


def test_another_seed_or_experiment_is_a_new_run(out):
    entry = cell().entry
    assert not is_complete(out, replace(cell(), entry=replace(entry, seed=4)), NAME)
    assert not is_complete(out, cell(), "another")
    assert cell("4").entry.key != entry.key
    other = replace(EXPERIMENT, listing=replace(EXPERIMENT.listing, name="another"))
    assert cells(other, "quick", (), (), "3")[0].entry.key != entry.key


@pytest.mark.parametrize("change", [{"status": "failed"}, {"status": "interrupted"}, {"seed": "3"}])
def test_what_is_not_finished_is_run_again(out, tmp_path, change):
    where = run_directory(out, cell().entry.key)
    result = json.loads((where / "result.json").read_bytes())
    copy = run_directory(tmp_path, cell().entry.key)
    copy.mkdir(parents=True)
    (copy / "result.json").write_text(json.dumps(result))
    assert is_complete(tmp_path, cell(), NAME)
    (copy / "result.json").write_text(json.dumps(result | change))
    assert not is_complete(tmp_path, cell(), NAME)
    (copy / "result.json").write_text(json.dumps(result))
    (copy / "checkpoint").mkdir()
    assert not is_complete(tmp_path, cell(), NAME)
