"""Tables of the report page: numbers rounded for reading, long ones cut."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from metastep_lab.report.summary import plural

LONGEST = 40
SHORT = 12
"""A table of more rows is folded: it is there for reference. So is an empty one."""

DIGITS = 4


def format_number(value: float | int | None) -> str:
    """Write a number with four significant digits, whole numbers in full.

    Such as `1,234`, `0.01235`, `1.235e-07`, or a dash for None and NaN.
    """
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    if float(value).is_integer() and abs(value) < 1e9:
        text = f"{int(value):,}"
    elif 1e-3 <= abs(value) < 1e6:
        places = max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{places}f}"
        text = text.rstrip("0").rstrip(".") if places else text
    else:
        text = f"{value:.{DIGITS - 1}e}"
    return text.replace("-", "\N{MINUS SIGN}")


def data_table(name: str, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the header and the first rows of a table for the page."""
    number = len(next(iter(columns.values()), ()))
    numeric = {column: values.dtype.kind == "f" for column, values in columns.items()}
    shown = (
        map(format_number, map(float, values[:LONGEST])) if numeric[column] else values[:LONGEST]
        for column, values in columns.items()
    )
    return {
        "name": name,
        "count": plural(number, "row"),
        "cut": LONGEST if number > LONGEST else None,
        "folded": not 0 < number <= SHORT,
        "columns": list(numeric.items()),
        "rows": list(zip(*shown, strict=True)),
    }


def shortest_first(tables: Mapping[str, Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Return tables for the page, the short ones first, since these are the summaries."""
    length = lambda table: max((len(column) for column in table[1].values()), default=0)
    return [data_table(*table) for table in sorted(tables.items(), key=length)]
