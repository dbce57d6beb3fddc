"""One self-contained HTML page about one or several runs: nothing is fetched.

The page shows what the run directories hold; nothing is computed anew. Everything can be read
without scripts; where they run, figures become plots to zoom into.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from metastep.files import read_bytes
from metastep_lab.report import embedding
from metastep_lab.report.document import document
from metastep_lab.report.glossary import used_words
from metastep_lab.report.pictures import Pictures
from metastep_lab.report.summary import Run, counts, status, summary, verdict
from metastep_lab.report.tables import (
    data_table,
    format_number,
    pairs_table,
    stacking_table,
)
from metastep_lab.runs.records import read_result, read_tables
from metastep_lab.terminal import format_seconds

LARGEST_PICTURE = 2**26  # bytes

NEXT = """<section aria-labelledby="next">
<h2 id="next">What next</h2>
<p><code>metastep list</code> shows every experiment and how long it takes,
<code>metastep run NAME --seed 1</code> repeats one with other random numbers,
<code>--set FIELD=VALUE</code> changes its configuration, and <code>metastep sweep</code> runs many
at once. For problems and data of your own, the documentation in <code>docs/index.md</code> begins
with ten lines of Python.</p>
</section>"""

PAPER = re.compile(r"paper|printed|published|thesis")
"""A column with this in its name holds a paper's own numbers."""


class _Page:
    """A page while it is built: what its parts share."""

    def __init__(self, directories: Sequence[Path]):
        self.runs = [
            Run(directory, number, read_result(directory))
            for number, directory in enumerate(directories, start=1)
        ]
        self.pictures = Pictures()
        self.has_plots = False

    @cached_property
    def title(self) -> str:
        names = list(dict.fromkeys(run.title for run in self.runs))
        return f"metastep: {names[0]}" if len(names) == 1 else f"metastep: {len(names)} experiments"

    @property
    def introduction(self) -> str:
        if len({run.title for run in self.runs}) == 1:
            return "This page shows an experiment of a published paper that was run again."
        return "This page shows experiments of published papers that were run again."

    def html(self) -> str:
        """Put the parts together; letters and scripts come last, when it is known what is used."""
        sections = "\n".join(self.section(run) for run in self.runs)
        # A single run is read before its words are looked up.
        content = [sections, self.words()] if len(self.runs) == 1 else [self.words(), sections]
        scripts = embedding.scripts() if self.has_plots else ""
        body = f"""{summary(self.runs)}
{"".join(content)}
{NEXT}"""
        introduction = f"""<p>metastep computes how the outcome of training changes with anything
that shapes the training, and tunes it by that gradient. {self.introduction} Each statement of the
paper, called a claim, is held against the numbers of the run.</p>"""
        end = f"{self.pictures.letters()}\n{scripts}"
        sources = embedding.sources() if self.has_plots else "'none'"
        return document(self.title, introduction, body, end, sources)

    def words(self) -> str:
        """Explain the words that the runs use."""
        used = used_words(" ".join(text for run in self.runs for text in _texts(run)))
        items = "".join(
            f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>\n" for word, meaning in used
        )
        if not items:
            return ""
        names = "; ".join(escape(word) for word, _ in used)
        shown = " open" if len(self.runs) == 1 else ""
        return (
            f'<details class="words"{shown}><summary><strong>Words explained:</strong> {names}'
            f"</summary>\n<dl>\n{items}</dl></details>"
        )

    def section(self, run: Run) -> str:
        """Show a run: question, figures, tables beside the paper, claims, numbers, command."""
        result, anchor = run.result, run.anchor
        question, answer = result.get("question") or "", result.get("answer") or ""
        tables = read_tables(run.directory)
        beside = {name: columns for name, columns in tables.items() if _has_paper(columns)}
        parts = [
            f'<section class="run" aria-labelledby="{anchor}">',
            f'<h2 id="{anchor}">{escape(run.title)} {_state(run)}</h2>',
            f'<p class="question">{escape(str(question))}</p>' if question else "",
            f'<p class="answer">{escape(str(answer))}</p>' if answer else "",
            f'<p class="source">{escape(result["source"])} &middot; {escape(run.variant)} &middot; '
            f'<a href="#{anchor}-claims">{counts(run.claims)}</a></p>',
            _warning(result),
            self.figures(run),
            _titled(f"{anchor}-paper", "Beside the paper", _tables(beside)),
            f'<h3 id="{anchor}-claims">Claims</h3>',
            _claims(run),
            _titled(f"{anchor}-tables", "Numbers", _numbers(result, tables, beside)),
            _columns(result),
            f'<h3 id="{anchor}-how">How it was run</h3>',
            _how(run),
            "</section>",
        ]
        return "\n".join(part for part in parts if part)

    def figures(self, run: Run) -> str:
        """Show the figures of a run."""
        found = [self.figure(run, figure) for figure in run.result.get("figures", [])]
        return _titled(f"{run.anchor}-figures", "Figures", "\n".join(found))

    def figure(self, run: Run, figure: Mapping[str, str]) -> str:
        """Show a figure: its picture, and its plot where there is one."""
        stem = run.directory / "figures" / figure["name"]
        name = escape(_name(figure["name"]))
        try:
            svg = read_bytes(stem.with_name(f"{stem.name}.svg"), LARGEST_PICTURE)
            picture = self.pictures.inline(svg, figure["alt"])
        except FileNotFoundError:
            return f'<p class="warning">The figure {name} is missing.</p>'
        except (OSError, ValueError):  # a PictureError is one
            return f'<p class="warning">The figure {name} is damaged.</p>'
        plot = embedding.plot(stem.with_name(f"{stem.name}.json"), figure["alt"])
        if plot:
            # With scripts the browser need not build a picture that nobody looks at.
            picture = f"<noscript>{picture}</noscript>"
            self.has_plots = True
        return (
            f'<figure>\n<div class="card" role="group" tabindex="0" aria-label="{name}">{picture}'
            f"</div>\n{plot}\n<figcaption><strong>{name}.</strong> {escape(figure['alt'])} "
            f"<small>(figures/{escape(figure['name'])}.svg and .png)</small></figcaption>\n"
            "</figure>"
        )


