"""Plots of strangers: none that could run a script is drawn, and the page's policy stops it too."""

import json

import pytest

from metastep_lab.figures.style import save
from metastep_lab.report import embedding, templates
from metastep_lab.report.page import build_page
from metastep_lab.report.plots import PlotError, checked
from metastep_lab.runs.records import write_result
from tests.metastep_lab.report.hostile import (
    HARMLESS,
    HONEST,
    HOSTILE,
    WORKING,
    honest_figure,
    plot,
)

VERSION = json.loads(HONEST)["bokeh"]
OPEN_POLICY = "script-src 'unsafe-inline' 'unsafe-eval'; img-src data:"
RESULT = {
    "schema": 1,
    "experiment": "fake",
    "source": "nobody",
    "config": {},
    "seed": 0,
    "status": "complete",
    "metrics": {},
    "claims": [],
    "timing": {},
    "environment": {},
}


def changed(change):
    content = json.loads(HONEST)
    change(content)
    return json.dumps(content).encode()


def root(content):
    return content["panels"][0]["item"]["doc"]["roots"][0]["attributes"]


def columns(content):
    """Return the first packed column."""
    data = root(content)["renderers"][0]["attributes"]["data_source"]["attributes"]["data"]
    return data["entries"][0][1]


DAMAGED = {
    "no JSON": lambda: b"{",
    "deep": lambda: b"[" * 100_000,
    "no object": lambda: b"[]",
    "another version": lambda: HONEST.replace(VERSION, "0.1").encode(),
    "one more part": lambda: changed(lambda content: content.update(script="x")),
    "columns": lambda: changed(lambda content: content.update(columns="1; background: red")),
    "unknown model": lambda: changed(lambda content: root(content)["title"].update(name="Div")),
    "unknown property": lambda: changed(lambda content: root(content).update(styles={})),
    "expression": lambda: changed(
        lambda content: root(content).update(height={"type": "expr", "expr": {"id": "p1"}})
    ),
    "color": lambda: changed(lambda content: root(content).update(border_fill_color="url(//a)")),
    "size": lambda: changed(lambda content: columns(content).update(shape=[2])),
    "bomb": lambda: changed(lambda content: columns(content).update(shape=[2**40])),
    "huge number": lambda: HONEST.replace('"columns":1', f'"columns":1{"0" * 400}').encode(),
}


@pytest.mark.parametrize("name", [*HOSTILE, *DAMAGED])
def test_a_plot_with_more_than_marks_is_refused(name):
    content = plot(name) if name in HOSTILE else DAMAGED[name]()
    with pytest.raises(PlotError):
        checked(content, VERSION)


@pytest.mark.parametrize("name", HARMLESS)
def test_texts_may_hold_anything(name):
    assert json.loads(checked(plot(name), VERSION)) == json.loads(plot(name))


def test_what_comes_through_is_what_was_checked():
    twice = HONEST.replace('{"bokeh"', '{"panels":[{"script":1}],"bokeh"', 1).encode()
    assert b"script" not in checked(twice, VERSION)
    assert json.loads(checked(twice, VERSION)) == json.loads(HONEST)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    plots = {name: plot(name) for name in (*HOSTILE, *HARMLESS)} | {"honest": HONEST.encode()}
    svg, _ = save(honest_figure(), folder / "figures" / "honest")
    for name, content in plots.items():
        svg.with_name(f"{name}.svg").write_bytes(svg.read_bytes())
        svg.with_name(f"{name}.json").write_bytes(content)
    figures = [{"name": name, "alt": name} for name in plots]
    write_result(folder, {**RESULT, "figures": figures})
    return folder


def visit(browser, path):
    """Point at every plot and zoom into it; return what scripts left, and the honest tip."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    fetched = []
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(path.as_uri())
    figures = page.locator("figure").all()
    for figure in figures:
        figure.scroll_into_view_if_needed()
        drawn = "figure => figure.matches('.live') || figure.querySelector('.picture')"
        page.wait_for_function(drawn, arg=figure.element_handle())
        if not figure.locator(".controls").is_visible():
            continue
        figure.get_by_role("button", name="Zoom in").click()
        box = figure.locator(".panels").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(middle[0] - 30, middle[1])
        page.mouse.move(*middle, steps=4)
        page.wait_for_timeout(100)
    tip = page.locator(".bk-Tooltip").get_by_text("x: 0").is_visible()
    marks = set(page.locator("mark").evaluate_all("all => all.map(one => one.id)"))
    elsewhere = [url for url in fetched if not url.startswith(("file:", "data:", "blob:"))]
    page.close()
    return marks, tip, elsewhere


def test_no_script_runs_and_nothing_is_fetched(browser, directory):
    path = directory / "report.html"
    path.write_text(build_page([directory]))
    assert visit(browser, path) == (set(), True, [])


@pytest.mark.parametrize("protected", ["by nothing", "by its policy alone", "by the check alone"])
def test_each_of_two_walls_holds_alone(browser, directory, monkeypatch, protected):
    """Without both the scripts run: the test above looks at something that can happen."""
    if protected != "by its policy alone":
        monkeypatch.setattr(templates, "POLICY", OPEN_POLICY)
    if protected != "by the check alone":
        monkeypatch.setattr(embedding, "checked", lambda content, version: content)
    path = directory / "report.html"
    path.write_text(build_page([directory]))
    marks, tip, _ = visit(browser, path)
    assert marks == (WORKING if protected == "by nothing" else set()) and tip
