"""Interactive figures in a page: the compressed data of each, and one compressed Bokeh script.

So a page with all experiments stays below 5 MB. It opens before the script is unpacked: `page.js`
unpacks it when the first figure is about to become visible.
"""

import base64
import gzip
from functools import cache
from hashlib import sha256
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from metastep.files import LARGEST_JSON, read_bytes
from metastep_lab.report.plots import checked

SCRIPT = Path(__file__).with_name("page.js")


def plot(path: Path, text: str) -> str:
    """Write the HTML element of an interactive figure; the text is for screen readers.

    Empty if there is no such file, it was written for another version of Bokeh, or it holds
    anything that `save_interactive` does not write; the page then shows the picture.
    """
    try:
        content = checked(read_bytes(path, LARGEST_JSON), version("bokeh"))
    except (OSError, ValueError):
        return ""
    return f'<div class="plot" data-text="{escape(text)}" hidden>{_packed("", content)}</div>'


def scripts() -> str:
    """Write Bokeh and the script that draws the figures, for the end of the page."""
    library, own = _scripts()
    packed = _packed(' id="bokeh"', library)
    return f"{packed}\n<script>{own.decode()}</script>"


@cache
def sources() -> str:
    """Return the hashes of the two scripts for the page's policy, the only ones that run."""
    hashes = (base64.b64encode(sha256(script).digest()).decode() for script in _scripts())
    return " ".join(f"'sha256-{one}'" for one in hashes)


@cache
def _scripts() -> tuple[bytes, bytes]:
    """Return Bokeh and the page's own script, as they are in the page."""
    library = files("bokeh").joinpath("server/static/js/bokeh.min.js").read_bytes()
    # Browsers hash all that is between the tags, the first line break as well.
    return library, f"\n{SCRIPT.read_text(encoding='utf-8')}".encode()


def _packed(attributes: str, content: bytes) -> str:
    # Without the time, so that the same runs give the same page.
    text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return f'<script type="application/gzip"{attributes}>{text}</script>'