def _state(run: Run) -> str:
    return "" if run.result["status"] == "complete" else status(run)


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
    return _Page(directories).html()


def _texts(run: Run) -> list[str]:
    """Return all that is said about a run."""
    said = [str(run.result.get(part) or "") for part in ("question", "answer", "source")]
    said += [claim[part] for claim in run.claims for part in ("text", "evidence")]
    return said + [figure["alt"] for figure in run.result.get("figures", [])]


def _name(stem: str) -> str:
    """Turn `figure-2-1-errors` into Figure 2.1 errors, and `roc-auc` into Roc auc."""
    if stem.startswith("figure-"):
        stem = re.sub(r"\b([a-z]|[0-9]+)-(?=[0-9])", lambda part: part[1].upper() + ".", stem)
    return stem[:1].upper() + stem[1:].replace("-", " ").replace("_", " ")


def _titled(identifier: str, title: str, content: str) -> str:
    return f'<h3 id="{identifier}">{title}</h3>\n{content}' if content else ""


def _warning(result: Mapping[str, Any]) -> str:
    if result["status"] == "complete":
        return ""
    if result["status"] == "failed":
        reason = str(result.get("error", "no reason was recorded"))
        return f'<p class="warning">This run failed: {escape(reason)}</p>'
    return (
        '<p class="warning">This run was interrupted or is still going on: what follows is '
        "incomplete. The same command with <code>--resume</code> continues it.</p>"
    )


def _claims(run: Run) -> str:
    if not run.claims:
        return "<p>No claim has been held against this run.</p>"
    rows = [
        f'<tr role="row" id="{run.anchor}-claim-{number}">'
        f'<td role="cell">{verdict(claim["holds"])}</td>'
        f'<th role="rowheader" scope="row"><code>{escape(claim["id"])}</code>'
        f"<p>{escape(claim['text'])}</p></th>"
        f'<td role="cell" class="measured">{escape(claim["evidence"])}</td></tr>\n'
        for number, claim in enumerate(run.claims, start=1)
    ]
    names = (
        "Verdict",
        "What the paper says, and how it is decided here",
        "What this run measured",
    )
    return stacking_table(f"Claims of {run.title}", names, rows)


def _has_paper(columns: Mapping[str, np.ndarray]) -> bool:
    return any(PAPER.search(name) for name in columns)


def _tables(tables: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Show tables, the short ones first: they are the summaries."""
    length = lambda table: max((len(column) for column in table[1].values()), default=0)
    shown = sorted(tables.items(), key=length)
    return "".join(data_table(name, columns) for name, columns in shown)


def _numbers(result: Mapping[str, Any], tables: Mapping[str, Any], beside: Any) -> str:
    """Show the metrics and the tables that were not shown beside the paper."""
    metrics = [(name, format_number(value)) for name, value in result["metrics"].items()]
    rest = {name: columns for name, columns in tables.items() if name not in beside}
    return (pairs_table("Metrics", metrics) if metrics else "") + _tables(rest)


def _columns(result: Mapping[str, Any]) -> str:
    """Show what the experiment says of its tables."""
    about = result.get("about")
    if not isinstance(about, str):
        return ""
    return (
        "<details><summary>What was done, and what the columns mean</summary>\n"
        f'<div class="about">{escape(about)}</div></details>'
    )


def _how(run: Run) -> str:
    """Show what repeats the run: command, time, configuration, seed, versions."""
    result = run.result
    environment, timing = result["environment"], result["timing"]
    facts = [("seed", str(result["seed"]))]
    if result.get("preset"):
        facts.append(("preset", str(result["preset"])))
    facts += [(str(name), _plain(value)) for name, value in timing.items() if name != "seconds"]
    versions = environment.get("versions")
    facts += [(name, _plain(value)) for name, value in environment.items() if name != "versions"]
    if isinstance(versions, dict):
        facts += [(str(name), _plain(value)) for name, value in versions.items()]
    config = [(str(name), _plain(value)) for name, value in result["config"].items()]
    tables = pairs_table("Configuration", config) if config else ""
    tables += pairs_table("Circumstances", facts)
    return (
        f"{_command(result)}\n<details><summary>Configuration, versions and machine</summary>\n"
        f"{tables}</details>"
    )


def _command(result: Mapping[str, Any]) -> str:
    command, seconds = result.get("command"), result["timing"].get("seconds")
    took = f"It took {format_seconds(seconds)}. " if isinstance(seconds, int | float) else ""
    if not isinstance(command, str):
        return f"<p>{took}</p>"
    data = " <code>DATA</code> is the folder that holds the data sets."
    note = data if command.endswith(" --data DATA") else ""
    if result.get("preset") == "quick":
        note += " <code>--preset quick</code> is small; the paper's size is"
        note += " <code>--preset paper</code>."
    return (
        f"<p>{took}This command repeats the run.{note}</p>\n"
        f'<pre tabindex="0"><code>{escape(command)}</code></pre>'
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "none" if value is None else str(value)
