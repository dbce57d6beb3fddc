"""Ridge regression with one regularization per feature, tuned on validation loss."""

from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from metastep.sklearn._parts import (
    Standardization,
    check_counts,
    check_number,
    check_validation_set,
)
from metastep.sklearn._regularization import Fold, encode_groups, split, tune_regularization


class HypergradientRidge(RegressorMixin, BaseEstimator):
    """Ridge regression with a separate regularization for each feature or group of features.

    Minimizes |y - X w - b|^2 + sum_j alpha_j w_j^2 over the columns of X, standardized inside; with
    equal alphas this is `sklearn.linear_model.Ridge`. The alphas minimize the mean squared error of
    held-out examples: L-BFGS on log alpha, with the exact hypergradient by implicit differentiation
    of the closed form. Features that only add noise get a large alpha, which removes them.

    With few held-out examples, one alpha per feature overfits them, and often predicts worse than
    one for all. Alphas for `groups`, some of which hardly matter, predict better
    (`examples/one_regularization_per_feature.py` measures both).

    Cost: one Cholesky decomposition of (features, features) for each fold and evaluation.

    Example:
        >>> import numpy as np
        >>> from metastep.sklearn import HypergradientRidge
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((60, 20))
        >>> y = X[:, 0] - X[:, 1] + rng.standard_normal(60)
        >>> model = HypergradientRidge(random_state=0).fit(X, y)
        >>> bool(np.max(model.alpha_[:2]) < np.median(model.alpha_[2:]))
        True

    Args:
        groups: a label for each feature, (n_features,); features of one label share their alpha.
            None gives each its own.
        cv: folds of the cross-validation whose loss is minimized if `fit` gets no validation
            set; the model is then refitted on all examples.
        max_iter: iterations of L-BFGS.
        tol: for the gradient with respect to log alpha, relative to the loss.
        random_state: shuffles the folds.

    Attributes:
        alpha_: the regularization of every feature, for standardized columns, from 0.1 to 1e6
            times the sum of the weights (0.1 times their mean if that is below 1).
        coef_: (n_features,), for the columns as given.
        intercept_: scalar.
        validation_loss_curve_: mean squared error of the held-out examples by iteration; the first
            is that of the best alpha common to all features.
        n_iter_: the number of iterations.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, if they have names.

    Raises:
        ValueError: from `fit`, for NaN, groups that do not fit, or impossible settings, in
            scikit-learn's words.

    Reference:
        Bengio (2000), Gradient-based optimization of hyperparameters; Pedregosa (2016),
        Hyperparameter optimization with approximate gradient.
    """

    def __init__(
        self,
        *,
        groups: Any = None,
        cv: int = 5,
        max_iter: int = 100,
        tol: float = 1e-6,
        random_state: Any = None,
    ):
        self.groups = groups
        self.cv = cv
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None
    ) -> Self:
        """Tune the regularization, and train with it.

        Args:
            X: (n_samples, n_features).
            y: targets (n_samples,).
            X_valid: (n_validation, n_features), in the units of `X`; None for cross-validation.
                `HypercleanedClassifier` shows how a `Pipeline` transforms it. A
                `DifferentFeaturesWarning` is given if it clearly differs from `X`.
            y_valid: their targets (n_validation,).
            sample_weight: factors of the examples' squared errors, (n_samples,), also where they
                are held out.
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        check_counts(self, "cv", "max_iter")
        check_number(self, "tol", 0)
        given = check_validation_set(self, checked[0], X_valid, y_valid)
        groups = encode_groups(self.groups, checked[0].shape[1])
        factors: Any = _check_sample_weight(sample_weight, checked[0], ensure_non_negative=True)
        standard = Standardization.of(checked[0], factors)
        # Roots, since rows and targets are both multiplied by them before they are squared.
        train = Weighted(
            standard.apply(checked[0]), np.asarray(checked[1], np.float64), np.sqrt(factors)
        )
        if given is None:
            rows = split(factors, self.cv, self.random_state)
            folds = [ridge_fold(train.take(a), train.take(b)) for a, b in rows]
        else:
            kind: Any = np.float64
            expected: Any = check_array(given[1], dtype=kind, ensure_2d=False, input_name="y_valid")
            ones = np.ones(len(expected))
            folds = [ridge_fold(train, Weighted(standard.apply(given[0]), expected, ones))]
        tuned = tune_regularization(
            folds,
            groups,
            factors=factors,
            held_out=factors.sum() if given is None else len(given[1]),
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.alpha_, self.validation_loss_curve_ = tuned
        self.n_iter_ = max(1, len(tuned.losses) - 1)
        center, level = train.means()
        features, targets = train.moved(center, level)
        coef = np.linalg.solve(features.T @ features + np.diag(self.alpha_), features.T @ targets)
        self.coef_, self.intercept_ = standard.undo(np.insert(coef, 0, level - center @ coef))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted target of each row, (n_samples,)."""
        check_is_fitted(self)
        features: Any = validate_data(self, X, reset=False, dtype=np.float64)
        return features @ self.coef_ + self.intercept_


class Weighted(NamedTuple):
    """Examples, their targets, and the square roots of their weights."""

    features: np.ndarray
    targets: np.ndarray
    roots: np.ndarray

    def take(self, rows: np.ndarray) -> "Weighted":
        """Return some of the examples."""
        return Weighted(*(part[rows] for part in self))

    def means(self) -> tuple[np.ndarray, float]:
        """Return the weighted means of the features and of the targets."""
        weights: Any = self.roots**2
        return (
            np.average(self.features, axis=0, weights=weights),
            float(np.average(self.targets, weights=weights)),
        )

    def moved(self, center: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Return features and targets relative to these, times the roots of the weights."""
        return (
            self.roots[:, None] * (self.features - center),
            self.roots * (self.targets - level),
        )


def ridge_fold(train: Weighted, judges: Weighted) -> Fold:
    """Return the squared errors of held-out examples as a function of the regularization.

    At w = A^{-1} X^T y with A = X^T X + diag(alpha), the derivative is -w_j (A^{-1} d_w f)_j.
    """
    # Centered on the fold's own training rows, which leaves the intercept free of the penalty.
    means = train.means()
    features, targets = train.moved(*means)
    held_out, expected = judges.moved(*means)
    gram, moment = features.T @ features, features.T @ targets

    def fold(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        # One factor for the solution and for its adjoint.
        factor = cho_factor(gram + np.diag(alpha))
        coef = cho_solve(factor, moment)
        errors = held_out @ coef - expected
        adjoint = cho_solve(factor, 2 * held_out.T @ errors)
        return float(errors @ errors), -coef * adjoint

    return fold
