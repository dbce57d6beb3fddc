"""Configurations: checked fields, read from what a user types and from `result.json`."""

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, MinLen, Predicate
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

LARGEST_INTEGER = 2**31 - 1
"""The largest integer of a configuration: JAX's integers have 32 bits by default."""

LONG = re.compile(r"\s*[+-]?[\d_]{19,}\s*")
"""An integer that 64 bits may not hold, and Python may refuse to read."""

Config = TypeVar("Config")


def different(values: Sequence[Any]) -> bool:
    """Whether no two entries are equal, for `Predicate(different)`."""
    return len(set(values)) == len(values)


def _ascending(values: Sequence[Any]) -> bool:
    return list(values) == sorted(set(values))


Count = Annotated[int, Ge(1)]
Several = Annotated[int, Ge(2)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Ascending = Annotated[
    tuple[Count, ...], MinLen(1), Predicate(_ascending), "ascending integers from 1"
]

ONCE = (MinLen(1), Predicate(different), "different ones, at least one")
"""Marks of a tuple that names each of its entries once: `Annotated[tuple[str, ...], *ONCE]`."""


@dataclass_transform(frozen_default=True)
def configuration(cls: type[Config]) -> type[Config]:
    """Make a frozen dataclass that refuses impossible values with one line.

    A bound is an `Annotated` type such as `Count`. A text in the annotation describes the allowed
    values if the bounds do not. `__post_init__` checks the conditions on several fields. Refusals
    are a `ValueError` that names the field, the value and what is allowed.
    """
    # Strict: otherwise pydantic reads the text "3" as the integer 3, and 3.0 as well.
    made: Any = dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))(cls)
    checked = made.__init__

    def refuse(self: Any, **values: Any) -> None:
        try:
            checked(self, **values)
        # pydantic's own message has several lines and an address of its documentation.
        except ValidationError as error:
            raise ValueError(_line(error.errors()[0], made, values)) from None

    made.__init__ = refuse
    return made


def _line(error: Mapping[str, Any], config: type, values: Mapping[str, Any]) -> str:
    if not error["loc"]:
        return str(error["ctx"]["error"])  # what `__post_init__` raised
    name = error["loc"][0]
    shown = repr(values[name]) if isinstance(values[name], str) else values[name]
    kinds = get_type_hints(config, include_extras=True)
    if name not in kinds:
        return f"unknown field {name!r}; allowed: {', '.join(kinds)}"
    if get_origin(kinds[name]) is Annotated:
        return f"{name} is {shown}; allowed are {_bounded(kinds[name])}"
    return f"{name} is {shown}; allowed: {describe(get_type_hints(config)[name])}"


def _bounded(kind: Any) -> str:
    """Describe the allowed values of an annotation, such as `integers from 1`."""
    bare, *marks = get_args(kind)
    texts = [mark for mark in marks if isinstance(mark, str)]
    what = "integers" if bare is int else "numbers"
    least = "".join(f" from {mark.ge}" for mark in marks if isinstance(mark, Ge))
    most = "".join(f" to {mark.le}" for mark in marks if isinstance(mark, Le))
    positive = "positive " if Gt(0) in marks else ""
    return texts[0] if texts else f"{positive}{what}{least}{most}"


def parse_settings(config: Any, settings: Sequence[str]) -> Any:
    """Change fields of a preset by texts `field=value`.

    Lists are comma-separated, `none` stands for None.

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
    # Through the constructor, which checks every field and the conditions on several.
    return replace(config, **values)


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded; bytes of another encoding on the command line cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def nearest(name: str, names: Sequence[str]) -> str:
    """Return `" (did you mean 'steps'?)"` for a mistyped name, empty if no name is similar."""
    near = get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse_value(kind: Any, text: str) -> Any:
    """Read a value of one of the types that a configuration may have.

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
    """Describe the values that an annotation allows, such as `"an integer"`."""
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
    """Return a configuration in the form of `result.json`: tuples become lists."""
    as_list = lambda value: list(value) if isinstance(value, tuple) else value
    return {name: as_list(value) for name, value in asdict(config).items()}


def config_from_json(config: type, values: Mapping[str, Any]) -> Any:
    """Read back what `config_as_json` returned, as a class of configurations.

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
