"""The parts of an experiment: a configuration, a function that runs it, figures and claims.

An experiment reproduces one figure or table of a paper. It holds only configuration, calls and
columns: mathematics lives in the packages below, drawing in `metastep_lab.figures`. `run` writes
tidy tables through the `Context` it is given and returns a few numbers; `figures` and `claims` see
only what `run` left on disk, so that `metastep check` and `metastep report` need no second run.

The fields of a configuration are integers, floats, booleans, strings, `Literal`s, tuples of any
length of one of these (`tuple[int, ...]`), or one of these or None.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metastep_lab.catalog import Listing
from metastep_lab.claims import Statements
from metastep_lab.figures.style import Figure
from metastep_lab.printed import Printed
from metastep_lab.tables import Record, Table


class Context(Protocol):
    """What a running experiment uses: its seed, its data, places for tables and checkpoints."""

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
        """Show one line about the current work, on the terminal or in a plain log."""
        ...

    def progress(self, done: int, total: int, what: str) -> None:
        """Show the progress of one stage: a bar on a terminal, else a line for every tenth part.

        For loops of the experiment's own; `minimize` draws its own bar.
        """
        ...


@dataclass(frozen=True)
class Experiment:
    """One figure or table of a paper, reproducible by name.

    Attributes:
        listing: its entry in the catalogue: name, source, question, minutes.
        config: a frozen dataclass; its fields are what `--set` takes. Its `__post_init__` raises
            `ValueError` naming the field, the value and what is allowed.
        presets: name to an instance of `config`; one called `paper` has the paper's sizes.
        run: does the work, writes tables, returns metrics.
        claims: the paper's statements, or a function of the record that returns them where the
            configuration decides which there are.
        figures: file stem to (figure, alternative text that says what is to be seen).
        reproducible: ids of the claims that must hold; `metastep check` exits with 1 otherwise.
        answer: the answer of a finished run to the question, in one or two sentences with numbers;
            None if the claims are the answer.
        printed: a function of the record that returns the numbers which the paper prints for such
            a run: of the same data, whatever its size. The table `printed` has them beside ours.
        finite: columns, as `table.column`, that hold a finite number in every row of every table:
            otherwise the run has diverged, and reports it.
    """

    listing: Listing
    config: type
    presets: Mapping[str, Any]
    run: Callable[[Any, Context], Mapping[str, float]]
    claims: Statements
    figures: Callable[[Record], Mapping[str, tuple[Figure, str]]]
    reproducible: frozenset[str]
    answer: Callable[[Record], str] | None = None
    printed: Callable[[Record], Iterable[Printed]] = lambda record: ()
    finite: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.listing.name

    def __reduce__(self) -> tuple[Callable[[Listing], "Experiment"], tuple[Listing]]:
        """Pickle by name: claims are functions, which cannot be pickled."""
        return load, (self.listing,)


def load(listing: Listing) -> Experiment:
    """Import the experiment of an entry of the catalogue."""
    return import_module(listing.module).EXPERIMENT
