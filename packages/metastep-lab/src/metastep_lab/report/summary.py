"""The top of the report page: every run and every claim at one glance, and what the signs mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from metastep_lab.report.tables import stacking_table

VERDICTS = {True: ("✔", "holds"), False: ("✘", "does not hold"), None: ("?", "undecided")}
MEANINGS = {
    True: "the numbers of this run agree with the statement.",
    False: "the numbers of this run contradict the statement.",
    None: "this run cannot tell, and says why; most often it is too small.",
}
STATUSES = {"complete": "✔", "interrupted": "…", "failed": "✘"}


@dataclass(frozen=True)
class Run:
    """A run directory and its place on the page.

    Attributes:
        directory: where the run is.
        number: its place, from 1.
        result: the content of `result.json`.
    """

    directory: Path
    number: int
    result: dict[str, Any]

    @property
    def anchor(self) -> str:
        """The identifier of its section."""
        return f"run-{self.number}"

    @property
    def title(self) -> str:
        """The experiment."""
        return self.result["experiment"]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The claims with their verdicts."""
        return self.result["claims"]

    @property
    def variant(self) -> str:
        """Which run of the experiment it is."""
        preset, seed = self.result.get("preset"), self.result["seed"]
        return f"{preset}, seed {seed}" if preset else f"seed {seed}"


def verdict(holds: bool | None) -> str:
    """Write a verdict.

    Args:
        holds: True, False, or None for undecided.

    Returns:
        HTML: a sign and words, so that no color is needed.
    """
    sign, words = VERDICTS[holds]
    return f'<span class="verdict {_look(holds)}">{_sign(sign)} {words}</span>'


def status(run: Run) -> str:
    """Write whether a run is complete.

    Args:
        run: the run.

    Returns:
        HTML.
    """
    word = run.result["status"]
    return f'<span class="status {word}">{_sign(STATUSES[word])} {word}</span>'


def counts(claims: Sequence[dict[str, Any]]) -> str:
    """Count verdicts.

    Args:
        claims: those of one or several runs.

    Returns:
        Such as `12 hold, 1 does not, 2 undecided`, without what there is none of.
    """
    number = {holds: sum(claim["holds"] is holds for claim in claims) for holds in VERDICTS}
    words = {
        True: "holds" if number[True] == 1 else "hold",
        False: "does not" if number[False] == 1 else "do not",
        None: "undecided",
    }
    parts = [f"{number[holds]} {words[holds]}" for holds in VERDICTS if number[holds]]
    return ", ".join(parts) or "no claims"


def summary(runs: Sequence[Run]) -> str:
    """Write the counts, the matrix of all claims and the meaning of its signs.

    Args:
        runs: in their order.

    Returns:
        HTML.
    """
    claims = [claim for run in runs for claim in run.claims]
    names = {run.title for run in runs}
    amounts = (
        f"<strong>{_plural(len(names), 'experiment')}, {_plural(len(claims), 'claim')}:</strong> "
        f"{counts(claims)}."
    )
    caption = "Every run and the verdict on each of its claims; a sign leads to its claim"
    table = stacking_table(
        caption, ("Experiment", "Claims", "Verdicts"), [_row(run) for run in runs]
    )
    return (
        '<section aria-labelledby="summary">\n<h2 id="summary">At a glance</h2>\n'
        f'<p class="amounts">{amounts}</p>\n{_legend()}{table}</section>'
    )


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _legend() -> str:
    rows = "".join(
        f"<div><dt>{verdict(holds)}</dt><dd>{meaning}</dd></div>\n"
        for holds, meaning in MEANINGS.items()
    )
    return f'<dl class="legend-of-verdicts">\n{rows}</dl>\n'


def _row(run: Run) -> str:
    cells = "".join(_cell(run, number) for number in range(len(run.claims)))
    state = "" if run.result["status"] == "complete" else f" {status(run)}"
    marks = f'<ul class="matrix">{cells}</ul>' if cells else "none"
    return (
        f'<tr role="row"><th role="rowheader" scope="row"><a href="#{run.anchor}">'
        f"{escape(run.title)}</a> <small>{escape(run.variant)}</small>{state}</th>"
        f'<td role="cell">{marks}</td><td role="cell" class="counts">{counts(run.claims)}</td>'
        "</tr>\n"
    )


def _cell(run: Run, number: int) -> str:
    claim = run.claims[number]
    sign, words = VERDICTS[claim["holds"]]
    name = f'<span class="name">{escape(claim["id"])}: {words}</span>'
    target = f"#{run.anchor}-claim-{number + 1}"
    return f'<li><a class="{_look(claim["holds"])}" href="{target}">{_sign(sign)}{name}</a></li>'


def _look(holds: bool | None) -> str:
    return VERDICTS[holds][1].replace(" ", "-")


def _sign(sign: str) -> str:
    return f'<span aria-hidden="true">{sign}</span>'
