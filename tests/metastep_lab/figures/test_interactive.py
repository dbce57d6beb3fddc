"""Figures of matplotlib as Bokeh plots: what is taken over, and what stays a picture."""

import json

import bokeh
import numpy as np
import pytest

from metastep_lab.figures.interactive import interactive, save_interactive
from metastep_lab.figures.style import Lines, draw_heatmap, line_figure, new_figure
from metastep_lab.report.plots import checked

X = np.arange(1.0, 6.0)


def panel_of(figure, number=0):
    """Return a panel of a plot that the page accepts."""
    content = interactive(figure)
    assert json.loads(checked(content.encode(), bokeh.__version__)) == json.loads(content)
    return json.loads(content)["panels"][number]


def glyphs(panel):
    """Return (name, kind, attributes) of what is drawn."""
    (root,) = panel["item"]["doc"]["roots"]
    return [
        (
            r["attributes"].get("name", ""),
            r["attributes"]["glyph"]["name"],
            r["attributes"]["glyph"],
        )
        for r in root["attributes"]["renderers"]
    ]


def test_lines_bands_dashes_scales_and_legend_are_taken_over():
    panel = Lines(
        {"one": (X, X**2), "two": (X, X**3)},
        x_label="window K (steps)",
        y_label="error",
        title="Bias",
        y_log=True,
        legend_title="problem",
        bands={"one": (X, X**3)},
        dashed={"two": (X, 2 * X**3)},
    )
    found = panel_of(line_figure(panel))
    drawn = glyphs(found)
    assert [(name, kind) for name, kind, _ in drawn] == [
        ("one", "Patches"),
        ("one", "Line"),
        ("one", "Scatter"),
        ("two", "Line"),
        ("two", "Scatter"),
        ("two (theory)", "Line"),
    ]
    assert drawn[1][2]["attributes"]["line_color"] == "#0072b2"
    assert drawn[5][2]["attributes"]["line_dash"]
    assert found["legend"]["title"] == "problem"
    labels = [(entry["label"], entry["color"]) for entry in found["legend"]["entries"]]
    assert labels == [("one", "#0072b2"), ("two", "#d55e00"), ("two (theory)", "#d55e00")]
    attributes = found["item"]["doc"]["roots"][0]["attributes"]
    assert attributes["y_scale"]["name"] == "LogScale"
    assert attributes["x_scale"]["name"] == "LinearScale"
    assert found["title"] == "Bias"


def test_a_shared_legend_belongs_to_the_figure():
    panel = Lines({"one": (X, X)}, x_label="x", y_label="y")
    content = json.loads(interactive(line_figure(panel, panel, shared_legend=True)))
    assert [entry["label"] for entry in content["legend"]["entries"]] == ["one"]
    assert [one["legend"]["entries"] for one in content["panels"]] == [[], []]
    assert content["columns"] == 2


def test_legends_of_panels_that_agree_become_one():
    whole = Lines({"one": (X, X), "two": (X, -X)}, x_label="x", y_label="y", title="whole")
    part = Lines({"one": (X, X)}, x_label="x", y_label="y", title="part")
    figure = line_figure(whole, part, whole)
    figure.axes[2].get_legend().remove()  # it shows what the others do
    content = json.loads(interactive(figure))
    assert [entry["label"] for entry in content["legend"]["entries"]] == ["one", "two"]
    assert not any(panel["legend"]["entries"] for panel in content["panels"])
    # Buttons hide by name, so that lines without a legend need one, too.
    assert {name for name, _, _ in glyphs(content["panels"][2])} == {"one", "two"}


@pytest.mark.parametrize(
    "other",
    [
        Lines({"two": (X, X)}, x_label="x", y_label="y"),  # the same look is something else
        Lines({"one": (X, X)}, x_label="x", y_label="y", legend_title="other"),
        Lines({"": (np.arange(99), np.arange(99))}, x_label="x", y_label="y"),  # no marker
    ],
    ids=["label", "title", "look"],
)
def test_legends_of_panels_that_differ_stay(other):
    first = Lines({"one": (X, X)}, x_label="x", y_label="y")
    content = json.loads(interactive(line_figure(first, other)))
    assert content["legend"]["entries"] == []
    assert [entry["label"] for entry in content["panels"][0]["legend"]["entries"]] == ["one"]


