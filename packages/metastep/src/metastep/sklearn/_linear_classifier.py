"""Prediction by a fitted linear classifier."""

from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, validate_data


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """The predictions of a classifier whose `fit` sets classes_, coef_ and intercept_."""

    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray

    def decision_function(self, X: Any) -> np.ndarray:
        """Return class scores, (n_samples, n_classes), for X of shape (n_samples, n_features).

        For two classes the shape is (n_samples,), and a positive score is for the second class.
        """
        check_is_fitted(self)
        tags = get_tags(self).input_tags
        features: Any = validate_data(
            self, X, reset=False, dtype=np.float64, accept_sparse="csr" if tags.sparse else False
        )
        scores = features @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, (n_samples, n_classes); rows sum to 1."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            # Not 1 - p, which is 0 where p rounds to 1 and the other probability is merely small.
            return expit(np.stack([-scores, scores], axis=1))
        return softmax(scores, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, (n_samples,)."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else np.argmax(scores, axis=1)
        return self.classes_[best]
