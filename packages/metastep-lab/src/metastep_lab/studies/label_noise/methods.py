"""Methods that find wrong labels, each with its own decision rule; none sees the true labels.

All of them are logistic regressions with standardized inputs, and all but the validation model have
the same penalty: the one that cross-validation chooses on the labels that they are given. With a
smaller one they would memorize the wrong labels. Apart from it `HypercleanedClassifier` runs with
its defaults; the others train to convergence, by scikit-learn. A method may be given extra
examples, a validation set with clean or noisy labels: hypercleaning takes them for its outer loss,
and the others add them to their training examples. All but plain training end with a model that is
trained on the examples without a flag and the extra examples, with a penalty of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metastep.sklearn import HypercleanedClassifier

CLASSES = 10
FOLDS = 5
PENALTY_FOLDS = 3
PENALTIES = tuple(float(x) for x in np.logspace(1, -3, 9))  # of |W|^2 beside the mean loss
MOST_ITERATIONS = 2000
SMALLEST_PROBABILITY = 1e-12


class Examples(NamedTuple):
    """Inputs (examples, features) and labels (examples,)."""

    inputs: np.ndarray
    labels: np.ndarray

    def join(self, other: "Examples | None") -> "Examples":
        """Return these examples and others."""
        if other is None:
            return self
        return Examples(*map(np.concatenate, zip(self, other, strict=True)))

    def take(self, rows: np.ndarray) -> "Examples":
        """Return some of the examples."""
        return Examples(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True)
class Verdict:
    """The result of a method.

    Attributes:
        flagged: boolean, (training examples,): the label is wrong.
        scores: larger for more suspicious labels, (training examples,).
        predict: the final model of the method, from inputs to labels.
    """

    flagged: np.ndarray
    scores: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]


class Setting(NamedTuple):
    """The outer steps of hypercleaning, the seed, and the penalty of all logistic regressions."""

    steps: int
    seed: int
    penalty: float


Method = Callable[[Examples, Examples | None, Setting], Verdict]
"""From training examples, extra examples, and what is set for all methods."""


def choose_penalty(examples: Examples, seed: int) -> float:
    """Return the penalty with the smallest cross-validated loss of the labels as they are given.

    The search starts at the largest and stops when the loss rises: small penalties take longest.
    """
    # A list, since every penalty goes through the same folds.
    folds = list(KFold(PENALTY_FOLDS, shuffle=True, random_state=seed).split(*examples))

    def loss(penalty: float) -> float:
        parts = ((_fit(examples.take(a), penalty), examples.take(b)) for a, b in folds)
        return float(np.sum([_losses(model, part).sum() for model, part in parts]))

    best, lowest = PENALTIES[0], np.inf
    for penalty in PENALTIES:
        value = loss(penalty)
        if value > lowest:
            break
        best, lowest = penalty, value
    return best


def hypercleaning(train: Examples, extra: Examples | None, setting: Setting) -> Verdict:
    """Tune one weight per example; flag those that lose half of it."""
    if extra is None:
        raise ValueError("extra is None; hypercleaning needs a validation set")
    model = HypercleanedClassifier(regularization=setting.penalty, max_iter=setting.steps)
    model.fit(*train, *extra)
    flagged = np.zeros(len(train.labels), bool)
    flagged[model.suspects_] = True
    predict = _fit_tuned(train.take(~flagged).join(extra), setting.seed)
    return Verdict(flagged, 1 - model.sample_weight_, predict)


def confident_learning(train: Examples, extra: Examples | None, setting: Setting) -> Verdict:
    """Flag what cleanlab flags by its default, given cross-validated probabilities."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=setting.seed).split(*train)
    logarithms = np.zeros((len(train.labels), CLASSES))
    for others, rows in folds:
        model = _fit(train.take(others).join(extra), setting.penalty)
        logarithms[rows] = _log_probabilities(model, train.inputs[rows])
    return _confident_verdict(train, extra, logarithms, setting.seed)


