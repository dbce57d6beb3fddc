"""Numbers that a paper prints, beside what a run measured."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from metastep_lab.tables import Record, Table, columns, where


@dataclass(frozen=True)
class Printed:
    """A number that a paper prints.

    Attributes:
        place: in the paper, such as `Table 2`.
        what: what it is, such as `K = 5, F1`.
        paper: as printed.
        here: a function of the record that returns the same number of the run, or None if the run
            does not have it.
    """

    place: str
    what: str
    paper: float
    here: Callable[[Record], float | None]


def beside_the_paper(rows: Iterable[Printed], record: Record) -> Table | None:
    """Return the table of printed numbers that a run has, too; None if it has none of them.

    Its columns are place, what, paper, here. Numbers of the run that are not finite are left out.
    """
    found = [(row.place, row.what, row.paper, row.here(record)) for row in rows]
    known = [row for row in found if row[3] is not None and np.isfinite(row[3])]
    return columns("place what paper here", known) if known else None


def mean_of(
    table: str, column: str, *, scale: float = 1.0, **cell: object
) -> Callable[[Record], float | None]:
    """Return a function of the record: the mean of a column in some rows, for `Printed.here`.

    `scale` is the unit of the paper in units of the run: 100 for percent. `cell` has the values of
    columns in these rows; the function returns None if there are none, NaN if a value is missing.
    """

    def here(record: Record) -> float | None:
        rows = record.frames[table]
        values = (where(rows, **cell) if cell else rows)[column]
        # With NaN skipped, the repetitions that did not diverge would stand for all of them.
        return scale * float(values.mean(skipna=False)) if len(values) else None

    return here
