"""The figures of `label-noise`: detection and test accuracy by method."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import MARKERS, Figure, new_figure, style
from metastep_lab.tables import Record

LEVELS = ("none", "clean", "noisy")
LOOK = (
    "With its standard error, for each method and kind of noise (the part of the labels replaced "
    "by random ones, or classes mistaken for similar ones), by what validation set it was given. "
    "Small loss flags examples of large loss, plain training those that its model takes for "
    "another class, the validation model knows only the validation set."
)
"""How all figures are to be read."""


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw detection and test accuracy by method, and the trade of precision for recall."""
    return {
        "f1": (
            _dots(record, "f1", "F1 score of finding wrong labels"),
            f"How well wrong labels are found: the mean F1 score over seeds. {LOOK}",
        ),
        "roc-auc": (
            _dots(record, "roc_auc", "area under the ROC curve"),
            f"How well each method ranks wrong labels above correct ones, whatever its threshold. "
            f"{LOOK}",
        ),
        "test-accuracy": (
            _dots(record, "test_accuracy", "test accuracy"),
            "The accuracy on clean test examples of the model that each method ends with: but for "
            f"plain training, it is trained on what was not flagged. {LOOK}",
        ),
    }


def _dots(record: Record, name: str, label: str) -> Figure:
    noises, summary = record.config.noise, record.frames["summary"]
    methods = list(dict.fromkeys(summary["method"]))
    figure, axes = new_figure(columns=len(noises), width=2.2 + 3.1 * len(noises), height=4.2)
    for place, (panel, noise) in enumerate(zip(axes, noises, strict=True)):
        for index, level in enumerate(LEVELS):
            rows = summary.query("noise == @noise and validation == @level")
            heights = [methods.index(method) + 0.22 * (index - 1) for method in rows["method"]]
            panel.errorbar(
                rows[name],
                heights,
                xerr=np.nan_to_num(rows[f"{name}_error"]),
                linestyle="none",
                marker=MARKERS[index],
                markersize=6,
                capsize=3,
                color=style(index)["color"],
                label=level,
            )
        panel.set(xlabel=label, title=noise)
        panel.set_yticks(range(len(methods)), methods if place == 0 else [""] * len(methods))
        panel.set_ylim(len(methods) - 0.5, -0.5)
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, title="validation set's labels")
    return figure
