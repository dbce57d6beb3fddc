"""Conversion of the artists of a matplotlib figure to their counterparts in a Bokeh plot."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from bokeh.core.properties import value
from bokeh.models import HoverTool
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle, StepPatch
from matplotlib.spines import Spine
from matplotlib.text import Text

from metastep_lab.figures.looks import WIDER, first_color, look_of


def _literally(text: str) -> str:
    """Escape a text so that Bokeh reads neither HTML nor names of columns in it."""
    return escape(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "@${}"})


class NotConvertibleError(Exception):
    """An artist of the figure has no counterpart."""


class Drawing:
    """One plot while the artists of its axes are drawn into it.

    Args:
        plot: where to draw.
        axes: what is drawn.
        entries: the entries of the legends that may show an artist.
        words: the texts in place of numbers on each axis.
    """

    def __init__(
        self,
        plot: Any,
        axes: Axes,
        entries: Sequence[Mapping[str, Any]],
        words: tuple[Mapping[float, str], Mapping[float, str]],
    ):
        self.plot = plot
        self.axes = axes
        self.entries = entries
        self.words = words
        self.hovered: list[Any] = []
        self.boxes: dict[str, list[tuple[float, ...]]] = {}

    def draw(self, artist: Artist) -> None:
        """Draw a child of the axes; skip what the Bokeh plot has already.

        Raises:
            NotConvertibleError: for an artist that has no counterpart.
        """
        named = {"name": self._name(artist)}
        match artist:
            case Axis() | Spine() | Legend():
                pass  # the plot has its own
            case Text() if artist is self.axes.title or not artist.get_text():
                pass
            case _ if artist is self.axes.patch or not artist.get_visible():
                pass
            case Line2D():
                self._line(artist, named)
            case LineCollection():
                self._segments(artist, named)
            case PathCollection():
                self._points(artist, named)
            case PolyCollection():
                self._bands(artist, named)
            case StepPatch():
                self._steps(artist, named)
            case Rectangle():
                self._bar(artist, named)
            case _:
                raise NotConvertibleError

    def hover(self) -> HoverTool:
        """Make the tool that shows the values of the point under the pointer."""
        labels = (self.axes.get_xlabel() or "x", self.axes.get_ylabel() or "y")
        rows = ["<strong>$name</strong>"]
        for axis, words, label in zip(("x", "y"), self.words, labels, strict=True):
            number = f"@{axis}_word" if words else f"@{axis}{{%.5g}}"
            rows.append(f"{_literally(label)}: {number}")
        return HoverTool(
            renderers=self.hovered,
            tooltips="<br>".join(rows),
            formatters={"@x": "printf", "@y": "printf"},
        )

    def _name(self, artist: Artist) -> str:
        """Return the label; without one, that of the legend's entry of the same color."""
        label = str(artist.get_label())
        # matplotlib calls an artist without a label `_child0` and so on.
        if label and not label.startswith("_"):
            return label
        color = look_of(artist)["color"]
        same = (entry["label"] for entry in self.entries if entry["color"] == color)
        return next(same, "")

    def _data(self, x: Any, y: Any) -> dict[str, Any]:
        """Return coordinates; values that a logarithmic axis cannot show become gaps."""
        columns: dict[str, Any] = {}
        scales = self.axes.get_xscale(), self.axes.get_yscale()
        for axis, values, scale, words in zip(("x", "y"), (x, y), scales, self.words, strict=True):
            numbers = np.ma.filled(np.ma.masked_invalid(np.ma.asarray(values, float)), np.nan)
            if scale == "log":
                numbers = np.where(numbers > 0, numbers, np.nan)
            columns[axis] = _short(numbers)
            if words:
                near = lambda value, words=words: words[min(words, key=lambda k: abs(k - value))]
                columns[f"{axis}_word"] = [near(value) for value in numbers]
        return columns

    def _line(self, line: Line2D, named: dict[str, str]) -> None:
        look, alpha = look_of(line), line.get_alpha() or 1.0
        color, width = look["color"], float(line.get_linewidth()) * WIDER
        stroke = {"line_color": color, "line_width": width, "line_alpha": alpha}
        dash = {"line_dash": look["dash"] or "solid"}
        # Spans have one value in each row; a bare list of dashes would be taken for those.
        span = stroke | {"line_dash": value(look["dash"] or "solid")}
        across, along = self.axes.get_yaxis_transform(), self.axes.get_xaxis_transform()
        x, y = np.asarray(line.get_xydata(), float).T
        # What `axhline` and `axvline` draw is known by its transformation alone.
        if line.get_transform() == across:
            self.plot.hspan(y=[float(y[0])], **span, **named)
            return
        if line.get_transform() == along:
            self.plot.vspan(x=[float(x[0])], **span, **named)
            return
        self._require_data(line)
        data, shown = self._data(x, y), None
        if look["dash"] is not None:
            mode = line.get_drawstyle().removeprefix("steps-")
            # Plain `steps` is matplotlib's other name for `steps-pre`.
            where = {"post": "after", "pre": "before", "mid": "center", "steps": "before"}
            if mode in where:
                shown = self.plot.step(
                    "x", "y", source=data, mode=where[mode], **stroke, **dash, **named
                )
            else:
                shown = self.plot.line("x", "y", source=data, **stroke, **dash, **named)
        if look["marker"]:
            shown = self._markers(line, data, stroke, named, look["marker"])
        if shown:
            self.hovered.append(shown)

    def _markers(
        self, line: Line2D, data: dict[str, Any], stroke: Any, named: Any, marker: str
    ) -> Any:
        every = line.get_markevery()
        if isinstance(every, int):
            data = {name: values[::every] for name, values in data.items()}
        elif every is not None:
            raise NotConvertibleError
        face = line.get_markerfacecolor()
        fill = None if str(face).lower() == "none" else to_hex(face)
        look = stroke | {"line_color": to_hex(line.get_markeredgecolor()), "line_width": 1}
        # Bokeh has a lying dash only.
        angle = {"angle": np.pi / 2} if line.get_marker() == "|" else {}
        size = float(line.get_markersize()) * WIDER
        return self.plot.scatter(
            "x", "y", source=data, marker=marker, size=size, fill_color=fill, **angle, **look,
            **named,
        )  # fmt: skip

    def _require_data(self, artist: Artist) -> None:
        if artist.get_transform() != self.axes.transData:
            raise NotConvertibleError

    def _segments(self, lines: LineCollection, named: dict[str, str]) -> None:
        self._require_data(lines)
        parts = [np.asarray(part, float) for part in lines.get_segments()]
        data = [self._data(part[:, 0], part[:, 1]) for part in parts if len(part)]
        width = float(np.atleast_1d(lines.get_linewidth())[0]) * WIDER
        self.plot.multi_line(
            [part["x"] for part in data],
            [part["y"] for part in data],
            line_color=first_color(lines.get_color()),
            line_width=width,
            **named,
        )

    def _points(self, points: PathCollection, named: dict[str, str]) -> None:
        offsets = np.ma.filled(np.ma.asarray(points.get_offsets(), float), np.nan)
        if points.get_offset_transform() != self.axes.transData or points.get_array() is not None:
            raise NotConvertibleError
        # matplotlib gives areas, Bokeh takes diameters.
        sizes = np.sqrt(np.atleast_1d(points.get_sizes()))
        shown = self.plot.scatter(
            "x", "y",
            source=self._data(offsets[:, 0], offsets[:, 1]),
            size=float(sizes.mean()) * WIDER,
            fill_alpha=points.get_alpha() or 1.0,
            line_color=None,
            fill_color=first_color(points.get_facecolor()),
            **named,
        )  # fmt: skip
        self.hovered.append(shown)

    def _bands(self, bands: PolyCollection, named: dict[str, str]) -> None:
        self._require_data(bands)
        corners = [path.vertices for path in bands.get_paths()]
        data = [self._data(*self._above_zero(np.asarray(part, float))) for part in corners]
        self.plot.patches(
            [part["x"] for part in data],
            [part["y"] for part in data],
            fill_color=first_color(bands.get_facecolor()),
            fill_alpha=bands.get_alpha() or 1.0,
            line_color=None,
            **named,
        )

    def _above_zero(self, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let an area that reaches below zero end far below a logarithmic axis."""
        x, y = corners.T
        if self.axes.get_yscale() == "log":
            y = np.maximum(y, min(self.axes.get_ylim()) * 1e-3)
        return x, y

    def _steps(self, steps: StepPatch, named: dict[str, str]) -> None:
        """Draw a histogram: its outline, or the area below it."""
        values, edges, baseline = steps.get_data()
        transform = steps.get_data_transform()
        if steps.orientation != "vertical" or transform != self.axes.transData:
            raise NotConvertibleError
        look = look_of(steps)
        # A value holds from its edge to the next; the last edge repeats the last value.
        data = self._data(edges, np.append(values, values[-1:]))
        if steps.get_fill():
            base = np.zeros(len(edges)) + (0.0 if baseline is None else baseline)
            area = {"fill_color": look["color"], "fill_alpha": steps.get_alpha() or 1.0}
            source = {"x": data["x"], "y1": self._data(edges, base)["y"], "y2": data["y"]}
            self.plot.varea_step("x", "y1", "y2", source=source, step_mode="after", **area, **named)
            return
        stroke = {"line_color": look["color"], "line_dash": look["dash"] or "solid"}
        width = float(steps.get_linewidth()) * WIDER
        shown = self.plot.step(
            "x", "y", source=data, mode="after", line_width=width, **stroke, **named
        )
        self.hovered.append(shown)

    def _bar(self, bar: Rectangle, named: dict[str, str]) -> None:
        x, y = float(bar.get_x()), float(bar.get_y())
        right, top = x + float(bar.get_width()), y + float(bar.get_height())
        if bar.get_angle():
            raise NotConvertibleError
        look = {"fill_color": look_of(bar)["color"], "fill_alpha": bar.get_alpha() or 1.0}
        if bar.get_data_transform() == self.axes.get_xaxis_transform():
            self.plot.vstrip(x0=[x], x1=[right], line_color=None, **look, **named)
        elif bar.get_data_transform() == self.axes.get_yaxis_transform():
            self.plot.hstrip(y0=[y], y1=[top], line_color=None, **look, **named)
        else:
            self._collect(bar, named, (x, right, y, top))

    def _collect(self, patch: Patch, named: dict[str, str], box: tuple[float, ...]) -> None:
        """Collect a box; one renderer draws all boxes of the same look."""
        if patch.get_data_transform() != self.axes.transData:
            raise NotConvertibleError
        color = look_of(patch)["color"]
        look: dict[str, Any] = {"fill_color": color, "line_color": None}
        look["fill_alpha"] = patch.get_alpha() or 1.0
        if not patch.get_fill():
            look |= {"fill_color": None, "line_color": color}
        if patch.get_hatch():
            edge = to_hex(patch.get_edgecolor())
            look |= {"hatch_pattern": str(patch.get_hatch())[0], "hatch_color": edge}
        # As a text, since a dictionary cannot be a key.
        self.boxes.setdefault(json.dumps(named | look), []).append(box)

    def boxes_drawn(self) -> None:
        """Draw the boxes, each with its value at the end opposite the base."""
        for look, boxes in self.boxes.items():
            left, right, bottom, top = np.array(boxes, float).T
            data = self._data((left + right) / 2, np.where(abs(top) >= abs(bottom), top, bottom))
            bottom = self._above_zero(np.stack([left, bottom], axis=-1))[1]
            data |= {"left": left, "right": right, "bottom": bottom, "top": top}
            shown = self.plot.quad(
                "left", "right", "top", "bottom", source=data, **json.loads(look)
            )
            self.hovered.append(shown)


def _short(numbers: np.ndarray) -> np.ndarray:
    """Use float32 for values within its range, which halves the size."""
    largest = np.nanmax(np.abs(numbers), initial=0.0, where=np.isfinite(numbers))
    smallest = np.nanmin(
        np.abs(numbers), initial=1.0, where=np.isfinite(numbers) & (numbers != 0)
    )  # fmt: skip
    # float32 reaches 3.4e38, and its normal numbers begin at 1.2e-38.
    fits = largest < 1e38 and smallest > 1e-37
    return numbers.astype(np.float32) if fits else numbers
