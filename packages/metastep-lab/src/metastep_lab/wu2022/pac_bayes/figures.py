"""The figures of `pac-bayes`."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import MARKERS, Figure, Lines, line_figure, new_figure, style
from metastep_lab.tables import Frame, Record, curves
from metastep_lab.wu2022.pac_bayes.claims import NAMES

SHOWN = {"base": "BASE", **NAMES}
METHODS = (
    "BASE draws every weight independently. The others draw along the eigenvectors of the layers' "
    "Hessians, which are computed once (APPR), repeatedly (ITER), more and more rarely (ITER(D)), "
    "or repeatedly and in part from the weights (ITER.M)."
)
"""The meaning of the names in the figures."""


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw the bounds, their course, and the variances by eigenvalue."""
    drawn = {
        "bounds": (
            _bounds_figure(record),
            "For each method the bound on the error of a network whose weights are drawn at "
            "random around the trained ones, its error on training and on held-out examples, mean "
            f"and range over seeds, after equally many steps. {METHODS}",
        ),
        "history": (
            _history_figure(record),
            "The two parts of what is minimized, against the epoch, first seed: the loss of the "
            "random network, and the penalty sqrt(B_RE / 2) for how far its distribution is from "
            f"the prior one, on a log scale. {METHODS}",
        ),
        "thesis": (
            _thesis_figure(record),
            "Bounds computed again from the other columns of Table C.8, less the printed ones. "
            "All agree to rounding but those at the ceiling of the prior variance, the largest "
            "that the bound allows, which are printed too low.",
        ),
    }
    if not record.frames["variances"].empty:
        drawn["variances"] = (
            line_figure(
                Lines(
                    curves(_named(record, "variances"), "method", "index", "log_variance"),
                    "group of directions (for BASE: of weights)",
                    "log variance, mean over the group",
                )
            ),
            "Logarithm of the posterior's variance in the first layer. Its directions are ordered "
            "by the eigenvalues of the Kronecker product E[M] ⊗ E[xxᵀ], the largest first, and put "
            f"into groups of equal size; those of BASE are its weights in their order. {METHODS}",
        )
    return drawn


def _named(record: Record, table: str) -> Frame:
    """Return the rows of the first kind of labels, with the names of the methods in figures."""
    rows = record.frames[table]
    return rows[rows["labels"] == record.config.labels[0]].replace({"method": SHOWN})


def _bounds_figure(record: Record) -> Figure:
    labels, methods = record.config.labels, list(record.config.methods)
    figure, axes = new_figure(columns=len(labels))
    shown = {"bound": "bound", "train_error": "training error", "test_error": "test error"}
    for panel, kind in zip(axes, labels, strict=True):
        rows = record.frames["bounds"].query("labels == @kind").groupby("method")
        for index, (name, label) in enumerate(shown.items()):
            values = rows[name].agg(["mean", "min", "max"]).loc[methods]
            panel.errorbar(
                np.arange(len(methods)) + 0.12 * (index - 1),
                values["mean"],
                yerr=[values["mean"] - values["min"], values["max"] - values["mean"]],
                linestyle="none",
                marker=MARKERS[index],
                markersize=6,
                capsize=3,
                color=style(index)["color"],
                label=label,
            )
        panel.set_xticks(range(len(methods)), [SHOWN[method] for method in methods])
        guessing = 1 - 1 / record.config.classes
        panel.axhline(guessing, color="#777777", linewidth=1, linestyle=":", label="guessing")
        panel.set(ylabel="error rate", title=f"{kind} labels", ylim=(0, None))
        panel.set_xlim(-0.5, len(methods) - 0.5)
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=4)
    return figure


def _history_figure(record: Record) -> Figure:
    rows = _named(record, "history").query("seed == 0")
    drawn = lambda name: curves(rows, "method", "epoch", name)
    return line_figure(
        Lines(drawn("loss"), "epoch", "mean surrogate of the error", title="loss"),
        Lines(drawn("penalty"), "epoch", "sqrt(B_RE / 2)", title="penalty", y_log=True),
        shared_legend=True,
    )


def _thesis_figure(record: Record) -> Figure:
    figure, axes = new_figure()
    for ceiling, label in enumerate(("below the ceiling", "at the ceiling c")):
        rows = record.frames["thesis"].query("ceiling == @ceiling")
        axes[0].plot(
            rows["printed"],
            1e4 * rows["difference"],
            linestyle="none",
            marker=MARKERS[ceiling],
            color=style(ceiling)["color"],
            label=f"prior variance {label}",
        )
    axes[0].axhspan(-1, 1, color="#cccccc", alpha=0.5, label="1e-4", linewidth=0)
    axes[0].set(xlabel="bound printed in Table C.8", ylabel="recomputed - printed, in 1e-4")
    axes[0].legend()
    return figure
