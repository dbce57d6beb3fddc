"""Checking an interactive figure for a page: only the output of `interactive` is allowed.

Bokeh's JSON can name models that hold HTML or JavaScript. Here a plot may hold the models that
draw lines, areas and axes, each property a number, a color, a word, a text that is shown as text,
or a column of data.
"""

import json
import math
import re
import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from metastep.files import parse_json

LARGEST_DATA = 2**27
"""Bytes of all columns of a figure, unpacked."""

MODELS = frozenset(
    "AllIndices AreaVisuals BasicTickFormatter BasicTicker BoxAnnotation BoxInteractionHandles "
    "BoxZoomTool CDSView ColumnDataSource DocumentConfig Figure FixedTicker GlyphRenderer Grid "
    "HSpan HStrip HoverTool Line LinearAxis LinearScale LogAxis LogScale LogTickFormatter "
    "LogTicker MultiLine NoOverlap Notifications Patches Quad Range1d ResetTool Scatter Selection "
    "Step Title Toolbar UnionRenderers VAreaStep VSpan VStrip ZoomInTool ZoomOutTool".split()
)
NUMBERS = {"float32": 4, "float64": 8, "int32": 4, "int64": 8}
IDENTIFIER = re.compile(r"p[0-9]{1,9}")
WORD = re.compile(r"[a-z][a-z0-9_]{0,30}")
COLOR = re.compile(r"#[0-9a-f]{6}|white|black|lightgrey|lightgray")
LENGTH = re.compile(r"[0-9]{1,4}px")
HATCH = re.compile(r"[-/|\\+xoO.*]")
FORMULA = re.compile(r"\$\$|\\\(|\\\[")
"""What makes Bokeh fetch a typesetter of formulas."""

TOOLTIP = re.compile(
    r"<strong>\$name</strong>(<br>([^<>@$\"'{}&]|&#?[a-z0-9]+;)*: @[xy](_word|\{%\.5g\}))*"
)
"""The template of `Drawing.hover`: labels without elements, and columns that Bokeh escapes."""

Check = Callable[[Any], bool]


class PlotError(ValueError):
    """The file is not a plot that this version draws."""


