"""The statements of a paper as rows, and their verdicts in a finished run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from metastep_lab.tables import Column, Frame, Record

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """The verdict of one run on one statement of a paper.

    Attributes:
        id: short and stable, unique within the experiment, such as `bias-below-bound`.
        text: the statement in one sentence, with its place in the paper.
        holds: True, False, or None if this run cannot decide; NumPy's booleans become Python's.
        evidence: the numbers that decide it, or why this run cannot.
    """

    id: str
    text: str
    holds: bool | None
    evidence: str

    def __post_init__(self):
        if self.holds is not None:
            # Verdicts are counted by `is`, which is false of NumPy's True. The class is frozen.
            object.__setattr__(self, "holds", bool(self.holds))


@dataclass(frozen=True)
class Statement:
    """One statement of a paper, and the rule by which a run decides it.

    Attributes:
        id: short and stable, unique within the experiment, such as `bias-below-bound`.
        text: the statement in one sentence, with its place in the paper; a function of the record
            where it depends on the configuration.
        measure: a function of the record that returns the numbers that decide it: one number,
            a column, or several by name, which may be the columns of a DataFrame.
        verdict: a function of these numbers: True, False, or None if they cannot decide.
        evidence: these numbers in words: a function of them, or a template such as
            `"ratio {ratio:.2f} after {config.outer_steps} steps"`, with `{}` for
            a number without a name. Columns are written by `listed`.
        lacks: a function of the record that returns what is missing for the measurement, such as
            `needs two windows`, or None.
        reasons: a verdict to the sentence that explains it to a reader, after the evidence: why
            the claim does not hold (False), or what would decide it (None).
    """

    id: str
    text: str | Callable[[Record], str]
    measure: Callable[[Record], Any]
    verdict: Callable[[Any], Any]
    evidence: str | Callable[[Any], str]
    lacks: Callable[[Record], str | None] = lambda record: None
    reasons: Mapping[bool | None, str] = field(default_factory=dict)


Statements = Sequence[Statement] | Callable[[Record], Sequence[Statement]]


def evaluate(statements: Statements, record: Record) -> tuple[Claim, ...]:
    """Decide statements by a run: one claim for each, undecided if the run lacks what it needs."""
    rows = statements(record) if callable(statements) else statements
    return tuple(_judge(row, record) for row in rows)


def _judge(row: Statement, record: Record) -> Claim:
    text = row.text if isinstance(row.text, str) else row.text(record)
    lacking = row.lacks(record)
    if lacking is not None:
        return Claim(row.id, text, None, lacking)
    numbers = row.measure(record)
    if callable(row.evidence):
        evidence = row.evidence(numbers)
    else:
        # `**` takes a DataFrame, too: its keys are the names of its columns.
        named = numbers if isinstance(numbers, Mapping | pd.DataFrame) else {}
        evidence = _Words().format(row.evidence, numbers, config=record.config, **named)
    claim = Claim(row.id, text, row.verdict(numbers), evidence)
    reason = row.reasons.get(claim.holds)
    return replace(claim, evidence=f"{evidence.removesuffix('.')}. {reason}") if reason else claim


class _Words(Formatter):
    """What `str.format` does, with every number of a column."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """Write columns by `listed`, anything else as `format` does."""
        columns = isinstance(value, pd.Series | pd.DataFrame)
        return listed(value, format_spec) if columns else format(value, format_spec)


def span(values: Column, form: str = ".3g") -> str:
    """Write the smallest and the largest value, `0.5 to 2`, or one number if both look the same."""
    ends = f"{np.min(values):{form}}", f"{np.max(values):{form}}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def yes_or_no(verdicts: Sequence[bool | None] | Column, yes: str = "Yes") -> str:
    """Write the first word of an answer from several verdicts.

    It is `yes` if all are true, "Only in part" if some are, else "No"; None counts as no.
    """
    if all(verdicts):
        return yes
    return "Only in part" if any(verdicts) else "No"


def listed(values: Frame, form: str) -> str:
    """Write the numbers of a column, each after its label in the index.

    Such as `K=1 0.41, K=5 0.38` by window, or `full 0.41, untuned 0.38`, also from a dictionary; of
    a DataFrame, the means of the columns are written.
    """
    if isinstance(values, pd.DataFrame):
        values = values.mean(skipna=False)
    return ", ".join(
        f"{f'K={place:g}' if isinstance(place, int | float) else place} {value:{form}}"
        for place, value in values.items()
    )


def each(template: str, opening: str = "", between: str = "; ") -> Callable[[Frame], str]:
    """Return a function that writes every row of a DataFrame, for `Statement.evidence`.

    The template has the names of columns and of the index, such as `"K={window:g} {error:.2g}"`;
    `opening` stands before the first row, `between` between two.
    """

    def write(rows: Frame) -> str:
        numbers = rows.reset_index().to_dict("records")
        return opening + between.join(template.format(**row) for row in numbers)

    return write


def lacking(words: str, found: Callable[[Record], Any]) -> Callable[[Record], str | None]:
    """Return a function that says what a run lacks, for `Statement.lacks`.

    It returns the words, such as `needs two windows`, if what is found in a record is false or
    empty, else None.
    """

    def lacks(record: Record) -> str | None:
        value = found(record)
        # A DataFrame has a length but refuses to be a truth value.
        return None if (len(value) if hasattr(value, "__len__") else value) else words

    return lacks


def mean_and_error(values: Frame) -> tuple[Any, Any]:
    """Return the mean over rows of a Series or DataFrame, and its standard error.

    NaN where a value is missing, and for the error of a single row.
    """
    # pandas skips NaN by default: a seed that diverged would vanish from the mean.
    return values.mean(skipna=False), values.sem(skipna=False)


def falls(values: Sequence[float] | Column) -> bool | None:
    """Whether each value is below the one before; None if there are fewer than two."""
    return bool(np.all(np.diff(values) < 0)) if len(values) > 1 else None


def every(condition: str) -> Callable[[Frame], bool | None]:
    """Return the verdict whether a condition holds in every row, for `Statement.verdict`.

    The condition is on the columns, as `DataFrame.eval` takes it, such as `"overlap > 0.6"`. The
    verdict is None for no rows.
    """
    # `all` of no rows is true: a run without such rows would confirm the claim.
    return lambda rows: rows.eval(condition).all() if len(rows) else None


def beyond(values: Column | float, margins: Column | float) -> bool | None:
    """Whether values, such as differences, are above zero by more than their margins.

    Returns:
        True if all are, False if one is below zero by more than its margin, else None; None for no
        values.
    """
    if np.any(values < -margins):
        return False
    # `all` of no values is true: a run without them would confirm the claim.
    if np.size(values) == 0:
        return None
    # NaN is on neither side, so that a missing value alone decides nothing.
    return bool(np.all(values > margins)) or None
