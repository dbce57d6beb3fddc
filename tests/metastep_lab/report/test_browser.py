"""The page in headless Chromium: what only a browser knows."""

from dataclasses import replace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from metastep_lab.figures.style import Lines, draw_lines, new_figure
from metastep_lab.report.page import build_page
from metastep_lab.runs.running import Request, execute
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, TRAP, Config

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "best-practice"]}}
COLORED = """figure => {
  const canvases = [];
  const walk = node => {
    if (node.tagName === "CANVAS") canvases.push(node);
    for (const child of [...(node.shadowRoot?.children ?? []), ...node.children]) walk(child);
  };
  walk(figure);
  return canvases.map(canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      const color = data.subarray(i, i + 3);
      if (Math.max(...color) - Math.min(...color) > 40) count += 1;
    }
    return count;
  }).filter(count => count > 0);
}"""  # pixels of every canvas that are no shade of gray


def rich(record):
    """Two panels: bands, dashes, a logarithmic axis and a line across; bars and words."""
    table = record.tables["sums"]
    steps, sums = np.asarray(table["step"]) + 1, np.abs(table["sum"]) + 0.1
    figure, (left, right) = new_figure(columns=2)
    # The second label looks like a name that Bokeh gives to an object.
    series = {"measured": (steps, sums), "p2": (steps, 2 * sums)}
    bands = {"measured": (sums / 2, sums * 2)}
    dashed = {"measured": (steps, 1.1 * sums)}
    labels = {"x_label": "step", "y_label": "size"}
    draw_lines(left, Lines(series, **labels, y_log=True, bands=bands, dashed=dashed))
    left.axhline(float(sums[-1]), color="#777777", label="end")
    right.bar(["one", "two"], [1.0, 2.0], color=["#0072B2", "#D55E00"])
    right.set(title="Bars", ylabel="count")
    wide, (panel,) = new_figure(width=14)
    panel.imshow(np.arange(6.0).reshape(2, 3))
    return {"rich": (figure, "Lines and bars"), "image": (wide, "A wide image")}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    other = replace(EXPERIMENT.listing, name="fake-rich")
    experiments = (EXPERIMENT, replace(EXPERIMENT, listing=other, figures=rich))
    for one in experiments:
        execute(Request(one, Config(), "quick", (), 0, folder / one.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAP, "at", 3)
        with pytest.raises(KeyboardInterrupt):
            execute(Request(EXPERIMENT, Config(), "quick", (), 1, folder / "interrupted"))
    page = build_page([folder / "fake-rich", folder / "fake-walk", folder / "interrupted"])
    (folder / "report.html").write_text(page)
    return folder / "report.html"


@pytest.fixture
def opened(browser, path):
    """Open the page; fail on errors in the console and on anything that is fetched."""
    contexts, troubles = [], []

    def note(request):
        if not request.url.startswith((path.as_uri(), "data:", "blob:")):
            troubles.append(request.url)

    def open_page(width=1440, scroll=True, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", note)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        page.goto(path.as_uri())
        for figure in page.locator("figure:has(.plot)").all() if scroll else []:
            figure.scroll_into_view_if_needed()
            page.wait_for_function("f => f.matches('.live')", arg=figure.element_handle())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


def test_opens_in_a_second(opened):
    page = opened(scroll=False)
    times = []
    for _ in range(3):  # the best of three: the machine may be busy
        page.reload()
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert min(times) < 1000


def test_every_figure_has_marks(opened):
    page = opened()
    figures = page.locator("figure").all()
    assert [figure.get_attribute("class") for figure in figures] == ["live", None, "live"]
    # Two panels and one: a line alone colors more than 100 pixels.
    marks = [figure.evaluate(COLORED) for figure in figures]
    assert [len(panels) for panels in marks] == [2, 0, 1]
    assert min(min(panels) for panels in marks if panels) > 100
    (shown,) = page.locator(".picture").evaluate_all("all => all.map(one => one.getBBox().width)")
    assert shown > 100 and page.locator(".picture").is_visible()


def test_pointing_shows_values_and_the_legend_hides_lines(opened):
    page = opened()
    figure = page.locator("figure").first
    figure.scroll_into_view_if_needed()
    place = figure.evaluate(
        """figure => {
          const view = Bokeh.index.roots.find(view => figure.contains(view.el));
          const line = view.model.renderers.find(one => one.name === "p2");
          const { x, y } = line.data_source.data;
          const box = view.canvas_view.el.getBoundingClientRect();
          const { x_scale, y_scale } = view.frame;
          return [box.x + x_scale.compute(x[2]), box.y + y_scale.compute(y[2])];
        }"""
    )
    page.mouse.move(place[0] - 20, place[1])
    page.mouse.move(*place, steps=3)
    tip = page.locator(".bk-Tooltip")
    tip.wait_for(timeout=3000)
    assert tip.get_by_text("p2", exact=True).is_visible()
    assert tip.get_by_text("step: 3").is_visible()

    before = figure.evaluate(COLORED)[0]
    for name in ("measured", "p2"):
        button = figure.get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
    page.mouse.move(0, 0)
    fewer = f"figure => ({COLORED})(figure)[0] < {before / 2}"
    page.wait_for_function(fewer, arg=figure.element_handle())


def test_zoom_by_buttons_and_back(opened):
    page = opened()
    figure = page.locator("figure").last
    span = """figure => {
      const { start, end } = Bokeh.index.roots.find(view => figure.contains(view.el)).model.x_range;
      return end - start;
    }"""
    before = figure.evaluate(span)
    figure.get_by_role("button", name="Zoom in").click()
    assert figure.evaluate(span) < before
    figure.get_by_role("button", name="Reset").click()
    assert figure.evaluate(span) == pytest.approx(before)
    figure.get_by_role("button", name="Show the picture").click()
    assert figure.locator(".picture").is_visible()


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_it_can_be_read_by_all(opened, width, scheme):
    page = opened(width, color_scheme=scheme, has_touch=width < 1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page, options=RULES).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_a_sign_of_the_matrix_says_its_name_and_leads_to_its_claim(opened):
    page = opened(375, scroll=False)
    sign = page.locator(".matrix a").nth(2)
    name = sign.locator(".name")
    assert name.bounding_box()["width"] < 2
    sign.focus()
    assert name.inner_text() == "exact: does not hold" and name.bounding_box()["width"] > 50
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.keyboard.press("Enter")
    assert page.locator("tr:target code").inner_text() == "exact"


def test_without_scripts_and_in_print_there_are_pictures(opened):
    still = opened(java_script_enabled=False, scroll=False)
    printed = opened()
    printed.emulate_media(media="print")
    printed.evaluate("dispatchEvent(new Event('beforeprint'))")
    for page in (still, printed):
        assert page.locator(".picture:visible").count() == 3
        assert page.locator(".plot:visible").count() == 0
