"""Detection of runs that left the range of floating point, and the messages about it."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from metastep_lab.tables import Table

ADVICE = "a step size or another number of the configuration may be too large"
NOT_FINITE = re.compile(r"\b(nan|inf|infinite|finite|overflow)", re.IGNORECASE)


@contextmanager
def noted_warnings(say: Callable[[str], None]) -> Iterator[list[str]]:
    """Show the warnings of the body as lines of the run, overflow in NumPy's arithmetic once.

    Yields:
        The list of NumPy's overflow warnings, which grows while the body runs.
    """
    overflows: list[str] = []

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        text = str(message)
        # NumPy's words for what leaves the range, such as "overflow encountered in multiply".
        if category is not RuntimeWarning or " encountered in " not in text:
            say(f"{category.__name__}: {text}")
            return
        if not overflows:
            say(f"numbers leave the range of floating point: {text}")
        overflows.append(text)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield overflows


def failure(error: Exception, overflows: Sequence[str], refused: bool) -> str:
    """Say in one line why a run failed, and what to do if its numbers left the range of floats.

    `overflows` are NumPy's warnings during the run; `refused` is whether it refused its data or
    configuration. The line is empty for an error without a message.
    """
    reason = " ".join(str(error).split())
    in_words = isinstance(error, OverflowError) or NOT_FINITE.search(reason) is not None
    return f"{reason} ({ADVICE})" if overflows or (in_words and not refused) else reason


def divergence(
    metrics: Mapping[str, float],
    tables: Mapping[str, Table],
    finite: Sequence[str],
    overflows: Sequence[str],
) -> str:
    """Say whether a finished run diverged.

    Args:
        metrics: what it returned. NaN is allowed: not every configuration measures all metrics.
        tables: what it wrote.
        finite: the columns, as `table.column`, that hold a finite number in every row.
        overflows: what NumPy said while it ran.

    Returns:
        One sentence that names what is not finite; empty if the run did not diverge.
    """
    wrong = [name for name, value in metrics.items() if math.isinf(value)]
    for name in finite:
        table, column = name.split(".")
        if table in tables and not np.all(np.isfinite(tables[table][column])):
            wrong.append(name)
    if wrong:
        return f"The run diverged: {', '.join(wrong)} not finite; {ADVICE}."
    return f"The run diverged: {overflows[0]}; {ADVICE}." if overflows else ""
