"""The figures of `compare` and of `diagnose`: the error of each estimator against what it costs."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from metastep.diagnosis import Comparison, Diagnosis
from metastep_lab.figures.style import MARKERS, TICK_SIZE, Figure, new_figure, style

FLOOR = 1e-8
"""Relative errors below are drawn here: an exact method differs by rounding, or not at all."""


def comparison_figure(comparison: Comparison) -> Figure:
    """Draw relative error against time and against memory; a marker for each estimator."""
    figure, (by_time, by_memory) = new_figure(2, 1, width=9.2, height=4.4)
    for index, row in enumerate(comparison.rows):
        look = _look(index, row.estimator)
        error = max(row.relative_error, FLOOR)
        by_time.plot(row.seconds * 1e3, error, **look)
        if row.temporary_bytes is not None:
            by_memory.plot(row.temporary_bytes / 2**20, error, **look)
    _finish(figure, by_time, by_memory)
    for panel in (by_time, by_memory):
        # A range of less than a decade needs more than its powers of ten.
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    return figure


def diagnosis_figure(diagnosis: Diagnosis) -> Figure:
    """Draw the relative error of estimators against time and memory, and that of windows.

    An estimator without a finite error is left out. The marker of the recommended one is filled,
    the others are outlined.
    """
    figure, (by_time, by_memory, by_window) = new_figure(3, 1, width=12.0, height=5.2)
    drawn = [row for row in diagnosis.options if np.isfinite(row.relative_error)]
    advice = diagnosis.recommendation
    for index, row in enumerate(drawn):
        look = _look(index, row.estimator)
        if advice is None or row.estimator != advice.estimator:
            look["markerfacecolor"] = "none"
        error = max(row.relative_error, FLOOR)
        by_time.plot(row.seconds * 1e3, error, **look)
        by_memory.plot(row.memory / 2**20, error, **look)
    windows = diagnosis.windows
    errors = [max(row.relative_error, FLOOR) for row in windows]
    by_window.plot([row.window for row in windows], errors, **style(0, markers=True))
    by_window.set(xlabel="window of truncation (inner steps)", xscale="log", yscale="log")
    _finish(figure, by_time, by_memory)
    return figure


def _look(index: int, estimator: object) -> dict[str, Any]:
    return {
        "linestyle": "none",
        # From the eighth estimator on, when the colors begin again, each has another marker.
        "marker": MARKERS[(index + index // len(MARKERS)) % len(MARKERS)],
        "markersize": 8,
        "color": style(index)["color"],
        "label": str(estimator),
    }


def _finish(figure: Figure, by_time: Axes, by_memory: Axes) -> None:
    by_time.set(xlabel="time of one hypergradient (ms)", ylabel="relative error")
    by_memory.set(xlabel="memory beside inputs and outputs (MiB)")
    for panel in (by_time, by_memory):
        panel.set(xscale="log", yscale="log")
    handles, labels = by_time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=TICK_SIZE)
