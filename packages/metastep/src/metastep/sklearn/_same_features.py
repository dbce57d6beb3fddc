"""A check that a validation set has the features of the training set, in the same units."""

import warnings
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

DISTANCE = 0.7
"""The least distance between two distribution functions that counts as different. A balanced
validation set may have a distance of 0.5 from a training set in which a class is rare."""

LEVEL = 1e-5
"""The largest share of random divisions that may be classified as different."""

COMPARED = 200
"""The number of rows of each set that are compared, which bounds the cost."""

ROUNDING = 1e-6
"""A column counts as constant if its values agree to this fraction of the largest."""


class DifferentFeaturesWarning(UserWarning):
    """A column of `X_valid` clearly differs from that of `X` in location or in scale.

    The weights or the regularization are then tuned on other data than the model is used on. The
    usual reason is a `Pipeline` that transforms `X` but not `X_valid`.

    Two Kolmogorov-Smirnov statistics are computed for every column: one for its values, one for
    their distances from the median of both sets. The warning is given if one of them is at least
    0.7, and so large a distance occurs in fewer than one of 100,000 random divisions of the same
    rows (an exact probability times the number of distances). Fewer than about five validation
    examples are often too few for a warning. Constant columns are not compared.

    To silence it for sets that differ on purpose:
    `warnings.simplefilter("ignore", DifferentFeaturesWarning)`.
    """


def warn_if_different(train: np.ndarray, validation: np.ndarray, stacklevel: int) -> None:
    """Warn about the column that differs most, if it clearly differs.

    Both sets have shape (examples, features). `stacklevel` selects the line that the warning names,
    as for `warnings.warn` in the caller.
    """
    parts = [rows[_spread(len(rows))] for rows in (train, validation)]
    pooled, count = np.concatenate(parts), len(parts[0])
    largest = np.max(np.abs(pooled), axis=0)
    # Constant but for rounding, a column can differ in every value and still mean the same.
    columns = np.flatnonzero(np.ptp(pooled, axis=0) > ROUNDING * largest)
    if not columns.size:
        return
    pooled = pooled[:, columns]
    # The pooled median treats both sets alike, as the exact probability requires.
    kinds = [pooled, np.abs(pooled - np.median(pooled, axis=0))]
    distances = np.stack([_distances(values, count) for values in kinds])
    kind, place = np.unravel_index(np.argmax(distances), distances.shape)
    if distances[kind, place] < DISTANCE:
        return
    worst = kinds[kind][:, place]
    found: Any = ks_2samp(worst[:count], worst[count:], method="exact")
    if found.pvalue * distances.size <= LEVEL:
        different = int(np.sum(np.any(distances >= DISTANCE, axis=0)))
        message = _message(columns[place], different, *(part[:, columns[place]] for part in parts))
        warnings.warn(message, DifferentFeaturesWarning, stacklevel=stacklevel + 1)


def _spread(count: int) -> np.ndarray:
    """Return the indices of the rows to compare, evenly spaced."""
    # Not drawn at random: the same data always warn or never.
    return np.linspace(0, count - 1, min(count, COMPARED)).astype(int)


def _distances(pooled: np.ndarray, count: int) -> np.ndarray:
    """Return each column's Kolmogorov-Smirnov distance: first `count` rows against the rest."""
    order = np.argsort(pooled, axis=0)
    gaps = np.cumsum(np.where(order < count, 1 / count, -1 / (len(pooled) - count)), axis=0)
    ordered = np.take_along_axis(pooled, order, axis=0)
    # Equal values are a single step of a distribution function.
    return np.max(np.abs(gaps[:-1]) * (ordered[1:] != ordered[:-1]), axis=0, initial=0)


def _message(column: int, different: int, train: np.ndarray, validation: np.ndarray) -> str:
    describe = lambda values: "{:.3g} (5 % to 95 %: {:.3g} to {:.3g})".format(
        *np.quantile(values, (0.5, 0.05, 0.95))
    )
    return (
        f"X_valid plainly differs from X (columns: {different}). Column {column} has the median "
        f"{describe(validation)} in X_valid and {describe(train)} in X. Give both in the same "
        "units. A Pipeline does not transform X_valid unless it is told to: use scikit-learn's "
        'metadata routing, with Pipeline(..., transform_input=["X_valid"]), as the documentation '
        "of HypercleanedClassifier shows."
    )
