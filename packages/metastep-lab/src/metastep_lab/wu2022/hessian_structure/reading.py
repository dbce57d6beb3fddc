"""Functions that read the tables of `hessian-structure` for its claims and figures."""

import numpy as np

from metastep_lab.claims import lacking
from metastep_lab.tables import Column, Frame, Record
from metastep_lab.wu2022.networks.image_networks import AbstractImageNetwork
from metastep_lab.wu2022.networks.images import class_count
from metastep_lab.wu2022.networks.names import drawn, narrowest, network_of
from metastep_lab.wu2022.networks.training import in_order

WIDE = 20  # units, or channels
OF_WIDTH = f"of at least {WIDE} units (or channels) in each layer"


def gap(record: Record) -> int:
    """Return c - 1, the number of eigenvalues that the theory has stand out."""
    return class_count(record.config.dataset) - 1


def large(record: Record) -> int:
    """Return 2 c, a dimension well above the classes."""
    return 2 * class_count(record.config.dataset)


def wide(record: Record) -> list[str]:
    """Return the networks without batch normalization or a narrow layer."""
    return [name for name in plain(record) if narrowest(network_of(name)) >= WIDE]


def plain(record: Record) -> list[str]:
    """Return the networks without batch normalization."""
    return [name for name in record.config.model if not name.endswith("-BN")]


def true_wide(record: Record) -> list[str]:
    """Return the networks of `wide` where a run has true labels."""
    return wide(record) if "true" in record.config.labels else []


needs_wide = lacking(
    f"needs a network {OF_WIDTH}, without batch normalization, and true labels", true_wide
)
needs_spectra = lacking(
    f"needs a network {OF_WIDTH}, without batch normalization, true labels, and top at least twice "
    "the classes",
    lambda record: record.config.top >= large(record) and true_wide(record),
)


def is_image_network(name: str) -> bool:
    """Whether a network is VGG11 or ResNet18."""
    return isinstance(network_of(name), AbstractImageNetwork)


def layers(record: Record, table: str, model: str) -> list[str]:
    """Return the names of a network's layers that a table has, in order."""
    return in_order(record.rows(table, model=model)["layer"].unique())


def is_connected(layer: str) -> bool:
    """Whether a layer is fully connected, not a convolution."""
    return layer.startswith("fc")


def shown(record: Record, table: str, model: str) -> list[str]:
    """Return the layers that figures show."""
    return drawn(layers(record, table, model))


def curve(record: Record, table: str, name: str, **which: str) -> tuple[Column, Column]:
    """Return the indices of a column, `[k]`, and its values, `[seeds or pairs of seeds, k]`."""
    rows = record.rows(table, **which)
    # Rows stand in the order in which they were measured: for each network all indices.
    indices = np.unique(rows["index"])
    return indices, rows[name].to_numpy().reshape(-1, len(indices))


def behind(record: Record, labels: str = "true") -> Frame:
    """Return the rows of `layers` for all layers whose input is the output of a ReLU."""
    rows = record.rows("layers", labels=labels)
    first = {model: layers(record, "layers", model)[0] for model in rows["model"].unique()}
    return rows[rows["layer"] != rows["model"].map(first)]


def leading(record: Record, name: str, model: str, layer: str) -> Column:
    """Return a column of `spectra` for the first c - 1 indices, true labels, `[seeds, c - 1]`."""
    values = curve(record, "spectra", name, model=model, layer=layer, labels="true")[1]
    return values[:, : gap(record)]


def spreads(rows: Frame, by: list[str], *names: str) -> Frame:
    """Return mean, least and largest value of columns, as `NAME_mean` and so on, by group."""
    found = rows.groupby(by, sort=False)[[*names]].agg(["mean", "min", "max"])
    return found.set_axis([f"{name}_{kind}" for name, kind in found.columns], axis=1)


def spread(name: str) -> str:
    """Return the template that writes what `spreads` has of a column."""
    return f"{{{name}_mean:.3g}} ({{{name}_min:.3g}} to {{{name}_max:.3g}})"
