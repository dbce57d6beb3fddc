"""Jinja2 templates of the pages, which escape every text that is not marked as HTML."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from metastep_lab.report.summary import MEANINGS, STATUSES, VERDICTS, counts

FOLDER = Path(__file__).parent
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src {}; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
"""What browsers let a page do: show what is in it, run its own scripts, fetch nothing."""


def _breakable(name: str) -> Markup:
    """Let a long column name break behind its underscores."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))


def template(path: Path) -> Template:
    """Return a template, which may extend `document.html` and import from `parts.html`.

    `document.html` needs `title`, `policy` and `style`: see `frame`.
    """
    environment = Environment(
        loader=FileSystemLoader([path.parent, FOLDER]),
        autoescape=True,
        # By default a misspelled name is an empty text.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    looks = {holds: words.replace(" ", "-") for holds, (_, words) in VERDICTS.items()}
    signs = {"verdicts": VERDICTS, "meanings": MEANINGS, "statuses": STATUSES, "looks": looks}
    environment.globals |= {"counts": counts, "zip": zip, **signs}
    return environment.get_template(path.name)


def frame(title: str, scripts: str = "'none'") -> dict[str, str]:
    """Return the values that `document.html` needs; `scripts` are the allowed script sources."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    return {"title": title, "policy": Markup(POLICY.format(scripts)), "style": Markup(style)}
