"""A finished run as it is read back from its directory, and its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

Column = np.ndarray
Table = Mapping[str, Column]
Frame = Any
"""A pandas DataFrame or Series: the types of pandas are too wide to check what is indexed."""


def columns(names: str, rows: Sequence[tuple[Any, ...]]) -> Table:
    """Turn rows into a table; `names` are those of its columns, separated by spaces."""
    # A table without rows keeps its columns, which claims and figures name.
    values = zip(*rows, strict=True) if rows else ((),) * len(names.split())
    return {name: np.array(column) for name, column in zip(names.split(), values, strict=True)}


def curves(rows: Frame, by: str, x: str, y: str) -> dict[str, tuple[Frame, Frame]]:
    """Return a curve for each value of the column `by`, as `figures.style.Lines` takes them."""
    parts = rows.groupby(by, sort=False)
    return {str(name): (part[x], part[y]) for name, part in parts}


def where(rows: Frame, **equal: object) -> Frame:
    """Return the rows of a DataFrame whose named columns equal the given values."""
    for name, value in equal.items():
        rows = rows[rows[name] == value]
    return rows


@dataclass(frozen=True)
class Record:
    """A finished run as read back from its directory.

    Attributes:
        config: the experiment's configuration dataclass.
        tables: table name to columns; numbers are float64 arrays (empty cells are NaN), the rest
            are arrays of strings.
        metrics: what `run` returned.
        arrays: the content of `arrays.npz`, empty if there is none.
        frames: the tables as pandas holds them.
    """

    config: Any
    tables: Mapping[str, Table]
    metrics: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]

    @cached_property
    def frames(self) -> Mapping[str, Frame]:
        """The tables as pandas holds them."""
        return {name: pd.DataFrame(dict(table)) for name, table in self.tables.items()}

    def rows(self, table: str, **equal: object) -> Frame:
        """Return the rows of a table whose named columns equal the given values."""
        return where(self.frames[table], **equal)
