"""The figures of `hessian-structure`."""

from collections.abc import Mapping
from itertools import product

import numpy as np

from metastep_lab.figures.style import Figure, Lines, line_figure, new_figure
from metastep_lab.tables import Column, Record
from metastep_lab.wu2022.hessian_structure.course_figures import (
    Drawn,
    clusters,
    embedding,
    training,
)
from metastep_lab.wu2022.hessian_structure.reading import curve, gap, layers, shown
from metastep_lab.wu2022.networks.names import MOST

OVER_LAYERS = {"kronecker", "rank-one", "training", "correspondence", "singular"}
BASES = {"input": "E[xxᵀ]", "output": "E[M]"}


def figures(record: Record) -> Mapping[str, Drawn]:
    """Draw spectra, overlaps, correspondences and the course of training."""
    model, labels = record.config.model[0], record.config.labels[0]
    drawn = {
        "kronecker": _kronecker(record, model, labels),
        "spectra": _spectra(record, model),
        "correspondence": _correspondence(record, model, labels),
        "rank-one": _rank_one(record, labels),
        "singular": _singular(record, model, labels),
        "training": training(record, model, labels),
        "clusters": clusters(record),
    }
    # Only of fully connected networks.
    if len(record.frames["embedding"]):
        drawn["logit-clusters"] = embedding(record, "logit")
        drawn["class-clusters"] = embedding(record, "class")
    plain = [name for name in record.config.model if f"{name}-BN" in record.config.model]
    if plain:
        drawn["batch-normalization"] = _batch_norm(record, plain[0], labels)
    if len(record.frames["whole"]):
        drawn["whole"] = _whole(record)
    over_indices = ("kronecker", "spectra", "rank-one", "singular", "batch-normalization", "whole")
    for name in drawn.keys() & set(over_indices):
        _mark_whole_numbers(drawn[name][0])
    if any(len(layers(record, "spectra", one)) > MOST for one in record.config.model):
        for name in drawn.keys() & OVER_LAYERS:
            figure, text = drawn[name]
            drawn[name] = figure, f"{text} Of more than {MOST} layers {MOST} are drawn."
    return drawn


Curves = dict[str, tuple[Column, Column]]


def _means(record: Record, name: str, model: str, labels: str, relative: bool = False) -> Curves:
    """Return a column of `spectra`, mean over networks, for each layer that is shown."""
    found = {}
    for layer in shown(record, "spectra", model):
        where = {"model": model, "labels": labels, "layer": layer}
        indices, values = curve(record, "spectra", name, **where)
        mean = values.mean(axis=0)
        found[layer] = indices, mean / mean[0] if relative else mean
    return found


def _mark_whole_numbers(figure: Figure) -> None:
    """Mark indices on the horizontal axes, in place."""
    for axes in figure.axes:
        last = max((np.max(line.get_xdata()) for line in axes.lines), default=0)
        step = 5 if last <= 30 else 10 if last <= 60 else 50
        axes.set_xticks([1, *range(step, int(last) + 1, step)])


def _kronecker(record: Record, model: str, labels: str) -> Drawn:
    """Figure 4.2."""
    values = Lines(
        _means(record, "true", model, labels),
        "index of the eigenvalue",
        "eigenvalue",
        title="Eigenvalues",
        y_log=True,
        dashed=_means(record, "kronecker", model, labels),
        dashed_label="Kronecker",
    )
    drawn = _means(record, "overlap", model, labels)
    overlaps = Lines(drawn, "dimension k", "overlap of top eigenspaces", title="Eigenspaces")
    return line_figure(values, overlaps, shared_legend=len(drawn) == MOST), (
        f"{model}, {labels} labels: top eigenvalues of each layer's Hessian (solid) and of its "
        "Kronecker approximation (dashed), and the overlap of their top eigenspaces, means over "
        f"networks. 1 is the same space. The theory is about the first {gap(record)}, one "
        "less than the classes."
    )


def _spectra(record: Record, model: str) -> Drawn:
    """Figure 4.3."""
    panels = []
    for labels in record.config.labels:
        both = [
            (name, _means(record, column, model, labels, relative=True))
            for column, name in (("output", "E[M]"), ("true", "H"))
        ]
        first = list(both[0][1])[:2]
        series = {f"{name} of {layer}": found[layer] for layer in first for name, found in both}
        panels.append(
            Lines(series, "index", "eigenvalue / largest", title=f"{labels} labels", y_log=True)
        )
    figure = line_figure(*panels, shared_legend=True)
    for axes in figure.axes:
        axes.axvline(gap(record) + 0.5, color="#777777", linewidth=1, linestyle=":")
    return figure, (
        f"{model}: eigenvalues of the output Hessian E[M] and of the Hessian H of two layers, "
        f"relative to the largest. A dotted line stands after {gap(record)} of them, one less than "
        "the classes."
    )


