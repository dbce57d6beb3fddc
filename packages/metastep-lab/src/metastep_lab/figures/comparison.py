"""The figure of `compare`: the error of each estimator against its time and memory."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from matplotlib.ticker import LogLocator, NullFormatter

from metastep_lab.figures.style import MARKERS, TICK_SIZE, Figure, new_figure, style

FLOOR = 1e-8
"""Relative errors below are drawn here: an exact method differs by rounding, or not at all."""


class Row(Protocol):
    """The fields of a row that are drawn; the rows of `Comparison.rows` have them."""

    @property
    def estimator(self) -> object:
        """Its name is its text."""
        ...

    @property
    def relative_error(self) -> float:
        """Against the reference."""
        ...

    @property
    def seconds(self) -> float:
        """Of one hypergradient."""
        ...

    @property
    def temporary_bytes(self) -> int | None:
        """Memory beside inputs and outputs; None where unknown."""
        ...


class Point(NamedTuple):
    """A row that was read back from a table."""

    estimator: str
    relative_error: float
    seconds: float
    temporary_bytes: int | None


def comparison_figure(panels: Mapping[str, Sequence[Row]]) -> Figure:
    """Draw relative error against time and against memory, a marker for each estimator.

    `panels` has rows by title, such as `{"my problem": compare(...).rows}`, with the same
    estimators, in the same order, in each. There are two panels for each title, and one legend
    below.
    """
    figure, axes = new_figure(2, len(panels), width=9.2, height=3.0 * len(panels) + 1.4)
    pairs = axes.reshape(-1, 2)
    for (title, rows), (by_time, by_memory) in zip(panels.items(), pairs, strict=True):
        for index, row in enumerate(rows):
            look = {
                "linestyle": "none",
                "marker": MARKERS[(index + index // len(MARKERS)) % len(MARKERS)],
                "markersize": 8,
                "color": style(index)["color"],
                "label": str(row.estimator),
            }
            error = max(row.relative_error, FLOOR)
            by_time.plot(row.seconds * 1e3, error, **look)
            if row.temporary_bytes is not None:
                by_memory.plot(row.temporary_bytes / 2**20, error, **look)
        by_time.set(xlabel="time of one hypergradient (ms)", ylabel="relative error", title=title)
        by_memory.set(xlabel="memory beside inputs and outputs (MiB)", title=title)
        for panel in (by_time, by_memory):
            panel.set(xscale="log", yscale="log")
            # A range of less than a decade needs more than its powers of ten.
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=TICK_SIZE)
    return figure
