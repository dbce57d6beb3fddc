"""What an experiment is: a configuration, a function that runs it, its figures and its claims.

An experiment reproduces one figure or table of a paper. It holds only configuration, calls and
columns: mathematics lives in the packages below, drawing in `metastep.report`. `run` writes tidy
tables through the `Context` it is given and returns a few numbers; `figures` and `claims` see only
what `run` left on disk, so that `metastep check` and `metastep report` need no second run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from metastep.report.figures import Figure

Column = np.ndarray
Table = Mapping[str, Column]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper held against one run.

    Attributes:
        id: short and stable, unique within the experiment, such as `bias-below-bound`.
        text: the statement in one sentence, with its place in the paper.
        holds: True, False, or None where this run cannot decide.
        evidence: the numbers that decide it, or why this run cannot.
    """

    id: str
    text: str
    holds: bool | None
    evidence: str


class Context(Protocol):
    """What a running experiment may use: its seed, its data, a place for tables and checkpoints."""

    seed: int
    data: Path | None
    resume: bool

    def table(self, name: str, columns: Table) -> None:
        """Write `tables/NAME.csv`, one row per observation. All columns have the same length."""
        ...

    def arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write `arrays.npz`."""
        ...

    def checkpoint(self, name: str) -> Path:
        """The path under `checkpoint/` at which the part `name` of this run keeps its state."""
        ...

    def log(self, message: str) -> None:
        """One line about what happens now, to the terminal or to a plain log."""
        ...


@dataclass(frozen=True)
class Record:
    """A finished run as read back from its directory.

    Attributes:
        config: the experiment's configuration dataclass.
        tables: table name to columns; numbers are float64 arrays (empty cells are NaN), the rest
            are arrays of strings.
        metrics: what `run` returned.
        arrays: the content of `arrays.npz`, empty if there is none.
    """

    config: Any
    tables: Mapping[str, Table]
    metrics: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Experiment:
    """One figure or table of a paper, reproducible by name.

    Attributes:
        name: as on the command line.
        source: the paper and its figure or table.
        question: what it asks, in one sentence that a newcomer understands.
        config: a frozen dataclass; its fields are what `--set` takes. Its `__post_init__` raises
            `ValueError` naming the field, the value and what is allowed.
        presets: `quick` and `paper` to an instance of `config`.
        minutes: preset to the minutes it takes on two cores.
        run: does the work, writes tables, returns metrics.
        claims: the paper's statements held against a finished run.
        figures: file stem to (figure, alternative text that says what is to be seen).
        reproducible: ids of the claims that must hold; `metastep check` exits with 1 otherwise.
    """

    name: str
    source: str
    question: str
    config: type
    presets: Mapping[str, Any]
    minutes: Mapping[str, float]
    run: Callable[[Any, Context], Mapping[str, float]]
    claims: Callable[[Record], tuple[Claim, ...]]
    figures: Callable[[Record], Mapping[str, tuple[Figure, str]]]
    reproducible: frozenset[str]
