"""Interactive figures inside a page: their data, and Bokeh's script once, both compressed.

A page with all experiments stays below 5 MB that way, and opens before the script is unpacked:
`page.js` does so when the first figure comes near the window.
"""

import base64
import gzip
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

SCRIPT = Path(__file__).with_name("page.js")


def plot(path: Path, text: str) -> str:
    """Write the place of an interactive figure.

    Args:
        path: the file that `save_interactive` wrote.
        text: what is to be seen, for screen readers.

    Returns:
        HTML. Nothing if there is no such file or it was written for another version of Bokeh: the
        picture is shown then.
    """
    if not path.is_file():
        return ""
    content = path.read_bytes()
    if not content.startswith(b'{"bokeh":"' + version("bokeh").encode() + b'"'):
        return ""
    return f'<div class="plot" data-text="{escape(text)}" hidden>{_packed("", content)}</div>'


def scripts() -> str:
    """Write Bokeh and the script that draws the figures.

    Returns:
        HTML for the end of the page.
    """
    library = files("bokeh").joinpath("server/static/js/bokeh.min.js").read_bytes()
    own = SCRIPT.read_text(encoding="utf-8")
    packed = _packed(' id="bokeh"', library)
    return f"{packed}\n<script>\n{own}</script>"


def _packed(attributes: str, content: bytes) -> str:
    text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return f'<script type="application/gzip"{attributes}>{text}</script>'
