"""Numbers from a table: numeric, categorical and text columns by scikit-learn's transformers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from metastep_lab.cleaning.numbers import NUMERIC_SHARE, count_rows, numbers_of
from metastep_lab.cleaning.reading import MISSING, LabelledFile
from metastep_lab.errors import RefusedError
from metastep_lab.tables import Frame

LARGEST = 1e150
"""The largest number of a column; the squares of larger ones overflow."""

MOST_CATEGORIES = 50
MOST_WORDS = 2000
MOST_DENSE = 2 * 10**7  # numbers; beyond, sparse features are projected
COMPONENTS = 100


class Kinds(NamedTuple):
    """The names of the columns of each kind."""

    numeric: list[str]
    categorical: list[str]
    text: list[str]
    ignored: list[str]


class Matrix(NamedTuple):
    """Features of the file and of the validation file, and the use of each column."""

    train: Any
    validation: Any
    notes: list[str]


def make_matrix(file: LabelledFile, validation: LabelledFile | None, dense: bool) -> Matrix:
    """Turn the columns of a file, and of one with checked labels, into features.

    `dense` says that the model cannot use a sparse matrix; a large one is projected then.

    Raises:
        RefusedError: for infinities and numbers near them, a column that is numeric in only one of
            the files, or no column that can be used.
    """
    if file.images is not None:
        pixels = None if validation is None or not validation.images else validation.images.pixels
        return Matrix(file.images.pixels, pixels, ["images"])
    frame, kinds = _prepare(file.inputs, file)
    if not (kinds.numeric or kinds.categorical or kinds.text):
        raise RefusedError(f"{file.path}: no column can be used; all are constant or names of rows")
    # A category of one row would be a name for it, by which a model could memorize its label.
    categories = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=2, max_categories=MOST_CATEGORIES
    )
    transformer = ColumnTransformer(
        [
            # That a cell is empty may itself tell the class.
            ("numbers", SimpleImputer(strategy="median", add_indicator=True), kinds.numeric),
            ("categories", categories, kinds.categorical),
            *(
                (f"text {index}", TfidfVectorizer(max_features=MOST_WORDS, min_df=2), name)
                for index, name in enumerate(kinds.text)
            ),
        ]
    )
    try:
        train = transformer.fit_transform(frame)
    except ValueError as error:  # such as texts without a word
        raise RefusedError(f"{file.path}: {error}") from error
    valid: Any = None
    if validation is not None:
        valid = transformer.transform(_prepare(validation.inputs, validation, kinds)[0])
    notes = [
        f"{len(names)} {kind}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        for kind, names in zip(("numeric", "categorical", "text", "ignored"), kinds, strict=True)
        if names
    ]
    if not issparse(train):  # as the transformer decides, for both files alike
        return Matrix(train, valid, notes)
    convert: Callable[[Any], Any] = _to_dense(train) if dense else csr_array
    return Matrix(convert(train), None if valid is None else convert(valid), notes)


def _to_dense(train: Any) -> Callable[[Any], np.ndarray]:
    """Return how a sparse matrix becomes a dense one; beyond a size by its leading directions."""
    # Directions are at most as many as columns, and so few columns need no projection.
    if train.shape[1] <= COMPONENTS or train.shape[0] * train.shape[1] <= MOST_DENSE:
        return lambda matrix: matrix.toarray()
    # Without centring, which would fill a sparse matrix.
    return TruncatedSVD(COMPONENTS, random_state=0).fit(train).transform


def _prepare(inputs: Frame, file: LabelledFile, kinds: Kinds | None = None) -> tuple[Frame, Kinds]:
    """Return columns of numbers and of texts, and the kind of each column."""
    found = Kinds([], [], [], []) if kinds is None else kinds
    columns = {}
    for name in map(str, inputs.columns):
        series = inputs[name]
        numbers = numbers_of(series, file.separator)
        texts = series.astype(str).str.strip()
        texts = texts.where(~(series.isna() | texts.isin(MISSING)), "")
        if kinds is None:
            _choose(found, name, texts, numbers)
        # In the second file the kinds of the first one hold: the features must be the same.
        if name in found.numeric:
            _check_numbers(file, name, texts, numbers, kinds is not None)
            columns[name] = numbers
        else:
            columns[name] = texts.to_numpy(dtype=object)
    return pd.DataFrame(columns), found


def _check_numbers(
    file: LabelledFile, name: str, texts: Any, numbers: np.ndarray, again: bool
) -> None:
    """Refuse infinities, numbers near them, and texts where the first file had numbers."""
    large = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(large):
        row, number = large[0] + 1, numbers[large[0]]
        what = "is infinite" if np.isinf(number) else f"holds {number:.3g}"
        raise RefusedError(
            f"{file.path}: the column {name} {what} in row {row}; allowed are numbers up to "
            f"{LARGEST:g}, and nothing for a missing one"
        )
    words = np.flatnonzero((texts != "") & np.isnan(numbers))
    if again and len(words) > (1 - NUMERIC_SHARE) * np.sum(texts != ""):
        raise RefusedError(
            f"--validation is {file.path}, whose column {name} holds {texts.iloc[words[0]]!r} in "
            f"row {words[0] + 1}; the column has numbers in the file to clean"
        )


def _choose(kinds: Kinds, name: str, texts: Any, numbers: np.ndarray) -> None:
    """Decide how a column is used."""
    # Numbers of few values (1 to 5, 0 or 1) stay numbers: their order is lost in categories.
    given = texts != ""
    count, different = int(given.sum()), texts[given].nunique()
    if different < 2 or count_rows(numbers):  # the place of a row in the file is no feature
        kinds.ignored.append(name)
    elif np.sum(~np.isnan(numbers)) >= NUMERIC_SHARE * max(count, 1):
        kinds.numeric.append(name)
    elif different <= MOST_CATEGORIES or different <= count / 10:
        kinds.categorical.append(name)
    elif texts[given].str.count(r"\w\s+\w").mean() >= 1:
        kinds.text.append(name)
    elif different <= count / 2:
        kinds.categorical.append(name)
    else:
        kinds.ignored.append(name)  # names that differ in every row cannot predict a label
