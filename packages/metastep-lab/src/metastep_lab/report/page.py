"""One self-contained HTML page about one or several runs: nothing is fetched.

The page shows the content of the run directories; nothing is computed again. It can be read
without scripts. With scripts, figures become interactive plots. Its template `page.html` escapes
every text that is not marked as HTML here.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from metastep.files import read_bytes
from metastep_lab.report import embedding
from metastep_lab.report.glossary import used_words
from metastep_lab.report.pictures import Pictures
from metastep_lab.report.summary import Run, plural
from metastep_lab.report.tables import format_number, shortest_first
from metastep_lab.report.templates import frame, template
from metastep_lab.runs.records import read_result, read_tables
from metastep_lab.terminal import format_seconds

TEMPLATE = Path(__file__).with_name("page.html")
LARGEST_PICTURE = 2**26  # bytes

PAPER = re.compile(r"paper|printed|published|thesis|theory")
"""A column with this in its name holds a paper's own numbers, or those that its theory gives."""


def build_page(directories: Sequence[Path]) -> str:
    """Build the page of run directories, in their order.

    Runs that were interrupted or failed are shown as such.

    Raises:
        RunDirectoryError: if one is not a run directory, or a file in it is damaged.
    """
    runs = [Run(path, number, read_result(path)) for number, path in enumerate(directories, 1)]
    pictures = Pictures()
    views = [_view(run, pictures) for run in runs]
    names = list(dict.fromkeys(run.title for run in runs))
    claims = [claim for run in runs for claim in run.claims]
    # Without one the page needs neither Bokeh, half a megabyte, nor leave to run scripts.
    plots = any(shown.get("plot") for view in views for shown in view["figures"])
    several = "experiments of published papers that were run again."
    single = "an experiment of a published paper that was run again."
    title = names[0] if len(names) == 1 else plural(len(names), "experiment")
    page = template(TEMPLATE).render(
        runs=runs,
        views=views,
        claims=claims,
        introduction=f"This page shows {single if len(names) == 1 else several}",
        amounts=f"{plural(len(names), 'experiment')}, {plural(len(claims), 'claim')}",
        words=used_words(" ".join(text for run in runs for text in _texts(run))),
        letters=Markup(pictures.letters()),
        scripts=Markup(embedding.scripts() if plots else ""),
        **frame(f"metastep: {title}", embedding.sources() if plots else "'none'"),
    )
    return page.lstrip()  # the macros leave blank lines before the document


def _view(run: Run, pictures: Pictures) -> dict[str, Any]:
    """Return the values for the template that are not in the result of a run."""
    result, tables = run.result, read_tables(run.directory)
    beside = {name: columns for name, columns in tables.items() if _has_paper(columns)}
    rest = {name: columns for name, columns in tables.items() if name not in beside}
    seconds = result["timing"].get("seconds")
    return {
        "figures": [_figure(run, figure, pictures) for figure in result.get("figures", [])],
        "beside": shortest_first(beside),
        "tables": shortest_first(rest),
        "metrics": [(name, format_number(value)) for name, value in result["metrics"].items()],
        "about": result.get("about"),
        "command": result.get("command"),
        "took": None if seconds is None else format_seconds(seconds),
        "config": [(str(name), _plain(value)) for name, value in result["config"].items()],
        "facts": _facts(result),
    }


def _figure(run: Run, figure: Mapping[str, str], pictures: Pictures) -> dict[str, Any]:
    """Return a figure's picture and its plot, if it has one; or an error message."""
    stem, name = run.directory / "figures" / figure["name"], _name(figure["name"])
    try:
        svg = read_bytes(stem.with_name(f"{stem.name}.svg"), LARGEST_PICTURE)
        picture = pictures.inline(svg, figure["alt"])
    except FileNotFoundError:
        return {"name": name, "fault": "missing"}
    except (OSError, ValueError):  # a PictureError is one
        return {"name": name, "fault": "damaged"}
    return {
        "name": name,
        "fault": None,
        "stem": figure["name"],
        "alt": figure["alt"],
        "picture": Markup(picture),
        "plot": Markup(embedding.plot(stem.with_name(f"{stem.name}.json"), figure["alt"])),
    }


def _texts(run: Run) -> list[str]:
    """Return all texts about a run."""
    said = [str(run.result.get(part) or "") for part in ("question", "answer", "source")]
    said += [claim[part] for claim in run.claims for part in ("text", "evidence")]
    return said + [figure["alt"] for figure in run.result.get("figures", [])]


def _name(stem: str) -> str:
    """Turn `figure-2-1-errors` into Figure 2.1 errors, `tables-1-2` into Tables 1 and 2.

    `lds` and `roc-auc` are written in capitals.
    """
    if stem.startswith("figure-"):
        # The letter is that of an appendix, as in Figure C.27.
        stem = re.sub(r"\b([a-z]|[0-9]+)-(?=[0-9])", lambda part: part[1].upper() + ".", stem)
    stem = re.sub(r"^(tables-\d+)-(?=\d)", r"\1 and ", stem)
    stem = re.sub(r"\b(lds|roc|auc)\b", lambda word: word[1].upper(), stem)
    return stem[:1].upper() + stem[1:].replace("-", " ").replace("_", " ")


def _has_paper(columns: Mapping[str, np.ndarray]) -> bool:
    return any(PAPER.search(name) for name in columns)


def _facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is needed to repeat the run besides its configuration: seed, preset, machine."""
    environment, versions = result["environment"], result["environment"].get("versions")
    facts = [("seed", result["seed"])]
    facts += [("preset", result["preset"])] if result.get("preset") else []
    facts += [pair for pair in result["timing"].items() if pair[0] != "seconds"]
    facts += [pair for pair in environment.items() if pair[0] != "versions"]
    facts += versions.items() if isinstance(versions, dict) else []
    return [(str(name), _plain(value)) for name, value in facts]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "none" if value is None else str(value)
