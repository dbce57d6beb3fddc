"""SVG files of matplotlib as pictures in a page: small, and harmless for any content.

The outlines of letters are most of such a file; they are written once for the whole page.
Coordinates are rounded to a tenth of a point. Only the elements and attributes that matplotlib uses
are kept.
"""

import math
import re
from html import escape
from itertools import count
from xml.etree import ElementTree

PIXELS_PER_POINT = 4 / 3
PHONE = 700
"""Pixels; a narrower figure fits a phone, a wider one scrolls there: its letters stay readable."""

LETTER = "scale(0.015625)"
"""The transformation that matplotlib gives to the outline of every letter."""

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
ELEMENTS = {"g", "defs", "path", "use", "clipPath", "rect", "image", "pattern"}
NUMBERS = re.compile(r"[0-9eE+., -]*")
WORD = re.compile(r"#?[A-Za-z0-9]+")
URL = re.compile(r"url\(#[^()'\"\\]*\)")
ATTRIBUTES = {
    "id": re.compile(r"[a-z0-9-]+"),
    "href": re.compile(r"#[a-z0-9-]+|data:image/png;base64,[A-Za-z0-9+/=\s]*"),
    "clip-path": URL,
    "style": re.compile(r"[^<>\"\\]*"),
    "transform": re.compile(r"[a-z0-9eE+., ()-]*"),
    "d": re.compile(r"[A-Za-z0-9+., -]*"),
    **dict.fromkeys(("x", "y", "width", "height"), NUMBERS),
    **dict.fromkeys(("patternUnits", "fill"), WORD),
}
"""What a value of each may look like, when names and numbers are rewritten."""

STYLES = {
    **dict.fromkeys(("fill", "stroke"), re.compile(f"{WORD.pattern}|{URL.pattern}")),
    **dict.fromkeys(
        "fill-opacity opacity stroke-dasharray stroke-dashoffset stroke-miterlimit stroke-opacity "
        "stroke-width".split(),
        NUMBERS,
    ),
    **dict.fromkeys(
        "clip-rule fill-rule image-rendering stroke-linecap stroke-linejoin".split(),
        re.compile(r"[a-z-]+"),
    ),
    "clip-path": URL,
}
"""What matplotlib says about looks; nothing else can be fetched or laid over the page."""

NUMBER = re.compile(r"-?\d+\.\d+")
TRANSLATION = re.compile(r"translate\((\S+) (\S+)\)")
LINES = re.compile(r"[ML] \S+ \S+(?: L \S+ \S+)+")
REFERENCE = re.compile(r"url\(#([^)]*)\)")

Element = ElementTree.Element


class PictureError(ValueError):
    """The file is not a picture of matplotlib."""


