"""The files that `metastep clean` writes, each atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metastep.files import write_atomically
from metastep_lab.cleaning.page import Outcome
from metastep_lab.cleaning.reading import LabelledFile
from metastep_lab.tables import Frame

MARK = "cleaning.json"
"""The file that tells such a folder from others; runs/directories.py knows it, too."""


def write_state(directory: Path, state: Mapping[str, Any]) -> None:
    """Write the state of the folder, in JSON: its contents, and whether it is complete."""
    content = json.dumps(state, indent=2, ensure_ascii=False) + "\n"
    write_atomically(directory / MARK, content.encode())


def write_outcome(
    directory: Path, file: LabelledFile, outcome: Outcome, page: str, state: Mapping[str, Any]
) -> None:
    """Write `suspects.csv`, `weights.csv`, `clean.csv` and `report.html`, then `cleaning.json`.

    Rows are counted from 1, the header not among them. `clean.csv` has the rows that are not
    suspect, with their columns as they were. `state` is the content of `cleaning.json` besides the
    numbers.
    """
    ranking, rows = outcome.ranking, np.arange(len(file.labels)) + 1
    order = outcome.order()
    # Further digits differ between machines, and between numbers of threads.
    scores = np.round(ranking.scores, 6)
    suspects = {
        "row": rows[order],
        "given": file.labels[order],
        "suggested": outcome.classes[ranking.suggested[order]],
        "score": scores[order],
    }
    weights = {
        "row": rows,
        "label": file.labels,
        "weight": np.round(ranking.weights, 6),
        "score": scores,
    }
    # Each file is whole or absent; `cleaning.json` comes last, and says that all are there.
    _write_table(directory / "suspects.csv", pd.DataFrame(suspects))
    _write_table(directory / "weights.csv", pd.DataFrame(weights))
    _write_table(directory / "clean.csv", file.table[~ranking.suspect], file.separator)
    write_atomically(directory / "report.html", page.encode())
    numbers: dict[str, Any] = {"rows": len(rows), "suspects": len(order)}
    if outcome.reliability is not None:
        numbers.update(outcome.reliability.as_lists())
    write_state(directory, {**state, "status": "complete", **numbers})


def _write_table(path: Path, table: Frame, separator: str = ",") -> None:
    # The same bytes on every system.
    text = table.to_csv(index=False, sep=separator, lineterminator="\n")
    write_atomically(path, text.encode())
