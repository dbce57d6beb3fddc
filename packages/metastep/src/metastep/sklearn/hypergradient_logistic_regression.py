"""Logistic regression with one regularization per feature, tuned on validation loss."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.utils.validation import _check_sample_weight, validate_data

from metastep.sklearn._linear_classifier import LinearClassifier
from metastep.sklearn._parts import (
    Standardization,
    check_counts,
    check_number,
    check_validation_set,
    encode_labels,
    encode_validation_labels,
)
from metastep.sklearn._regularization import Fold, encode_groups, split, tune_regularization

NEWTON_STEPS = 100
NEWTON_DECREMENT = 1e-20  # per example; the next step changes less than rounding does
ROUNDING = 1e-12  # of a sum of losses, relative
SMALLEST_STEP = 1e-9


class HypergradientLogisticRegression(LinearClassifier):
    """Logistic regression with a separate regularization for each feature or group of features.

    Minimizes the sum of the cross-entropies plus sum_j alpha_j |w_j|^2 / 2 over the columns of X,
    standardized inside; with equal alphas this is `sklearn.linear_model.LogisticRegression` with
    C = 1 / alpha, multinomial for three classes or more. The alphas minimize the mean cross-entropy
    of held-out examples: L-BFGS on log alpha, with the exact hypergradient by implicit
    differentiation at the solution of Newton's method. Features that only add noise get a large
    alpha, which removes them.

    As in `HypergradientRidge`, one alpha per feature overfits few held-out examples.

    Cost: a few Cholesky decompositions of (features x classes) squared for each fold and
    evaluation; meant for up to about a thousand coefficients.

    Example:
        >>> import numpy as np
        >>> from metastep.sklearn import HypergradientLogisticRegression
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((100, 6))
        >>> y = X[:, 0] - X[:, 1] + 0.5 * rng.standard_normal(100) > 0
        >>> model = HypergradientLogisticRegression(random_state=0).fit(X, y)
        >>> bool(np.max(model.alpha_[:2]) < np.min(model.alpha_[2:]))
        True

    Args:
        groups: as in `HypergradientRidge`, as are the next ones.
        cv: folds. If one holds out every example of a class, they are also used for training.
        max_iter: iterations of L-BFGS.
        tol: for the gradient with respect to log alpha, relative to the loss.
        random_state: shuffles the folds.

    Attributes:
        classes_: the class labels.
        alpha_: the regularization of every feature, for standardized columns, from 0.1 to 1e6
            times the sum of the weights (0.1 times their mean if that is below 1).
        coef_: (n_classes, n_features), or (1, n_features) for two classes; for the columns as
            given.
        intercept_: (n_classes,), or (1,).
        validation_loss_curve_: mean cross-entropy of the held-out examples by iteration; the first
            is that of the best alpha common to all features.
        n_iter_: the number of iterations.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, if they have names.

    Raises:
        ValueError: from `fit`, for NaN, a single class, a validation set without some class or with
            an unknown one, groups that do not fit, or impossible settings, in scikit-learn's words.

    Reference:
        Do, Foo and Ng (2007), Efficient multiple hyperparameter learning for log-linear models.
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
            y: labels (n_samples,).
            X_valid: (n_validation, n_features), as in `HypergradientRidge.fit`; None for
                cross-validation.
            y_valid: their labels (n_validation,), every class of `y` among them.
            sample_weight: factors of the examples' cross-entropies, (n_samples,), also where they
                are held out.
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        check_counts(self, "cv", "max_iter")
        check_number(self, "tol", 0)
        self.classes_, labels = encode_labels(checked[1], self)
        given = check_validation_set(self, checked[0], X_valid, y_valid)
        groups = encode_groups(self.groups, checked[0].shape[1])
        factors: Any = _check_sample_weight(sample_weight, checked[0], ensure_non_negative=True)
        if np.ptp(labels[factors > 0]) == 0:
            raise ValueError("sample_weight is 0 but for a single class; two classes are needed")
        standard = Standardization.of(checked[0], factors)
        one_hot = np.eye(len(self.classes_))
        train = Labelled(standard.apply_with_ones(checked[0]), one_hot[labels], factors)
        if given is None:
            rows = split(factors, self.cv, self.random_state)
            folds = [
                logistic_fold(train.take(_complete(a, labels)), train.take(b)) for a, b in rows
            ]
            held_out = factors.sum()
        else:
            codes = encode_validation_labels(given[1], self.classes_)
            judges = standard.apply_with_ones(given[0])
            ones = np.ones(len(codes))
            folds = [logistic_fold(train, Labelled(judges, one_hot[codes], ones))]
            held_out = len(codes)
        tuned = tune_regularization(
            folds,
            groups,
            factors=factors,
            held_out=held_out,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.alpha_, self.validation_loss_curve_ = tuned
        self.n_iter_ = max(1, len(tuned.losses) - 1)
        params, _ = train_exactly(train, self.alpha_, train.start())
        self.coef_, self.intercept_ = standard.undo(params)
        return self


def _complete(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Add to the rows all examples of the classes that they lack."""
    # A class that is missing from a fold would have no finite intercept there.
    absent = ~np.isin(labels, labels[rows])
    return np.union1d(rows, np.flatnonzero(absent))


class Labelled(NamedTuple):
    """Examples with a first column of ones, (examples, features), one-hot targets, and weights."""

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def take(self, rows: np.ndarray) -> "Labelled":
        """Return some of the examples."""
        return Labelled(*(part[rows] for part in self))

    def start(self) -> np.ndarray:
        """Return zero parameters: one row per class; for two classes, only the second one's."""
        classes = self.targets.shape[1]
        return np.zeros((1 if classes == 2 else classes, self.features.shape[1]))

    def evaluate(self, params: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the weighted sum of cross-entropies, its derivative, and all probabilities."""
        scores = self.features @ params.T
        if len(params) == 1:
            # The first class is the reference, whose score is 0.
            scores = np.insert(scores, 0, 0.0, axis=1)
        scores -= np.max(scores, axis=1, keepdims=True)
        exponentials = np.exp(scores)
        sums = np.sum(exponentials, axis=1, keepdims=True)
        probabilities = (exponentials / sums)[:, -len(params) :]
        errors = self.weights[:, None] * (probabilities - self.targets[:, -len(params) :])
        losses = np.log(sums[:, 0]) - np.sum(scores * self.targets, axis=1)
        return float(self.weights @ losses), errors.T @ self.features, probabilities


def train_exactly(
    train: Labelled, alpha: np.ndarray, params: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, bool]]:
    """Minimize the regularized cross-entropy by Newton's method with step halving, from `params`.

    With a row for every class, adding a constant to all intercepts would change nothing. Half the
    squared sum of the intercepts, which is zero at the solution, makes the minimum unique.

    Returns:
        The parameters, and the Cholesky factor of the Hessian there.
    """
    penalty = np.insert(alpha, 0, 0.0)
    several = float(len(params) > 1)
    added = lambda at: (np.sum(penalty * at**2) + several * np.sum(at[:, 0]) ** 2) / 2
    objective = lambda at: train.evaluate(at)[0] + added(at)
    taken = 0
    while True:
        _, slope, probabilities = train.evaluate(params)
        slope = slope + penalty * params
        slope[:, 0] += several * np.sum(params[:, 0])
        # The last factor is returned: the hypergradient's adjoint solves with the same Hessian.
        factor = cho_factor(_hessian(train, probabilities, penalty))
        step = cho_solve(factor, slope.ravel()).reshape(params.shape)
        decrement, taken = float(np.sum(slope * step)), taken + 1
        # Half the decrement is how far the objective is above its minimum, for any units.
        if decrement <= NEWTON_DECREMENT * len(train.targets) or taken == NEWTON_STEPS:
            return params - step, factor
        params = params - _halved(objective, params, step, decrement) * step


def _halved(
    objective: Callable[[np.ndarray], float],
    params: np.ndarray,
    step: np.ndarray,
    decrement: float,
) -> float:
    """Return the largest of 1, 1/2, 1/4, ... that decreases the objective sufficiently."""
    # Whole Newton steps can overshoot where the softmax is saturated and its Hessian almost zero.
    size, value = 1.0, objective(params)
    # Near the minimum a decrease is smaller than the rounding of the objective.
    value += ROUNDING * abs(value)
    while size > SMALLEST_STEP:
        if objective(params - size * step) <= value - 1e-4 * size * decrement:
            break
        size /= 2
    return size


def _hessian(train: Labelled, probabilities: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    rows, columns = probabilities.shape[1], train.features.shape[1]
    hessian = np.zeros((rows, columns, rows, columns))
    for r in range(rows):
        for s in range(r + 1):
            curvature = train.weights * probabilities[:, r] * ((r == s) - probabilities[:, s])
            block = train.features.T @ (curvature[:, None] * train.features)
            hessian[r, :, s] = hessian[s, :, r] = block
        hessian[r, :, r] += np.diag(penalty)
    if rows > 1:
        # The second derivative of half the squared sum of the intercepts.
        hessian[:, 0, :, 0] += 1
    return hessian.reshape(rows * columns, rows * columns)


def logistic_fold(train: Labelled, held_out: Labelled) -> Fold:
    """Return the cross-entropies of held-out examples as a function of the regularization.

    With the Hessian H of the training loss, the derivative is -sum_r w_rj (H^{-1} d_w f)_rj. Each
    training run starts from the previous solution.
    """
    last = train.start()

    def fold(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last
        last, factor = train_exactly(train, alpha, last)
        value, slope, _ = held_out.evaluate(last)
        adjoint = cho_solve(factor, slope.ravel()).reshape(last.shape)
        # One alpha for the coefficients of a feature in all classes; the intercept has none.
        return value, -np.sum(last * adjoint, axis=0)[1:]

    return fold
