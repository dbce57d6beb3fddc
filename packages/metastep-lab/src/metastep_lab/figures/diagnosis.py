"""The figure of `diagnose`: the error of every estimator against time, memory and window."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from metastep_lab.figures.comparison import FLOOR
from metastep_lab.figures.style import MARKERS, TICK_SIZE, Figure, new_figure, style


class Row(Protocol):
    """The fields of an estimator that are drawn; those of `Diagnosis.options` have them."""

    @property
    def estimator(self) -> object:
        """Its name is its text."""
        ...

    @property
    def relative_error(self) -> float:
        """Against the exact gradient."""
        ...

    @property
    def seconds(self) -> float:
        """Of one hypergradient."""
        ...

    @property
    def memory(self) -> int:
        """Bytes."""
        ...


class Window(Protocol):
    """The fields of a window that are drawn; those of `Diagnosis.windows` have them."""

    @property
    def window(self) -> int:
        """The number of last steps."""
        ...

    @property
    def relative_error(self) -> float:
        """Against the exact gradient."""
        ...


def diagnosis_figure(
    options: Sequence[Row], windows: Sequence[Window], recommended: object = None
) -> Figure:
    """Draw the relative error of estimators against time and memory, and that of windows.

    An estimator without a finite error is left out. The marker of the recommended one is filled,
    the others are outlined. There is one legend below the three panels.
    """
    figure, (by_time, by_memory, by_window) = new_figure(3, 1, width=12.0, height=5.2)
    drawn = [row for row in options if np.isfinite(row.relative_error)]
    for index, row in enumerate(drawn):
        color = style(index)["color"]
        look = {
            "linestyle": "none",
            "marker": MARKERS[(index + index // len(MARKERS)) % len(MARKERS)],
            "markersize": 9,
            "color": color,
            "markerfacecolor": color if row.estimator == recommended else "none",
            "label": str(row.estimator),
        }
        error = max(row.relative_error, FLOOR)
        by_time.plot(row.seconds * 1e3, error, **look)
        by_memory.plot(row.memory / 2**20, error, **look)
    errors = [max(row.relative_error, FLOOR) for row in windows]
    by_window.plot([row.window for row in windows], errors, **style(0, markers=True))
    by_time.set(xlabel="time of one hypergradient (ms)", ylabel="relative error")
    by_memory.set(xlabel="memory beside inputs and outputs (MiB)")
    by_window.set(xlabel="window of truncation (inner steps)")
    for panel in (by_time, by_memory, by_window):
        panel.set(xscale="log", yscale="log")
    handles, labels = by_time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=TICK_SIZE)
    return figure
