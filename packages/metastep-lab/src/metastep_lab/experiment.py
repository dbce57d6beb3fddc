"""What an experiment is: a configuration, a function that runs it, its figures and its claims.

An experiment reproduces one figure or table of a paper. It holds only configuration, calls and
columns: mathematics lives in the packages below, drawing in `metastep_lab.report`. `run` writes
tidy tables through the `Context` it is given and returns a few numbers; `figures` and `claims` see
only what `run` left on disk, so that `metastep check` and `metastep report` need no second run.

The fields of a configuration are integers, floats, booleans, strings, `Literal`s, tuples of any
length of one of these (`tuple[int, ...]`), or one of these or None.
"""

import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError

from metastep_lab.catalog import Listing
from metastep_lab.figures.style import Figure

LARGEST_INTEGER = 2**31 - 1
"""The largest integer of a configuration: JAX's integers have 32 bits by default."""

Column = np.ndarray
Table = Mapping[str, Column]
LONG = re.compile(r"\s*[+-]?[\d_]{19,}\s*")
"""An integer that 64 bits may not hold, and Python may refuse to read."""


def columns(names: str, rows: Sequence[tuple[Any, ...]]) -> Table:
    """Turn rows into a table.

    Args:
        names: the columns' names, separated by spaces.
        rows: one tuple for each row, as long as there are names; none gives empty columns.

    Returns:
        Name to column.
    """
    values = zip(*rows, strict=True) if rows else ((),) * len(names.split())
    return {name: np.array(column) for name, column in zip(names.split(), values, strict=True)}


def select(table: Table, **conditions: object) -> dict[str, Column]:
    """Return the rows of a table whose named columns equal the given values.

    Args:
        table: columns of equal length.
        **conditions: column name to value.

    Returns:
        The same columns, shorter.
    """
    keep = np.all([np.asarray(table[name]) == value for name, value in conditions.items()], axis=0)
    return {name: np.asarray(column)[keep] for name, column in table.items()}


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

    def progress(self, done: int, total: int, what: str) -> None:
        """Say how far one stage of the run is: a bar on a terminal, every tenth part elsewhere.

        For loops of the experiment's own; `minimize` draws its own bar.
        """
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
        listing: its entry in the catalogue: name, source, question, minutes.
        config: a frozen dataclass; its fields are what `--set` takes. Its `__post_init__` raises
            `ValueError` naming the field, the value and what is allowed.
        presets: name to an instance of `config`; one called `paper` has the paper's sizes.
        run: does the work, writes tables, returns metrics.
        claims: the paper's statements held against a finished run.
        figures: file stem to (figure, alternative text that says what is to be seen).
        reproducible: ids of the claims that must hold; `metastep check` exits with 1 otherwise.
        answer: what a finished run says to the question, in one or two sentences with its numbers;
            None leaves it to the claims.
        finite: columns, as `table.column`, that hold a finite number in every row of every table:
            a run in which one does not has diverged, and says so.
    """

    listing: Listing
    config: type
    presets: Mapping[str, Any]
    run: Callable[[Any, Context], Mapping[str, float]]
    claims: Callable[[Record], tuple[Claim, ...]]
    figures: Callable[[Record], Mapping[str, tuple[Figure, str]]]
    reproducible: frozenset[str]
    answer: Callable[[Record], str] | None = None
    finite: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.listing.name


def parse_settings(config: Any, settings: Sequence[str]) -> Any:
    """Change fields of a configuration by what a user typed.

    Args:
        config: a preset.
        settings: texts `field=value`; lists are comma-separated, `none` stands for None.

    Returns:
        The changed configuration.

    Raises:
        ValueError: for an unknown field, a wrong type or an impossible value; one line that names
            the field, the value and what is allowed.
    """
    kinds = get_type_hints(type(config))
    names = [field.name for field in fields(config)]
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not _is_unicode(setting):
            raise ValueError(f"--set is {setting!r}; allowed: field=value")
        if name not in names:
            allowed = f"allowed: {', '.join(names) or 'none, it has no fields'}"
            raise ValueError(f"unknown field {name!r}{nearest(name, names)}; {allowed}")
        if name in values:
            raise ValueError(f"{name} is set twice; allowed: once")
        try:
            values[name] = parse_value(kinds[name], text)
        except OverflowError:
            allowed = f"integers from -{LARGEST_INTEGER} to {LARGEST_INTEGER}"
            raise ValueError(f"{name} is {text:.100}; allowed: {allowed}") from None
        except ValueError:
            allowed = describe(kinds[name])
            raise ValueError(f"{name} is {text!r}; allowed: {allowed}") from None
    return replace(config, **values)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written down; bytes of another encoding on the command line cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def nearest(name: str, names: Sequence[str]) -> str:
    """What the user may have meant, as a part of a sentence.

    Args:
        name: what the user typed.
        names: what there is.

    Returns:
        `" (did you mean 'steps'?)"`, or nothing where no name is near.
    """
    near = get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse_value(kind: Any, text: str) -> Any:
    """Read a value of one of the types that a configuration may have.

    Args:
        kind: the annotation.
        text: what the user typed.

    Returns:
        The value.

    Raises:
        ValueError: if `text` is no such value.
        OverflowError: if it is an integer beyond `LARGEST_INTEGER`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if text.lower() == "none":
            return None
        return parse_value(_not_none(arguments), text)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",")] if text else []
        return tuple(parse_value(arguments[0], part) for part in parts)
    if origin is Literal:
        return {str(choice): choice for choice in arguments}[_one_of(text, arguments)]
    if kind is bool:
        return _one_of(text.lower(), ("true", "false")) == "true"
    if kind is int and LONG.fullmatch(text):
        raise OverflowError(text)
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError(text)
    if kind is int and abs(value) > LARGEST_INTEGER:
        raise OverflowError(text)
    return value


