"""One tidy table over a sweep: a row for each run, as CSV and as Parquet."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from metastep.files import write_atomically
from metastep_lab.errors import RunDirectoryError
from metastep_lab.runs.records import read_texts
from metastep_lab.sweep.grid import as_text
from metastep_lab.sweep.record import Row

FIXED = {
    "status": pa.string(),
    "message": pa.string(),
    "attempts": pa.int64(),
    "seconds": pa.float64(),
}


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Put rows, which have the same varying fields, into columns.

    Returns:
        The columns key, the fields that vary, seed, status, message, attempts, seconds, and
        `metric_NAME` and `claim_ID` for what any of the runs has; what a run lacks is null.
    """
    found: dict[str, pa.Array] = {"key": pa.array([row.entry.key for row in rows], pa.string())}
    for name in rows[0].entry.values if rows else ():
        # Fields of a configuration may be called like columns of ours.
        column = f"config_{name}" if name in ("key", "seed", *FIXED) else name
        found[column] = pa.array([_cell(row.entry.values[name]) for row in rows])
    found["seed"] = pa.array([row.entry.seed for row in rows], pa.int64())
    for name, kind in FIXED.items():
        found[name] = pa.array([getattr(row, name) for row in rows], kind)
    # In the order of their first appearance, which a set would lose.
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        values = [row.metrics.get(name) for row in rows]
        # Types are given: pyarrow would take a column of None alone for one of type null.
        found[f"metric_{name}"] = pa.array(values, pa.float64())
    for name in dict.fromkeys(name for row in rows for name in row.claims):
        found[f"claim_{name}"] = pa.array([row.claims.get(name) for row in rows], pa.bool_())
    return pa.table(found)


def _cell(value: Any) -> Any:
    return as_text(value) if isinstance(value, list) else value


def write_table(out: Path, rows: Sequence[Row]) -> None:
    """Write `sweep.csv` and `sweep.parquet`, each at once.

    Raises:
        OSError: if they cannot be written; what was there stays.
    """
    table = as_table(rows)
    as_csv, as_parquet = io.BytesIO(), io.BytesIO()
    # In memory and then by renaming: pyarrow writes into the file as it goes.
    csv.write_csv(table, as_csv)
    parquet.write_table(table, as_parquet)
    write_atomically(out / "sweep.csv", as_csv.getvalue())
    write_atomically(out / "sweep.parquet", as_parquet.getvalue())


def read_messages(out: Path) -> dict[str, str]:
    """Read from `sweep.csv`, if there is one, why runs failed that left no run directory, by key.

    Raises:
        RunDirectoryError: if it is damaged.
    """
    path = out / "sweep.csv"
    if not path.exists():
        return {}
    columns = read_texts(path)
    if not {"key", "status", "message"} <= columns.keys():
        raise RunDirectoryError(f"{path} is damaged: it lacks a column; delete it")
    rows = zip(columns["key"], columns["status"], columns["message"], strict=True)
    return {key: message for key, status, message in rows if status == "failed"}
