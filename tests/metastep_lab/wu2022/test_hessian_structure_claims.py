"""The claims of `hessian-structure`, on records made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from metastep_lab.claims import evaluate
from metastep_lab.tables import Record
from metastep_lab.wu2022.hessian_structure import experiment as hessian_structure
from metastep_lab.wu2022.hessian_structure.printed import TABLES_C5_C6
from metastep_lab.wu2022.hessian_structure.reference import MEASURED
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

EXPERIMENT = hessian_structure.EXPERIMENT
MODELS = ("F-200^2", "F-200^2-BN", "F-11^2")
LAYERS = ("fc1", "fc2", "fc3")
GOOD = {
    "alignment": 0.999, "ratio": 12.0, "ratio_bound": 8.0, "output_gap": 5.0, "hessian_gap": 2.0,
    "output_outliers": 9, "output_share": 0.9, "trace_ratio": 1.2, "true": 1.0, "kronecker": 1.05,
    "overlap": 0.8, "rank_one": 0.95, "input_correspondence": 0.8, "inside": 0.98,
    "logit_share": [0.9, 0.4], "class_share": [0.01, 0.2], "whole": 0.8, "later": 0.55,
    "accuracy": 0.5, "random_gap": 1.1, "center": 0.9,
}  # fmt: skip
NORMALIZED = {"alignment": 0.1, "ratio": 1.2, "ratio_bound": -0.5, "overlap": 0.3}


def grid(**axes):
    """Return the columns of a table with one row for each combination."""
    places = np.meshgrid(*(np.arange(len(axis)) for axis in axes.values()), indexing="ij")
    return {
        name: np.asarray(axis)[place.reshape(-1)]
        for (name, axis), place in zip(axes.items(), places, strict=True)
    }


def handmade(values, normalized, models=MODELS, names=LAYERS, dataset="mnist", top=20):
    """Return a record in which every network without batch normalization has the same values."""
    config = hessian_structure.Config(dataset=dataset, model=models, models=2, top=top)
    index = np.arange(1.0, top + 1)
    nets = {"model": models, "labels": ("true", "random")}
    tables = {
        "models": grid(**nets, seed=(0.0, 1.0)),
        "layers": grid(**nets, seed=(0.0, 1.0), layer=names),
        "spectra": grid(**nets, seed=(0.0, 1.0), layer=names, index=index),
        "correspondence": grid(**nets, layer=names, basis=("input", "output"), vector=index,
                               index=index),
        "singular": grid(**nets, layer=names, vector=(1.0, 2.0), index=index[:10]),
        "centers": grid(**nets, epoch=(0.0, 60.0), logit=range(10)),
        "trajectory": grid(**nets, epoch=(0.0, 60.0), layer=names, index=index),
        "clusters": grid(**nets, epoch=(0.0, 60.0)),
        "embedding": grid(model=models[:1], labels=("true",), epoch=(0.0, 60.0),
                          by=("output", "weight"), logit=range(10), x=(0.0,), y=(0.0,))
        | {"class": np.zeros(40)},
        "whole": grid(model=("F-200^2",), index=np.arange(1.0, 51)),
    }  # fmt: skip
    for name, columns in (("models", "accuracy"),
                          ("layers", "alignment ratio ratio_bound output_gap hessian_gap "
                           "output_outliers output_share trace_ratio"),
                          ("spectra", "true kronecker overlap rank_one input_correspondence "
                           "inside")):  # fmt: skip
        table = tables[name]
        behind = np.char.endswith(table["model"], "BN")
        for column in columns.split():
            other = normalized.get(column, values[column])
            table[column] = np.where(behind, other, values[column])
    layers = tables["layers"]
    small = layers["model"] == "F-11^2"
    layers["outputs"] = np.where(layers["layer"] == "fc3", 10, np.where(small, 11, 200))
    layers["inputs"] = np.where(layers["layer"] == "fc1", 784, layers["outputs"])
    layers["output_gap"][layers["labels"] == "random"] = values["random_gap"]
    spectra = tables["spectra"]
    spectra |= {name: 1 / spectra["index"] for name in ("output", "input")}
    spectra |= {"kronecker_input": np.ones(len(behind)), "kronecker_output": spectra["index"]}
    tables["singular"]["value"] = 1 / tables["singular"]["index"]
    for name in ("by_output", "by_weight"):
        tables["centers"][name] = np.full(len(tables["centers"]["epoch"]), values["center"])
    tables["correspondence"]["value"] = np.full(len(tables["correspondence"]["index"]), 0.1)
    path = tables["trajectory"]
    path["input"] = np.where(path["index"] == 1, values["ratio"], 1)
    path["output"] = np.where(path["index"] < 10, values["output_share"], 0.05)
    for name in ("logit_share", "class_share"):
        tables["clusters"][name] = np.tile(values[name], 2 * len(models))
    whole = tables["whole"]
    falling = 1 / whole["index"]
    near = np.where(whole["index"] < 20, values["whole"], values["later"])
    whole |= {"true": falling, "approximate": values["kronecker"] * falling, "weighted": falling,
              "overlap": near, "weighted_overlap": near}  # fmt: skip
    return Record(config, tables, {}, {})


def referenced():
    """Return a record with the numbers of the first implementation."""
    record = handmade(GOOD, NORMALIZED)
    for place, layer in enumerate(LAYERS):
        numbers = {name: values[place] for name, values in MEASURED.items() if " " not in name}
        where = f"model == 'F-200^2' and layer == '{layer}'"
        inputs = {
            name: numbers.pop(name) for name in ("alignment", "ratio", "hessian_gap", "trace_ratio")
        }
        curve = lambda kind, dims, place=place: (
            lambda rows: np.interp(
                rows["index"], dims, [MEASURED[f"{kind} {dim}"][place] for dim in dims]
            )
        )
        overlaps, ratios = curve("overlap", (1, 9, 10, 20)), curve("eigenvalue", (1, 9))
        record = changed(record, "layers", where, **inputs)
        record = changed(record, "spectra", where, overlap=overlaps, kronecker=ratios, **numbers)
    return record


PLAIN, NORMAL = "model == 'F-200^2'", "model == 'F-200^2-BN'"
SPOILED = (
    ("mean-input", "layers", f"{PLAIN} and layer == 'fc2' and seed == 1", {"alignment": 0.98}),
    ("mean-input", "layers", PLAIN, {"ratio": 3.0}),
    ("spectral-ratio", "layers", PLAIN, {"ratio": 17.0}),
    ("outliers", "layers", "layer == 'fc3'", {"output_outliers": 4}),
    ("low-rank", "layers", "layer == 'fc3'", {"output_share": 0.5}),
    ("low-rank", "layers", "layer == 'fc1'", {"hessian_gap": 1.1}),
    ("random-labels", "layers", "labels == 'random'", {"output_gap": 3.0}),
    ("random-labels", "layers", "labels == 'random' and layer == 'fc1'", {"output_gap": 3.0}),
    ("kronecker-eigenvalues", "spectra", "layer == 'fc2'", {"kronecker": 1.3}),
    ("kronecker-eigenspace", "spectra", "layer == 'fc2' and index == 9", {"overlap": 0.5}),
    ("correspondence", "spectra", "layer == 'fc2'", {"input_correspondence": 0.5}),
    ("correspondence", "spectra", "layer == 'fc2'", {"inside": 0.8}),
    ("correspondence-up-to-m", "spectra", "index > 9", {"input_correspondence": 0.5}),
    ("rank-one", "spectra", "layer == 'fc1' and index == 9", {"rank_one": 0.4}),
    ("rank-one", "spectra", "layer == 'fc1'", {"rank_one": 0.7}),
    ("convolutions", "spectra", "layer == 'conv3'", {"input_correspondence": 0.5}),
    ("convolutions", "spectra", "layer == 'conv3'", {"rank_one": 0.7}),
    ("convolutions-product", "spectra", "layer == 'conv3'", {"kronecker": 0.5}),
    ("convolutions-product", "spectra", "layer == 'conv3'", {"overlap": 0.5}),
    ("batch-normalization", "layers", NORMAL, {"alignment": 0.6}),
    ("batch-normalization", "layers", NORMAL, {"ratio": 2.5}),
    ("training", "trajectory", f"{PLAIN} and epoch == 0 and index == 1", {"input": 3.0}),
    ("training", "trajectory", f"{PLAIN} and index < 10", {"output": 0.1}),
    ("training", "trajectory", f"{PLAIN} and index < 10 and layer == 'fc1'", {"output": 0.1}),
    ("clusters", "clusters", "epoch == 0", {"logit_share": 0.4}),
    ("clusters", "clusters", "epoch == 0", {"class_share": 0.2}),
    ("clusters", "clusters", "epoch == 60", {"class_share": 0.6}),
    ("whole-hessian", "whole", "", {"approximate": lambda rows: 1.3 * rows["true"]}),
    ("whole-hessian", "whole", "", {"overlap": 0.6}),
    ("weighted-approximation", "whole", "index == 5", {"weighted_overlap": 0.7}),
    ("whole-hessian-50", "whole", "index == 50", {"overlap": 0.45}),
    ("batch-normalization-product", "spectra", NORMAL, {"overlap": 0.9}),
    ("centers", "centers", f"{PLAIN} and epoch == 0", {"by_output": 0.7}),
    ("centers", "centers", f"{PLAIN} and epoch == 0", {"by_weight": 0.7}),
    ("reference", "layers", f"{PLAIN} and layer == 'fc2'", {"ratio": 9.6}),
    ("reference", "spectra", f"{PLAIN} and layer == 'fc2' and index == 20", {"overlap": 0.7}),
)  # fmt: skip
CONVOLUTIONS = *(f"conv{i + 1}" for i in range(8)), "fc1"


def test_every_claim_can_hold_and_fail():
    good = handmade(GOOD, NORMALIZED)
    found = verdicts(EXPERIMENT, good)
    # Those numbers were made up, and those of the first implementation were not.
    assert not found.pop("reference")
    lenet = "convolutions", "convolutions-product", "correspondence-up-to-m"
    assert [found.pop(name) for name in lenet] == [None] * 3
    assert set(found.values()) == {True}, found
    figures = {name: figure for name, (figure, _) in EXPERIMENT.figures(good).items()}
    assert figures.keys() >= {"singular", "batch-normalization", "whole"}
    # Two networks with two layers in each panel; and indices begin with 1.
    assert [len(axes.lines) for axes in figures["batch-normalization"].axes[:2]] == [4, 4]
    assert all(axes.get_xticks()[0] == 1 for axes in figures["spectra"].axes)
    deep = handmade(GOOD, NORMALIZED, ("VGG11-W32",), CONVOLUTIONS, "cifar10")
    names = "conv1", "conv2", "fc1", "fc2", "fc3"
    lenet = handmade(GOOD, NORMALIZED, ("LeNet5",), names, "cifar10", top=120)
    check_every_claim(EXPERIMENT, SPOILED, good, deep, referenced(), lenet)
    large = changed(good, "layers", "model == 'F-11^2'", inputs=2000)
    assert verdicts(EXPERIMENT, large)["random-labels"] is None
    # Twenty dimensions say nothing of fifty, unless one of them is wrong already.
    tables = {**good.tables, "whole": {k: v[:20] for k, v in good.tables["whole"].items()}}
    few = Record(good.config, tables, {}, {})
    assert verdicts(EXPERIMENT, few)["whole-hessian-50"] is None
    low = changed(few, "whole", "index == 20", overlap=0.45)
    assert verdicts(EXPERIMENT, low)["whole-hessian-50"] is False
    assert EXPERIMENT.reproducible <= found.keys() | {"reference"}
    # A hundred classes need two hundred dimensions, and that is no error.
    many = Record(replace(few.config, dataset="cifar100"), few.tables, {}, {})
    assert verdicts(EXPERIMENT, many, "whole-hessian") == {"whole-hessian": None}


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cifar100"])
def test_every_network_of_the_tables_is_held_against_them(dataset):
    """A preset of a table judges each of its networks; other networks are told apart."""
    for model, printed in TABLES_C5_C6[dataset].items():
        row, *more = printed
        names = ("conv1", "conv2", "fc1") if more else ("fc1", "fc2")
        record = handmade(GOOD, NORMALIZED, (model,), names, dataset)
        for convolutions in more:
            record = changed(record, "layers", "layer == 'conv2'", ratio=convolutions.ratio)
        for ratio in (row.smallest - 0.1, row.ratio, row.largest + 0.1):
            record = changed(record, "layers", f"layer == '{names[-1]}'", ratio=ratio)
            found = verdicts(EXPERIMENT, record, "spectral-ratio")
            assert found["spectral-ratio"] is (ratio == row.ratio), model
    presets = {
        name: EXPERIMENT.presets[name] for name in EXPERIMENT.presets if name.startswith("table-c5")
    }
    asked = {model for one in presets.values() if one.dataset == dataset for model in one.model}
    assert asked == TABLES_C5_C6[dataset].keys()


def test_batch_normalization_is_judged_by_its_fully_connected_layers():
    """Table C.7 has no convolutions; a network that it lacks is no error."""
    names = ("conv1", "conv2", "fc1", "fc2")
    for model, words in {
        "F-600^4-BN": "the thesis, MNIST: 0.027, 1.11", "LeNet5-BN": "the thesis, CIFAR-10: 0.21",
        "F-30^2-BN": "the thesis has no such network",
    }.items():  # fmt: skip
        record = handmade(GOOD, NORMALIZED, (model,), names)
        record = changed(record, "layers", "layer == 'conv2'", alignment=0.9, ratio=9.0)
        claims = {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}
        found = claims["batch-normalization"]
        assert found.holds is True and words in found.evidence


@pytest.mark.parametrize(
    ("values", "verdict", "printed"),
    [({"ratio": 6.0, "alignment": 0.95}, True, True), ({"ratio": 2.5}, False, False),
     ({"ratio": 8.0}, True, False)],
)  # fmt: skip
def test_claims_about_an_image_network(values, verdict, printed):
    record = handmade(GOOD | values, NORMALIZED, ("VGG11-W32",), CONVOLUTIONS, "cifar10")
    found = {claim.id: claim for claim in evaluate(EXPERIMENT.claims, record)}
    assert found["mean-input"].holds is verdict
    assert found["spectral-ratio"].holds is printed
    assert "6.02 (5.57 to 6.51)" in found["spectral-ratio"].evidence
    assert "5.31 (2.39 to 9.09)" in found["spectral-ratio"].evidence
    assert "In fc1 of VGG11-W32 the 9 leading" in EXPERIMENT.answer(record)
    # What is wrong of a convolution touches no claim about fully connected layers.
    half = changed(record, "spectra", "layer == 'conv3'", kronecker=0.5, overlap=0.4, rank_one=0.4)
    connected = verdicts(EXPERIMENT, half)
    assert connected["convolutions"] is False and connected["convolutions-product"] is False
    names = "kronecker-eigenvalues kronecker-eigenspace rank-one"
    assert all(connected[name] for name in names.split())
    narrow = handmade(GOOD, NORMALIZED, ("VGG11-W9",), CONVOLUTIONS, "cifar10")
    assert EXPERIMENT.answer(narrow).startswith("This run cannot tell")
    assert False not in verdicts(EXPERIMENT, narrow).values()
