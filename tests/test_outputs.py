"""No command writes over a file of a run, an input or a folder."""

import os

import pytest

from metastep_lab.cli import invoke
from metastep_lab.runs.running import Request, execute
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, Config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, a sweep with a run of its own, a folder of data, a thesis and links to them."""
    folder = tmp_path_factory.mktemp("outputs")
    for place in ("run", "sweep/runs/one"):
        execute(Request(EXPERIMENT, Config(steps=1), "quick", (), 0, folder / place))
    for name in ("sweep/sweep.json", "sweep/sweep.csv", "thesis.tex"):
        (folder / name).write_text("mine")
    for name in ("data", "empty", "sweep/logs"):
        (folder / name).mkdir()
    (folder / "link").symlink_to("run/result.json")
    (folder / "linked").symlink_to("run")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def state(folder):
    kept = (path for path in sorted(folder.rglob("*")) if not path.is_symlink())
    return {path: path.read_bytes() if path.is_file() else None for path in kept}


OF_A_RUN = ["run/result.json", "run/arrays.npz", "run/tables/sums.csv", "run/tables/new",
            "run/figures", "run/checkpoint/a/b", "linked/tables", "run/.lock"]  # fmt: skip
OF_A_SWEEP = ["sweep/sweep.json", "sweep/sweep.csv", "sweep/logs/x", "sweep/runs/one/figures"]


@pytest.mark.parametrize(
    "out",
    [
        *OF_A_RUN,
        *OF_A_SWEEP,
        *("run", "empty", ".", "link", "loop", "pipe", "thesis.tex", "/dev/null", "thesis.tex/x"),
    ],
)
def test_a_page_takes_the_place_of_nothing(here, capsys, out):
    before = state(here)
    assert invoke(["report", "run", "sweep/runs/one", "--out", out], (EXPERIMENT.listing,)) == 2
    assert f"--out is {out}" in capsys.readouterr().err
    assert state(here) == before


@pytest.mark.parametrize("command", [["run"], ["sweep", "--seeds", "0:1"]], ids=lambda c: c[0])
@pytest.mark.parametrize(
    "out", [*OF_A_RUN, *OF_A_SWEEP, "data", "link", "loop", "pipe", "thesis.tex", "thesis.tex/x"]
)
def test_a_run_takes_the_place_of_nothing(here, capsys, command, out):
    before = state(here)
    name, *options = command
    given = [name, "fake-walk", *options, "--data", "data", "--out", out]
    assert invoke(given, (EXPERIMENT.listing,)) == 2
    assert f"--out is {out}" in capsys.readouterr().err
    assert state(here) == before


@pytest.mark.parametrize("out", ["run/report.html", "new/report.html", "empty/report"])
def test_a_page_takes_the_place_of_a_page(here, out):
    for _ in range(2):
        assert invoke(["report", "run", "--out", out], (EXPERIMENT.listing,)) == 0
    assert (here / out).read_bytes().startswith(b"<!DOCTYPE html>")
