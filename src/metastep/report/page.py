"""One self-contained HTML page about one or several runs: no scripts, nothing fetched.

The page shows what the run directories hold; nothing is computed anew. Figures are pictures inside
the page (data URIs), so that their names and styles cannot clash.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from metastep.report.records import read_result, read_tables
from metastep.report.tables import (
    data_table,
    format_number,
    format_seconds,
    pairs_table,
)

VERDICTS = {True: ("✔", "holds"), False: ("✘", "does not hold"), None: ("?", "undecided")}
STATUSES = {"complete": "✔", "interrupted": "…", "failed": "✘"}
ROW = '<tr role="row">'
CELL = '<td role="cell">'
MEASURED = '<td role="cell" class="measured">'
PIXELS_PER_POINT = 4 / 3
PHONE = 700  # pixels; a narrower figure fits a phone, a wider one scrolls there
STYLE = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class _Run:
    """A run directory and its place on the page."""

    directory: Path
    number: int
    result: dict[str, Any]

    @property
    def anchor(self) -> str:
        return f"run-{self.number}"

    @property
    def title(self) -> str:
        return self.result["experiment"]


def build_page(directories: Sequence[Path]) -> str:
    """Build the page.

    Args:
        directories: run directories, in the order in which they appear. Runs that were interrupted
            or failed are shown as such.

    Returns:
        HTML.

    Raises:
        RunDirectoryError: if one is no run directory, or a file in it is damaged.
    """
    runs = [
        _Run(directory, number, read_result(directory))
        for number, directory in enumerate(directories, start=1)
    ]
    sections = "\n".join(_section(run) for run in runs)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(_page_title(runs))}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{escape(_page_title(runs))}</h1>
<p>What was run, what came out, and which statements of the papers it bears out.</p>
</header>
<main id="content">
{_summary(runs)}
{sections}
</main>
</body>
</html>
"""


def _page_title(runs: Sequence[_Run]) -> str:
    names = list(dict.fromkeys(run.title for run in runs))
    return f"metastep: {names[0]}" if len(names) == 1 else f"metastep: {len(names)} experiments"


def _verdict(holds: bool | None) -> str:
    symbol, words = VERDICTS[holds]
    look = words.replace(" ", "-")
    return f'<span class="verdict {look}"><span aria-hidden="true">{symbol}</span> {words}</span>'


def _status(run: _Run) -> str:
    status = run.result["status"]
    symbol = STATUSES[status]
    return f'<span class="status {status}"><span aria-hidden="true">{symbol}</span> {status}</span>'


def _summary(runs: Sequence[_Run]) -> str:
    """Show each run with every claim and its verdict."""
    rows = []
    for run in runs:
        claims = run.result["claims"]
        items = "".join(
            f"<li>{_verdict(claim['holds'])} "
            f'<a href="#{run.anchor}-claims">{escape(claim["id"])}</a></li>'
            for claim in claims
        )
        rows.append(
            f'{ROW}<th role="rowheader" scope="row"><a href="#{run.anchor}">{escape(run.title)}</a>'
            f"<small>{escape(_variant(run))}</small></th>"
            f"{CELL}{_status(run)}</td>{CELL}{_counts(claims)}</td>"
            f'{CELL}<ul class="claims">{items or "<li>none</li>"}</ul></td></tr>\n'
        )
    caption = "Every run and the claims held against it"
    table = _stacking_table(caption, ("Run", "Status", "Held", "Claims"), rows)
    title = '<section aria-labelledby="summary">\n<h2 id="summary">Summary</h2>\n'
    return title + table + "</section>"


def _stacking_table(caption: str, names: Sequence[str], rows: Sequence[str]) -> str:
    """Build a table whose cells stand below each other on a phone.

    The roles are written out because that arrangement makes browsers forget them.
    """
    head = "".join(f'<th role="columnheader" scope="col">{name}</th>' for name in names)
    return (
        f'<div class="scroll"><table role="table" class="stacking"><caption>{escape(caption)}'
        f'</caption>\n<thead role="rowgroup">{ROW}{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{"".join(rows)}</tbody></table></div>'
    )


def _counts(claims: Sequence[dict[str, Any]]) -> str:
    if not claims:
        return "\N{EN DASH}"
    decided = [claim for claim in claims if claim["holds"] is not None]
    held = sum(claim["holds"] for claim in decided)
    undecided = len(claims) - len(decided)
    rest = f", {undecided} undecided" if undecided else ""
    return f"{held} of {len(decided)} hold{rest}"


def _variant(run: _Run) -> str:
    preset = run.result.get("preset")
    return f"preset {preset}, seed {run.result['seed']}" if preset else f"seed {run.result['seed']}"


