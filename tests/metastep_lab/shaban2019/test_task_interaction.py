"""A tiny run, interrupted and resumed; claims on tables made by hand."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from metastep_lab.claims import evaluate
from metastep_lab.runs.running import Request, execute, read_record
from metastep_lab.shaban2019.task_interaction.examples import load
from metastep_lab.shaban2019.task_interaction.experiment import EXPERIMENT, Config
from metastep_lab.shaban2019.task_interaction.measuring import early_stop
from metastep_lab.shaban2019.task_interaction.pretrained_features import ImageNetwork
from metastep_lab.tables import Record, columns
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

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


def held():
    """Return a run of which every claim holds: two windows, four trials, features as good."""
    rng = np.random.default_rng(0)
    summary, history = [], []
    for trial in range(4):
        summary.append(("untuned", np.nan, trial, 2.0, 0.4, np.nan, 0.4, 1.0, 0.1, 0.1, 0, 0))
        shift = 1e-4 * rng.standard_normal(2)
        for place, window in enumerate((1, 5, 100)):
            loss = 1.0 - 0.1 * place + shift[place // 2]
            row = (loss, 0.5, 700.0, 0.612 + shift[place // 2], loss)
            summary.append((f"{window}-RMD", window, trial, *row, 3.0, 0.9, 2, 0))
            for step, angle in ((10, -0.1 if window == 1 else 0.5), (90, 0.95)):
                history.append((window, trial, step, 1.0, 1.0, 1.0, angle, 0.5, 0.9, 1))
    names = "method window trial validation_loss test_accuracy stopped_step stopped_accuracy "
    names += "gradient_norm largest_coupling stability guarded_steps failed_steps"
    tables = {"summary": columns(names, summary)}
    names = "window trial step validation_loss estimate_norm gradient_norm cosine test_accuracy "
    tables["history"] = columns(names + "stability successful", history)
    cost = [(1, 0.9, 0.3, 0.3, 1.0), (5, 0.5, 0.5, 0.6, 1.5), (100, 0.0, 1.0, 1.0, 10.0)]
    names = "window relative_error cosine seconds mebibytes"
    tables["cost"] = columns(names, cost)
    return Record(Config(windows=(1, 5, 100), outer_steps=100), tables, {}, {})


SPOILED = (
    ("tuning-helps", "summary", "window == 100 and trial == 1", {"validation_loss": 2.5}),
    ("loss-falls-with-window", "summary", "window == 5", {"validation_loss": 1.1}),
    ("stationarity-improves", "summary", "window == 5", {"gradient_norm": 1.1}),
    ("accuracy-gaps-are-small", "summary", "window == 1", {"stopped_accuracy": 0.609}),
    ("table-3-accuracy", "summary", "window == 5", {"stopped_accuracy": 0.6}),
    ("negative-cosine", "history", "window == 1", {"cosine": 0.1}),
    ("cosine-goes-to-one", "history", "window == 5 and step == 90", {"cosine": 0.8}),
    ("window-one-is-cheaper", "cost", "window == 1", {"seconds": 0.4}),
    ("never-diverges", "summary", "window == 5", {"stability": 1.1}),
    ("never-diverges", "summary", "window == 5", {"failed_steps": 1}),
)


def test_every_claim_can_fail():
    check_every_claim(EXPERIMENT, SPOILED, held())
    said = {claim.id: claim.evidence for claim in evaluate(EXPERIMENT.claims, held())}
    assert "random patches; 12 of 12 runs were stopped" in said["table-3-accuracy"]


def test_cifar_100_is_held_against_its_own_rows_of_table_3():
    config = replace(held().config, dataset="cifar100")
    other = changed(held(), "summary", stopped_accuracy=0.35, config=config)
    assert verdicts(EXPERIMENT, other)["table-3-accuracy"] is True
    apart = changed(other, "summary", "window == 1", stopped_accuracy=0.353)
    assert verdicts(EXPERIMENT, apart)["accuracy-gaps-are-small"] is True
    apart = changed(other, "summary", "window == 1", stopped_accuracy=0.354)
    assert verdicts(EXPERIMENT, apart)["accuracy-gaps-are-small"] is False


def test_undecided_where_the_trials_scatter():
    scattered = changed(held(), "summary", "window == 1", stopped_accuracy=[0.5, 0.7, 0.55, 0.65])
    assert verdicts(EXPERIMENT, scattered)["accuracy-gaps-are-small"] is None


@pytest.mark.parametrize(
    ("correct", "patience", "stopped"),
    [
        ([0.1, 0.3, 0.2, 0.2, 0.2, 0.4], 20, (30, 0.3)),
        ([0.1, 0.3, 0.2, 0.2, 0.2, 0.4], 40, (np.nan, 0.4)),
        ([0.3, 0.3, 0.3, 0.3, 0.3, 0.3], 30, (30, 0.3)),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 10, (np.nan, 0.6)),
    ],
)
def test_early_stopping(correct, patience, stopped):
    found = early_stop(np.arange(0, 60, 10), np.array(correct), patience)
    assert np.array_equal(found, stopped, equal_nan=True)


@pytest.fixture(scope="module")
def image_network(tmp_path_factory):
    """A directory with a tiny ResNet of random weights, and the network."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("networks") / "resnet-tiny"
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [6], "depths": [1], "layer_type": "basic"}
    network = transformers.ResNetModel(transformers.ResNetConfig(**sizes)).eval()
    network.save_pretrained(directory)
    options = {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3}
    options |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (directory / "preprocessor_config.json").write_text(json.dumps(options))
    return directory, network