def _correspondence(record: Record, model: str, labels: str) -> Drawn:
    """Figures C.7 to C.14 and C.19 to C.21, the upper left corner of every layer."""
    names = shown(record, "spectra", model)
    figure, axes = new_figure(columns=2, rows=len(names), height=3.8 * len(names))
    images = []
    for panel, (layer, basis) in zip(axes, product(names, BASES), strict=True):
        rows = record.rows("correspondence", model=model, labels=labels, layer=layer)
        rows = rows[rows["basis"] == basis]
        found = rows.pivot(index="vector", columns="index", values="value")
        matrix = found.dropna(how="all").dropna(how="all", axis=1).to_numpy()
        panel.grid(False)
        extent = (0.5, matrix.shape[1] + 0.5, len(matrix) + 0.5, 0.5)
        images.append(panel.imshow(matrix, cmap="cividis", vmin=0, vmax=1, extent=extent))
        # `correspondence` is of the first network only.
        factored = record.rows("spectra", model=model, labels=labels, layer=layer, seed=0)
        ranks = factored[f"kronecker_{basis}"].to_numpy()[: matrix.shape[1]]
        seen = ranks <= len(matrix)
        panel.plot(
            np.arange(1, len(ranks) + 1)[seen],
            ranks[seen],
            linestyle="none",
            marker="o",
            markersize=3,
            markerfacecolor="none",
            color="#D55E00",
            label="of the Kronecker product",
        )
        panel.set(xlabel="eigenvector of H", ylabel=f"eigenvector of {BASES[basis]}")
        panel.set_title(f"{layer}, {BASES[basis]}")
        panel.set_xticks([1, *range(10, matrix.shape[1] + 1, 10)])
        panel.set_yticks([1, *range(10, len(matrix) + 1, 10)])
    figure.colorbar(images[0], ax=list(axes), label="correspondence", aspect=40)
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center")
    return figure, (
        f"{model}, {labels} labels, first network, layer by layer: how much of each eigenvector of "
        "the Hessian stands along the eigenvectors of the two factors. Circles show of which ones "
        "the eigenvectors of the Kronecker product are made. E[xxᵀ] belongs to the layer's inputs "
        "x, E[M] to its output."
    )


def _singular(record: Record, model: str, labels: str) -> Drawn:
    """Figure 4.1 (b), for every layer."""
    panels = []
    for layer in shown(record, "spectra", model):
        rows = record.rows("singular", model=model, labels=labels, layer=layer)
        series = {
            f"{vector:g}": (part["index"], part["value"]) for vector, part in rows.groupby("vector")
        }
        panels.append(
            Lines(series, "index", "singular value", title=layer, legend_title="eigenvector")
        )
    return line_figure(*panels), (
        f"{model}, {labels} labels, first network: the ten largest singular values of the first "
        "four eigenvectors of each layer's Hessian as matrices of norm 1. One that stands out "
        "means that the eigenvector is nearly an outer product."
    )


def _rank_one(record: Record, labels: str) -> Drawn:
    """Figure C.17."""
    panels = []
    for model in record.config.model:
        series = _means(record, "rank_one", model, labels)
        panels.append(Lines(series, "index of the eigenvector", "first singular value", model))
    alone = len(panels) == 1 and len(panels[0].series) == MOST
    return line_figure(*panels, shared_legend=alone), (
        f"{labels} labels: the first singular value of each top eigenvector as a matrix of norm 1, "
        "mean over networks. Near 1 the eigenvector is an outer product."
    )


def _batch_norm(record: Record, model: str, labels: str) -> Drawn:
    """Figures C.22 and C.24."""
    spectra, overlaps = {}, {}
    for name in (model, f"{model}-BN"):
        inputs = _means(record, "input", name, labels, relative=True)
        products = _means(record, "overlap", name, labels)
        for layer in list(inputs)[-2:]:
            spectra[f"{name}, {layer}"] = inputs[layer]
            overlaps[f"{name}, {layer}"] = products[layer]
    return line_figure(
        Lines(spectra, "index", "eigenvalue of E[xxᵀ] / largest", title="Inputs", y_log=True),
        Lines(overlaps, "dimension k", "overlap with the Kronecker product", title="Hessian"),
        shared_legend=True,
    ), (
        "With batch normalization (BN) and without: eigenvalues of the input autocorrelation "
        "E[xxᵀ], and how well the Kronecker product describes the top eigenspace of the Hessian, "
        "where 1 is the same space."
    )


def _whole(record: Record) -> Drawn:
    """Figure C.1."""
    panels = []
    for model, rows in record.frames["whole"].groupby("model", sort=False):
        curves = lambda rows=rows, **names: {
            label: (rows["index"], rows[name]) for label, name in names.items()
        }
        values = curves(Hessian="true", approximation="approximate", weighted="weighted")
        overlaps = curves(approximation="overlap", weighted="weighted_overlap")
        panels += [
            Lines(
                values, "index of the eigenvalue", "eigenvalue", f"{model}, eigenvalues", y_log=True
            ),
            Lines(overlaps, "dimension k", "overlap with the Hessian", f"{model}, eigenspaces"),
        ]
    return line_figure(*panels), (
        "All layers at once: eigenvalues of the Hessian and of its approximation from layer "
        "outputs and mean inputs, and the overlap of their top eigenspaces, first network; 1 is "
        f"the same space. The theory is about the first {gap(record)}."
    )
