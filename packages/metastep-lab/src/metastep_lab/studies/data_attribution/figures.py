"""The figures of `data-attribution`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metastep.attribution.attribute import CLOSE, SMOOTH
from metastep_lab.figures.style import MARKERS, Figure, new_figure, style
from metastep_lab.studies.data_attribution.claims import BARS, relation
from metastep_lab.studies.data_attribution.methods import METHODS
from metastep_lab.tables import Frame, Record

RANDOM = "at random"


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the LDS, single removals, the warnings, the curves and the spoilt examples."""
    drawn = {
        "lds": _lds_figure(record),
        "removals": _removals_figure(record),
        "warnings": _warnings_figure(record),
        "leave-out": _curves_figure(record),
    }
    if len(record.frames["recall"]):
        drawn["spoilt"] = _recall_figure(record)
    return drawn


def _draw_methods(
    panel: Any, rows: Frame, methods: Sequence[str], by: str, value: str, scale: float = 1
) -> None:
    """Draw means over seeds with their standard errors, one line for each method."""
    for index, method in enumerate(methods):
        found = rows.query("method == @method").groupby(by)[value]
        if found.ngroups:
            # A group's own mean skips NaN: the seeds that failed would vanish from the line.
            mean, error = found.agg(lambda one: one.mean(skipna=False)), found.sem().fillna(0)
            look = {"label": method, "capsize": 3, **style(index, True)}
            panel.errorbar(scale * mean.index, mean, yerr=error, **look)


def _lds_figure(record: Record) -> tuple[Figure, str]:
    config = record.config
    figure, axes = new_figure(columns=len(config.models))
    for panel, model in zip(axes, config.models, strict=True):
        rows = record.frames["scores"].query("model == @model")
        _draw_methods(panel, rows, METHODS, "speed", "lds")
        panel.axhline(BARS[model], color="black", linestyle=":", linewidth=1)
        panel.set(xscale="log", xlabel="step size / smooth step size", title=model)
        panel.set_xticks(config.speeds, [f"{speed:g}" for speed in config.speeds])
        panel.minorticks_off()
        panel.set_ylim(-0.25, 1.05)
    axes[0].set_ylabel("LDS")
    axes[0].legend(loc="lower left")
    text = (
        "The linear datamodelling score of each method against the step size: 1 where the scores "
        f"rank {config.subsets} random removals of {config.share:.0%} of the examples as training "
        "without them does. Means over seeds with their standard errors; dotted, the bar. A method "
        "is not drawn where its scores are not finite."
    )
    return figure, text


def _removals_figure(record: Record) -> tuple[Figure, str]:
    config, rows = record.config, record.frames["removals"]
    speeds = list(dict.fromkeys((config.speeds[0], config.speeds[-1])))
    figure, axes = new_figure(columns=len(config.models), rows=len(speeds))
    cells = [(speed, model) for speed in speeds for model in config.models]
    for panel, (speed, model) in zip(axes, cells, strict=True):
        for query, points in rows.query("speed == @speed and model == @model").groupby("query"):
            finite = points[np.isfinite(points[["predicted", "true"]]).all(axis=1)]
            look = style(int(query))["color"], MARKERS[int(query)]
            panel.plot(
                finite["predicted"],
                finite["true"],
                linestyle="none",
                color=look[0],
                marker=look[1],
                markersize=4,
                label=f"query {int(query) + 1}",
            )
        panel.set(xlabel="predicted change", ylabel="true change")
        panel.set_title(f"{model}, step size x {speed:g}")
        panel.locator_params(nbins=5)
    axes[0].legend()
    text = (
        "The change of the loss of a few queries for each random removal: what the exact scores "
        "predict and what training without these examples gave, with the first seed. Above at the "
        "smooth step size, below at the largest; what is not finite is not drawn."
    )
    return figure, text


def _warnings_figure(record: Record) -> tuple[Figure, str]:
    exact = record.frames["scores"].query("method == 'exact'")
    runs = exact.merge(record.frames["training"], on=["model", "speed", "seed"])
    figure, axes = new_figure(columns=2)
    for index, model in enumerate(record.config.models):
        of_model = runs.query("model == @model")
        # The worst predictions must not leave the axis.
        error = of_model["removal_error"].fillna(np.inf).clip(1e-3, 1e3)
        for panel, known in zip(axes, (of_model["metasmoothness"], error), strict=True):
            color, marker = style(index)["color"], MARKERS[index]
            panel.plot(
                known, of_model["lds"].fillna(0), marker, color=color, label=model, markersize=6
            )
    axes[0].axvline(SMOOTH, color="black", linestyle=":", linewidth=1)
    axes[0].set(xlabel="metasmoothness", ylabel="LDS of exact scores")
    axes[1].axvline(CLOSE, color="black", linestyle=":", linewidth=1)
    label = "relative error of one predicted removal"
    axes[1].set(xlabel=label, xscale="log", xlim=(0.02, 2e3))
    for panel in axes:
        panel.set_ylim(-0.25, 1.05)
    axes[0].legend()
    found = relation(record)
    text = (
        "What was measured before anything was left out, and the LDS of the exact scores, one "
        "point for each model, step size and seed. Dotted: left of it in the left panel and right "
        "of it in the right one the scores are not believed. Rank correlation "
        f"{found['smoothness']:.2f} and {found['error']:.2f}; of the warning itself "
        f"{found['warning']:.2f}. Scores that are not finite count "
        "as 0, errors above 1000 as 1000."
    )
    return figure, text


def _curves_figure(record: Record) -> tuple[Figure, str]:
    config, curves = record.config, record.frames["curves"]
    figure, axes = new_figure(columns=len(config.models))
    for panel, model in zip(axes, config.models, strict=True):
        rows = curves.query("model == @model")
        _draw_methods(panel, rows, (*METHODS, RANDOM), "removed", "rise", scale=100)
        panel.set(xlabel="examples left out (%)", title=model)
    axes[0].set_ylabel("rise of the mean loss of the queries (nats)")
    axes[0].legend()
    text = (
        "How much the mean loss of the queries rises when the model is trained without the "
        "examples that a method calls most helpful for them, at the smooth step size. Means over "
        "seeds with their standard errors."
    )
    return figure, text


def _recall_figure(record: Record) -> tuple[Figure, str]:
    config, recall = record.config, record.frames["recall"]
    figure, axes = new_figure(columns=len(config.models))
    for panel, model in zip(axes, config.models, strict=True):
        rows = recall.query("model == @model")
        _draw_methods(panel, rows, METHODS, "checked", "recall", scale=100)
        shares = np.array([0, 100 * recall["checked"].max()])
        panel.plot(shares, shares / 100, color="black", linestyle=":", label="by chance")
        panel.set(xlabel="examples checked (%)", title=model, ylim=(0, 1.02))
    axes[0].set_ylabel("share of the spoilt examples found")
    axes[0].legend(loc="lower right")
    what = "labels, or words drawn at random," if "transformer" in config.models else "labels"
    text = (
        f"{config.planted:.0%} of the training examples have wrong {what} on purpose. How many of "
        "them are among the examples with the most harmful scores, summed over the queries, at the "
        "smooth step size; means over seeds with their standard errors."
    )
    return figure, text
