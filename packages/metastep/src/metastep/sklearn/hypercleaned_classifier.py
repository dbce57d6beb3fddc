"""A classifier that finds the wrong labels among its own training examples."""

from typing import Any, Self

import numpy as np
from scipy.special import expit
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from metastep.sklearn._linear_classifier import LinearClassifier
from metastep.sklearn._parts import (
    Standardization,
    check_counts,
    check_number,
    check_validation_set,
    encode_labels,
    encode_validation_labels,
)
from metastep.sklearn._weighted_training import Labelled, Settings, tune_weights


class HypercleanedClassifier(LinearClassifier):
    """Multinomial logistic regression that learns how far to trust each training example.

    Every training example has a weight between 0 and 1. Training is gradient descent on the
    weighted cross-entropy; the weights are tuned by the hypergradient of the validation loss,
    truncated to the last steps of training (K-RMD). Examples whose label disagrees with what helps
    on the validation set lose their weight, and are listed in `suspects_`.

    The validation set decides what counts as correct: **its labels must be right**, and it must
    look like the data the model is meant for. Where `fit` gets none, it holds out a random part of
    every class of the training data and assumes that the labels there are right; wrong ones among
    them mislead the weights.

    What to expect, as `metastep run label-noise` measures it: with a clean validation set it finds
    wrong labels about as well as confident learning that trains on this set, too, and better where
    a class is mistaken for a similar one, but no better than a model that is trained on the
    validation set alone. With a validation set as noisy as the training set it finds far fewer than
    confident learning, which is the better choice where no labels are known to be right. Weights
    overfit a validation set, the more the smaller it is.

    Inputs are standardized inside, column by column; the gradients are those of float32, and biased
    as truncation makes them (see `metastep.TruncatedReverse`). Cost: `max_iter` training runs of
    `horizon` steps each.

    In a `Pipeline` the steps before this one transform `X` alone, unless scikit-learn's metadata
    routing asks them to transform `X_valid` too, as in the second example. Where it does not, or
    where the two sets differ for another reason, `fit` gives a `DifferentFeaturesWarning`.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from metastep.sklearn import HypercleanedClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> y_noisy = y.copy()
        >>> y_noisy[[3, 21, 96]] = [2, 1, 0]
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
            training loss. The more labels are wrong, the larger it should be, lest the model
            memorize them; cross-validation on the labels as given is a fair way to choose it.
        horizon: steps of gradient descent in one training run.
        window: the number K of last steps through which the hypergradient goes back, at most
            `horizon`.
        learning_rate: of gradient descent for the logits of the weights, in units of the first
            hypergradient's typical size: how far the first update moves a typical logit.
        max_iter: updates of the weights. Many of them overfit a small validation set.
        threshold: examples with a weight below it are suspects. All weights start at 0.5; by
            default a suspect has lost at least half of that.
        validation_fraction: the part of every class that is held out where `fit` gets no validation
            set, rounded, at least one example. A class of one example is on both sides.
        random_state: chooses what is held out.

    Attributes:
        classes_: the class labels.
        coef_: shape (classes, features), or (1, features) for two classes.
        intercept_: shape (classes,), or (1,).
        sample_weight_: the tuned weight of every row of `X`; 1 for rows that were held out.
        suspects_: rows of `X` whose label is probably wrong, the most suspicious first.
        suspect_scores_: one minus the weight of each suspect, from large to small.
        validation_indices_: rows of `X` that were held out; empty where a validation set was given.
        validation_loss_curve_: mean cross-entropy of the validation set before each update.
        n_iter_: the number of updates.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, where they have any.

    Raises:
        ValueError: from `fit`, for NaN, a single class, a validation set without some class or with
            an unknown one, or impossible settings, in scikit-learn's words.

    Reference:
        Shaban, Cheng, Hatch and Boots (2019), Truncated back-propagation for bilevel optimization,
        section 4.2.1; Franceschi et al. (2017), section 5.1.
    """

    def __init__(
        self,
        *,
        regularization: float = 0.01,
        horizon: int = 100,
        window: int = 5,
        learning_rate: float = 1.0,
        max_iter: int = 30,
        threshold: float = 0.25,
        validation_fraction: float = 0.3,
        random_state: Any = None,
    ):
        self.regularization = regularization
        self.horizon = horizon
        self.window = window
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.threshold = threshold
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None) -> Self:
        """Tune the weights, and train with them.

        Args:
            X: (n_samples, n_features).
            y: labels (n_samples,), some of which may be wrong.
            X_valid: (n_validation, n_features), the examples that decide, in the units of `X`.
            y_valid: their labels (n_validation,), every class of `y` among them.

        Returns:
            The fitted classifier.

        Raises:
            ValueError: see the class.
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        self._check_parameters()
        features, (self.classes_, labels) = checked[0], encode_labels(checked[1], self)
        train, valid = np.arange(len(labels)), np.zeros(0, int)
        given = check_validation_set(self, features, X_valid, y_valid)
        if given is None:
            train, valid = self._hold_out(labels)
            judged = features[valid], labels[valid]
        else:
            judged = given[0], encode_validation_labels(given[1], self.classes_)
        standard = Standardization.of(features[train])
        tuned = tune_weights(
            Labelled(standard.apply_with_ones(features[train]), labels[train]),
            Labelled(standard.apply_with_ones(judged[0]), judged[1]),
            Settings(
                classes=len(self.classes_),
                regularization=self.regularization,
                horizon=self.horizon,
                window=self.window,
                learning_rate=self.learning_rate,
                steps=self.max_iter,
            ),
        )
        self.sample_weight_ = np.ones(len(labels))
        self.sample_weight_[train] = expit(tuned.logits)
        ranking = np.argsort(self.sample_weight_, kind="stable")
        self.suspects_ = ranking[self.sample_weight_[ranking] < self.threshold]
        self.suspect_scores_ = 1 - self.sample_weight_[self.suspects_]
        self.validation_indices_ = valid
        self.validation_loss_curve_, self.n_iter_ = tuned.losses, len(tuned.losses)
        two = len(self.classes_) == 2
        params = np.diff(tuned.params, axis=0) if two else tuned.params
        self.coef_, self.intercept_ = standard.undo(params)
        return self

    def _check_parameters(self) -> None:
        check_counts(self, "horizon", "window", "max_iter")
        check_number(self, "regularization", 0)
        check_number(self, "learning_rate", 0, boundaries="neither")
        check_number(self, "threshold", 0, 1, boundaries="both")
        check_number(self, "validation_fraction", 0, 1, boundaries="neither")
        if self.window > self.horizon:
            raise ValueError(f"window == {self.window}, must be <= horizon == {self.horizon}.")

    def _hold_out(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split off a part of every class, at least one example on each side."""
        random_state, train, valid = check_random_state(self.random_state), [], []
        for label in range(len(self.classes_)):
            members = random_state.permutation(np.flatnonzero(labels == label))
            wanted = round(self.validation_fraction * len(members))
            cut = min(max(1, wanted), max(1, len(members) - 1))
            valid.append(members[:cut])
            train.append(members[cut:] if len(members) > 1 else members)
        return np.sort(np.concatenate(train)), np.sort(np.concatenate(valid))
