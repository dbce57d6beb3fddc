"""Plots that try to run a script in the page that shows them, made from one honest plot."""

import json
from itertools import count

from metastep_lab.figures.interactive import interactive
from metastep_lab.figures.style import new_figure

EFFECT = "document.body.append(Object.assign(document.createElement('mark'), {id: '%s'}))"
"""What a script does that a test can see."""


def honest_figure():
    """One large point in the middle, which the pointer finds."""
    figure, (axes,) = new_figure()
    axes.scatter([0], [0], s=4000, label="point")
    axes.set(xlim=(-1, 1), ylim=(-1, 1), xlabel="x", ylabel="y")
    axes.legend()
    return figure


HONEST = interactive(honest_figure())
NUMBERS = count(9000)


def model(kind, **attributes):
    identifier = f"p{next(NUMBERS)}"
    return {"type": "object", "name": kind, "id": identifier, "attributes": attributes}


def image(name):
    return f'<img src="data:," onerror="{EFFECT % name}">'


def html(name):
    return model("bokeh.models.dom.HTML", html=[image(name)])


def callback(name):
    return model("CustomJS", args={"type": "map", "entries": []}, code=EFFECT % name)


def _hover(root, **attributes):
    tools = root["toolbar"]["attributes"]["tools"]
    (tool,) = (tool for tool in tools if tool["name"] == "HoverTool")
    tool["attributes"].update(attributes)


def _column(root):
    return root["renderers"][0]["attributes"]["data_source"]["attributes"]["data"]["entries"]


def _entries(*pairs):
    return {"type": "map", "entries": [list(pair) for pair in pairs]}


def _element(root, name):
    root["elements"] = [html(name)]


def _nested_element(root, name):
    root["elements"] = [model("bokeh.models.dom.Div", children=[html(name)])]


def _tooltip(root, name):
    tip = model("Tooltip", content=html(name), position="center", visible=True)
    root["elements"] = [tip]


def _tooltips(root, name):
    _hover(root, tooltips=image(name))


def _tooltips_after_honest_ones(root, name):
    _hover(root, tooltips=f"<strong>$name</strong><br>x: @x{{%.5g}}{image(name)}")


def _tooltips_object(root, name):
    _hover(root, tooltips=html(name))


def _safe_column(root, name):
    _column(root).append(["z", [image(name)]])
    _hover(root, tooltips="<strong>$name</strong><br>x: @z{safe}")


def _formatter(root, name):
    _hover(root, formatters=_entries(["@x", model("CustomJSHover", code=EFFECT % name)]))


def _hover_callback(root, name):
    _hover(root, callback=callback(name))


def _range_callback(root, name):
    root["x_range"]["attributes"]["js_property_callbacks"] = _entries(
        ["change:start", [callback(name)]]
    )


def _event_callback(root, name):
    root["js_event_callbacks"] = _entries(["mousemove", [callback(name)]])


def _ticks(root, name):
    root["below"][0]["attributes"]["formatter"] = model(
        "CustomJSTickFormatter", code=f"{EFFECT % name}; return tick"
    )


def _axis_label(root, name):
    root["below"][0]["attributes"]["axis_label"] = html(name)


def _formula(root, name):
    root["below"][0]["attributes"]["axis_label"] = f"$$\\href{{javascript:{EFFECT % name}}}{{x}}$$"


def _view(root, name):
    root["renderers"][0]["attributes"]["view"]["attributes"]["filter"] = model(
        "CustomJSFilter", code=f"{EFFECT % name}; return [0]"
    )


def _address(root, name):
    attributes = root["renderers"][0]["attributes"]
    attributes["glyph"] = model(
        "ImageURL", url={"type": "value", "value": f"http://{name}.invalid/"}, x=0, y=0
    )


HOSTILE = {
    change.__name__.strip("_").replace("_", "-"): change
    for change in (
        _element, _nested_element, _tooltip, _tooltips, _tooltips_after_honest_ones,
        _tooltips_object, _safe_column, _formatter, _hover_callback, _range_callback,
        _event_callback, _ticks, _axis_label, _formula, _view, _address,
    )
}  # fmt: skip
"""Name to a change of the attributes of the plot; a script inside leaves a mark of that name."""

WORKING = HOSTILE.keys() - {"axis-label", "formula", "address"}
"""Those whose script runs in a page without protection. Bokeh refuses one of the others."""


def _name(root, name):
    root["renderers"][0]["attributes"]["name"] = image(name)


def _axis_text(root, name):
    root["below"][0]["attributes"]["axis_label"] = image(name)


def _word(root, name):
    _column(root).append(["x_word", [image(name)]])
    _hover(root, tooltips="<strong>$name</strong><br>x: @x_word")


HARMLESS = {"name": _name, "axis-text": _axis_text, "word": _word}
"""Changes that may come through, because what they hold is shown as text."""


def plot(name):
    """Return the plot of one change; HTML in its title and its legend is text for the page."""
    content = json.loads(HONEST)
    (panel,) = content["panels"]
    ({**HOSTILE, **HARMLESS}[name])(panel["item"]["doc"]["roots"][0]["attributes"], name)
    panel["title"] = panel["legend"]["title"] = image(name)
    panel["legend"]["entries"][0]["label"] = image(name)
    return json.dumps(content, separators=(",", ":")).encode()