class Pictures:
    """The pictures of one page."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}
        self._pictures = count(1)

    def inline(self, svg: bytes, text: str) -> str:
        """Write a picture as an element `svg`, which needs `letters()` on the same page.

        The text says what is to be seen, for screen readers.

        Raises:
            PictureError: if the file is damaged or not from matplotlib.
        """
        try:
            # The parser also takes UTF-16, where "<!ENTITY" is spelled with zero bytes.
            if b"<!ENTITY" in svg or b"\0" in svg:
                raise ValueError("it defines entities, or holds zero bytes")
            root = ElementTree.fromstring(svg)
            box = [float(part) for part in root.attrib["viewBox"].split()]
            if len(box) != 4 or not all(map(math.isfinite, box)):
                raise ValueError("its viewBox is not of four numbers")
            names = self._names(root)
            body = "".join(_write(part, names) for part in root)
        except (ElementTree.ParseError, ValueError, KeyError, RecursionError) as error:
            raise PictureError(str(error)) from error
        width, height = (length * PIXELS_PER_POINT for length in box[2:])
        view = " ".join(f"{number:g}" for number in box)
        least = width * (0.5 if width < PHONE else 0.65)
        return (
            f'<svg class="picture" role="img" aria-label="{escape(text)}" width="{width:.0f}" '
            f'height="{height:.0f}" style="min-width:{least:.0f}px" viewBox="{view}">{body}</svg>'
        )

    def letters(self) -> str:
        """Write the outlines of all letters used so far, as an element without size."""
        outlines = "".join(
            f'<path id="{name}" d="{escape(outline)}" transform="{LETTER}"/>'
            for outline, name in self._letters.items()
        )
        return f'<svg class="letters" aria-hidden="true"><defs>{outlines}</defs></svg>'

    def _names(self, root: Element) -> dict[str, str]:
        """Make names unique on the page; take out the letters."""
        prefix = f"p{next(self._pictures)}-"
        names: dict[str, str] = {}
        for holder in list(root.iter(f"{SVG}defs")):
            for part in list(holder):
                name, outline = part.get("id", ""), part.get("d", "")
                if part.get("transform") == LETTER:
                    outline = " ".join(outline.split())
                    letter = f"a{len(self._letters) + 1}"
                    names[name] = self._letters.setdefault(outline, letter)
                    holder.remove(part)
        for part in root.iter():
            for value in (part.get("clip-path", ""), part.get("style", "")):
                for name in REFERENCE.findall(value):
                    names.setdefault(name, f"{prefix}{len(names)}")
            # A part that nothing refers to gets no name: another picture may have the same one.
            if (link := part.get(LINK, "")).startswith("#"):
                names.setdefault(link[1:], f"{prefix}{len(names)}")
        return names


def _write(element: Element, names: dict[str, str], digits: int = 1) -> str:
    """Write an element of a picture; an unknown one is left out with its children."""
    kind = str(element.tag).removeprefix(SVG)
    if kind not in ELEMENTS:
        return ""
    # Elements that are used at many places, such as markers, are small and need more digits.
    digits = 2 if kind == "defs" else digits
    if kind == "g":
        _lift_style(element)
    attributes = _attributes(element, names, digits)
    body = "".join(_write(part, names, digits) for part in element)
    if kind in ("g", "defs") and (not body or not attributes):
        return body if kind == "g" or not body else f"<defs>{body}</defs>"
    return f"<{kind}{attributes}>{body}</{kind}>" if body else f"<{kind}{attributes}/>"


def _lift_style(group: Element) -> None:
    """Move the style that all marks of a group share to the group."""
    styles = {part.get("style") for part in group}
    (style,) = styles if len(styles) == 1 else (None,)
    if style and "style" not in group.attrib and all(part.tag == f"{SVG}use" for part in group):
        group.set("style", style)
        for part in group:
            del part.attrib["style"]


def _attributes(element: Element, names: dict[str, str], digits: int) -> str:
    found = dict(element.attrib)
    found["href"] = found.pop(LINK, "")
    if found.get("id") not in names:
        found.pop("id", None)
    else:
        found["id"] = names[found["id"]]
    if found["href"].startswith("#"):
        found["href"] = f"#{names[found['href'][1:]]}"
    elif not found["href"].startswith("data:image/png;base64,"):
        del found["href"]
    if "transform" in found:
        found["transform"] = TRANSLATION.sub(lambda text: _rounded(text[0], 2), found["transform"])
        # For `use`, x and y are such a translation in fewer letters, which many markers repeat.
        moved = TRANSLATION.fullmatch(found["transform"])
        if moved and element.tag == f"{SVG}use" and "x" not in found:
            found |= {"x": moved[1], "y": moved[2]}
            del found["transform"]
    for name in {"d", "x", "y"} & set(found):
        found[name] = _rounded(found[name], digits)
    if "d" in found:
        # After a point of a line, the command L is implied.
        plain = " ".join(found["d"].split())
        found["d"] = LINES.sub(lambda line: line[0].replace(" L", ""), plain)
    for name in {"style", "clip-path"} & set(found):
        found[name] = REFERENCE.sub(lambda text: f"url(#{names[text[1]]})", found[name])
    if "style" in found:
        found["style"] = _harmless(found["style"])
    # Left out, x and y count as 0.
    given = (name for name in ATTRIBUTES if found.get(name, "") not in ("", "0"))
    known = (name for name in given if ATTRIBUTES[name].fullmatch(found[name]))
    return "".join(f' {name}="{escape(found[name])}"' for name in known)


def _harmless(style: str) -> str:
    """Keep the declarations that matplotlib writes."""
    pairs = [[part.strip() for part in one.partition(":")[::2]] for one in style.split(";")]
    return ";".join(
        f"{name}:{value}"
        for name, value in pairs
        if name in STYLES and STYLES[name].fullmatch(value)
    )


def _rounded(text: str, digits: int) -> str:
    # Adding zero turns -0.0 into 0.0, without a sign.
    short = lambda number: f"{round(float(number[0]), digits) + 0.0:g}"
    return NUMBER.sub(short, text)