def _not_none(kinds: tuple[Any, ...]) -> Any:
    rest = [kind for kind in kinds if kind is not type(None)]
    if len(rest) != 1:
        raise TypeError(f"a configuration cannot have a field of type {kinds}")
    return rest[0]


def _one_of(text: str, choices: tuple[Any, ...]) -> str:
    if text not in map(str, choices):
        raise ValueError(text)
    return text


def describe(kind: Any) -> str:
    """What a field allows, in words.

    Args:
        kind: the annotation.

    Returns:
        Such as `"an integer"` or `"integers, separated by commas"`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return f"{describe(_not_none(arguments))}, or none"
    if origin is tuple:
        return f"a list separated by commas, each entry {describe(arguments[0])}"
    if origin is Literal:
        return ", ".join(map(str, arguments))
    names = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
    return names[kind]


def config_as_json(config: Any) -> dict[str, Any]:
    """A configuration as `result.json` holds it: tuples become lists.

    Args:
        config: a configuration dataclass.

    Returns:
        Field name to value.
    """
    as_list = lambda value: list(value) if isinstance(value, tuple) else value
    return {name: as_list(value) for name, value in asdict(config).items()}


def config_from_json(config: type, values: Mapping[str, Any]) -> Any:
    """Read back what `config_as_json` returned.

    Args:
        config: the configuration's class.
        values: field name to value.

    Returns:
        The configuration.

    Raises:
        ValueError: if the fields are not those of `config`, or a value is impossible.
    """
    names = {field.name for field in fields(config)}
    if set(values) != names:
        other = ", ".join(sorted(set(values) ^ names))
        raise ValueError(f"the configuration is of another version of this experiment ({other})")
    kinds = get_type_hints(config)
    as_tuple = lambda value: tuple(value) if isinstance(value, list) else value
    read = lambda name, value: TypeAdapter(kinds[name]).validate_python(value, strict=True)
    try:
        return config(**{name: read(name, as_tuple(value)) for name, value in values.items()})
    except ValidationError as error:
        raise ValueError(f"the configuration is damaged: {error.errors()[0]['msg']}") from error
    except TypeError as error:
        raise ValueError(f"the configuration is damaged: {error}") from error
