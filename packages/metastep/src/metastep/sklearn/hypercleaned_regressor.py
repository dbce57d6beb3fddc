"""A regressor that detects wrong targets among its own training examples."""

from typing import Any, Self

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from metastep.sklearn._parts import (
    FALLEN,
    Standardization,
    check_counts,
    check_number,
    check_validation_set,
    make_folds,
    name_suspects,
)
from metastep.sklearn._weighted_ridge import (
    PENALTIES,
    error_slopes,
    fit_ridge,
    held_out_predictions,
    outlier_probabilities,
)


class HypercleanedRegressor(RegressorMixin, BaseEstimator):
    """Ridge regression that learns a weight for each training example.

    **Without a validation set**, `fit(X, y)` predicts every target by a model trained on the other
    folds. The errors are modelled as a mixture of normal errors and gross ones, which are uniform
    over the range of `y`. An example is weighted by the probability that its error is normal. This
    is repeated `rounds` times. Targets with heavy-tailed noise look like mistakes: choose a larger
    `threshold` for them.

    **With a validation set** of checked targets, the weights are tuned by the exact hypergradient
    of the mean squared validation error. This finds errors that many targets of a kind have in
    common, which the first way takes for the rule; it is worse at single gross errors, which hardly
    move the validation error (`docs/guides/clean-a-file.md` has numbers).

    Inputs are standardized inside, column by column. Cost: a few ridge regressions for each fold.

    Example:
        >>> import numpy as np
        >>> from metastep.sklearn import HypercleanedRegressor
        >>> X = np.random.default_rng(0).standard_normal((80, 3))
        >>> y = X @ [1.0, -2.0, 0.5] + 0.1 * np.sin(np.arange(80))
        >>> y[[3, 21, 50]] += [4.0, -5.0, 6.0]
        >>> model = HypercleanedRegressor(random_state=0).fit(X, y)
        >>> sorted(model.suspects_.tolist())
        [3, 21, 50]

    Args:
        regularization: factor of the squared coefficients of the standardized columns in the mean
            squared error. None chooses it by cross-validation; with a validation set it is 0.01.
        cv: as in `HypercleanedClassifier`.
        rounds: rounds of weighting, without a validation set.
        learning_rate: of gradient descent for the logits of the weights, in units of the first
            hypergradient's typical size, with a validation set.
        max_iter: updates of the weights, with a validation set.
        threshold: the score above which an example is a suspect. None is 0.5, and 0.75 with a
            validation set (the weight has fallen to half).
        random_state: deals the folds.

    Attributes:
        coef_: (n_features,), for the columns as given.
        intercept_: scalar.
        label_scores_: the probability that a target is wrong, (n_samples,); with a validation set
            one minus the tuned weight.
        sample_weight_: the weights of the final training, from 0 to 1.
        suggested_targets_: the prediction of the model of the other folds; with a validation set,
            of the final model.
        suspects_: rows of `X` with a wrong target, the most suspicious first; for a DataFrame one
            with its index and the columns given, suggested and score.
        suspect_scores_: their scores.
        n_iter_: how often the weights were set.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, if they have names.

    Raises:
        ValueError: from `fit`, for NaN or impossible settings, in scikit-learn's words.
    """

    def __init__(
        self,
        *,
        regularization: float | None = None,
        cv: Any = 5,
        rounds: int = 5,
        learning_rate: float = 1.0,
        max_iter: int = 30,
        threshold: float | None = None,
        random_state: Any = None,
    ):
        self.regularization = regularization
        self.cv = cv
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.threshold = threshold
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None
    ) -> Self:
        """Rank the targets, and train with the resulting weights.

        Args:
            X: (n_samples, n_features).
            y: targets (n_samples,), some of which may be wrong.
            X_valid: (n_validation, n_features), in the units of `X`.
            y_valid: their checked targets (n_validation,).
            sample_weight: factors of the examples' errors, (n_samples,).
        """
        checked: Any = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2
        )
        self._check_parameters()
        features, targets = checked[0], np.asarray(checked[1], np.float64)
        factors: Any = _check_sample_weight(sample_weight, features, ensure_non_negative=True)
        valid = check_validation_set(self, features, X_valid, y_valid)
        standard = Standardization.of(features, factors)
        rows = standard.apply_with_ones(features)
        penalty = 0.01 if self.regularization is None else self.regularization
        if valid is None:
            penalty = self._cross_fit(rows, targets, factors)
        else:
            self._tune(rows, targets, factors, penalty, standard, valid)
        params = fit_ridge(rows, targets, factors * self.sample_weight_, penalty)
        if valid is not None:
            # Without folds there is no prediction by a model that has not seen the row.
            self.suggested_targets_ = rows @ params
        self.coef_, self.intercept_ = standard.undo(params)
        limit = self.threshold
        if limit is None:
            limit = 0.5 if valid is None else FALLEN
        suspect = self.label_scores_ > limit
        self.suspects_, self.suspect_scores_ = name_suspects(
            X, suspect, self.label_scores_, targets, self.suggested_targets_
        )
        return self

    def _cross_fit(self, rows: np.ndarray, targets: np.ndarray, factors: np.ndarray) -> float:
        """Rank without a validation set; return the penalty."""
        # One class for all: targets have no classes that the folds would have to balance.
        folds = make_folds(self.cv, np.zeros(len(targets), int), self.random_state)
        given = self.regularization
        candidates = PENALTIES if given is None else (given,)
        score, penalty = np.zeros(len(targets)), candidates[0]
        for _ in range(self.rounds + 1):
            weights = factors * (1 - score)
            found = [held_out_predictions(rows, targets, weights, one, folds) for one in candidates]
            # Weighted, so that gross errors do not choose the penalty.
            best = int(np.argmin([weights @ (one - targets) ** 2 for one in found]))
            penalty, self.suggested_targets_ = candidates[best], found[best]
            score = outlier_probabilities(targets, self.suggested_targets_, factors)
        self.label_scores_, self.sample_weight_ = score, 1 - score
        self.n_iter_ = int(self.rounds) + 1
        return penalty

    def _tune(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        factors: np.ndarray,
        penalty: float,
        standard: Standardization,
        valid: tuple[np.ndarray, np.ndarray],
    ) -> None:
        judges = standard.apply_with_ones(valid[0])
        kind: Any = np.float64
        truth: Any = check_array(valid[1], dtype=kind, ensure_2d=False, input_name="y_valid")
        logits, unit = np.zeros(len(targets)), 0.0
        for _ in range(self.max_iter):
            weights = expit(logits)
            slopes = error_slopes(rows, targets, factors * weights, penalty, judges, truth)
            slopes *= factors * weights * (1 - weights)
            # The unit of `scaled_descent`, in float64: a typical first slope moves a logit by one.
            sizes = np.abs(slopes)
            total = sizes.sum()
            # Divided first: slopes have the unit of the squared targets, and may have no squares.
            unit = unit or float(sizes @ (sizes / total) if total else 1.0)
            logits -= self.learning_rate * slopes / unit
        self.sample_weight_ = expit(logits)
        self.label_scores_, self.n_iter_ = 1 - self.sample_weight_, self.max_iter

    def _check_parameters(self) -> None:
        check_counts(self, "max_iter")
        check_counts(self, "rounds", least=0)
        check_number(self, "learning_rate", 0, boundaries="neither")
        if self.regularization is not None:
            check_number(self, "regularization", 0, boundaries="neither")
        if self.threshold is not None:
            check_number(self, "threshold", 0, 1, boundaries="both")

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted target of each row, (n_samples,)."""
        check_is_fitted(self)
        features: Any = validate_data(self, X, reset=False, dtype=np.float64)
        return features @ self.coef_ + self.intercept_
