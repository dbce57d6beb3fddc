"""The page of `metastep clean`: the suspects, the reliability of the ranking, what to do next."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metastep_lab.cleaning.ranking import Ranking
from metastep_lab.cleaning.reading import LabelledFile, spellings
from metastep_lab.cleaning.reliability import Reliability
from metastep_lab.report.tables import format_number
from metastep_lab.report.templates import frame, template

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 60
CELLS = 8
LONGEST = 80  # letters of a cell


class Outcome(NamedTuple):
    """The result of a cleaning.

    Attributes:
        classes: the different labels.
        labels: the given label of every row, as a position in `classes`.
        ranking: the verdict on every row.
        reliability: estimates from planted labels, or None.
        notes: how the columns were used.
        model: the kind of model.
        validated: whether there was a validation file.
    """

    classes: np.ndarray
    labels: np.ndarray
    ranking: Ranking
    reliability: Reliability | None
    notes: list[str]
    model: str
    validated: bool

    def order(self) -> np.ndarray:
        """Return the suspects, the most suspicious first."""
        # Stable: equal scores keep the order of the rows, on every machine.
        order = np.argsort(-self.ranking.scores, kind="stable")
        return order[self.ranking.suspect[order]]

    def lead(self) -> str:
        """Return how many labels are suspect, in words."""
        count, rows = int(self.ranking.suspect.sum()), len(self.labels)
        verb = "is" if count == 1 else "are"
        return f"{count:,} of {rows:,} labels {verb} suspect ({count / rows:.1%})"


def build_page(file: LabelledFile, outcome: Outcome, command: str) -> str:
    """Build the page, HTML that fetches nothing; `command` is the command line that made it."""
    order = outcome.order()
    # A wide table would not fit a page; suspects.csv has the row for the rest.
    names = [str(name) for name in file.inputs.columns[:CELLS]]
    checked = [("validation", "a file of checked labels")] if outcome.validated else []
    alike = [("different classes", names) for names in spellings(file)]
    found = outcome.reliability
    return template(TEMPLATE).render(
        column=file.column,
        path=str(file.path),
        lead=outcome.lead(),
        found=found,
        planted=f"{found.planted:,}" if found else None,
        images=file.images is not None,
        shown=[_suspect(file, outcome, int(row)) for row in order[:SHOWN]],
        count=f"{len(order):,}",
        names=names,
        more=file.inputs.shape[1] - len(names),
        confusions=_confusions(outcome, order),
        validated=outcome.validated,
        facts=[
            ("model", outcome.model),
            *checked,
            *alike,
            *(("columns", note) for note in outcome.notes),
        ],
        command=command,
        **frame(f"metastep: the labels of {file.path.name}"),
    )


def _suspect(file: LabelledFile, outcome: Outcome, row: int) -> dict[str, Any]:
    """Return the labels, the score, and the picture or the cells of a row, for the page."""
    given, suggested = outcome.labels[row], outcome.ranking.suggested[row]
    cells = [] if file.images else [_short(cell) for cell in file.inputs.iloc[row, :CELLS]]
    return {
        "row": f"{row + 1:,}",
        "given": _short(outcome.classes[given]),
        "suggested": _short(outcome.classes[suggested]),
        "score": f"{outcome.ranking.scores[row]:.3f}",
        "picture": file.images.as_data(row) if file.images else None,
        "cells": cells,
    }


def _short(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _confusions(outcome: Outcome, order: np.ndarray) -> list[tuple[str, str]]:
    """Count suspects by given and suggested label, the most frequent pairs first."""
    pairs = np.stack([outcome.labels[order], outcome.ranking.suggested[order]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    named = ([_short(name) for name in outcome.classes[pair]] for pair in found)
    texts = [
        (f"{given} \N{RIGHTWARDS ARROW} {suggested}", int(count))
        for (given, suggested), count in zip(named, counts, strict=True)
    ]
    texts.sort(key=lambda pair: -pair[1])
    return [(text, format_number(count)) for text, count in texts[:10]]
