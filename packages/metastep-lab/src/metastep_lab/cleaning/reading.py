"""Reading a labelled file: a CSV or Parquet table, or a folder of images with a CSV of labels.

Unusable input raises a `RefusedError` of one line before anything is written.
"""

import codecs
import csv
import io
import re
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
from pyarrow import ArrowException

from metastep.files import LARGEST, read_bytes
from metastep_lab.cleaning.images import Images, read_images
from metastep_lab.errors import RefusedError
from metastep_lab.tables import Frame

MOST_COLUMNS = 10_000
MOST_CLASSES = 1_000
TEXTS = (".csv", ".tsv")
SEPARATORS = ",;\t|"
MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"}
"""What stands for a missing cell."""


@dataclass(frozen=True)
class LabelledFile:
    """What was read.

    Attributes:
        path: the file or the folder.
        column: the name of the column of labels.
        table: all columns as they are in the file, texts as texts.
        inputs: the columns without the labels.
        labels: one text for each row, without spaces around it.
        images: if the path is a folder of images.
        content: the bytes of the table, to recognize the file again.
        separator: between its cells, for writing it.
    """

    path: Path
    column: str
    table: Frame
    inputs: Frame
    labels: np.ndarray
    images: Images | None
    content: bytes
    separator: str


def read_labelled(path: Path, column: str) -> LabelledFile:
    """Read a .csv, .tsv or .parquet file, or a folder with images and one .csv file.

    `column` is the name of the column of labels.

    Raises:
        RefusedError: if it cannot be used; the message says why and what is allowed.
    """
    name = _table_of(path)
    content = _content(name)
    if name.suffix.lower() == ".parquet":
        table, separator = _parquet(name, content), ","
    else:
        table, separator = _text(name, content, column)
    if not len(table):
        raise RefusedError(f"{name} has no rows")
    if column not in table.columns:
        shown = ", ".join(map(str, list(table.columns)[:12]))
        raise RefusedError(f"--label is {column}, which {name} has no column for; it has {shown}")
    labels: Any = table[column]
    # Not a class of their own: it would be suggested for rows whose label is known.
    missing = np.flatnonzero(labels.isna() | labels.astype(str).str.strip().isin(MISSING))
    if len(missing):
        raise RefusedError(
            f"{name}: {len(missing)} labels are missing, the first in row {missing[0] + 1}; "
            "fill them in or remove these rows"
        )
    inputs = table.drop(columns=[column])
    images = read_images(path, inputs) if path.is_dir() else None
    if images is None and not inputs.shape[1]:
        raise RefusedError(f"{name} has no column but the labels")
    texts = labels.astype(str).str.strip().to_numpy(dtype=str)
    return LabelledFile(path, column, table, inputs, texts, images, content, separator)


def check_classes(file: LabelledFile) -> None:
    """Refuse labels that cannot be ranked.

    Raises:
        RefusedError: for a single class, a class of one example, or labels that are not classes.
    """
    counts = Counter(file.labels.tolist())
    name, rows = f"{file.path}: the column {file.column}", len(file.labels)
    if len(counts) < 2:
        raise RefusedError(f"{name} has one class, {str(file.labels[0])!r}; two are needed")
    # Fewer than two rows for each class: nothing could be learned from the others.
    if len(counts) > min(MOST_CLASSES, rows // 2):
        raise RefusedError(
            f"{name} has {len(counts)} different values in {rows} rows; that is a number or a "
            "name, and no class"
        )
    for label, count in counts.items():
        if count == 1:
            row = int(np.flatnonzero(file.labels == label)[0]) + 1
            raise RefusedError(
                f"{name} has {label!r} once, in row {row}; nothing can be said of a class of one "
                "example: correct it or remove the row"
            )


def spellings(file: LabelledFile) -> list[str]:
    """Return classes that differ only in upper and lower case, as texts such as 'no' and 'NO'.

    Classes that look alike, such as an accented letter and a letter with an accent, count as well.

    Args:
        file: the file to clean.
    """
    groups: dict[str, list[str]] = {}
    for label in np.unique(file.labels).tolist():
        alike = unicodedata.normalize("NFKC", label).casefold()
        groups.setdefault(alike, []).append(repr(label))
    return [" and ".join(group) for group in groups.values() if len(group) > 1]


def _table_of(path: Path) -> Path:
    """Return the file that holds the table."""
    if not path.exists():
        raise RefusedError(f"{path} does not exist")
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix.lower() in TEXTS)
        if len(found) != 1:
            names = ", ".join(one.name for one in found[:5]) or "none"
            raise RefusedError(
                f"{path}: a folder of images needs one .csv file with its labels; found: {names}"
            )
        return found[0]
    if path.suffix.lower() not in (*TEXTS, ".parquet"):
        raise RefusedError(f"{path}: allowed are .csv, .tsv and .parquet files, and folders")
    return path


