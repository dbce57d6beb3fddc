"""The figures of `anchor-vectors`: Figures 3.1 to 3.3 and B.1 to B.4."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, Lines, line_figure, new_figure, style
from metastep_lab.tables import Frame, Record, curves
from metastep_lab.wu2022.anchor_vectors.published import MODELS, SIZES
from metastep_lab.wu2022.anchor_vectors.reading import model_names, shown_bulk

UNTRAINED = "-untrained"


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw errors by bulk size, spectra, partition functions, and norms and cosines of words."""
    return {
        "figure-3-1-errors": _error_figure(record),
        "figure-3-2-singular-values": _spectrum_figure(record),
        "figure-3-3-partition-functions": _partition_figure(record),
        "figure-b-1-b-2-words": _word_figure(record),
    }


def _twins(record: Record, rows: Frame, x: str, y: str) -> tuple[dict, dict]:
    """Return curves of the trained models, and those of the same models untrained, by name."""
    drawn, names = curves(rows, "model", x, y), model_names(record, True)
    controls = {name: drawn[name + UNTRAINED] for name in names if name + UNTRAINED in drawn}
    return {name: drawn[name] for name in names}, controls


def _error_figure(record: Record) -> tuple[Figure, str]:
    top = sorted(record.config.top)
    label, error = "words k that the bulk leaves out", "mean squared error (nats²)"
    rows = record.frames["mse"].sort_values("top", kind="stable")
    # Places, not k: a logarithmic axis has none for k = 0.
    rows = rows.assign(place=rows["top"].map(top.index), part=rows["mse"] / rows["variance"])
    trained, controls = _twins(record, rows, "place", "mse")
    unexplained, _ = _twins(record, rows, "place", "part")
    paper = {one.title: (np.arange(len(SIZES)), one.errors) for one in MODELS.values()}
    figure = line_figure(
        Lines(
            series=trained,
            x_label=label,
            y_label=error,
            title="this run",
            y_log=True,
            dashed=controls,
            dashed_label="untrained",
        ),
        Lines(series=paper, x_label=label, y_label=error, title="thesis, Table B.2", y_log=True),
        Lines(
            series=unexplained,
            x_label=label,
            y_label="mean squared error / variance",
            title="this run, 1 - R²",
            y_log=True,
        ),
        columns=3,
    )
    figure.set_size_inches(14.5, 4.6)
    for axes, ticks in zip(figure.axes, (top, SIZES, top), strict=True):
        axes.set_xticks(range(len(ticks)), [str(k) for k in ticks])
        axes.legend(fontsize=8)
    text = (
        "Mean squared error with which one vector, the anchor, predicts the logarithm of the sum "
        "over all but the k most probable words, in this run (untrained models dashed) and in the "
        "thesis; and the part of the variance that it leaves unexplained in the trained models."
    )
    return figure, text


def _spectrum_figure(record: Record) -> tuple[Figure, str]:
    trained, controls = _twins(record, record.frames["spectrum"], "index", "singular_value")
    relative = lambda curves: {name: (x, y / y.iloc[0]) for name, (x, y) in curves.items()}
    panel = Lines(
        series=relative(trained),
        x_label="index",
        y_label="singular value / the largest",
        x_log=True,
        y_log=True,
        dashed=relative(controls),
        dashed_label="untrained",
    )
    text = (
        "Singular values of the dictionaries, the matrices of all word vectors, relative to the "
        "largest: after training, and before it dashed. A steep fall after the first means that "
        "one direction stands out."
    )
    return line_figure(panel), text


def _partition_figure(record: Record) -> tuple[Figure, str]:
    names, bulk = model_names(record, True), shown_bulk(record.config.top)
    columns = min(2, len(names))
    drawn = dict(list(record.frames["histograms"].groupby(["model", "quantity"])))
    figure, axes = new_figure(columns, -(-len(names) // columns))
    labels = {"log Z": "log Z", "log Z_bulk": f"log Z_bulk, k = {bulk}"}
    for place, name in zip(axes, names, strict=False):
        for index, (quantity, label) in enumerate(labels.items()):
            cells = drawn[name, quantity]
            edges = np.append(cells["lower"], cells["upper"].iloc[-1])
            density = cells["count"] / (cells["count"].sum() * np.diff(edges))
            look = style(index)
            place.stairs(density, edges, color=look["color"], fill=True, alpha=0.25)
            place.stairs(
                density, edges, color=look["color"], linestyle=look["linestyle"], label=label
            )
        place.set(title=name, xlabel="log partition function (nats)", ylabel="density (1 / nat)")
        place.legend()
    for place in axes[len(names) :]:
        place.set_axis_off()
    text = (
        f"Histograms over the tokens, for each trained model: Z is the sum of the exponential "
        f"scores of all words, Z_bulk that of all but the {bulk} most probable ones. A narrow one "
        "would be nearly constant."
    )
    return figure, text


def _word_figure(record: Record) -> tuple[Figure, str]:
    panels, drawn = [], dict(list(record.frames["histograms"].groupby("quantity")))
    labels = {"norm": "norm of a word", "cosine": "cosine of two random words"}
    for quantity, label in labels.items():
        cells = drawn[quantity]
        totals = cells.groupby("model")["count"].transform("sum")
        density = cells["count"] / ((cells["upper"] - cells["lower"]) * totals)
        rows = cells.assign(center=(cells["lower"] + cells["upper"]) / 2, density=density)
        trained, controls = _twins(record, rows, "center", "density")
        panels.append(
            Lines(
                series=trained,
                x_label=label,
                y_label="density",
                y_log=True,
                dashed=controls,
                dashed_label="untrained",
            )
        )
    text = (
        "Densities of the norms of the word vectors and of the cosines of random pairs of them, "
        "before training dashed. Vectors with mostly positive cosines lie in a cone."
    )
    return line_figure(*panels, shared_legend=True), text
