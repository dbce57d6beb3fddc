"""Numbers of a column, also with a decimal comma or grouped thousands."""

from typing import Any

import numpy as np
import pandas as pd

NUMERIC_SHARE = 0.9
"""The part of a column's cells that must be numbers for the others to count as missing."""

DECIMAL_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+"  # 51,7 and 3.604,43
# No group begins with a zero: 0,125 and 0.125 are less than one in every country.
GROUPED = r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"  # 3,604.43
GROUPED_BY_POINTS = r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+"  # 3.604 beside 3.604,43


def numbers_of(series: Any, separator: str) -> np.ndarray:
    """Return the numbers of a column, NaN in cells without a number; times are in seconds.

    Args:
        series: the column; every cell of a text file is a text, Parquet keeps the types.
        separator: between the cells of the file. With a semicolon, 3,604 is less than four.
    """
    if pd.api.types.infer_dtype(series, skipna=True) == "date":
        series = pd.to_datetime(series)
    if pd.api.types.is_timedelta64_dtype(series):
        # `to_numeric` makes the least 64-bit integer of a missing one.
        return series.dt.total_seconds().to_numpy(dtype=float)
    if pd.api.types.is_datetime64_any_dtype(series):
        # From a fixed date: the same time is the same number in the validation file. Its unit is
        # not the default nanosecond, in which 64 bits end in the year 2262.
        begin = pd.Timestamp(0, tz=series.dt.tz).as_unit("s")
        return (series - begin).dt.total_seconds().to_numpy(dtype=float)
    if pd.api.types.is_bool_dtype(series):
        return series.astype(float).to_numpy()
    stripped = series.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    numbers: Any = pd.to_numeric(_plain(stripped, separator), errors="coerce")
    return numbers.to_numpy(dtype=float, na_value=np.nan)


def count_rows(numbers: np.ndarray) -> bool:
    """Whether a column numbers the rows, such as 1, 2, 3 from the first to the last."""
    return len(numbers) > 1 and bool(np.all(np.diff(numbers) == 1))


def _plain(series: Any, separator: str) -> Any:
    """Return a column whose commas are those of numbers as Python writes them."""
    if pd.api.types.is_numeric_dtype(series):
        return series
    texts = series.astype(str)
    commas = texts[texts.str.contains(",", regex=False)]
    if not len(commas):
        return series
    decimal, grouped = (
        commas.str.fullmatch(pattern).mean() >= NUMERIC_SHARE
        for pattern in (DECIMAL_COMMA, GROUPED)
    )
    # Where both readings fit, as in 3,604, the separator tells the country. The cells that do not
    # fit the pattern keep their comma, and are no numbers: 12,5 among 3,604 is not 125.
    if decimal and not (grouped and separator == ","):
        fits = texts.str.fullmatch(f"(?:{DECIMAL_COMMA}|{GROUPED_BY_POINTS})")
        plain = texts.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        return series.where(~fits, plain)
    if not grouped:
        return series
    return series.where(~texts.str.fullmatch(GROUPED), texts.str.replace(",", "", regex=False))
