"""The downstream task of the theory: a head of ReLUs on the logits of a few words of interest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from metastep.anchors.log_linear import LogLinearModel, check_words
from metastep.checks import require


def word_logits(
    model: LogLinearModel, words: Sequence[int] | np.ndarray, anchor: np.ndarray | None = None
) -> np.ndarray:
    """Return <h, v_j - v0> of the words of interest, shape (states, words), float64.

    The anchor v0 has the shape (hidden,); None gives raw logits.
    """
    chosen = check_words(words, len(model.unembedding))
    hidden = model.states.shape[1]
    if anchor is not None and anchor.shape != (hidden,):
        raise ValueError(f"anchor has shape {anchor.shape}; allowed: ({hidden},)")
    logits = model.states @ model.unembedding[chosen].T
    return logits if anchor is None else logits - (model.states @ anchor)[:, None]


@dataclass(frozen=True)
class DownstreamHead:
    """f(h) = sum_j a_j relu(<h, v_j - v0> - b_j) over k words of interest; its sign is the class.

    Attributes:
        words: rows of the dictionary, shape (k,).
        coefficients: a, shape (k,), finite.
        thresholds: b in nats, shape (k,), finite.

    Reference:
        Eqs. 3.7 and 3.8 of Wu's thesis; with raw logits Eq. 3.5.
    """

    words: np.ndarray
    coefficients: np.ndarray
    thresholds: np.ndarray

    def __post_init__(self):
        for name in ("coefficients", "thresholds"):
            values = getattr(self, name)
            if values.shape != self.words.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} is {values!r}; allowed are finite numbers, one for each of the "
                    f"{self.words.size} words"
                )

    def scores(self, model: LogLinearModel, anchor: np.ndarray | None = None) -> np.ndarray:
        """Return f at every state, shape (states,).

        `model` is the teacher, or the student with its own anchor; without an anchor the logits are
        raw (Eq. 3.5).
        """
        active = np.maximum(word_logits(model, self.words, anchor) - self.thresholds, 0.0)
        return active @ self.coefficients

    def normalized_margin(self, margin: float) -> float:
        """Return Gamma = margin / (k max |a_j|), invariant to scaling and duplicated words.

        `margin` is gamma, the least score times its class. Gamma is in nats (Definition 3.5.6), and
        0 if every coefficient is zero.
        """
        largest = self.words.size * np.abs(self.coefficients).max()
        return float(margin / largest) if largest else 0.0


def downstream_head(
    model: LogLinearModel,
    labels: np.ndarray,
    words: Sequence[int] | np.ndarray,
    anchor: np.ndarray | None = None,
    *,
    quantile: float = 0.5,
    penalty: float = 1.0,
) -> DownstreamHead:
    """Fit a head to labeled states of a model.

    The threshold of a word is a quantile of its logits over the states, so the head ignores how
    improbable an improbable word is. The coefficients are those of a logistic regression on the
    excess over the threshold, without an intercept, as in the theory.

    Example:
        >>> states, words = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[1.0], [-1.0]])
        >>> model = LogLinearModel(states, words)
        >>> labels = np.array([-1, -1, 1, 1])
        >>> head = downstream_head(model, labels, words=[0, 1], penalty=0.01)
        >>> np.sign(head.scores(model))
        array([-1., -1.,  1.,  1.])

    Args:
        model: the teacher.
        labels: the class of every state, 1 or -1, shape (states,).
        words: the words of interest, rows of the dictionary.
        anchor: v0, shape (hidden,); None for raw logits.
        quantile: the quantile of each word's logits that becomes its threshold, in [0, 1).
        penalty: factor of half the sum of squared coefficients, beside the sum of losses; above 0.

    Returns:
        The head. Its coefficients are exact up to the tolerance of the solver (Newton, convex).

    Raises:
        ValueError: for labels of another shape or with other values, or a single class.
    """
    if labels.shape != (len(model.states),) or set(np.unique(labels)) != {-1, 1}:
        raise ValueError(
            f"labels has shape {labels.shape} and values {np.unique(labels)[:5]}; allowed are both "
            f"1 and -1, one for each of the {len(model.states)} states"
        )
    require(0 <= quantile < 1, "quantile", quantile, "numbers from 0 to below 1")
    require(penalty > 0, "penalty", penalty, "positive numbers")
    chosen = check_words(words, len(model.unembedding))
    logits = word_logits(model, chosen, anchor)
    thresholds = np.quantile(logits, quantile, axis=0)
    # Newton's method: with few words its Hessian is small, and correlated logits do not slow it.
    regression = LogisticRegression(
        C=1 / penalty, fit_intercept=False, solver="newton-cholesky", max_iter=1000
    )
    regression.fit(np.maximum(logits - thresholds, 0.0), labels)
    return DownstreamHead(chosen, regression.coef_[0].astype(np.float64), thresholds)
