"""Figures in one style, without pyplot and without changing matplotlib's global settings.

Colors are those of Okabe and Ito, which color-blind readers can distinguish. Line styles and
markers differ, too, so that a figure can be read in black and white.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb as to_rgb
from matplotlib.figure import Figure as Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike

from metastep.files import write_atomically

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LABEL_SIZE = 11
TICK_SIZE = 10
TITLE_SIZE = 12
RESOLUTION = 150
FEW_POINTS = 30

Series = Mapping[str, tuple[ArrayLike, ArrayLike]]


def style(index: int, markers: bool = False) -> dict[str, Any]:
    """Return the color and line of series number `index`, as keyword arguments of `Axes.plot`.

    Seven series differ in color and line; from the eighth on the combinations change. `markers`
    adds one, for series of few points.
    """
    turn, place = divmod(index, len(COLORS))
    look = {
        "color": COLORS[place],
        "linestyle": LINES[(place + turn) % len(LINES)],
        "linewidth": 1.8,
    }
    if markers:
        look |= {"marker": MARKERS[(place + turn) % len(MARKERS)], "markersize": 5.5}
    return look


def new_figure(
    columns: int = 1, rows: int = 1, width: float | None = None, height: float | None = None
) -> tuple[Figure, np.ndarray]:
    """Return an empty figure with a grid of axes, as a flat array, row by row.

    Width and height are in inches; 6.4 for one column and 4.6 for each of several, 4 for one row
    and 3.6 for each of several where not given.
    """
    width = width or (6.4 if columns == 1 else 4.6 * columns)
    height = height or (4.0 if rows == 1 else 3.6 * rows)
    # pyplot would keep every figure in memory until it is closed.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(True, color="#d9d9d9", linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=TICK_SIZE)
        one.xaxis.label.set_size(LABEL_SIZE)
        one.yaxis.label.set_size(LABEL_SIZE)
    return figure, axes.reshape(-1)


@dataclass(frozen=True)
class Lines:
    """A panel of lines, one for each series, with markers where the points are few.

    Attributes:
        series: label to (x, y). NaN leaves a gap, and so do values on a
            logarithmic axis that are not positive.
        x_label: what the horizontal axis shows, with its unit.
        y_label: what the vertical axis shows, with its unit.
        title: of the panel.
        x_log: logarithmic horizontal axis.
        y_log: logarithmic vertical axis.
        legend_title: the quantity whose values the labels are. A single series with an empty
            label has no legend.
        bands: label of a series to (lower, upper), shaded in its color.
        dashed: label of a series to another (x, y), drawn thin and dashed in its color, such as the
            theory for a measurement.
        dashed_label: the text for it in the legend, after the label of the series.
    """

    series: Series
    x_label: str
    y_label: str
    title: str = ""
    x_log: bool = False
    y_log: bool = False
    legend_title: str | None = None
    bands: Series = field(default_factory=dict)
    dashed: Series = field(default_factory=dict)
    dashed_label: str = "theory"


def line_figure(*panels: Lines, columns: int = 2, shared_legend: bool = False) -> Figure:
    """Return a figure of panels of lines, row by row, at most `columns` side by side.

    `shared_legend` puts one legend below all panels, in place of one in each; a label has the same
    look in all of them.
    """
    columns = min(columns, len(panels))
    figure, axes = new_figure(columns, -(-len(panels) // columns))
    labels = dict.fromkeys(label for panel in panels for label in panel.series)
    entries = {}
    # The grid may have more places than there are panels.
    for place, panel in zip(axes, panels, strict=False):
        draw_lines(place, panel, list(labels) if shared_legend else None)
        entries |= dict(zip(*reversed(place.get_legend_handles_labels()), strict=True))
        if shared_legend and (legend := place.get_legend()):
            legend.remove()
    for place in axes[len(panels) :]:
        place.set_axis_off()
    if shared_legend:
        names, handles = list(entries), list(entries.values())
        figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=TICK_SIZE)
    return figure


def draw_lines(axes: Axes, panel: Lines, labels: Sequence[str] | None = None) -> None:
    """Draw a panel of lines into axes of a figure.

    `labels` are all labels of the figure, whose order gives each its look; None for this panel's.
    """
    order = list(panel.series) if labels is None else labels
    for label, points in panel.series.items():
        x, y = (np.asarray(part, float) for part in points)
        look = style(order.index(label), markers=x.size <= FEW_POINTS)
        # Dashes mean the theory here.
        if panel.dashed:
            look["linestyle"] = "-"
        axes.plot(x, y, label=label, **look)
        if label in panel.bands:
            lower, upper = (np.asarray(bound, float) for bound in panel.bands[label])
            axes.fill_between(x, lower, upper, color=look["color"], alpha=0.2, linewidth=0)
        if label in panel.dashed:
            name = f"{label} ({panel.dashed_label})" if label else panel.dashed_label
            x, y = (np.asarray(part, float) for part in panel.dashed[label])
            axes.plot(x, y, label=name, color=look["color"], linestyle="--", linewidth=1.2)
    # Without positive values matplotlib would warn and draw a linear axis.
    if panel.x_log and np.isfinite(axes.dataLim.minposx):
        axes.set_xscale("log", nonpositive="mask")
        # Over one power of ten or two, Matplotlib's own labels at 2, 3, 4 and 6 overlap.
        if axes.dataLim.x1 >= 10 * axes.dataLim.minposx:
            axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    if panel.y_log and np.isfinite(axes.dataLim.minposy):
        axes.set_yscale("log", nonpositive="mask")
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label, title=panel.title)
    if any(panel.series) or panel.dashed:
        axes.legend(title=panel.legend_title)


def draw_heatmap(
    axes: Axes,
    values: ArrayLike,
    *,
    x_ticks: list[str],
    y_ticks: list[str],
    x_label: str,
    y_label: str,
    color_label: str,
    title: str = "",
) -> None:
    """Draw a matrix in colors with its numbers written in the cells and a color bar.

    NaN stays white. `y_ticks` are the names of the rows, the first on top.
    """
    matrix = np.asarray(values, float)
    lowest, highest = np.nanmin(matrix), np.nanmax(matrix)
    image = axes.imshow(matrix, cmap="cividis", aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(x_ticks)), x_ticks)
    axes.set_yticks(range(len(y_ticks)), y_ticks)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    for row, column in product(*map(range, matrix.shape)):
        value = matrix[row, column]
        if np.isfinite(value):
            # Of white on cividis, the contrast is 3.7 at this place and larger below.
            color = "black" if value > 0.45 * lowest + 0.55 * highest else "white"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=color)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(color_label, size=LABEL_SIZE)
    bar.ax.tick_params(labelsize=TICK_SIZE)


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as SVG and as PNG (150 dpi), the same bytes for the same figure.

    `stem` is the path without suffix; parent folders are made. Returns the two paths, SVG first.

    Raises:
        OSError: if a file cannot be written.
    """
    _unify_text(figure)
    paths = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    # Letters become paths: the picture is the same on every machine, independently of its fonts.
    # Without the salt, names in the SVG file are random; without `metadata` it has the date.
    with matplotlib.rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "path"}):
        for path in paths:
            kind = path.suffix[1:]
            content = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(content, format=kind, dpi=RESOLUTION, metadata=metadata)
            write_atomically(path, content.getvalue())
    return paths


def _unify_text(figure: Figure) -> None:
    """Give titles and legends one style, except if a figure set its own size."""
    size = lambda name: FontProperties(size=matplotlib.rcParams[name]).get_size_in_points()
    for axes in figure.axes:
        if axes.title.get_fontsize() == size("axes.titlesize"):
            axes.title.set(fontsize=TITLE_SIZE, fontweight="bold")
        legend = axes.get_legend()
        if legend is not None:
            legend.get_frame().set(edgecolor="#cccccc", alpha=0.9)
            for text in (legend.get_title(), *legend.get_texts()):
                if text.get_fontsize() == size("legend.fontsize"):
                    text.set_fontsize(TICK_SIZE)
