"""Common parts of the estimators: standardization, labels, validation sets and parameter checks."""

import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import diags_array, hstack, issparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import check_cv
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_consistent_length, check_scalar, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from metastep.sklearn._same_features import warn_if_different
from metastep.sklearn.label_ranking import deal_folds

FALLEN = 0.75
"""The score of a tuned weight that has fallen from 1/2, where all begin, to half of that."""


class Standardization(NamedTuple):
    """The means and the standard deviations of columns; 1 for a constant column.

    Sparse columns with zeros are not centered, which would make them dense: their means count as 0.
    """

    means: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, rows: Any, weights: np.ndarray | None = None) -> "Standardization":
        """Measure the columns.

        Raises:
            ValueError: if the squares of a column overflow.
        """
        # Below this size the sum of the squares of a column is finite, too.
        size = np.sqrt(np.finfo(np.float64).max / rows.shape[0])
        for large in (rows.max(axis=0), -rows.min(axis=0)):
            values = large.toarray().ravel() if issparse(large) else large
            if np.any(values > size):
                column = int(np.argmax(values))
                raise ValueError(
                    f"X holds numbers as large as {values[column]:.3g} in column {column}, whose "
                    f"squares overflow; allowed are numbers up to {size:.1g}: divide the column"
                )
        if not issparse(rows):
            fitted: Any = StandardScaler().fit(rows, sample_weight=weights)
            return cls(fitted.mean_, fitted.scale_)
        return cls(*_sparse_moments(rows, np.ones(rows.shape[0]) if weights is None else weights))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return standardized rows.

        Raises:
            ValueError: if one is so far from the measured rows that float32 cannot hold it.
        """
        # In float64: large values with a small spread lose all digits of it in float32.
        found = (rows - self.means) / self.scales
        # Models that compute in float32 would see an infinite number.
        far = np.abs(found) > np.finfo(np.float32).max
        if np.any(far):
            row, column = np.argwhere(far)[0]
            raise ValueError(
                f"column {column} holds {rows[row, column]:.3g} in row {row}, too far from the "
                "training examples; give all examples in the same units"
            )
        return found

    def apply_with_ones(self, rows: Any) -> Any:
        """Return standardized rows with a column of ones in front."""
        if issparse(rows):
            moved = rows.copy()
            moved.data = moved.data - self.means[moved.indices]
            ones = np.ones((rows.shape[0], 1))
            return hstack([ones, moved @ diags_array(1 / self.scales)], "csr")
        return np.insert(self.apply(rows), 0, 1.0, axis=1)

    def undo(self, params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return original coefficients and intercepts; in `params` intercepts come first."""
        slopes = params[..., 1:] / self.scales
        return slopes, params[..., 0] - slopes @ self.means


def _sparse_moments(rows: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is subtracted from each column and what divides it; `rows` has no duplicates."""
    # scikit-learn's scaler miscounts zeros where sparse rows have weights.
    seen = np.flatnonzero(weights)
    kept, shares = rows[seen], weights[seen] / weights[seen].sum()
    means = shares @ kept
    squares, stored = kept.copy(), kept.copy()
    # In two passes: E x^2 - (E x)^2 of a constant column is rounding, and dividing by its root
    # makes the column as large as 10^8.
    squares.data = (kept.data - means[kept.indices]) ** 2
    stored.data = np.ones_like(kept.data)
    absent = np.where(_entries(kept) == len(seen), 0, 1 - shares @ stored)
    variances = shares @ squares + absent * means**2
    constant = variances <= (len(seen) * np.finfo(np.float64).eps * means) ** 2
    # Columns without a zero are centered at no cost; years would otherwise be almost ones.
    centered = np.where(_entries(rows) == rows.shape[0], means, 0)
    return centered, np.sqrt(np.where(constant, 1, variances))


def _entries(rows: Any) -> np.ndarray:
    return np.bincount(rows.indices, minlength=rows.shape[1])


def encode_labels(y: Any, estimator: BaseEstimator) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and each label's position among them; refuse a single class."""
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if classes.size < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs samples of at least 2 classes in the data, but the "
            f"data contains only one class: {classes.tolist()[0]!r}"
        )
    return classes, codes


