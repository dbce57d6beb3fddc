"""Interactive figures: the content of a matplotlib figure as Bokeh plots in JSON.

Lines, markers, bands, error bars and bars are read from the figure's axes with their labels,
scales, limits and styles. A figure with anything else, such as an image, stays a picture.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import bokeh
from bokeh.embed import json_item
from bokeh.models import (
    BoxZoomTool,
    FixedTicker,
    NoOverlap,
    Range1d,
    ResetTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure as new_plot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.offsetbox import DrawingArea
from matplotlib.ticker import FixedLocator, LogFormatter, ScalarFormatter

from metastep.files import write_atomically
from metastep_lab.figures.drawing import Drawing, NotConvertibleError
from metastep_lab.figures.looks import entry_look, look_of

HEIGHT = 320
LOOK = ("color", "dash", "marker", "hollow")
SCALES: dict[str, Literal["linear", "log"]] = {"linear": "linear", "log": "log"}


def save_interactive(figure: Figure, stem: Path) -> Path | None:
    """Write the Bokeh plots of a figure next to its pictures, for the report page.

    Returns the path, ending in `.json`; None if the figure stays a picture.

    Raises:
        OSError: if the file cannot be written.
    """
    content = interactive(figure)
    if content is None:
        return None
    path = stem.with_name(f"{stem.name}.json")
    write_atomically(path, content.encode())
    return path


def interactive(figure: Figure) -> str | None:
    """Convert a figure to JSON, before or after it was saved.

    It has the version of Bokeh, the legend of the whole figure, and for each panel its title, its
    plot as `Bokeh.embed.embed_item` takes it, and its own legend. Legends of panels that agree
    become that of the figure. An entry's label is the name of the renderers that it switches. None
    if something in the figure cannot be converted.
    """
    # The unused places of a grid are switched off and empty.
    shown = [axes for axes in figure.axes if axes.axison or axes.has_data()]
    places = {axes.get_subplotspec() for axes in shown}
    # Axes in one place are twins with two scales, of which a plot has one.
    twins = len(places) < len(shown)
    # Insets and color bars have no place in the grid.
    if not shown or twins or None in places or figure.get_suptitle():
        return None
    own = [_legend(axes.get_legend()) for axes in shown]
    shared = {
        "title": _title(figure.legends),
        "entries": [entry for legend in figure.legends for entry in _entries(legend)],
    }
    if not shared["entries"] and (common := _common(shown, own)):
        shared, own = common, [_legend(None) for _ in shown]
    try:
        panels = [
            _panel(axes, legend, shared["entries"]) for axes, legend in zip(shown, own, strict=True)
        ]
    except (NotConvertibleError, ValueError):  # a value that Bokeh does not take
        return None
    spec = shown[0].get_subplotspec()
    content = {
        "bokeh": bokeh.__version__,
        "columns": spec.get_gridspec().ncols if spec else 1,
        "legend": shared,
        "panels": panels,
    }
    return _numbered(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _numbered(text: str) -> str:
    """Bokeh counts its objects over the whole process; count from one in each figure."""
    names: dict[str, str] = {}
    rename = lambda found: found[1] + names.setdefault(found[2], f'"p{len(names) + 1}"')
    # By the key: a label may look like a name. Quotes within a text have a backslash.
    return re.sub(r'("(?:root_)?id":)("p\d+")', rename, text)


def _panel(
    axes: Axes, legend: Mapping[str, Any], shared: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Convert one panel."""
    scales = axes.get_xscale(), axes.get_yscale()
    if not set(scales) <= set(SCALES) or not axes.axison:
        raise NotConvertibleError
    plot = new_plot(
        height=HEIGHT,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools=[],
        x_range=_range(axes.get_xlim()),
        y_range=_range(axes.get_ylim()),
        x_axis_type=SCALES[scales[0]],
        y_axis_type=SCALES[scales[1]],
        x_axis_label=axes.get_xlabel(),
        y_axis_label=axes.get_ylabel(),
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_font_size = plot.axis.major_label_text_font_size = "12px"
    ticks = _ticks(axes.xaxis, plot.xaxis), _ticks(axes.yaxis, plot.yaxis)
    drawing = Drawing(plot, axes, [*legend["entries"], *shared], ticks)
    # Bokeh draws in the order of insertion, matplotlib by this number.
    for artist in sorted(axes.get_children(), key=lambda one: one.get_zorder()):
        drawing.draw(artist)
    drawing.boxes_drawn()
    plot.add_tools(BoxZoomTool(), ZoomInTool(), ZoomOutTool(), ResetTool(), drawing.hover())
    return {"title": axes.get_title(), "item": json_item(plot), "legend": legend}


def _range(limits: tuple[float, float]) -> Range1d:
    return Range1d(start=float(limits[0]), end=float(limits[1]))


def _title(legends: Sequence[Legend]) -> str:
    return next((legend.get_title().get_text() for legend in legends), "")


def _ticks(axis: Axis, axes: Any) -> dict[float, str]:
    """Copy ticks that were set by hand; return the texts in place of numbers."""
    axes.major_label_policy = NoOverlap()
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    # The locator of categories, which is not a fixed one, has units.
    if not isinstance(locator, FixedLocator) and not hasattr(locator, "_units"):
        return {}
    places = [float(place) for place in axis.get_majorticklocs()]
    axes.ticker = FixedTicker(ticks=places, minor_ticks=[])
    if isinstance(formatter, ScalarFormatter | LogFormatter):
        return {}
    words = dict(zip(places, formatter.format_ticks(places), strict=True))
    axes.major_label_overrides = words
    return words


def _legend(legend: Legend | None) -> dict[str, Any]:
    if legend is None:
        return {"title": "", "entries": []}
    return {"title": _title([legend]), "entries": _entries(legend)}


def _entries(legend: Legend) -> list[dict[str, Any]]:
    # The samples, not `legend_handles`, which have the bar of an error bar without its marker.
    samples = [area.get_children() for area in legend.findobj(DrawingArea)]
    texts = [text.get_text() for text in legend.get_texts()]
    return [
        {"label": text, **entry_look(sample)} for text, sample in zip(texts, samples, strict=True)
    ]


def _common(shown: Sequence[Axes], own: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the legend of all panels, if theirs agree.

    The longest has the entries of every other one. A panel without a legend shows something that
    looks like one of them.
    """
    if len(shown) == 1:
        return None
    longest = max(own, key=lambda legend: len(legend["entries"]))
    looks = [{key: entry[key] for key in LOOK} for entry in longest["entries"]]

    def agrees(axes: Axes, legend: Mapping[str, Any]) -> bool:
        if not legend["entries"]:
            return any(look_of(artist) in looks for artist in axes.get_children())
        known = all(entry in longest["entries"] for entry in legend["entries"])
        return known and legend["title"] == longest["title"]

    return dict(longest) if all(map(agrees, shown, own)) else None
