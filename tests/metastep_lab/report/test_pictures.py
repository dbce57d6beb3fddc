"""SVG files in a page: names that do not collide, and nothing but drawing."""

import re

import numpy as np
import pytest

from metastep_lab.figures.style import Lines, line_figure, new_figure, save
from metastep_lab.report.pictures import PictureError, Pictures

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">{}</svg>'


def inline(body):
    return Pictures().inline(SVG.format(body).encode(), "text")


def test_hatched_bars_keep_their_color(tmp_path):
    figure, (axes,) = new_figure()
    axes.bar([1], [2], color="#D55E00", hatch="//")
    svg, _ = save(figure, tmp_path / "figure")
    picture = Pictures().inline(svg.read_bytes(), "text")
    (name,) = re.findall(r'<pattern id="([^"]+)"', picture)
    assert f"fill:url(#{name})" in picture and 'fill="#d55e00"' in picture


def test_pictures_of_a_page_share_letters_and_no_names(tmp_path):
    x = np.linspace(0, 1, 300)
    figure = line_figure(Lines({"a": (x, x**2)}, x_label="aaa", y_label="bbb"))
    svg, _ = save(figure, tmp_path / "figure")
    pictures = Pictures()
    first = pictures.inline(svg.read_bytes(), "text")
    outlines = pictures.letters()
    second = pictures.inline(svg.read_bytes(), "text")
    assert pictures.letters() == outlines
    own = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, second, outlines)]
    assert own[0] and not own[0] & own[1]
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first))
    assert {name for pair in used for name in pair if name} <= own[0] | own[2]
    assert len(first) < svg.stat().st_size / 2


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ('<path d="M 0.06 1.26 \nL 2.04 3 L 4 5 Q 1 2 3 4 L 6 7 z"/>', 'd="M 0.1 1.3 2 3 4 5 Q '),
        ('<g id="axes_1"><g><path d="M 1 2 L 3 4"/></g></g>', '><path d="M 1 2 3 4"/></svg>'),
        ('<path d="M 1 2" onclick="x()"/>', '><path d="M 1 2"/></svg>'),
        ("<script>alert(1)</script><foreignObject><p/></foreignObject>", '72"></svg>'),
        ('<image xmlns:x="http://www.w3.org/1999/xlink" x:href="https://a/b"/>', "<image/>"),
        ('<path style="fill: &quot;&gt;&lt;script"/>', "><path/></svg>"),
        (
            '<path style="fill: url(http://a/b); stroke: #000000"/>',
            '<path style="stroke:#000000"/>',
        ),
        ('<path style="fill: url(&quot;//a&quot;)"/>', "><path/></svg>"),
        ('<path style="fill: \\75rl(//a)"/>', "><path/></svg>"),
        ('<path style="fill: url(#a)"/>', '<path style="fill:url(#p1-0)"/>'),
        ('<path style="background: url(//a); position: fixed"/>', "><path/></svg>"),
        ('<path style="cursor: image-set(&quot;//a&quot; 1x)"/>', "><path/></svg>"),
        ('<path style="stroke-width: var(--a)"/>', "><path/></svg>"),
        ('<path clip-path="url(http://a/b#c)" fill="url(//a)"/>', "><path/></svg>"),
        ('<path d="M 1 2&quot;"/>', "><path/></svg>"),
        ('<path transform="translate(1 2) url(//a)"/>', "><path/></svg>"),
        ('<image href="https://a/b"/>', "<image/>"),
        (
            '<image xmlns:x="http://www.w3.org/1999/xlink" x:href="data:image/png;base64,&lt;"/>',
            "<image/>",
        ),
    ],
)
def test_only_what_matplotlib_draws_with_is_kept(body, written):
    assert written in inline(body)


DEEP = "<g>" * 20_000 + "</g>" * 20_000
ENTITIES = b'<!DOCTYPE s [<!ENTITY a "b">]><svg viewBox="0 0 1 1"><path d="&a;"/></svg>'


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<svg", b"<svg/>", b'<svg viewBox="a b c d"/>', b'<svg viewBox="0 0 1"/>'),
        *(b'<svg viewBox="0 0 1 inf"/>', b'<svg viewBox="0 0 nan 1"/>', ENTITIES),
        *(ENTITIES.decode().encode("utf-16"), ENTITIES.decode().encode("utf-16-le")),
        SVG.format(DEEP).encode(),
    ],
    ids=lambda content: content[:40].decode(errors="replace"),
)
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(PictureError):
        Pictures().inline(content, "text")
