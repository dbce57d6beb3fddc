"""The figures of `dictionary-losses`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Record


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the gain of the built dictionary, and the masked losses."""
    series = {}
    rows = record.frames["built"].query("length == 2")
    for (dim, count, norm), part in rows.groupby(["dim", "n_nonzero", "norm"]):
        if dim == max(record.config.dims):
            series[f"k = {count:g}, |z| = {norm:g}"] = part["atoms"], part["gain"]
    built = Lines(
        series,
        "atoms of the built dictionary",
        "gain in loss / (k sigma²)",
        f"Theorem 2.3.2, d = {max(record.config.dims)}",
        x_log=True,
    )
    rows = record.frames["masked"]
    shown = lambda name: (rows["scale"], np.maximum(rows[f"{name}_excess"], 1e-6))
    masked = Lines(
        {"true dictionary": shown("true"), "built dictionary": shown("built")},
        "size of the codes sigma_z / sigma",
        "masked loss above the bound / noise",
        "Theorem 2.3.6",
        x_log=True,
        y_log=True,
    )
    text = (
        "Left: by how much the reconstruction loss of a dictionary that is built to fit the noise "
        "is below that of the true one, in units of k noise variances (k atoms in each signal), "
        "against its number of atoms. Right: the loss on hidden coordinates above that of the best "
        "prediction that knows every support, for the true and for the built dictionary, against "
        "the size of the signals."
    )
    return {"losses": (line_figure(built, masked), text)}
