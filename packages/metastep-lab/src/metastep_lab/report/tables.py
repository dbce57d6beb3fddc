"""HTML tables: numbers aligned and rounded for reading, everything escaped."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

LONGEST = 40
SHORT = 12
"""A table of more rows is folded: it is there for reference."""

DIGITS = 4


def format_number(value: float | int | None) -> str:
    """A number for reading: four significant digits, whole numbers in full.

    Args:
        value: the number; None stands for one that was not finite.

    Returns:
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


def data_table(name: str, columns: Mapping[str, np.ndarray], longest: int = LONGEST) -> str:
    """A table of a run, in a container of its own that scrolls; a long one is folded.

    Args:
        name: the table's name, part of the caption.
        columns: column name to values.
        longest: how many rows are shown; the caption says how many there are.

    Returns:
        HTML.
    """
    rows = len(next(iter(columns.values()), ()))
    shown = f", the first {longest} shown" if rows > longest else ""
    plural = "row" if rows == 1 else "rows"
    label = escape(name)
    caption = f"{label} <small>({rows:,} {plural}{shown}; tables/{label}.csv)</small>"
    numeric = {column: values.dtype.kind == "f" for column, values in columns.items()}
    head = "".join(_cell("th", column, numeric[column]) for column in columns)
    body = "".join(
        "<tr>"
        + "".join(
            _cell("td", _shown(values[row], numeric[column]), numeric[column])
            for column, values in columns.items()
        )
        + "</tr>\n"
        for row in range(min(rows, longest))
    )
    shown = scrolling(
        f"table {name}",
        f'<table class="data"><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table>",
        tall=True,
    )
    if rows <= SHORT:
        return shown
    return f"<details><summary>{label}: {rows:,} rows</summary>\n{shown}</details>\n"


def _shown(value: Any, numeric: bool) -> str:
    return format_number(float(value)) if numeric else str(value)


def _cell(kind: str, text: str, numeric: bool) -> str:
    scope = ' scope="col"' if kind == "th" else ""
    look = ' class="number"' if numeric else ""
    # A long column name may break behind its underscores.
    content = escape(text).replace("_", "_<wbr>") if kind == "th" else escape(text)
    return f"<{kind}{scope}{look}>{content}</{kind}>"


def stacking_table(caption: str, names: Sequence[str], rows: Sequence[str]) -> str:
    """A table whose cells stand below each other on a phone.

    Args:
        caption: what it shows, plain text.
        names: of the columns, plain text.
        rows: HTML. Their roles are written out because that arrangement makes browsers forget them.

    Returns:
        HTML.
    """
    head = "".join(f'<th role="columnheader" scope="col">{escape(name)}</th>' for name in names)
    return (
        f'<div class="scroll"><table role="table" class="stacking"><caption>{escape(caption)}'
        f'</caption>\n<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{"".join(rows)}</tbody></table></div>'
    )


def pairs_table(caption: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A table of names and values.

    Args:
        caption: what they are.
        pairs: name and value, both plain text.

    Returns:
        HTML.
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
        for name, value in pairs
    )
    return scrolling(
        caption, f'<table class="pairs"><caption>{escape(caption)}</caption>\n{rows}</table>'
    )


def scrolling(label: str, table: str, tall: bool = False) -> str:
    """A container in which a wide or long table scrolls, also with the keyboard.

    Args:
        label: what screen readers say.
        table: HTML.
        tall: whether the table is so long that it scrolls up and down too.

    Returns:
        HTML.
    """
    name = f'role="group" aria-label="{escape(label)}"'
    look = "scroll tall" if tall else "scroll"
    return f'<div class="{look}" {name} tabindex="0">\n{table}\n</div>\n'
