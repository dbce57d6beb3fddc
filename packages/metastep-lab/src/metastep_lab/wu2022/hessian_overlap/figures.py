"""The figures of `hessian-overlap`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, Lines, line_figure
from metastep_lab.tables import Column, Record
from metastep_lab.wu2022.hessian_overlap.reading import layers, mean_curve, peaks
from metastep_lab.wu2022.networks.names import drawn

Curves = dict[str, tuple[Column, Column]]


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the overlaps, those of the products, and what the eigenvectors are made of."""
    return {
        "overlap": _overlap(record),
        "products": _products(record),
        "mean-input": _mean_input(record),
    }


def _relative(record: Record, model: str, layer: str) -> Column:
    outputs = record.rows("layers", model=model, layer=layer)["outputs"].iloc[0]
    return np.arange(1, len(mean_curve(record, model, layer)) + 1) / outputs


def _overlap(record: Record) -> tuple[Figure, str]:
    """Figures 4.4, C.2 to C.6, C.18 and C.23."""
    alignment = peaks(record).set_index(["model", "layer"])["alignment"]
    panels = []
    for model in record.config.model:
        series: Curves = {}
        bands, predicted = {}, {}
        for layer in drawn(layers(record, model)):
            k = _relative(record, model, layer)
            pairs = record.rows("overlaps", model=model, layer=layer)
            spread = pairs.groupby("index")["overlap"].agg(["min", "max"])
            series[layer] = k, mean_curve(record, model, layer)
            bands[layer] = spread["min"], spread["max"]
            # Theorem C.7.1 gives (k / m) (t_1 . t_2)^2 up to k = m, of hidden layers alone: the
            # units of the output layer cannot be permuted.
            if layer != layers(record, model)[-1]:
                rise = k[k <= 1]
                predicted[layer] = rise, rise * alignment[model, layer]
        panels.append(_overlaps(model, series, predicted, "Theorem C.7.1", bands))
    return _with_room(line_figure(*panels)), (
        "Overlap of the top k-dimensional eigenspaces of independently trained networks, layer by "
        "layer, mean and range over pairs; 1 is the same space. The theory has a peak at k = m. "
        "Dashed: the overlap that Theorem C.7.1 predicts for hidden layers, if its condition holds."
    )


def _products(record: Record) -> tuple[Figure, str]:
    """Appendix C.7.2: what the factors predict."""
    panels = []
    for model in record.config.model:
        series: Curves = {}
        products: Curves = {}
        for layer in drawn(layers(record, model))[:-1]:
            k = _relative(record, model, layer)
            series[layer] = k, mean_curve(record, model, layer)
            products[layer] = k, mean_curve(record, model, layer, "kronecker")
        panels.append(_overlaps(model, series, products, "products"))
    return _with_room(line_figure(*panels)), (
        "Overlap of the top eigenspaces of the Hessians of hidden layers (solid) and of their "
        "Kronecker products E[M] ⊗ E[xxᵀ] (dashed), mean over pairs of networks. The products show "
        "where the overlap has its peak without the Hessians."
    )


def _overlaps(
    model: str,
    series: Curves,
    dashed: Curves,
    dashed_label: str,
    bands: Mapping[str, tuple[Column, Column]] | None = None,
) -> Lines:
    """Return the panel of one network: measured overlaps, and dashed ones to compare with."""
    return Lines(
        series,
        "dimension k / outputs m of the layer",
        "overlap of top eigenspaces",
        title=model,
        bands=bands or {},
        dashed=dashed,
        dashed_label=dashed_label,
    )


def _mean_input(record: Record) -> tuple[Figure, str]:
    """Figures C.21 (e) and (f), for every layer."""
    panels = []
    for model in record.config.model:
        rows = record.rows("spectra", model=model)
        means = rows.groupby(["layer", "index"])["along"].mean()
        series = {
            layer: (_relative(record, model, layer), means[layer].to_numpy())
            for layer in drawn(layers(record, model))
        }
        panels.append(
            Lines(
                series,
                "index of the eigenvector / outputs m",
                "part along the first eigenvector of E[xxᵀ]",
                title=model,
            )
        )
    return _with_room(line_figure(*panels)), (
        "How much of each top eigenvector of a layer's Hessian stands along the first eigenvector "
        "of its input autocorrelation E[xxᵀ], which behind a ReLU is the mean input; mean over "
        "networks. 1 up to index m is the condition under which the overlap has its peak at m."
    )


def _with_room(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set_ylim(0, 1.5 * axes.get_ylim()[1])  # room for the legend
    return figure
