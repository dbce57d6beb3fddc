"""The figures of `task-interaction`: Figure 6 and the tuned similarities."""

from collections.abc import Mapping

import numpy as np

from metastep_lab.figures.style import Figure, Lines, draw_heatmap, line_figure, new_figure
from metastep_lab.shaban2019.task_interaction.claims import closest, coupling, tuned
from metastep_lab.tables import Record

SHORT_NAME = 3  # letters that fit below a column
MOST_CLASSES = 12  # in one picture


def figures(record: Record) -> Mapping[str, tuple[Figure, str]]:
    """Draw Figure 6 and the tuned similarities."""
    return {"figure-6": _progress_figure(record), "similarities": _coupling_figure(record)}


def _progress_figure(record: Record) -> tuple[Figure, str]:
    def panel(column: str, label: str, title: str, windows: list[float], log: bool) -> Lines:
        series, bands = {}, {}
        for window in windows:
            rows = record.frames["history"].query("window == @window")
            values = rows.groupby("step")[column].agg(["mean", "min", "max"])
            series[f"K = {window:g}"] = values.index, values["mean"]
            bands[f"K = {window:g}"] = values["min"], values["max"]
        shown = bands if column == "cosine" else {}
        return Lines(series, "outer step", label, title, y_log=log, bands=shown)

    windows = list(tuned(record, "validation_loss"))
    figure = line_figure(
        panel("validation_loss", "cross-entropy (nats)", "Validation loss", windows, False),
        panel("gradient_norm", "|d|", "Exact hypergradient", windows, True),
        panel("cosine", "cosine", "Estimate and exact", windows[:-1] or windows, False),
        columns=3,
    )
    text = (
        "Mean over trials while tuning with window K: the validation loss; the norm |d| of the "
        "exact hypergradient, on a log scale; and the cosine of the angle between the estimated "
        "and the exact hypergradient, with bands from the smallest to the largest trial: 1 is the "
        "same direction, below 0 is uphill."
    )
    return figure, text


def _coupling_figure(record: Record) -> tuple[Figure, str]:
    mean = coupling(record)
    chosen = np.sort(np.argsort(-np.nanmax(mean, axis=0), kind="stable")[:MOST_CLASSES])
    names = [str(record.arrays["classes"][one]) for one in chosen]
    shown = "every two classes" if len(chosen) == len(mean) else f"{len(chosen)} classes that share"
    mean = mean[np.ix_(chosen, chosen)]
    figure, axes = new_figure(width=8.0, height=6.4)
    draw_heatmap(
        axes[0],
        np.round(np.log10(mean), 1) + 0.0,  # no negative zero
        x_ticks=names,
        y_ticks=names,
        x_label="class",
        y_label="class",
        color_label="log10 of C",
        title=f"Similarity found with window {tuned(record, 'stability').columns[-1]:g}",
    )
    if max(map(len, names)) > SHORT_NAME:
        axes[0].tick_params(axis="x", rotation=45)
    first, second = closest(record)
    text = (
        f"The tuned similarity C of {shown}, mean over trials, as its logarithm to base "
        f"10: -2 is 0.01. The larger it is, the nearer the two models are held. Those of "
        f"{first} and {second} are pulled together most."
    )
    return figure, text