def test_features_of_a_network_of_hugging_face(image_network):
    """The middle 28 of 32 pixels, normalized, averaged by the network's last layer."""
    import torch

    directory, network = image_network
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    done = []
    found = ImageNetwork.load(directory).read(images, done.append)
    ready = (images[:, 2:30, 2:30] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    with torch.no_grad():
        pixels = torch.tensor(np.moveaxis(ready, 3, 1), dtype=torch.float32)
        states = network(pixel_values=pixels).last_hidden_state.numpy()
    assert done == [3] and found.shape == (3, 6)
    assert np.allclose(found, states.mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)


def test_images_are_read_once_by_the_network_of_a_directory(image_network, tmp_path):
    directory, _ = image_network
    rng, parts = np.random.default_rng(0), {}
    for part, size in (("train", 200), ("test", 100)):
        parts[f"{part}_images"] = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        parts[f"{part}_labels"] = (np.arange(size) % 10).astype(np.uint8)
    np.savez(tmp_path / "cifar10-7k.npz", **parts)
    done = []
    context = SimpleNamespace(
        data=tmp_path,
        seed=0,
        resume=True,
        checkpoint=lambda name: tmp_path / name,
        progress=lambda count, total, what: done.append((count, total)),
    )
    config = Config(features=directory.name)
    with pytest.raises(ValueError, match="there is nothing of that name"):
        load(config, context)
    shutil.copytree(directory, tmp_path / directory.name)
    first, again = load(config, context), load(config, context)
    assert done == [(100, 300), (200, 300), (300, 300)]
    assert np.array_equal(first[0], again[0]) and first[0].shape == (300, 6)
    assert first[1].tolist()[:3] == [0, 1, 2] and first[2][:2] == ["airplane", "automobile"]


def test_a_directory_without_a_network_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="its preprocessor_config"):
        ImageNetwork.load(tmp_path)


def test_a_directory_without_weights_is_one_line(image_network, tmp_path):
    shutil.copy(image_network[0] / "preprocessor_config.json", tmp_path)
    with pytest.raises(ValueError, match="allowed is a directory with an image network: ") as error:
        ImageNetwork.load(tmp_path)
    assert "\n" not in str(error.value)