def _section(run: _Run) -> str:
    result, anchor = run.result, run.anchor
    question = result.get("question") or ""
    parts = [
        f'<section class="run" aria-labelledby="{anchor}">',
        f'<h2 id="{anchor}">{escape(run.title)} {_status(run)}</h2>',
        f'<p class="question">{escape(str(question))}</p>' if question else "",
        f'<p class="source">Source: {escape(result["source"])}</p>',
        _warning(result),
        f'<h3 id="{anchor}-claims">Claims</h3>',
        _claims(run),
        _figures(run),
        _measured(run),
        f'<h3 id="{anchor}-how">How it was run</h3>',
        _how(run),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _warning(result: dict[str, Any]) -> str:
    if result["status"] == "complete":
        return ""
    if result["status"] == "failed":
        reason = str(result.get("error", "no reason was recorded"))
        return f'<p class="warning">This run failed: {escape(reason)}</p>'
    return (
        '<p class="warning">This run was interrupted or is still going on: what follows is '
        "incomplete. The same command with <code>--resume</code> continues it.</p>"
    )


def _claims(run: _Run) -> str:
    claims = run.result["claims"]
    if not claims:
        return "<p>No claim has been held against this run.</p>"
    rows = [
        f"{ROW}{CELL}{_verdict(claim['holds'])}</td>"
        f'<th role="rowheader" scope="row"><code>{escape(claim["id"])}</code>'
        f"<p>{escape(claim['text'])}</p></th>{MEASURED}{escape(claim['evidence'])}</td></tr>\n"
        for claim in claims
    ]
    names = ("Verdict", "What the paper says", "What this run measured")
    return _stacking_table(f"Claims of {run.title}", names, rows)


def _figures(run: _Run) -> str:
    figures = [_figure(run, figure) for figure in run.result.get("figures", [])]
    title = f'<h3 id="{run.anchor}-figures">Figures</h3>'
    return "\n".join([title, *figures]) if figures else ""


def _figure(run: _Run, figure: dict[str, str]) -> str:
    path = run.directory / "figures" / f"{figure['name']}.svg"
    name = escape(figure["name"].replace("-", " ").replace("_", " ").capitalize())
    if not path.is_file():
        return f'<p class="warning">The figure {name} is missing.</p>'
    content = path.read_bytes()
    picture = base64.b64encode(content).decode()
    text = escape(figure["alt"])
    return (
        f'<figure>\n<div class="card" role="group" tabindex="0" aria-label="{name}">'
        f'<img {_size(content)}alt="{text}" src="data:image/svg+xml;base64,{picture}"></div>\n'
        f"<figcaption><strong>{name}.</strong> {text} "
        f"<small>(figures/{escape(figure['name'])}.svg and .png)</small></figcaption>\n</figure>"
    )


def _size(svg: bytes) -> str:
    """Give the picture its size, below which letters are not readable, as HTML attributes."""
    found = re.search(rb'<svg[^>]* width="([0-9.]+)pt"', svg)
    height = re.search(rb'<svg[^>]* height="([0-9.]+)pt"', svg)
    if not found or not height:
        return ""
    width, height = (float(match[1]) * PIXELS_PER_POINT for match in (found, height))
    least = width * (0.5 if width < PHONE else 0.65)
    return f'width="{width:.0f}" height="{height:.0f}" style="min-width:{least:.0f}px" '


def _measured(run: _Run) -> str:
    """Show the metrics and the tables, the short ones first: they are the summaries."""
    parts = []
    if run.result["metrics"]:
        numbers = [(name, format_number(value)) for name, value in run.result["metrics"].items()]
        parts.append(pairs_table("Metrics", numbers))
    length = lambda table: max((len(column) for column in table[1].values()), default=0)
    tables = sorted(read_tables(run.directory).items(), key=length)
    parts += [data_table(name, columns) for name, columns in tables]
    title = f'<h3 id="{run.anchor}-tables">Numbers</h3>'
    return "\n".join([title, *parts]) if parts else ""


def _how(run: _Run) -> str:
    """Show what repeats the run: command, configuration, seed, versions; and the time it took."""
    result = run.result
    environment, timing = result["environment"], result["timing"]
    facts = [("seed", str(result["seed"]))]
    if result.get("preset"):
        facts.append(("preset", str(result["preset"])))
    facts += [(str(name), _plain(value)) for name, value in timing.items() if name != "seconds"]
    if isinstance(timing.get("seconds"), int | float):
        facts.append(("time", format_seconds(timing["seconds"])))
    versions = environment.get("versions")
    facts += [(name, _plain(value)) for name, value in environment.items() if name != "versions"]
    if isinstance(versions, dict):
        facts += [(str(name), _plain(value)) for name, value in versions.items()]
    config = [(str(name), _plain(value)) for name, value in result["config"].items()]
    tables = pairs_table("Configuration", config) if config else ""
    return f"{_command(result)}\n{tables}{pairs_table('Circumstances', facts)}"


def _command(result: dict[str, Any]) -> str:
    command = result.get("command")
    if not isinstance(command, str):
        return ""
    data = " <code>DATA</code> is the folder that holds the data sets."
    note = data if command.endswith(" --data DATA") else ""
    return (
        f"<p>This command repeats the run.{note}</p>\n"
        f'<pre tabindex="0"><code>{escape(command)}</code></pre>'
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "none" if value is None else str(value)
