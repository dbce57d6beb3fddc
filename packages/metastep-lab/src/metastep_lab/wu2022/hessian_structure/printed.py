"""The thesis's numbers on the inputs of layers, to compare with `hessian-structure`."""

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


# Of each network a row for each of `KINDS`, without the first layer.
TABLES_C5_C6: dict[str, dict[str, tuple[Row, ...]]] = {
    "mnist": {
        "F-200^2": (Row(1.000, 12.29, 9.65, 16.16),),
        "F-600^2": (Row(0.999, 12.00, 11.42, 13.00),),
        "F-600^4": (Row(1.000, 17.81, 7.33, 28.00),),
        "F-600^8": (Row(0.991, 6.63, 2.28, 11.15),),
    },
    "cifar10": {
        "F-600^2": (Row(0.999, 9.24, 4.74, 13.74),),
        "F-1500^3": (Row(0.999, 13.27, 6.10, 18.41),),
        "LeNet5": (Row(0.998, 7.21, 5.88, 9.02), Row(0.999, 15.87, 11.15, 27.20)),
        "LeNet5-(fc1-80)": (Row(0.998, 7.80, 6.77, 11.01), Row(0.998, 12.36, 9.53, 13.36)),
        "LeNet5-(fc1-100)": (Row(0.997, 7.42, 6.20, 9.10), Row(0.999, 19.49, 16.69, 21.92)),
        "LeNet5-(fc1-150)": (Row(0.998, 7.35, 5.34, 9.62), Row(0.999, 12.86, 7.65, 16.34)),
        "VGG11-W32": (Row(0.990, 6.02, 5.57, 6.51), Row(0.995, 5.31, 2.39, 9.09)),
        # Two rows have this name: the first one's means, and the range of both.
        "VGG11-W64": (Row(0.996, 5.87, 5.32, 6.70), Row(0.997, 5.76, 2.50, 10.62)),
    },
    "cifar100": {
        "VGG11-W48": (Row(0.999, 17.861, 15.456, 20.491), Row(0.996, 5.72, 2.46, 9.90)),
        "VGG11-W64": (Row(0.999, 19.185, 18.358, 20.410), Row(0.995, 5.66, 2.50, 10.79)),
        "VGG11-W80": (Row(0.999, 19.455, 18.120, 21.450), Row(0.994, 5.18, 2.50, 8.45)),
        "ResNet18-W48": (Row(1.000, 28.23, 27.37, 29.27), Row(0.981, 3.79, 1.89, 7.56)),
        "ResNet18-W64": (Row(1.000, 27.07, 25.72, 29.50), Row(0.985, 3.96, 1.81, 7.53)),
        "ResNet18-W80": (Row(1.000, 28.23, 25.98, 30.03), Row(0.987, 4.16, 2.11, 7.04)),
    },
}
# (v_1 . E[x])^2 and lambda_1 / lambda_2, means over the fully connected layers but the first.
TABLE_C7 = {
    "F-200^2-BN": ("MNIST", 0.062, 1.16),
    "F-600^2-BN": ("MNIST", 0.026, 1.13),
    "F-600^4-BN": ("MNIST", 0.027, 1.11),
    "LeNet5-BN": ("CIFAR-10", 0.210, 1.54),
}


def batch_normalized_in_the_thesis(model: str) -> str:
    """Return the row of Table C.7 for a network, or that it has none."""
    if model not in TABLE_C7:
        return "the thesis has no such network"
    dataset, alignment, ratio = TABLE_C7[model]
    return f"the thesis, {dataset}: {alignment:g}, {ratio:g}"


def _in_the_tables(record: Record) -> list[str]:
    """Return the networks of a run with true labels that Tables C.5 and C.6 have."""
    rows = TABLES_C5_C6.get(record.config.dataset, {})
    return [one for one in record.config.model if one in rows and "true" in record.config.labels]


def _beside_the_tables(record: Record) -> Frame:
    rows = behind(record)
    rows = rows.assign(kind=rows["layer"].map(lambda layer: KINDS[not is_connected(layer)]))
    found = spreads(rows, ["model", "kind"], "ratio", "alignment")
    printed = {
        (model, kind): row
        for model in _in_the_tables(record)
        # A network without convolutions has the first row only.
        for kind, row in zip(KINDS, TABLES_C5_C6[record.config.dataset][model], strict=False)
    }
    places = pd.MultiIndex.from_tuples(printed, names=["model", "kind"])
    return pd.DataFrame(printed.values(), places, Row._fields).join(found)


def _listed(rows: Frame) -> Numbers:
    words = (
        "{model}, {kind}: " + spread("ratio") + ", in the thesis {ratio:g} ({smallest:g} to "
        "{largest:g}), (v_1 . E[x])^2 {alignment_mean:.3f}, in the thesis {alignment:.3f}"
    )
    return {"rows": rows, "listed": each(words)(rows)}


SPECTRAL_RATIO = Statement(
    "spectral-ratio",
    "Tables C.5 and C.6: the mean of lambda_1 / lambda_2 lies in the range that the thesis gives "
    "for five networks, in fully connected layers and in convolutions, without the first layer.",
    lacks=lacking("needs true labels and a network of these tables", _in_the_tables),
    measure=lambda record: _listed(_beside_the_tables(record)),
    verdict=lambda found: every("smallest <= ratio_mean <= largest")(found["rows"]),
    evidence="{listed}; after {config.epochs} epochs on {config.examples} images, in the thesis "
    "1000 on all, 60000 or 50000",
    reasons={
        False: "The images and the epochs are known to differ; no run has separated their parts."
    },
)


def mean_in_the_thesis(record: Record) -> str:
    """Return the rows of Tables C.5 and C.6 for a network like those of the run."""
    if record.config.dataset != "cifar10":
        return "F-200^2 on MNIST: 1.000, 12.29"
    connected, convolutions = TABLES_C5_C6["cifar10"]["VGG11-W32"]
    return (
        f"VGG11-W32: {connected.alignment:.3f}, {connected.ratio:g} in the fully connected layer, "
        f"{convolutions.alignment:.3f}, {convolutions.ratio:g} in convolutions"
    )