def _number(value: Any) -> bool:
    """Whether it is a number, including those that JSON cannot write."""
    if isinstance(value, dict):
        signs = ("nan", "inf", "-inf")
        return value.keys() == {"type", "value"} and value["type"] == "number" and (
            value["value"] in signs
        )  # fmt: skip
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matching(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 10_000 and not FORMULA.search(value)


def _listed(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _any_of(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _given(check: Check) -> Check:
    """For the property of a glyph: a value, plain or wrapped, or the name of a column."""

    def allowed(value: Any) -> bool:
        if not isinstance(value, dict) or value.get("type") == "number":
            return value is None or check(value)
        if value.get("type") == "field":
            return value.keys() == {"type", "field"} and _word(value["field"])
        wrapped = value.keys() == {"type", "value"} and value["type"] == "value"
        return wrapped and (value["value"] is None or check(value["value"]))

    return allowed


def _pairs(key: Check, check: Check) -> Check:
    """For a dictionary, which Bokeh writes as a list of pairs."""

    def allowed(value: Any) -> bool:
        if not isinstance(value, dict) or value.keys() != {"type", "entries"}:
            return False
        pair = lambda one: isinstance(one, list) and len(one) == 2 and key(one[0]) and check(one[1])
        return value["type"] == "map" and _listed(pair)(value["entries"])

    return allowed


def _object(value: Any) -> bool:
    """Whether it is a model that is allowed, or the name of one, with properties that are."""
    if not isinstance(value, dict) or not _matching(IDENTIFIER)(value.get("id")):
        return False
    if value.keys() == {"id"}:
        return True
    if not value.keys() <= {"type", "name", "id", "attributes"} or value.get("type") != "object":
        return False
    name, attributes = value.get("name"), value.get("attributes", {})
    if not isinstance(name, str) or name not in MODELS or not isinstance(attributes, dict):
        return False
    return all(name in PROPERTIES and PROPERTIES[name](one) for name, one in attributes.items())


def _column(value: Any) -> bool:
    """Whether it is a column: numbers, words, or lists of numbers, packed or not."""
    if isinstance(value, dict):
        return _packed(value)
    return _listed(_any_of(_number, _text, _listed(_number), _packed))(value)


def _packed(value: Any) -> bool:
    """Whether it is a packed column that unpacks to as many bytes as it says."""
    if not isinstance(value, dict) or value.keys() != {"type", "array", "shape", "dtype", "order"}:
        return False
    data, size = value["array"], _promised(value)
    if value["type"] != "ndarray" or value["order"] not in ("little", "big"):
        return False
    if not isinstance(data, dict) or data.keys() != {"type", "data"} or data["type"] != "bytes":
        return False
    # 15 for the largest window, and 16 for the header of gzip.
    unpacker = zlib.decompressobj(wbits=31)
    try:
        # One byte beyond the promise is enough to see that it is broken.
        unpacked = unpacker.decompress(b64decode(data["data"], validate=True), size + 1)
    except (TypeError, ValueError, zlib.error):
        return False
    return len(unpacked) == size and unpacker.eof


def _promised(value: Any) -> int:
    """Return the declared total size of the packed columns in a value, in bytes."""
    if isinstance(value, list):
        return sum(map(_promised, value))
    if not isinstance(value, dict):
        return 0
    shape, kind = value.get("shape"), value.get("dtype")
    if shape is None:
        return sum(map(_promised, value.values()))
    sizes = _listed(lambda one: type(one) is int and one >= 0)(shape)
    if not sizes or not isinstance(kind, str) or kind not in NUMBERS:
        raise PlotError("it holds a column of unknown size")
    return math.prod(shape) * NUMBERS[kind]


_word, _color = _matching(WORD), _matching(COLOR)
_numbers, _models = _listed(_number), _listed(_object)
_printed = _pairs(lambda name: name in ("@x", "@y"), lambda form: form == "printf")
PROPERTIES: dict[str, Check] = {
    **dict.fromkeys(
        "all axis data_source filter formatter glyph handles major_label_policy muted_glyph "
        "nonselection_glyph notifications overlay selected selection_policy ticker title toolbar "
        "view x_range x_scale y_range y_scale".split(),
        _object,
    ),
    **dict.fromkeys(["below", "left", "center", "tools"], _models),
    # `left` is a list of axes in a figure, the edge of a bar elsewhere.
    "left": _any_of(_models, _given(_number)),
    "renderers": _any_of(_models, lambda value: value == "auto"),
    **dict.fromkeys(
        "angle bottom dimension end fill_alpha hatch_alpha height line_alpha line_width "
        "num_minor_ticks right size start top x x0 x1 xs y y0 y1 y2 ys".split(),
        _given(_number),
    ),
    **dict.fromkeys("mantissas ticks minor_ticks indices line_indices".split(), _numbers),
    **dict.fromkeys(
        "background_fill_color border_fill_color fill_color hatch_color hover_fill_color "
        "line_color outline_line_color".split(),
        _given(_color),
    ),
    "line_dash": _given(_any_of(_numbers, _word)),
    "hatch_pattern": _given(_matching(HATCH)),
    "marker": _given(_word),
    **dict.fromkeys(
        "axis_label_text_font_style bottom_units left_units level mode right_units sizing_mode "
        "step_mode top_units".split(),
        _word,
    ),
    **dict.fromkeys(["axis_label_text_font_size", "major_label_text_font_size"], _matching(LENGTH)),
    **dict.fromkeys(["syncable", "visible"], _flag),
    **dict.fromkeys(["sort_by", "toolbar_location"], lambda value: value is None),
    **dict.fromkeys(["axis_label", "name"], _text),
    "major_label_overrides": _pairs(_number, _text),
    "data": _pairs(_word, _column),
    "formatters": _printed,
    "tooltips": _matching(TOOLTIP),
}


def _allowed(check: Check, what: str) -> AfterValidator:
    def validate(value: Any) -> Any:
        if not check(value):
            raise ValueError(f"allowed is {what}")
        return value

    return AfterValidator(validate)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Entry(_Strict):
    label: str
    color: Annotated[str, _allowed(_color, "a color")]
    dash: list[int] | None
    marker: Annotated[str, _allowed(_any_of(_word, lambda value: value == ""), "a word")]
    hollow: bool = False  # plots of earlier versions do not say


class _Legend(_Strict):
    title: str
    entries: list[_Entry]


class _Document(_Strict):
    version: str
    title: str
    config: Annotated[dict[str, Any], _allowed(_object, "a model that this version draws")]
    roots: Annotated[list[Any], _allowed(_models, "models that this version draws")]


class _Item(_Strict):
    target_id: None
    root_id: Annotated[str, _allowed(_matching(IDENTIFIER), "a name of a model")]
    doc: _Document
    version: str


class _Panel(_Strict):
    title: str
    item: _Item
    legend: _Legend


class _Plot(_Strict):
    bokeh: str
    columns: Annotated[int, Field(ge=1, le=100)]
    legend: _Legend
    panels: list[_Panel]


def checked(content: bytes, version: str) -> bytes:
    """Return an interactive figure from an untrusted file, rebuilt from its checked parts.

    A plot of another version of Bokeh is refused.

    Raises:
        PlotError: if it holds anything that `interactive` does not write.
    """
    try:
        value = parse_json(content)
        # By what the columns say of themselves: nothing has been unpacked yet.
        if _promised(value) > LARGEST_DATA:
            raise PlotError(f"its data unpack to more than {LARGEST_DATA} bytes")
        plot = _Plot.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise PlotError(f"it is not a plot of this version: {place}: {first['msg']}") from error
    except PlotError:
        raise
    except ValueError as error:
        raise PlotError(f"it is not JSON: {error}") from error
    if plot.bokeh != version:
        raise PlotError(f"it is of Bokeh {plot.bokeh[:20]!r}, this is {version}")
    # Written anew: of two entries of one name, another parser might take the unchecked one.
    return json.dumps(value, separators=(",", ":")).encode()
