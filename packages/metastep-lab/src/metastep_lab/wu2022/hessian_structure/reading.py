"""How the claims and figures of `hessian-structure` read its tables."""

from collections.abc import Iterable

import numpy as np

from metastep_lab.claims import Claim
from metastep_lab.tables import Record, Table, select
from metastep_lab.wu2022.hessian_structure.image_networks import AbstractImageNetwork
from metastep_lab.wu2022.hessian_structure.models import CLASSES, in_order, network_of

GAP = CLASSES - 1
LARGE = 20  # a dimension well above the classes
MOST = 6  # layers in a figure


def wide(record: Record) -> tuple[str, ...]:
    """Return the networks without batch normalization or a layer narrower than the classes."""

    def is_wide(name: str) -> bool:
        network = network_of(name)
        if isinstance(network, AbstractImageNetwork):
            return network.width >= CLASSES
        return not network.batch_norm and name != "F-100-8"

    return tuple(name for name in record.config.model if is_wide(name))


def is_image_network(name: str) -> bool:
    """Whether a network is VGG11 or ResNet18."""
    return isinstance(network_of(name), AbstractImageNetwork)


def layers(table: Table, model: str) -> list[str]:
    """Return the names of a network's layers that a table has, in order."""
    return in_order(set(select(table, model=model)["layer"].tolist()))


def is_connected(layer: str) -> bool:
    """Whether a layer is fully connected, and no convolution."""
    return layer.startswith("fc")


def shown(table: Table, model: str) -> list[str]:
    """Return the layers that figures show: all but those on shortcuts, at most six of them."""
    names = [name for name in layers(table, model) if not name.startswith("sc-")]
    if len(names) <= MOST:
        return names
    return [names[round(place)] for place in np.linspace(0, len(names) - 1, MOST)]


def curve(record: Record, table: str, name: str, **which: str) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and one row of values for each seed or pair of seeds.

    Args:
        record: the run.
        table: one with an `index`.
        name: the column.
        **which: model, labels and layer.

    Returns:
        Indices from 1, `[k]`, and values `[repetitions, k]`.
    """
    rows = select(record.tables[table], **which)
    indices = np.unique(rows["index"])
    return indices, rows[name].reshape(-1, len(indices))


def measured(record: Record, model: str, labels: str = "true") -> Table:
    """Return the rows of `layers` for a network's layers whose input comes out of a ReLU."""
    first = layers(record.tables["layers"], model)[0]
    table = select(record.tables["layers"], model=model, labels=labels)
    keep = table["layer"] != first
    return {name: column[keep] for name, column in table.items()}


def leading(record: Record, name: str, model: str, layer: str, labels: str = "true") -> np.ndarray:
    """Return a column of `spectra` for the first c - 1 indices, `[seeds, c - 1]`."""
    return curve(record, "spectra", name, model=model, labels=labels, layer=layer)[1][:, :GAP]


def between(record: Record, model: str, layer: str) -> np.ndarray:
    """Return the overlap between networks for k = 1, 2, ..., mean over pairs, true labels."""
    which = {"model": model, "layer": layer, "labels": "true"}
    return curve(record, "overlaps", "overlap", **which)[1].mean(axis=0)


def true_models(record: Record, models: Iterable[str]) -> tuple[str, ...]:
    """Return the networks of a claim that is about true labels."""
    return tuple(models) if "true" in record.config.labels else ()


def undecided(name: str, text: str, lacking: str) -> Claim:
    """Return a claim that this run cannot decide."""
    return Claim(name, text, None, f"needs {lacking}")


def spread(values: np.ndarray) -> str:
    """Return mean, smallest and largest value in words."""
    return f"{values.mean():.3g} ({values.min():.3g} to {values.max():.3g})"
