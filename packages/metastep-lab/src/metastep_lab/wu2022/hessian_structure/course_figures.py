"""The figures of `hessian-structure` about the course of training."""

import numpy as np

from metastep_lab.figures.style import MARKERS, Figure, Lines, line_figure, new_figure, style
from metastep_lab.tables import Frame, Record
from metastep_lab.wu2022.hessian_structure.clusters import DERIVATIVES
from metastep_lab.wu2022.hessian_structure.reading import gap, shown

Drawn = tuple[Figure, str]
LAST = 20  # the last index that is drawn


def training(record: Record, model: str, labels: str) -> Drawn:
    """Figures C.15 and C.16."""
    rows = record.rows("trajectory", model=model, labels=labels)
    # A logarithmic axis has no place for epoch 0.
    by_epoch = rows.assign(epoch=rows["epoch"] + 1).pivot(
        index="epoch", columns=["layer", "index"], values=["input", "output"]
    )
    names = shown(record, "trajectory", model)
    # The last hidden layer: E[M] of the output layer has c eigenvalues only.
    inputs, middle = by_epoch["input"], by_epoch["output"][names[-2]]
    ratios = {name: (by_epoch.index, inputs[name][1] / inputs[name][2]) for name in names}
    values = {
        f"{index}": (by_epoch.index, middle[index])
        for index in (1, 2, gap(record), gap(record) + 1, LAST)
        if index in middle
    }
    return line_figure(
        Lines(ratios, "epoch + 1", "λ₁ / λ₂ of E[xxᵀ]", title="Inputs", x_log=True),
        Lines(
            values,
            "epoch + 1",
            f"eigenvalue of E[M], {names[-2]}",
            title="Outputs",
            x_log=True,
            y_log=True,
            legend_title="index",
        ),
    ), (
        f"{model}, {labels} labels, first network, during training: the first eigenvalue of the "
        "input autocorrelation E[xxᵀ] as a multiple of the second, and some eigenvalues of the "
        f"output Hessian E[M] on a log scale, of which the theory has {gap(record)} stand out."
    )


def clusters(record: Record) -> Drawn:
    """Figures C.25 and C.26, as numbers."""
    panels = []
    for labels in record.config.labels:
        series = {}
        for model in record.config.model:
            rows = record.rows("clusters", model=model, labels=labels)
            for column, name in (("logit_share", "logits"), ("class_share", "classes")):
                series[f"{model}, {name}"] = rows["epoch"] + 1, rows[column]
        panels.append(
            Lines(series, "epoch + 1", "share in the centers", title=f"{labels} labels", x_log=True)
        )
    return line_figure(*panels, shared_legend=True), (
        "Which share of the mean squared rows of the output Hessian's factor is that of their "
        "centers by logit and by class, in the layer fc1, first network: 1 would be perfect "
        "clusters."
    )


def embedding(record: Record, group: str) -> Drawn:
    """Figure C.25 by logit, and Figure C.26 by class."""
    table = record.frames["embedding"]
    epoch = table["epoch"].min() if group == "logit" else table["epoch"].max()
    figure, axes = new_figure(columns=2, height=4.6)
    near, classes = [], gap(record) + 1
    for panel, symbol, by in zip(axes, ("Γ", "Δ"), DERIVATIVES, strict=True):
        rows = table[(table["epoch"] == epoch) & (table["by"] == by)]
        shown, approximate = rows[rows["class"] >= 0], rows[rows["class"] < 0]
        near.append(f"{_kept(shown, group):.0%} ({symbol})")
        for index in range(classes):
            points = shown[shown[group] == index]
            look = style(index, markers=True) | {"linestyle": "none"}
            if index >= len(MARKERS):
                look["markerfacecolor"] = "none"
            panel.plot(points["x"], points["y"], label=f"{index}", **look)
        if group == "logit":
            for index, x, y in approximate[["logit", "x", "y"]].itertuples(index=False):
                look = {"color": style(int(index))["color"], "markersize": 12}
                panel.plot(x, y, "+", label="" if index else "approximation", **look)
        title = f"{symbol}: by the {by} of fc1"
        panel.set(xlabel="t-SNE coordinate 1", ylabel="t-SNE coordinate 2", title=title)
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, title=group, loc="outside lower center", ncols=6)
    # Of the c^2 - 1 other points c - 1 are of the same group.
    chance = (classes - 1) / (classes**2 - 1)
    crosses = (
        " Crosses in the color of a logit approximate its center by the later weights (C.266)."
        if group == "logit"
        else ""
    )
    first = table.iloc[0]
    return figure, (
        f"{first['model']}, {first['labels']} labels, first network, epoch {epoch:g}: "
        "derivatives of each logit by the output (Γ) and by the weight (Δ) of fc1, scaled as in "
        "the factor N of the Hessian, mean over the examples of each class. t-SNE puts near each "
        f"other in the plane what is near in many dimensions; marks show the {group}. The nearest "
        f"neighbor is of the same {group} for {' and '.join(near)} of the points; chance is "
        f"{chance:.0%}.{crosses}"
    )


def _kept(rows: Frame, group: str) -> float:
    """Return the share of points whose nearest neighbor belongs to the same group."""
    places, groups = rows[["x", "y"]].to_numpy(), rows[group].to_numpy()
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    return float(np.mean(groups[np.argmin(distances, axis=1)] == groups))
