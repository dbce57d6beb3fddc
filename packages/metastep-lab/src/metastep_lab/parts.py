"""The parts of a run, one after the other: their progress, what they leave, and their rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from metastep.saving import load, save
from metastep_lab.experiment import Context
from metastep_lab.tables import columns

Part = TypeVar("Part")
Rows = dict[str, list[tuple]]
"""The rows of every table, by its name."""


def in_turn(
    context: Context, parts: Sequence[Part], what: str | Callable[[Part], str]
) -> Iterator[Part]:
    """Yield the parts of a stage, and show its progress; `what` names it, or one of its parts."""
    for done, part in enumerate(parts):
        name = what if isinstance(what, str) else what(part)
        context.progress(done, len(parts), name)
        yield part
        if done + 1 == len(parts):
            context.progress(done + 1, len(parts), name)


def kept(
    context: Context, name: str, compute: Callable[[], tuple[Any, dict]], like: Any = None
) -> tuple[Any, dict]:
    """Return the arrays and the notes of a part, which survive an interruption of the run.

    Args:
        context: of the run.
        name: of the part; `^` is replaced, which a file name does not have.
        compute: returns them, a tree of arrays and a dictionary of JSON.
        like: the shapes and dtypes of the arrays; None for no arrays.
    """
    path, like = context.checkpoint(name.replace("^", "_")), {} if like is None else like
    if not (context.resume and path.exists()):
        save(path, *compute())
    # Read back also what has just been computed: JSON turns tuples into lists, and a run that was
    # not interrupted must go on with the same values as one that was.
    return load(path, like)


def repetition_seeds(seed: int, count: int) -> list[int]:
    """Return a seed for each of a run's repetitions: 0, 1, 2, ... for the seed 0 of a run.

    Runs of other seeds below 2^32 / count, with as many repetitions, have none of them.
    """
    # Not seed + number, by which runs of neighbouring seeds would share all repetitions but one.
    # JAX takes seeds of 32 bits.
    return [(seed * count + number) % 2**32 for number in range(count)]


def no_rows(headers: Mapping[str, str]) -> Rows:
    """Return an empty list for each table."""
    return {name: [] for name in headers}


def write_tables(context: Context, headers: Mapping[str, str], rows: Rows) -> None:
    """Write every table; its header has the names of the columns, separated by spaces."""
    for name, header in headers.items():
        context.table(name, columns(header, rows[name]))
