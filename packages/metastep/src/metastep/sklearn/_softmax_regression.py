"""Weighted softmax regression, cross-fitted on dense or sparse rows, with a tuned penalty."""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

PENALTIES = tuple(float(one) for one in np.logspace(1, -4, 11))  # factors of |W|^2 / 2
PATIENCE = 2  # the number of worse penalties in a row that ends the search
ENOUGH = 2000  # the number of held-out examples used to choose the penalty
MOST_ITERATIONS = 200
TOLERANCE = 1e-4


class CrossFitted(NamedTuple):
    """The parameters of each fold's model and its log probabilities for the held-out rows."""

    params: np.ndarray
    log_probabilities: np.ndarray


def fit_softmax(
    features: Any,
    labels: np.ndarray,
    weights: np.ndarray,
    penalty: float,
    start: np.ndarray,
) -> np.ndarray:
    """Minimize the weighted mean cross-entropy plus the penalty of all but the first row.

    `features` has a first column of ones, and `labels` are integers from 0. `penalty` is the factor
    of half the squared coefficients. The parameters have the shape of `start`: (features, classes).
    """
    rows, shares = np.arange(len(labels)), weights / weights.sum()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        params = flat.reshape(start.shape)
        # L-BFGS works in float64; the two products, where the time goes, in the dtype of the rows.
        logs = log_softmax(features @ params.astype(features.dtype), axis=1)
        residuals = np.exp(logs)
        residuals[rows, labels] -= 1
        residuals *= shares[:, None]
        shrunk = penalty * params
        # The first row holds the intercepts, which standardized columns leave free.
        shrunk[0] = 0
        value = np.vdot(params, shrunk) / 2 - shares @ logs[rows, labels]
        return value, (features.T @ residuals + shrunk).ravel()

    # Loose, since a ranking needs few digits.
    options = {"maxiter": MOST_ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-7}
    found = minimize(objective, start.ravel(), method="L-BFGS-B", jac=True, options=options)
    return found.x.reshape(start.shape)


class CrossFitting:
    """Softmax regressions, each trained on all folds but one; later calls start warm.

    Attributes:
        penalty: the penalty in use.
        params: of the models, (folds, features, classes).
    """

    def __init__(
        self,
        features: Any,
        labels: np.ndarray,
        classes: int,
        folds: list[tuple[np.ndarray, np.ndarray]],
        penalty: float | None = None,
    ):
        self.features, self.labels, self.folds = features, labels, folds
        self.candidates = PENALTIES if penalty is None else (penalty,)
        self.penalty = self.candidates[0]
        self.params = np.zeros((len(folds), features.shape[1], classes))

    def fit(self, weights: np.ndarray, penalty: float, count: int | None = None) -> CrossFitted:
        """Train the first `count` folds, or all; return the log probabilities of held-out rows."""
        # A copy, as `tune` keeps the parameters of the best penalty while it tries the next.
        logs, params = np.zeros((len(self.labels), self.params.shape[2])), self.params.copy()
        for index, (train, held_out) in enumerate(self.folds[:count]):
            # Zero weights cost less than a copy of the other rows.
            seen = np.zeros(len(weights))
            seen[train] = weights[train]
            if seen.any():
                start = self.params[index]
                params[index] = fit_softmax(self.features, self.labels, seen, penalty, start)
            logs[held_out] = log_softmax(self.features[held_out] @ params[index], axis=1)
        self.params = params  # the next call starts from here
        return CrossFitted(params, logs)

    def tune(self, weights: np.ndarray) -> None:
        """Choose the penalty by the weighted loss of at most about `ENOUGH` held-out rows.

        The search goes from large penalties to small ones, whose training takes longest, until the
        loss rises.
        """
        sizes = np.cumsum([len(rows) for _, rows in self.folds])
        count = int(np.searchsorted(sizes, min(ENOUGH, sizes[-1]))) + 1
        judged = np.concatenate([rows for _, rows in self.folds[:count]])
        lowest, worse, best = np.inf, 0, self.params
        for penalty in self.candidates:
            found = self.fit(weights, penalty, count)
            loss = -weights[judged] @ found.log_probabilities[judged, self.labels[judged]]
            if loss < lowest:
                best, self.penalty, lowest, worse = found.params, penalty, loss, 0
            else:
                worse += 1
            if worse == PATIENCE:
                break
        # Folds that were not needed for the choice start from the mean of those that were.
        self.params = best
        self.params[count:] = best[:count].mean(axis=0)

    def predict(self, weights: np.ndarray, number: int) -> np.ndarray:
        """Train for a round of `rank_labels`; the first round chooses the penalty.

        Chosen again on weighted examples, it would fall, and the models would memorize noise.
        """
        if number == 0 and len(self.candidates) > 1:
            self.tune(weights)
        return self.fit(weights, self.penalty).log_probabilities
