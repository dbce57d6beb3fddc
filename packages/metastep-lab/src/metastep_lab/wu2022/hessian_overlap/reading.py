"""Functions that read the tables of `hessian-overlap` for its claims and figures."""

import numpy as np
import pandas as pd

from metastep_lab.claims import lacking
from metastep_lab.tables import Column, Frame, Record
from metastep_lab.wu2022.networks.training import in_order

FAILED = (
    ("F-200^2", "fc2"),
    ("LeNet5", "fc2"),
    ("VGG11-W32", "conv2"),
    ("VGG11-W200", "conv2"),
    ("ResNet18-W48", "conv7"),
)
"""Layers that the thesis shows for their early, late or missing peak (C.6.2, C.6.3, C.7.2)."""
KEPT = 0.9
"""Share of the Hessian's trace that must be kept for a layer to be judged."""


def layers(record: Record, model: str) -> list[str]:
    """Return the names of a network's layers, in order."""
    return in_order(record.rows("layers", model=model)["layer"].unique())


def mean_curve(record: Record, model: str, layer: str, column: str = "overlap") -> Column:
    """Return the overlap for k = 1, 2, ..., mean over pairs."""
    rows = record.rows("overlaps", model=model, layer=layer)
    return rows.groupby("index")[column].mean().to_numpy()


def is_normalized(model: str) -> bool:
    """Whether a network has batch normalization."""
    return model.endswith("-BN")


def peaks(record: Record) -> Frame:
    """Return a row for each layer of each network.

    Its columns: model, layer, last (of the network), outputs m, pairs, place (of the largest mean
    over pairs) with least and most (of single pairs), height (there), at_outputs and later (means
    at m and at 2 m), slope, alignment and its spread over pairs, reach (the smallest), alone
    (whether all pairs satisfy the condition of Theorem C.7.1), product (the place of the peak of
    the Kronecker products), kept (the smallest share of the trace).
    """
    rows, found = [], record.frames["layers"].groupby(["model", "layer"])["kept"].min()
    for model in record.config.model:
        *_, last = names = layers(record, model)
        for layer in names:
            pairs = record.rows("pairs", model=model, layer=layer)
            curve = mean_curve(record, model, layer)
            outputs = int(pairs["outputs"].iloc[0])
            place = int(np.argmax(curve)) + 1
            rows.append(
                {
                    "model": model,
                    "layer": layer,
                    "last": layer == last,
                    "outputs": outputs,
                    "pairs": len(pairs),
                    "place": place,
                    "least": pairs["place"].min(),
                    "most": pairs["place"].max(),
                    "height": curve[place - 1],
                    "at_outputs": curve[min(outputs, len(curve)) - 1],
                    "later": curve[-1],
                    "slope": pairs["slope"].mean(),
                    "alignment": pairs["alignment"].mean(),
                    "spread": pairs["alignment"].std(),
                    "reach": pairs["reach"].min(),
                    "alone": (pairs["reach"] == outputs).all(),
                    "kept": found[model, layer],
                    "product": int(np.argmax(mean_curve(record, model, layer, "kronecker"))) + 1,
                }
            )
    return pd.DataFrame(rows)


def hidden(record: Record) -> Frame:
    """Return the rows of `peaks` of hidden layers of networks without batch normalization.

    Layers of which too few rows were kept are left out.
    """
    rows = peaks(record)
    return rows[~rows["last"] & ~rows["model"].map(is_normalized) & (rows["kept"] >= KEPT)]


def satisfying(record: Record) -> Frame:
    """Return the rows of `hidden` in which all pairs satisfy the condition of Theorem C.7.1."""
    return hidden(record)[lambda rows: rows["alone"]]


def is_true(record: Record) -> bool:
    """Whether a run has the labels of the images."""
    return record.config.labels == "true"


needs_hidden = lacking(
    "needs true labels and a network, without batch normalization, of whose Hessians at least "
    f"{KEPT:.0%} of the trace are in the rows that are kept",
    lambda record: is_true(record) and len(hidden(record)),
)
