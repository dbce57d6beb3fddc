"""`hypercleaning` and `truncation-toy` from the command line, small, and what data they refuse."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import bokeh
import numpy as np
import pytest

from metastep_lab.catalog import CATALOG
from metastep_lab.claims import evaluate
from metastep_lab.cli import invoke
from metastep_lab.experiment import load
from metastep_lab.report.plots import checked
from metastep_lab.runs.running import read_record

BY_NAME = {one.name: load(one) for one in CATALOG}
TINY = {
    "hypercleaning": "train=100 validation=100 windows=1,20 horizon=20 outer_steps=60".split(),
    "truncation-toy": "windows=1,5,20 horizon=20 outer_steps=40".split(),
}
COLUMNS = {
    "hypercleaning": {
        "summary": "method window test_accuracy validation_accuracy validation_loss f1_replaced "
        "f1_wrong gradient_norm seconds_per_step",
        "history": "window step validation_loss f1_replaced f1_wrong gradient_norm estimate_norm",
        "thresholds": "window threshold step flagged replaced wrong f1_replaced f1_wrong",
    },
    "truncation-toy": {
        "bias": "window error bound cosine ratio",
        "trajectory": "objective window step lambda_0 lambda_1 gradient_norm",
        "limit": "objective window lambda_0 lambda_1 distance gap gradient_norm",
    },
}


def metastep(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "metastep_lab", *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory):
    @cache
    def run(name):
        directory = tmp_path_factory.mktemp(name) / "run"
        flags = [part for setting in TINY[name] for part in ("--set", setting)]
        assert invoke(["run", name, *flags, "--out", str(directory)], CATALOG) == 0
        return directory

    return run


@pytest.mark.parametrize("name", TINY)
def test_tables_claims_and_figures(name, directory_of):
    experiment, directory = BY_NAME[name], directory_of(name)
    record = read_record(directory, experiment)
    for table, columns in COLUMNS[name].items():
        assert list(record.tables[table]) == columns.split()
    claims = evaluate(experiment.claims, record)
    assert {claim.id for claim in claims} >= experiment.reproducible
    assert all(claim.evidence for claim in claims)
    for stem, (_, text) in experiment.figures(record).items():
        assert text
        assert (directory / "figures" / f"{stem}.svg").stat().st_size > 1000
        assert (directory / "figures" / f"{stem}.png").stat().st_size > 1000
        plot = directory / "figures" / f"{stem}.json"
        assert not plot.exists() or checked(plot.read_bytes(), bokeh.__version__)
    assert not (directory / "checkpoint").exists()


def test_tiny_hypercleaning_finds_wrong_labels(directory_of):
    record = read_record(directory_of("hypercleaning"), BY_NAME["hypercleaning"])
    weights, wrong = record.arrays["weights"][-1], record.arrays["given"] != record.arrays["true"]
    assert np.mean(weights[wrong]) < np.mean(weights[~wrong]) - 0.2


def test_the_report_holds_both(directory_of, tmp_path):
    page = tmp_path / "report.html"
    folders = [str(directory_of(name)) for name in TINY]
    finished = metastep("report", *folders, "--out", str(page))
    assert finished.returncode == 0, finished.stderr
    text = page.read_text()
    assert all(claim in text for claim in ("finds-corrupted-labels", "descent-lemma-as-stated"))


def test_more_examples_than_there_are_are_one_line(tmp_path, capsys):
    directory = tmp_path / "run"
    command = ["run", "hypercleaning", "--set", "train=1700", "--out", str(directory)]
    assert invoke(command, CATALOG) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "1700" in error
    assert not directory.exists()


def test_missing_mnist_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("METASTEP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "run"
    command = ["run", "hypercleaning", "--preset", "paper", "--out", str(directory)]
    assert invoke([*command, "--data", str(tmp_path)], CATALOG) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "mnist" in error.lower() and "train-images" in error
    assert not directory.exists()


def test_black_images_are_one_line(tmp_path, capsys):
    labels = np.arange(200, dtype=np.uint8) % 10
    black = np.zeros((200, 28, 28), np.uint8)
    np.savez(tmp_path / "mnist-10k.npz", images=black, labels=labels)
    out = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert invoke(["run", "hypercleaning", "--set", "dataset=mnist", *out], CATALOG) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "all of one shade, 0" in error
    assert not (tmp_path / "run").exists()


MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist-10k.npz"


@pytest.mark.skipif(not MNIST.exists(), reason="the MNIST subset is not here")
def test_mnist_runs_where_it_is(tmp_path):
    settings = ["train=200", "validation=200", "windows=2", "horizon=5", "outer_steps=3"]
    flags = [part for setting in settings for part in ("--set", setting)]
    out = ["--out", str(tmp_path / "run"), "--data", str(MNIST.parent)]
    assert invoke(["run", "hypercleaning", "--preset", "paper", *flags, *out], CATALOG) == 0