def test_entries_show_markers_as_they_are_drawn():
    figure, (axes,) = new_figure()
    axes.errorbar(X, X, yerr=1, capsize=3, fmt="s--", label="errors")
    axes.errorbar(X, X, yerr=1, capsize=3, fmt="^", label="points")
    axes.plot(X, X, "D", markerfacecolor="none", label="outline")
    axes.legend()
    entries = panel_of(figure)["legend"]["entries"]
    shown = {one["label"]: (one["marker"], one["dash"] is None, one["hollow"]) for one in entries}
    assert shown == {
        "errors": ("square", False, False),
        "points": ("triangle", True, False),
        "outline": ("diamond", True, True),
    }
    assert next(one["dash"] for one in entries if one["label"] == "errors")


def test_bars_points_errors_spans_and_words():
    figure, (axes,) = new_figure()
    axes.bar(["one", "two"], [1.0, 2.0], label="bars", color="#0072B2", hatch="//")
    axes.errorbar([0, 1], [1, 2], yerr=[0.1, 0.2], fmt="s", color="#D55E00", label="errors")
    axes.scatter([0, 1], [2, 1], color="#009E73", label="points")
    axes.axhline(1.0, color="black", linestyle=":", label="limit")
    axes.axvspan(0.2, 0.4, color="#cccccc", label="area")
    axes.stairs([1, 2], [0, 0.5, 1], color="#CC79A7", label="steps")
    axes.legend()
    found = panel_of(figure)
    kinds = {(name, kind) for name, kind, _ in glyphs(found)}
    assert kinds >= {
        ("bars", "Quad"),
        ("errors", "MultiLine"),
        ("errors", "Scatter"),
        ("points", "Scatter"),
        ("limit", "HSpan"),
        ("area", "VStrip"),
        ("steps", "Step"),
    }
    names = {name for name, _, _ in glyphs(found)}
    assert {entry["label"] for entry in found["legend"]["entries"]} <= names
    assert "two" in json.dumps(found["item"]["doc"]["roots"][0]["attributes"]["below"])


def test_the_same_figure_gives_the_same_text(tmp_path):
    figures = [line_figure(Lines({"": (X, X)}, x_label="x", y_label="y")) for _ in range(2)]
    first, second = (interactive(figure) for figure in figures)
    assert first == second
    path = save_interactive(figures[0], tmp_path / "folder" / "a.b")
    assert path.name == "a.b.json" and path.read_text() == first


def test_labels_that_look_like_names_of_objects_stay():
    labels = ["p1000", "p1", '"id":"p1000"']
    figure = line_figure(Lines(dict.fromkeys(labels, (X, X)), x_label="p2000", y_label="y"))
    panel = panel_of(figure)
    assert [entry["label"] for entry in panel["legend"]["entries"]] == labels
    assert {name for name, *_ in glyphs(panel)} == set(labels)
    assert '"axis_label": "p2000"' in json.dumps(panel)


def test_what_a_logarithmic_axis_cannot_show_is_a_gap():
    values = np.array([1.0, np.nan, -1.0, 0.0, 5.0])
    panel = Lines({"": (X, values)}, x_label="x", y_label="y", y_log=True)
    assert "NaN" not in interactive(line_figure(panel))


def image(axes):
    draw_heatmap(axes, [[1.0]], x_ticks=["a"], y_ticks=["b"], x_label="", y_label="",
                 color_label="")  # fmt: skip


@pytest.mark.parametrize(
    "draw",
    [
        image,
        lambda axes: axes.set_yscale("symlog"),
        lambda axes: axes.text(0, 0, "words"),
        lambda axes: axes.twinx().plot(X, X),
        lambda axes: axes.fill([0, 1, 1], [0, 0, 1]),
        lambda axes: axes.figure.suptitle("all"),
    ],
    ids=["image", "scale", "text", "twin", "polygon", "title"],
)
def test_other_figures_stay_pictures(draw, tmp_path):
    figure, (axes,) = new_figure()
    axes.plot(X, X)
    draw(axes)
    assert interactive(figure) is None
    assert save_interactive(figure, tmp_path / "a") is None
    assert list(tmp_path.iterdir()) == []
