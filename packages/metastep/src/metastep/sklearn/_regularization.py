"""One regularization per group of features, tuned by the gradient of the validation loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from sklearn.model_selection import KFold
from sklearn.utils import column_or_1d

Fold = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Train with the regularization of every feature; return the sum of the losses of the held-out
examples, and its derivative with respect to that regularization."""

# Above zero: with dependent columns the factorized matrix would be singular. For weights of 1 or
# more, which are numbers of copies; times the mean of smaller ones, which are shares.
SMALLEST = 0.1
LARGEST = 1e6  # times the number of training examples: a coefficient is then practically zero
# Also times that number. At far smaller values log alpha has no influence, and its gradient is 0.
STARTS = (0.01, 0.1, 1.0, 10.0)


class Tuned(NamedTuple):
    """The regularization of every feature, and the mean validation loss by iteration."""

    alpha: np.ndarray
    losses: np.ndarray


def encode_groups(groups: Any, features: int) -> np.ndarray:
    """Return the group number of each feature, (features,); None gives each its own group."""
    if groups is None:
        return np.arange(features)
    labels = column_or_1d(groups, input_name="groups")
    if len(labels) != features:
        raise ValueError(
            f"groups has {len(labels)} entries, but X has {features} features; every feature needs "
            "the label of its group"
        )
    # Numbers without gaps, since they are places in the vector of the unknowns.
    return np.unique(labels, return_inverse=True)[1]


def split(weights: np.ndarray, cv: int, random_state: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and held-out rows of every fold; rows of weight 0 are in none."""
    rows = np.flatnonzero(weights)
    dealt = KFold(cv, shuffle=True, random_state=random_state).split(rows)
    return [(rows[train], rows[held_out]) for train, held_out in dealt]


def tune_regularization(
    folds: Sequence[Fold],
    groups: np.ndarray,
    *,
    factors: np.ndarray,
    held_out: float,
    max_iter: int,
    tol: float,
) -> Tuned:
    """Minimize the mean validation loss over the logarithm of each group's regularization.

    L-BFGS-B starts from the best of a few values common to all groups, and stays within bounds.

    Args:
        folds: training runs.
        groups: the group of every feature.
        factors: the training examples' weights; their sum is the scale of the regularization.
        held_out: the sum of the weights in the held-out parts of all folds.
        max_iter: iterations of L-BFGS-B.
        tol: for the projected gradient of the loss, divided by the loss at the start.
    """
    count, samples = int(groups.max()) + 1, factors.sum()

    def objective(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        alpha = np.exp(logarithms[groups])
        losses, slopes = zip(*(fold(alpha) for fold in folds), strict=True)
        # d / d log alpha = alpha d / d alpha, summed over the features that share it.
        slope = np.bincount(groups, alpha * np.sum(slopes, axis=0), count)
        return sum(losses) / held_out, slope / held_out

    smallest = SMALLEST * min(1, samples / np.count_nonzero(factors))
    lowest, highest = np.log(smallest), np.log(LARGEST * samples)
    shared = [np.full(count, max(lowest, np.log(start * samples))) for start in STARTS]
    losses = [objective(point)[0] for point in shared]
    # Where the regularization is far off, the loss is flat, and no gradient leads away.
    best = int(np.argmin(losses))
    losses, unit = [losses[best]], losses[best] or 1.0
    # Divided by the first loss, so that `tol` means the same for any units of the targets.
    found = minimize(
        lambda logarithms: tuple(part / unit for part in objective(logarithms)),
        shared[best],
        method="L-BFGS-B",
        jac=True,
        bounds=[(lowest, highest)] * count,
        options={"maxiter": max_iter, "gtol": tol},
        callback=lambda intermediate_result: losses.append(unit * intermediate_result.fun),
    )
    return Tuned(np.exp(found.x[groups]), np.array(losses))
