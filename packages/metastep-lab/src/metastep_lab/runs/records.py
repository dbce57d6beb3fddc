"""A run directory on the disk: `result.json`, `tables/NAME.csv`, `arrays.npz`.

Every file is written atomically and reads back to the same numbers.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metastep.files import LARGEST, parse_arrays, read_bytes, write_atomically
from metastep_lab.errors import RunDirectoryError
from metastep_lab.runs.schema import ResultFile, read_file

SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
NUMBER = re.compile(r"-?([0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?|inf)", re.ASCII)
LARGEST_INTEGER = 2**53


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Write `result.json`; numbers that are not finite become null.

    Raises:
        OSError: if it cannot be written.
    """
    # Python would write NaN, which is not JSON and which other readers refuse.
    text = json.dumps(finite(result), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(directory / "result.json", text.encode() + b"\n")


def finite(value: Any) -> Any:
    """Prepare a nested value for JSON: plain Python, None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    # A scalar of NumPy or JAX, which `json` does not know.
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(directory: Path) -> dict[str, Any]:
    """Read and check `result.json`.

    Raises:
        RunDirectoryError: if there is none, or it is damaged or of another schema.
    """
    return read_file(directory / "result.json", ResultFile, SCHEMA, "run")[1]


def check_name(kind: str, name: str) -> str:
    """Return a name, if it is a plain file name; `kind` says what it names.

    Raises:
        ValueError: if it is not made of letters, digits, `_`, `-` and `.`.
    """
    if not NAME.fullmatch(name):
        allowed = "letters, digits, '_', '-' and '.', beginning with a letter or digit"
        raise ValueError(f"{kind} name is {name!r}; allowed: {allowed}")
    return name


def write_table(directory: Path, name: str, columns: Mapping[str, Any]) -> None:
    """Write `tables/NAME.csv` from columns, vectors of one length.

    Numbers are written so that they read back to the same float64, NaN as an empty cell, booleans
    as 1 and 0.

    Raises:
        ValueError: for columns of several lengths or dimensions, an integer beyond 2**53, or text
            with a line break.
        OSError: if it cannot be written.
    """
    check_name("table", name)
    vectors = {column: _plain(values) for column, values in columns.items()}
    shapes = {column: vector.shape for column, vector in vectors.items()}
    if not shapes or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"table {name} has columns of shape {shapes}; allowed: vectors")
    if len(set(shapes.values())) != 1:
        raise ValueError(f"table {name} has columns of shape {shapes}; allowed: one length")
    _cells(f"the header of {name}", np.array(list(vectors)))
    cells = [_cells(f"{name}.{column}", vector) for column, vector in vectors.items()]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(vectors)
    writer.writerows(zip(*cells, strict=True))
    write_atomically(directory / "tables" / f"{name}.csv", content.getvalue().encode())


def _plain(values: Any) -> np.ndarray:
    """Return an array of a NumPy type: bfloat16 and similar types become float32, exactly."""
    array = np.asarray(values)
    # These types, of the package ml_dtypes, have the kind of void, which no reader understands.
    foreign = array.dtype.kind == "V" and array.dtype.type is not np.void
    return array.astype(np.float32) if foreign else array


def _cells(name: str, vector: np.ndarray) -> list[str]:
    """Write each entry of a column as text."""
    if vector.dtype.kind in "biu":
        # In Python's integers: in int64 the least number is its own negative.
        if vector.size and max(-int(vector.min()), int(vector.max())) > LARGEST_INTEGER:
            raise ValueError(f"{name} holds an integer beyond 2**53, which float64 cannot hold")
        return [str(int(value)) for value in vector]
    if vector.dtype.kind == "f":
        # `repr` writes the fewest digits that read back to the same float64.
        return ["" if math.isnan(value) else repr(float(value)) for value in vector]
    texts = [str(value) for value in vector]
    # Legal in CSV within quotes, but a tool that reads by lines would cut the row in two.
    if any("\n" in text or "\r" in text for text in texts):
        raise ValueError(f"{name} holds text with a line break; allowed: text of one line")
    return texts


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Read a table: float64 where every cell is a number or empty (NaN), text elsewhere.

    Raises:
        RunDirectoryError: if it is damaged.
    """
    return {name: _column(cells) for name, cells in read_texts(path).items()}


def read_texts(path: Path) -> dict[str, list[str]]:
    """Read a table whose numbers stay text.

    Raises:
        RunDirectoryError: if it is damaged.
    """
    try:
        # Without translation of line ends: `csv` finds them on its own, also within quotes.
        rows = list(csv.reader(io.StringIO(read_bytes(path).decode(), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise RunDirectoryError(f"{path} is damaged: it has no header")
    header, body = rows[0], rows[1:]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            wrong = f"line {number} has {len(row)} cells, the header {len(header)}"
            raise RunDirectoryError(f"{path} is damaged: {wrong}")
    return {name: [row[i] for row in body] for i, name in enumerate(header)}


def _column(cells: list[str]) -> np.ndarray:
    # `float` takes more, such as "1_000", "infinity" or the digits of other scripts.
    if all(not cell or NUMBER.fullmatch(cell) for cell in cells):
        return np.array([float(cell or "nan") for cell in cells])
    return np.array(cells)


def read_tables(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read every table of a run, by its name.

    Raises:
        RunDirectoryError: if one is damaged.
    """
    paths = sorted((directory / "tables").glob("[!.]*.csv"))
    return {path.stem: read_table(path) for path in paths}


def write_arrays(directory: Path, arrays: Mapping[str, Any]) -> None:
    """Write `arrays.npz`.

    Raises:
        ValueError: for an array of Python objects, or more than 1 GiB together.
        OSError: if it cannot be written.
    """
    # In the order of names: the same arrays give the same bytes.
    plain = {check_name("array", name): _plain(arrays[name]) for name in sorted(arrays)}
    if (size := sum(array.nbytes for array in plain.values())) > LARGEST:
        raise ValueError(f"the arrays have {size} bytes; allowed are {LARGEST}, as `report` reads")
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **plain)
    write_atomically(directory / "arrays.npz", content.getvalue())


def read_arrays(directory: Path) -> dict[str, np.ndarray]:
    """Read `arrays.npz`; empty where there is no such file.

    Raises:
        RunDirectoryError: if it is damaged.
    """
    path = directory / "arrays.npz"
    if not path.exists():
        return {}
    try:
        return parse_arrays(read_bytes(path))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
