"""The look of an artist of matplotlib: its color, dashes and marker, in Bokeh's terms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

WIDER = 4 / 3
"""Pixels in a point."""

MARKERS = {
    "o": "circle",
    ".": "circle",
    "s": "square",
    "^": "triangle",
    "v": "inverted_triangle",
    "D": "diamond",
    "d": "diamond",
    "P": "plus",
    "+": "cross",
    "X": "star",
    "x": "x",
    "*": "star",
    "_": "dash",
    "|": "dash",
}


def look_of(artist: Artist) -> dict[str, Any]:
    """Return what a legend shows of an artist.

    These are `color`; `dash`, a list of lengths in pixels, or None without a line; `marker`,
    Bokeh's name or nothing; `hollow`, whether the marker is an outline.
    """
    return {"hollow": False} | _look_of(artist)


def entry_look(sample: Sequence[Artist]) -> dict[str, Any]:
    """Return the look of an entry of a legend, whose sample may have several artists.

    The sample of an error bar has its bar and its caps first, then its line, and its marker last.
    """
    lines = [look_of(artist) for artist in reversed(sample) if isinstance(artist, Line2D)]
    if not lines:
        return look_of(sample[0])
    marked = next((look for look in lines if look["marker"]), lines[0])
    dashes = [look["dash"] for look in lines if look["dash"] is not None]
    return marked | {"dash": dashes[0] if dashes else None}


def _look_of(artist: Artist) -> dict[str, Any]:
    if isinstance(artist, Line2D):
        line = artist.get_linestyle() not in ("None", "none", "", " ")
        marker = MARKERS.get(str(artist.get_marker()), "")
        color = artist.get_color() if line or not marker else artist.get_markeredgecolor()
        hollow = bool(marker) and str(artist.get_markerfacecolor()).lower() == "none"
        dash = _dash(artist) if line else None
        return {"color": to_hex(color), "dash": dash, "marker": marker, "hollow": hollow}
    if isinstance(artist, LineCollection):
        return {"color": first_color(artist.get_color()), "dash": [], "marker": ""}
    if isinstance(artist, PathCollection):
        return {"color": first_color(artist.get_facecolor()), "dash": None, "marker": "circle"}
    if isinstance(artist, PolyCollection):
        return {"color": first_color(artist.get_facecolor()), "dash": None, "marker": ""}
    if isinstance(artist, Patch):
        color = artist.get_facecolor() if artist.get_fill() else artist.get_edgecolor()
        return {"color": to_hex(color), "dash": None, "marker": ""}
    return {"color": "#000000", "dash": None, "marker": ""}


def first_color(colors: Any) -> str:
    """Return the first of the colors of a collection; black if it has none."""
    found = np.atleast_2d(colors)
    return to_hex(found[0]) if found.size else "#000000"


def _dash(line: Line2D) -> list[int]:
    # matplotlib has no public function for the dashes of a line that were given as numbers.
    pattern = line._dash_pattern[1]  # pyright: ignore[reportAttributeAccessIssue]
    return [max(1, round(float(length) * WIDER)) for length in pattern or ()]
