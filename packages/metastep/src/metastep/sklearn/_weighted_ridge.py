"""Ridge regression on weighted examples: held-out predictions, outliers and hypergradients."""

import numpy as np

PENALTIES = tuple(float(one) for one in np.logspace(2, -4, 7))  # factors of |w|^2
UPDATES = 20
SMALLEST_SCALE = 1e-9  # of the normal errors, relative to the range of the targets


def fit_ridge(
    rows: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float
) -> np.ndarray:
    """Minimize the weighted mean squared error plus the penalty of all but the first coefficient.

    `rows` has a first column of ones, and `penalty` is the factor of the squared coefficients.
    """
    # `lstsq`, not `solve`: without a penalty, or with few weights left, the matrix may be singular.
    return np.linalg.lstsq(_matrix(rows, weights, penalty), rows.T @ (weights * targets))[0]


def error_slopes(
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    judges: np.ndarray,
    truth: np.ndarray,
) -> np.ndarray:
    """Differentiate the mean squared error of a validation set with respect to the weights.

    At w = A^{-1} X^T S y with A = X^T S X + P, where the penalty P = p diag(0, 1, ..., 1) sum(s)
    depends on s as well: dw/ds_i = A^{-1} (x_i (y_i - x_i w) - p (0, w_2, ...)). `judges` and
    `truth` are the rows and targets of the validation set.
    """
    matrix = _matrix(rows, weights, penalty)
    params = np.linalg.lstsq(matrix, rows.T @ (weights * targets))[0]
    # One adjoint for all weights: A is symmetric, so A^{-1} goes to the validation gradient's side.
    adjoint = np.linalg.lstsq(matrix, 2 * judges.T @ (judges @ params - truth) / len(truth))[0]
    return (rows @ adjoint) * (targets - rows @ params) - penalty * adjoint[1:] @ params[1:]


def _matrix(rows: np.ndarray, weights: np.ndarray, penalty: float) -> np.ndarray:
    # Times the sum of the weights, since the penalty belongs to a mean of squared errors.
    diagonal = np.full(rows.shape[1], penalty * weights.sum())
    diagonal[0] = 0
    return rows.T @ (weights[:, None] * rows) + np.diag(diagonal)


def held_out_predictions(
    rows: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    folds: list[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Predict every target by the model trained without its fold."""
    found = np.zeros(len(targets))
    for train, held_out in folds:
        params = fit_ridge(rows[train], targets[train], weights[train], penalty)
        found[held_out] = rows[held_out] @ params
    return found


def outlier_probabilities(
    targets: np.ndarray, predictions: np.ndarray, factors: np.ndarray
) -> np.ndarray:
    """Return the probability of each error under the uniform part of a mixture.

    The mixture of a normal distribution and a uniform one, over the range of the targets, is fitted
    to the errors. `factors` is the multiplicity of each example.
    """
    # Targets of weight zero are judged, but must not widen the range.
    seen, errors = factors > 0, np.abs(targets - predictions)
    width = float(np.ptp(targets[seen])) or 1.0
    order = np.argsort(errors)
    cumulated = np.cumsum(factors[order])
    median = errors[order][np.searchsorted(cumulated, cumulated[-1] / 2)]
    # 1.4826 times the median is the standard deviation of normal errors, whatever the gross ones.
    scale, part = max(1.4826 * median, SMALLEST_SCALE * width), 0.1
    wrong = np.zeros(len(targets))
    for _ in range(UPDATES):
        normal = (1 - part) * np.exp(-0.5 * (errors / scale) ** 2) / (scale * np.sqrt(2 * np.pi))
        gross = part / width
        wrong = gross / (normal + gross)
        # Expectation and maximization, kept from explaining all errors as gross, or none.
        part = float(np.clip(np.average(wrong, weights=factors), 1e-3, 0.5))
        trust = factors * (1 - wrong)
        # A perfect fit would end with the scale 0, by which errors are divided.
        scale = max(np.sqrt(trust @ errors**2 / trust.sum()), SMALLEST_SCALE * width)
    return wrong