def check_validation_set(
    estimator: BaseEstimator, train: np.ndarray, features: Any, targets: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the given validation set as arrays, or None if there is none.

    Called by `fit`, so that a warning about features unlike those of `train` names its caller.
    """
    if features is None and targets is None:
        return None
    if features is None or targets is None:
        missing = "X_valid" if features is None else "y_valid"
        raise ValueError(f"{missing} is None; X_valid and y_valid must be given together")
    checked: Any = validate_data(estimator, features, reset=False, dtype=np.float64)
    targets = column_or_1d(targets, warn=True)
    check_consistent_length(checked, targets)
    warn_if_different(train, checked, stacklevel=3)
    return checked, targets


def encode_validation_labels(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return validation labels as positions in `classes`; every class must occur among them."""
    present = set(np.unique(labels).tolist())
    if unseen := present - set(classes.tolist()):
        raise ValueError(f"y_valid contains previously unseen labels: {sorted(unseen)}")
    if absent := set(classes.tolist()) - present:
        raise ValueError(
            f"y_valid contains no samples of the classes {sorted(absent)}; every class of y must "
            "be in the validation set"
        )
    return np.searchsorted(classes, labels)


def check_counts(estimator: BaseEstimator, *names: str, least: int = 1) -> None:
    """Refuse parameters that are not integers from `least`."""
    for name in names:
        check_scalar(getattr(estimator, name), name, Integral, min_val=least)


def check_number(
    estimator: BaseEstimator,
    name: str,
    least: float,
    most: float | None = None,
    boundaries: str = "left",
) -> None:
    """Refuse a parameter that is not a number in an interval with the given closed boundaries."""
    bounds: dict[str, Any] = {"min_val": least, "max_val": most, "include_boundaries": boundaries}
    value = getattr(estimator, name)
    check_scalar(value, name, Real, **bounds)
    # NaN is outside of no interval.
    if not np.isfinite(value):
        raise ValueError(f"{name} == {value}, must be finite.")


def make_folds(
    cv: Any, labels: np.ndarray, random_state: Any
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training and the held-out rows of each fold; `cv` may be a number."""
    # Not scikit-learn's folds, which warn about a class with fewer examples than folds.
    if isinstance(cv, Integral):
        folds = deal_folds(labels, int(cv), random_state)
    else:
        splitter: Any = check_cv(cv, labels, classifier=True)
        folds = list(splitter.split(labels, labels))
    # Repeated or single splits would judge an example twice or never.
    held_out = np.concatenate([rows for _, rows in folds])
    if not np.array_equal(np.sort(held_out), np.arange(len(labels))):
        raise ValueError("cv does not hold out every example once, which the ranking needs")
    unknown = [rows[~np.isin(labels[rows], labels[train])] for train, rows in folds]
    if lonely := np.sort(np.concatenate(unknown)).tolist():
        warnings.warn(
            f"No other fold has the label of row {lonely[0]} ({len(lonely)} such rows): no model "
            "can expect it there, so that it looks wrong whatever the example is. Correct it "
            "if it is a slip; else remove these rows, or add examples of their classes.",
            stacklevel=4,
        )
    return folds


def name_suspects(
    X: Any, suspect: np.ndarray, scores: np.ndarray, given: np.ndarray, suggested: np.ndarray
) -> tuple[Any, np.ndarray]:
    """Return the suspects and their scores, the largest score first.

    Suspects are row positions; for a DataFrame X, a DataFrame with its index and the columns given,
    suggested and score.
    """
    # Stable: equal scores keep the order of the rows, on every machine.
    ranking = np.argsort(-scores, kind="stable")
    rows = ranking[suspect[ranking]]
    if not (hasattr(X, "iloc") and hasattr(X, "assign")):
        return rows, scores[rows]
    # pandas is not a dependency; X itself provides its methods.
    columns = {"given": given[rows], "suggested": suggested[rows], "score": scores[rows]}
    return X.iloc[rows, []].assign(**columns), scores[rows]
