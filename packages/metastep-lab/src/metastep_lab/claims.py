"""The statements of a paper as rows, and what a finished run says to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metastep_lab.tables import Column, Record

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper held against one run.

    Attributes:
        id: short and stable, unique within the experiment, such as `bias-below-bound`.
        text: the statement in one sentence, with its place in the paper.
        holds: True, False, or None where this run cannot decide; NumPy's booleans become Python's.
        evidence: the numbers that decide it, or why this run cannot.
    """

    id: str
    text: str
    holds: bool | None
    evidence: str

    def __post_init__(self):
        if self.holds is not None:
            object.__setattr__(self, "holds", bool(self.holds))


@dataclass(frozen=True)
class Statement:
    """One statement of a paper, and how a run decides it.

    Attributes:
        id: short and stable, unique within the experiment, such as `bias-below-bound`.
        text: the statement in one sentence, with its place in the paper; a function of the record
            where it depends on the configuration.
        measure: of the record: the numbers that decide the statement, by name where there are
            several.
        verdict: of these numbers: True, False, or None where they cannot decide.
        evidence: these numbers in words: a function of them, or a template with their names, such
            as `"ratio {ratio:.2f}"`; `{}` stands for a single number.
        lacks: what the run lacks to be measured, such as `needs two windows`, or None.
    """

    id: str
    text: str | Callable[[Record], str]
    measure: Callable[[Record], Any]
    verdict: Callable[[Any], Any]
    evidence: str | Callable[[Any], str]
    lacks: Callable[[Record], str | None] = lambda record: None


# An experiment that is not converted yet returns claims.
Statements = Sequence[Statement] | Callable[[Record], Sequence[Statement | Claim]]


def evaluate(statements: Statements, record: Record) -> tuple[Claim, ...]:
    """Hold statements against a run.

    Args:
        statements: as `Experiment.claims` has them.
        record: the run.

    Returns:
        One claim for each statement; undecided where the run lacks something.
    """
    rows = statements(record) if callable(statements) else statements
    return tuple(row if isinstance(row, Claim) else _judge(row, record) for row in rows)


def _judge(row: Statement, record: Record) -> Claim:
    text = row.text if isinstance(row.text, str) else row.text(record)
    lacking = row.lacks(record)
    if lacking is not None:
        return Claim(row.id, text, None, lacking)
    numbers = row.measure(record)
    if callable(row.evidence):
        evidence = row.evidence(numbers)
    else:
        named = numbers if isinstance(numbers, Mapping) else {}
        evidence = row.evidence.format(numbers, **named)
    return Claim(row.id, text, row.verdict(numbers), evidence)


def span(values: Column, form: str = ".3g") -> str:
    """Write the smallest and the largest value, or one number where both read the same.

    Args:
        values: at least one.
        form: how a number is written.

    Returns:
        Such as `0.5 to 2`.
    """
    ends = f"{np.min(values):{form}}", f"{np.max(values):{form}}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def yes_or_no(verdicts: Sequence[bool | None] | Column, yes: str = "Yes") -> str:
    """Write the beginning of an answer that several verdicts decide.

    Args:
        verdicts: at least one; None counts as no.
        yes: what stands for all of them.

    Returns:
        `yes` if all are true, "Only in part" if some are, else "No".
    """
    if all(verdicts):
        return yes
    return "Only in part" if any(verdicts) else "No"


def listed(values: Mapping[Any, Any], form: str, errors: Sequence[float] | None = None) -> str:
    """Write one number for each window.

    Args:
        values: window to number.
        form: how a number is written.
        errors: the standard errors of the numbers, if they are to be shown.

    Returns:
        Such as `K=1 0.41, K=5 0.38`, or `K=1 0.41±0.02` with errors.
    """
    numbers = [f"K={window:g} {value:{form}}" for window, value in values.items()]
    if errors is not None:
        numbers = [f"{one}±{error:{form}}" for one, error in zip(numbers, errors, strict=True)]
    return ", ".join(numbers)


def falls(values: Sequence[float] | Column) -> bool | None:
    """Whether each value is below the one before; None if there are fewer than two."""
    return bool(np.all(np.diff(values) < 0)) if len(values) > 1 else None


def beyond(values: Column | float, margins: Column | float) -> bool | None:
    """Whether values are above zero by more than their margins.

    Args:
        values: such as differences.
        margins: such as two standard errors, of the same shape.

    Returns:
        True if all are, False if one is below zero by more than its margin, else None.
    """
    if np.any(values < -margins):
        return False
    return bool(np.all(values > margins)) or None
