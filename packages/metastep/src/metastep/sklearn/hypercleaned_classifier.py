"""A classifier that detects wrong labels among its own training examples."""

from numbers import Integral
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.utils import check_scalar
from sklearn.utils.validation import _check_sample_weight, validate_data
from threadpoolctl import threadpool_limits

from metastep.sklearn._linear_classifier import LinearClassifier
from metastep.sklearn._parts import (
    FALLEN,
    Standardization,
    check_counts,
    check_number,
    check_validation_set,
    encode_labels,
    encode_validation_labels,
    make_folds,
    name_suspects,
)
from metastep.sklearn._softmax_regression import CrossFitting, fit_softmax
from metastep.sklearn._weighted_training import Labelled, Settings, tune_weights
from metastep.sklearn.label_ranking import rank_labels

LARGE = 10**6  # entries above which rows are kept in float32 and BLAS may use several threads


class HypercleanedClassifier(LinearClassifier):
    """Multinomial logistic regression that learns a weight for each training example.

    **Without a validation set**, `fit(X, y)` ranks all examples. It deals them into `cv` folds,
    trains a model for each fold on the others, and weights every example by the probability of its
    label under the model that did not train on it, `rounds` times (see `rank_labels`). No label is
    assumed to be right. Cross-validation on the given labels chooses the regularization.

    **With a validation set** of checked labels, every weight is tuned by the hypergradient of the
    validation loss, truncated to the last steps of training (K-RMD). The validation set defines
    what is correct: its labels must be right, and its distribution must be that of the data on
    which the model is used. Weights overfit a small validation set. `metastep run label-noise` and
    `docs/guides/clean-a-file.md` measure when a validation set is worth having.

    Inputs are standardized inside, column by column; sparse columns with zeros are scaled but not
    centered.
    With a validation set the gradients are computed in float32, and biased by truncation
    (see `metastep.TruncatedReverse`). Cost: about `12 + rounds` logistic regressions for each fold
    without a validation set, `max_iter` training runs of `horizon` steps with one.

    In a `Pipeline` the preceding steps transform `X` but not `X_valid`, unless scikit-learn's
    metadata routing is set up as in the last example. If `X_valid` clearly differs from `X`, `fit`
    gives a `DifferentFeaturesWarning`.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from metastep.sklearn import HypercleanedClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> y_noisy = y.copy()
        >>> y_noisy[[3, 21, 96]] = [2, 1, 0]
        >>> model = HypercleanedClassifier(random_state=0).fit(X, y_noisy)
        >>> np.isin([3, 21, 96], model.suspects_[:5])
        array([ True,  True,  True])
        >>> model.suggested_labels_[[3, 21]]
        array([0, 0])

        >>> valid = np.arange(0, 150, 5)
        >>> train = np.setdiff1d(np.arange(150), valid)
        >>> model = HypercleanedClassifier().fit(X[train], y_noisy[train], X[valid], y[valid])
        >>> np.isin([3, 21, 96], train[model.suspects_])
        array([ True,  True,  True])

        >>> import sklearn
        >>> from sklearn.pipeline import Pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> with sklearn.config_context(enable_metadata_routing=True):
        ...     clean = HypercleanedClassifier().set_fit_request(X_valid=True, y_valid=True)
        ...     steps = [("scale", StandardScaler()), ("clean", clean)]
        ...     pipeline = Pipeline(steps, transform_input=["X_valid"])
        ...     pipeline = pipeline.fit(
        ...         X[train], y_noisy[train], X_valid=X[valid], y_valid=y[valid]
        ...     )
        >>> np.isin([3, 21, 96], train[pipeline["clean"].suspects_])
        array([ True,  True,  True])

    Args:
        regularization: factor of the squared coefficients of the standardized columns in the mean
            training loss. None chooses it by cross-validation; with a validation set it is 0.01.
            The more labels are wrong, the larger it should be, so that the model does not memorize
            them.
        cv: folds, without a validation set: their number, or another value that scikit-learn
            accepts for `cv` and that holds out every example once.
        rounds: rounds of weighting, without a validation set; 0 ranks by cross-validated
            predictions alone.
        horizon: steps of gradient descent in one training run, with a validation set.
        window: the number K of last steps through which the hypergradient is computed, at most
            `horizon`.
        learning_rate: of gradient descent for the logits of the weights, in units of the first
            hypergradient's typical size: the first update of a typical logit.
        max_iter: updates of the weights. Many of them overfit a small validation set.
        threshold: the label score above which an example is a suspect. None is 0.75 with a
            validation set (the weight has fallen to half); without one it is set by the estimate
            of `rank_labels` for the number of wrong labels. Above 0.5 another class is more
            probable than the given one.
        random_state: deals the folds.

    Attributes:
        classes_: the class labels.
        coef_: shape (classes, features), or (1, features) for two classes.
        intercept_: shape (classes,), or (1,).
        label_scores_: from 0 to 1 for every row of `X`, larger for more suspicious labels: the
            logistic function of the log odds of the most probable other class against the given
            one; with a validation set one minus the tuned weight.
        sample_weight_: the weights of the final training, from 0 to 1 for every row of `X`; they
            are multiplied there by the `sample_weight` of `fit`.
        suggested_labels_: the most probable class of every row of `X`.
        suspects_: rows of `X` whose label is probably wrong, the most suspicious first. If `X` is
            a pandas DataFrame, a DataFrame with its index and the columns given, suggested and
            score.
        suspect_scores_: the label score of each suspect, from large to small.
        validation_loss_curve_: mean cross-entropy of the validation set before each update; empty
            without one.
        n_iter_: the number of updates, or of rounds.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, if they have names.

    Raises:
        ValueError: from `fit`, for NaN, a single class, a validation set without some class or with
            an unknown one, a sparse `X` with a validation set, or impossible settings, in
            scikit-learn's words.

    Reference:
        Shaban, Cheng, Hatch and Boots (2019), Truncated back-propagation for bilevel optimization,
        section 4.2.1; Franceschi et al. (2017), section 5.1; see also `rank_labels`.
    """

    def __init__(
        self,
        *,
        regularization: float | None = None,
        cv: Any = 5,
        rounds: int = 5,
        horizon: int = 100,
        window: int = 5,
        learning_rate: float = 1.0,
        max_iter: int = 30,
        threshold: float | None = None,
        random_state: Any = None,
    ):
        self.regularization = regularization
        self.cv = cv
        self.rounds = rounds
        self.horizon = horizon
        self.window = window
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.threshold = threshold
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None
    ) -> Self:
        """Rank the labels, and train with the resulting weights.

        Args:
            X: (n_samples, n_features), an array, a DataFrame or a sparse matrix.
            y: labels (n_samples,), some of which may be wrong.
            X_valid: (n_validation, n_features), the validation examples, in the units of `X`.
            y_valid: their labels (n_validation,), every class of `y` among them.
            sample_weight: factors of the examples' losses, (n_samples,), numbers of copies or
                shares. An example of weight 0 is not trained on. It is ranked without a validation
                set; with one its weight stays at 1/2.
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64, accept_sparse="csr")
        self._check_parameters()
        features, (self.classes_, labels) = checked[0], encode_labels(checked[1], self)
        if issparse(features):
            # `Standardization` counts entries; a copy, since the matrix may be the caller's own.
            features = features.copy()
            features.sum_duplicates()
        factors: Any = _check_sample_weight(sample_weight, features, ensure_non_negative=True)
        given = None if X_valid is None and y_valid is None else (X_valid, y_valid)
        if given is not None and issparse(features):
            raise ValueError(
                "X is sparse, which a validation set does not go with; pass X.toarray(), reduce X "
                "with sklearn.decomposition.TruncatedSVD, or leave X_valid out"
            )
        standard = Standardization.of(features, factors)
        if given is None:
            rows = standard.apply_with_ones(features)
            # More threads do not speed up small products, and slow them down on a busy machine.
            with threadpool_limits(1 if rows.size < LARGE else None, user_api="blas"):
                params, suspect = self._cross_fit(rows, labels, factors)
        else:
            valid = check_validation_set(self, features, *given)
            params = self._tune(standard, features, labels, factors, valid)
            suspect = self.label_scores_ > FALLEN
        if self.threshold is not None:
            suspect = self.label_scores_ > self.threshold
        # Of two classes scikit-learn keeps one row: the second minus the first.
        two = len(self.classes_) == 2
        self.coef_, self.intercept_ = standard.undo(np.diff(params, axis=0) if two else params)
        if given is not None:
            self.suggested_labels_ = self.predict(X)
        self.suspects_, self.suspect_scores_ = name_suspects(
            X, suspect, self.label_scores_, self.classes_[labels], self.suggested_labels_
        )
        return self

    def _cross_fit(
        self, rows: Any, labels: np.ndarray, factors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rank without a validation set; return parameters (classes, features), and suspects."""
        # Half the memory traffic, which limits large products; the ranking needs few digits.
        if rows.size > LARGE:
            rows = rows.astype(np.float32)
        folds = make_folds(self.cv, labels, self.random_state)
        # `fit_softmax` has the factor of half the squares.
        penalty = None if self.regularization is None else 2 * self.regularization
        fitting = CrossFitting(rows, labels, len(self.classes_), folds, penalty)
        ranking = rank_labels(fitting.predict, labels, rounds=self.rounds, factors=factors)
        self.label_scores_ = expit(ranking.scores)
        self.sample_weight_ = ranking.weights
        self.suggested_labels_ = self.classes_[ranking.suggested]
        self.validation_loss_curve_, self.n_iter_ = np.zeros(0), max(1, self.rounds)
        # The folds share most examples: their mean is near the minimum of all.
        start = fitting.params.mean(axis=0)
        weights = factors * ranking.weights
        # The penalty is that of a mean, and the same for the folds and for all examples.
        params = fit_softmax(rows, labels, weights, fitting.penalty, start).T
        return params, ranking.suspect

    def _tune(
        self,
        standard: Standardization,
        features: np.ndarray,
        labels: np.ndarray,
        factors: np.ndarray,
        valid: Any,
    ) -> np.ndarray:
        """Tune the weights on a validation set; return parameters (classes, features)."""
        judges, truth = valid[0], encode_validation_labels(valid[1], self.classes_)
        tuned = tune_weights(
            Labelled(standard.apply_with_ones(features), labels, factors / factors.sum()),
            Labelled(standard.apply_with_ones(judges), truth),
            Settings(
                classes=len(self.classes_),
                regularization=0.01 if self.regularization is None else self.regularization,
                horizon=self.horizon,
                window=self.window,
                learning_rate=self.learning_rate,
                steps=self.max_iter,
            ),
        )
        self.sample_weight_ = expit(tuned.logits)
        # All weights begin at 1/2, so that a score of 1/2 says nothing against a label.
        self.label_scores_ = 1 - self.sample_weight_
        self.validation_loss_curve_, self.n_iter_ = tuned.losses, len(tuned.losses)
        return tuned.params

    def _check_parameters(self) -> None:
        check_counts(self, "horizon", "window", "max_iter")
        if isinstance(self.cv, Integral):
            check_scalar(self.cv, "cv", Integral, min_val=2)
        check_counts(self, "rounds", least=0)
        if self.regularization is not None:
            check_number(self, "regularization", 0)
        if self.threshold is not None:
            check_number(self, "threshold", 0, 1, boundaries="both")
        check_number(self, "learning_rate", 0, boundaries="neither")
        if self.window > self.horizon:
            raise ValueError(f"window == {self.window}, must be <= horizon == {self.horizon}.")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