def _content(path: Path) -> bytes:
    try:
        content = read_bytes(path, LARGEST)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise RefusedError(f"{path} is empty")
    return content


def _text(path: Path, content: bytes, column: str) -> tuple[Frame, str]:
    """Return every cell as text, and the separator. `matrix.py` decides which are numbers."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        likely = "utf-16" if content.startswith(marks) else "latin1"
        raise RefusedError(
            f"{path} is not UTF-8 (byte {error.start} is {content[error.start]:#04x}); convert it, "
            f"such as with iconv -f {likely} -t utf-8 {path.name} > utf8-{path.name}"
        ) from error
    if "\0" in text:
        raise RefusedError(f"{path} holds NUL characters and is no table of texts")
    # As pandas does: blank lines in front are not the header.
    text = re.sub(r"\A(?: *[\r\n])+", "", text)
    csv.field_size_limit(2**27)  # without line breaks, a file is one long header
    # By the header alone: texts in the rows hold commas, too, and so may a name.
    lines, headers = io.StringIO(text, newline=""), {}
    for sign in SEPARATORS:
        lines.seek(0)
        headers[sign] = next(csv.reader(lines, delimiter=sign), [])
    separator = max(headers, key=lambda sign: (column in headers[sign], len(headers[sign])))
    header = headers[separator]
    _check_header(path, header)  # before pandas, which renames columns of equal names
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows that are too long
            # Texts as they are, which `clean.csv` gives back. pandas would read "NA" as missing,
            # and take the first column for names of the rows where lines end with a separator.
            table = pd.read_csv(
                io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False
            )
    except pd.errors.ParserWarning:
        raise RefusedError(f"{path} has rows with more cells than the header names") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise RefusedError(f"{path}: {error}") from error
    table.columns = header  # as in the file, where pandas has names for empty ones
    return table, separator


def _check_header(path: Path, names: list[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise RefusedError(f"{path} has {len(names):,} columns; allowed are {MOST_COLUMNS:,}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RefusedError(f"{path} has two columns of the name {twice[0]!r}")


def _parquet(path: Path, content: bytes) -> Frame:
    try:
        source = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        _check_header(path, source.schema_arrow.names)
        table = source.read().to_pandas()
    except (ArrowException, OSError, ValueError, TypeError) as error:
        raise RefusedError(f"{path} is no Parquet file that can be read: {error}") from error
    nested = [
        str(name)
        for name in table.columns
        if table[name].dtype == object
        and table[name].map(lambda cell: isinstance(cell, list | dict | np.ndarray | bytes)).any()
    ]
    if nested:
        raise RefusedError(
            f"{path}: the column {nested[0]} holds lists or records; allowed are "
            "numbers, texts and times"
        )
    # A named index is a column of the file, where any name is a text; pandas makes it an index and
    # numbers again. An index without a name is the places of rows in some other table.
    table = table.reset_index(level=[name for name in table.index.names if name is not None])
    table.columns = list(map(str, table.columns))
    return table.reset_index(drop=True)
