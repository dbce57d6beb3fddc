"""The thesis's numbers on the inputs of layers, to compare with `hessian-structure`."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from metastep_lab.claims import Numbers, Statement, each, every, lacking
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.reading import (
    behind,
    is_connected,
    spread,
    spreads,
)

KINDS = ("fully connected", "convolutions")


class Row(NamedTuple):
    """(v_1 . E[x])^2, then lambda_1 / lambda_2: means, and the range of the latter."""

    alignment: float
    ratio: float
    smallest: float
    largest: float


TABLE_C5 = {
    "F-200^2": Row(1.000, 12.29, 9.65, 16.16),
    "F-600^2": Row(0.999, 12.00, 11.42, 13.00),
}
TABLE_C7 = {"F-200^2-BN": (0.062, 1.16), "F-600^2-BN": (0.026, 1.13), "LeNet5-BN": (0.210, 1.54)}
# Rows for each of `KINDS`.
CIFAR10: dict[str, tuple[Row, ...]] = {
    "F-600^2": (Row(0.999, 9.24, 4.74, 13.74),),
    "LeNet5": (Row(0.998, 7.21, 5.88, 9.02), Row(0.999, 15.87, 11.15, 27.20)),
    "VGG11-W32": (Row(0.990, 6.02, 5.57, 6.51), Row(0.995, 5.31, 2.39, 9.09)),
    # Two rows have this name: the first one's means, and the range of both.
    "VGG11-W64": (Row(0.996, 5.87, 5.32, 6.70), Row(0.997, 5.76, 2.50, 10.62)),
}


def _among(record: Record, table: Mapping[str, object]) -> list[str]:
    """Return the networks of a run with true labels that a table of the thesis has."""
    return [one for one in record.config.model if one in table and "true" in record.config.labels]


def _on_mnist(record: Record) -> Frame:
    rows = spreads(behind(record), ["model"], "ratio").loc[_among(record, TABLE_C5)]
    printed = [TABLE_C5[model] for model in rows.index]
    return rows.assign(
        smallest=[row.smallest for row in printed], largest=[row.largest for row in printed]
    )


def _on_cifar10(record: Record) -> Frame:
    rows = behind(record)
    rows = rows.assign(kind=rows["layer"].map(lambda layer: KINDS[not is_connected(layer)]))
    found = spreads(rows, ["model", "kind"], "ratio", "alignment")
    printed = {
        (model, kind): row
        for model in _among(record, CIFAR10)
        # A network without convolutions has the first row only.
        for kind, row in zip(KINDS, CIFAR10[model], strict=False)
    }
    places = pd.MultiIndex.from_tuples(printed, names=["model", "kind"])
    return pd.DataFrame(printed.values(), places, Row._fields).join(found)


def _listed(rows: Frame, template: str) -> Numbers:
    return {"rows": rows, "listed": each(template)(rows)}


def _in_range(found: Numbers) -> bool | None:
    return every("smallest <= ratio_mean <= largest")(found["rows"])


ON_MNIST = Statement(
    "spectral-ratio",
    "Table C.5: the mean of lambda_1 / lambda_2 lies in the range that the thesis gives for "
    "five networks (F-200^2: 9.65 to 16.16, F-600^2: 11.42 to 13.00).",
    lacks=lacking(
        "needs one of these networks, MNIST and true labels",
        lambda record: record.config.dataset == "mnist" and _among(record, TABLE_C5),
    ),
    measure=lambda record: _listed(_on_mnist(record), "{model} " + spread("ratio")),
    verdict=_in_range,
    evidence="{listed} after {config.epochs} epochs on {config.examples} images; the thesis trains "
    "for 1000 epochs on 60000",
)
ON_CIFAR10 = Statement(
    "spectral-ratio",
    "Tables C.5 and C.6, CIFAR-10: the mean of lambda_1 / lambda_2 lies in the range that the "
    "thesis gives for five networks, in fully connected layers and in convolutions, without "
    "the first layer.",
    lacks=lacking(
        f"needs true labels and one of {', '.join(CIFAR10)}", lambda record: _among(record, CIFAR10)
    ),
    measure=lambda record: _listed(
        _on_cifar10(record),
        "{model}, {kind}: " + spread("ratio") + ", in the thesis {ratio:g} ({smallest:g} to "
        "{largest:g}), (v_1 . E[x])^2 {alignment_mean:.3f}, in the thesis {alignment:.3f}",
    ),
    verdict=_in_range,
    evidence="{listed}; after {config.epochs} epochs on {config.examples} images, in the thesis "
    "1000 on 50000",
)


def mean_in_the_thesis(record: Record) -> str:
    """Return the rows of Tables C.5 and C.6 for a network like those of the run."""
    if record.config.dataset != "cifar10":
        return "F-200^2: 1.000, 12.29"
    connected, convolutions = CIFAR10["VGG11-W32"]
    return (
        f"VGG11-W32: {connected.alignment:.3f}, {connected.ratio:g} in the fully connected layer, "
        f"{convolutions.alignment:.3f}, {convolutions.ratio:g} in convolutions"
    )
