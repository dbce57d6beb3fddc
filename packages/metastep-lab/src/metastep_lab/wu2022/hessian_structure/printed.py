"""The thesis's numbers on the inputs of layers, beside those of `hessian-structure`."""

from typing import NamedTuple

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.tables import Record, Table
from metastep_lab.wu2022.hessian_structure.reading import (
    is_connected,
    measured,
    spread,
    true_models,
    undecided,
)

KINDS = ("fully connected", "convolutions")


class Row(NamedTuple):
    """(v_1 . E[x])^2, then lambda_1 / lambda_2: means, and the range of the latter."""

    alignment: float
    ratio: float
    smallest: float
    largest: float


Rows = tuple[Row, ...]  # for each of `KINDS`

TABLE_C5 = {
    "F-200^2": Row(1.000, 12.29, 9.65, 16.16),
    "F-600^2": Row(0.999, 12.00, 11.42, 13.00),
}
TABLE_C7 = {"F-200^2-BN": (0.062, 1.16), "F-600^2-BN": (0.026, 1.13), "LeNet5-BN": (0.210, 1.54)}
CIFAR10: dict[str, Rows] = {
    "F-600^2": (Row(0.999, 9.24, 4.74, 13.74),),
    "LeNet5": (Row(0.998, 7.21, 5.88, 9.02), Row(0.999, 15.87, 11.15, 27.20)),
    "VGG11-W32": (Row(0.990, 6.02, 5.57, 6.51), Row(0.995, 5.31, 2.39, 9.09)),
    # Two rows have this name: the first one's means, and the range of both.
    "VGG11-W64": (Row(0.996, 5.87, 5.32, 6.70), Row(0.997, 5.76, 2.50, 10.62)),
}


def range_claim(record: Record) -> Claim:
    """Hold the range of lambda_1 / lambda_2 in Tables C.5 and C.6 against the run."""
    if record.config.dataset == "cifar10":
        return _cifar10_claim(record)
    name = "spectral-ratio"
    text = (
        "Table C.5: the mean of lambda_1 / lambda_2 lies in the range that the thesis gives for "
        "five networks (F-200^2: 9.65 to 16.16, F-600^2: 11.42 to 13.00)."
    )
    models = true_models(record, (model for model in record.config.model if model in TABLE_C5))
    if not models or record.config.dataset != "mnist":
        return undecided(name, text, "one of these networks, MNIST and true labels")
    found = {model: measured(record, model)["ratio"] for model in models}
    verdicts = [
        TABLE_C5[model].smallest <= np.mean(values) <= TABLE_C5[model].largest
        for model, values in found.items()
    ]
    listed = "; ".join(f"{model} {spread(values)}" for model, values in found.items())
    return Claim(
        name,
        text,
        bool(np.all(verdicts)),
        f"{listed} after {record.config.epochs} epochs on {record.config.examples} images; "
        "the thesis trains for 1000 epochs on 60000",
    )


def _cifar10_claim(record: Record) -> Claim:
    name = "spectral-ratio"
    text = (
        "Tables C.5 and C.6, CIFAR-10: the mean of lambda_1 / lambda_2 lies in the range that the "
        "thesis gives for five networks, in fully connected layers and in convolutions, without "
        "the first layer."
    )
    models = true_models(record, (model for model in record.config.model if model in CIFAR10))
    if not models:
        return undecided(name, text, f"true labels and one of {', '.join(CIFAR10)}")
    verdicts, evidence = [], []
    for model in models:
        table = measured(record, model)
        for kind, row in zip(KINDS, CIFAR10[model], strict=False):
            ours = _of_kind(table, kind)
            verdicts.append(row.smallest <= np.mean(ours["ratio"]) <= row.largest)
            evidence.append(
                f"{model}, {kind}: {spread(ours['ratio'])}, in the thesis {row.ratio:g} "
                f"({row.smallest:g} to {row.largest:g}), (v_1 . E[x])^2 "
                f"{np.mean(ours['alignment']):.3f}, in the thesis {row.alignment:.3f}"
            )
    return Claim(
        name,
        text,
        bool(np.all(verdicts)),
        f"{'; '.join(evidence)}; after {record.config.epochs} epochs on {record.config.examples} "
        "images, in the thesis 1000 on 50000",
    )


def _of_kind(table: Table, kind: str) -> Table:
    keep = [is_connected(layer) == (kind == KINDS[0]) for layer in table["layer"].tolist()]
    return {name: column[np.array(keep)] for name, column in table.items()}


def mean_in_the_thesis(record: Record) -> str:
    """Return what Tables C.5 and C.6 say of a network like those of the run."""
    if record.config.dataset != "cifar10":
        return "F-200^2: 1.000, 12.29"
    connected, convolutions = CIFAR10["VGG11-W32"]
    return (
        f"VGG11-W32: {connected.alignment:.3f}, {connected.ratio:g} in the fully connected layer, "
        f"{convolutions.alignment:.3f}, {convolutions.ratio:g} in convolutions"
    )
