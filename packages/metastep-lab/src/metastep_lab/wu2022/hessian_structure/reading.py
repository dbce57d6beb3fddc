"""Functions that read the tables of `hessian-structure` for its claims and figures."""

import numpy as np

from metastep_lab.claims import lacking
from metastep_lab.tables import Column, Frame, Record
from metastep_lab.wu2022.hessian_structure.image_networks import AbstractImageNetwork
from metastep_lab.wu2022.hessian_structure.models import CLASSES, in_order, network_of

GAP = CLASSES - 1
LARGE = 20  # a dimension well above the classes
MOST = 6  # layers in a figure


def rows_of(record: Record, table: str, **which: object) -> Frame:
    """Return the rows of a table in which columns have given values."""
    rows = record.frames[table]
    for name, value in which.items():
        rows = rows[rows[name] == value]
    return rows


def wide(record: Record) -> list[str]:
    """Return the networks without batch normalization or a layer narrower than the classes."""

    def is_wide(name: str) -> bool:
        network = network_of(name)
        if isinstance(network, AbstractImageNetwork):
            return network.width >= CLASSES
        return not network.batch_norm and name != "F-100-8"

    return [name for name in record.config.model if is_wide(name)]


def true_wide(record: Record) -> list[str]:
    """Return the networks of `wide` where a run has true labels."""
    return wide(record) if "true" in record.config.labels else []


needs_wide = lacking("needs a wide network without batch normalization, and true labels", true_wide)


def is_image_network(name: str) -> bool:
    """Whether a network is VGG11 or ResNet18."""
    return isinstance(network_of(name), AbstractImageNetwork)


def layers(record: Record, table: str, model: str) -> list[str]:
    """Return the names of a network's layers that a table has, in order."""
    return in_order(rows_of(record, table, model=model)["layer"].unique())


def is_connected(layer: str) -> bool:
    """Whether a layer is fully connected, not a convolution."""
    return layer.startswith("fc")


def shown(record: Record, table: str, model: str) -> list[str]:
    """Return the layers that figures show: all but those on shortcuts, at most six of them."""
    names = [name for name in layers(record, table, model) if not name.startswith("sc-")]
    if len(names) <= MOST:
        return names
    return [names[round(place)] for place in np.linspace(0, len(names) - 1, MOST)]


def curve(record: Record, table: str, name: str, **which: str) -> tuple[Column, Column]:
    """Return the indices of a column, `[k]`, and its values, `[seeds or pairs of seeds, k]`."""
    rows = rows_of(record, table, **which)
    indices = np.unique(rows["index"])
    return indices, rows[name].to_numpy().reshape(-1, len(indices))


def behind(record: Record, labels: str = "true") -> Frame:
    """Return the rows of `layers` for all layers whose input is the output of a ReLU."""
    rows = rows_of(record, "layers", labels=labels)
    first = {model: layers(record, "layers", model)[0] for model in rows["model"].unique()}
    return rows[rows["layer"] != rows["model"].map(first)]


def leading(record: Record, name: str, model: str, layer: str) -> Column:
    """Return a column of `spectra` for the first c - 1 indices, true labels, `[seeds, c - 1]`."""
    return curve(record, "spectra", name, model=model, layer=layer, labels="true")[1][:, :GAP]


def between(record: Record, model: str, layer: str) -> Column:
    """Return the overlap between networks for k = 1, 2, ..., mean over pairs, true labels."""
    which = {"model": model, "layer": layer, "labels": "true"}
    return curve(record, "overlaps", "overlap", **which)[1].mean(axis=0)


def spreads(rows: Frame, by: list[str], *names: str) -> Frame:
    """Return mean, least and largest value of columns, as `NAME_mean` and so on, by group."""
    found = rows.groupby(by, sort=False)[[*names]].agg(["mean", "min", "max"])
    return found.set_axis([f"{name}_{kind}" for name, kind in found.columns], axis=1)


def spread(name: str) -> str:
    """Return the template that writes what `spreads` has of a column."""
    return f"{{{name}_mean:.3g}} ({{{name}_min:.3g}} to {{{name}_max:.3g}})"