def validation_model(train: Examples, extra: Examples | None, setting: Setting) -> Verdict:
    """Train on the extra examples alone; flag what cleanlab flags by these probabilities."""
    if extra is None:
        raise ValueError("extra is None; the validation model needs a validation set")
    # Its own penalty: that of the noisy examples is for much more data.
    model = _fit(extra, choose_penalty(extra, setting.seed))
    logarithms = _log_probabilities(model, train.inputs)
    return _confident_verdict(train, extra, logarithms, setting.seed)


def plain_training(train: Examples, extra: Examples | None, setting: Setting) -> Verdict:
    """Train on everything; flag the labels that the model itself does not predict."""
    model = _fit(train.join(extra), setting.penalty)
    flagged = model.predict(train.inputs) != train.labels
    return Verdict(flagged, _losses(model, train), model.predict)


def small_loss(train: Examples, extra: Examples | None, setting: Setting) -> Verdict:
    """Train on everything, fit two normal distributions to the losses, flag that of larger losses.

    The mixture replaces the known noise rate that co-teaching assumes.

    Reference:
        Arazo et al. (2019), Unsupervised label noise modeling and loss correction; Li, Socher and
        Hoi (2020), DivideMix.
    """
    losses = _losses(_fit(train.join(extra), setting.penalty), train)
    mixture: Any = GaussianMixture(2, random_state=setting.seed).fit(losses[:, None])
    flagged = mixture.predict(losses[:, None]) == np.argmax(mixture.means_)
    return Verdict(flagged, losses, _fit_tuned(train.take(~flagged).join(extra), setting.seed))


METHODS: Mapping[str, tuple[Method, tuple[str, ...]]] = {
    "hypercleaning": (hypercleaning, ("clean", "noisy")),
    "confident learning": (confident_learning, ("none", "clean", "noisy")),
    "validation model": (validation_model, ("clean", "noisy")),
    "small loss": (small_loss, ("none", "clean", "noisy")),
    "plain training": (plain_training, ("none", "clean", "noisy")),
}
"""The methods, and the labels of the extra examples; "none" means no extra examples."""


def require_cleanlab() -> Any:
    """Import cleanlab, an optional package, and return it.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import cleanlab.filter
        import cleanlab.rank
    except ImportError as error:
        raise ValueError(
            "label-noise compares with cleanlab, which is not installed; run "
            "pip install 'metastep-lab[label-noise]'"
        ) from error
    return cleanlab


def _confident_verdict(
    train: Examples, extra: Examples | None, logarithms: np.ndarray, seed: int
) -> Verdict:
    cleanlab = require_cleanlab()
    probabilities = np.exp(logarithms)
    # One process: for so few rows, starting others takes longer.
    flagged = cleanlab.filter.find_label_issues(train.labels, probabilities, n_jobs=1)
    quality = cleanlab.rank.get_label_quality_scores(train.labels, probabilities)
    return Verdict(flagged, 1 - quality, _fit_tuned(train.take(~flagged).join(extra), seed))


def _fit_tuned(cleaned: Examples, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Train on the examples without a flag, with a new penalty; return the predictions."""
    return _fit(cleaned, choose_penalty(cleaned, seed)).predict


def _fit(examples: Examples, penalty: float) -> Any:
    # scikit-learn adds the losses, and half the squared norm.
    strength = 1 / (2 * penalty * len(examples.labels))
    regression = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS)
    return make_pipeline(StandardScaler(), regression).fit(*examples)


def _log_probabilities(model: Any, inputs: np.ndarray) -> np.ndarray:
    """Return those of all classes; an unseen class gets almost probability 0."""
    logarithms = np.full((len(inputs), CLASSES), np.log(SMALLEST_PROBABILITY))
    # From the scores: probabilities underflow to zero, which has no logarithm.
    logarithms[:, model.classes_] = log_softmax(model.decision_function(inputs), axis=1)
    return logarithms


def _losses(model: Any, examples: Examples) -> np.ndarray:
    rows = np.arange(len(examples.labels))
    return -_log_probabilities(model, examples.inputs)[rows, examples.labels]
