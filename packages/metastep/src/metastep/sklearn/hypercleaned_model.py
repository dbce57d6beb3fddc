"""Detection of wrong labels with any differentiable classifier, by weights of its examples."""

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from metastep.estimators import TruncatedReverse
from metastep.minimize.minimize import minimize
from metastep.problems import TrainingProblem
from metastep.sklearn._fold_training import (
    Apply,
    Init,
    Program,
    require_trainable,
    train_folds,
    weighted_loss,
)
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
from metastep.sklearn._weighted_training import scaled_descent
from metastep.sklearn.label_ranking import rank_labels
from metastep.types import RandomKey


class HypercleanedModel(ClassifierMixin, BaseEstimator):
    """A user-defined model, trained by Adam on weighted examples, that detects wrong labels.

    It applies the methods of `HypercleanedClassifier` to any `(init, apply)`: `rank_labels`
    without a validation set, with all folds in one compiled program; truncated hypergradients of
    the validation loss with one. Each step uses all examples: for more than some ten thousand,
    call `rank_labels` with your own training loop.

    A network can memorize wrong labels. `steps` and `weight_decay` prevent this; choose them as
    for clean data, by cross-validation on the given labels.

    Inputs are standardized inside, column by column, and passed to `apply` in float32. Images are
    rows of pixels, which `apply` reshapes.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from metastep.sklearn import HypercleanedModel
        >>> def init(key, features, classes):
        ...     one, two = jax.random.split(key)
        ...     normal = jax.random.normal
        ...     return 0.3 * normal(one, (features, 16)), 0.3 * normal(two, (16, classes))
        >>> def apply(params, inputs):
        ...     return jnp.tanh(inputs @ params[0]) @ params[1]
        >>> X, y = load_iris(return_X_y=True)
        >>> y[[3, 21, 96]] = [2, 1, 0]
        >>> model = HypercleanedModel(init, apply, steps=100, rounds=2, random_state=0).fit(X, y)
        >>> np.isin([3, 21, 96], model.suspects_)
        array([ True,  True,  True])

    Args:
        init: `(key, features, classes) -> params`, any tree of arrays.
        apply: `(params, inputs) -> scores`, from (examples, features) to (examples, classes): the
            logits of a softmax.
        steps: steps of Adam in one training run.
        learning_rate: of Adam.
        weight_decay: of AdamW.
        cv: as in `HypercleanedClassifier`.
        rounds: rounds of weighting, without a validation set.
        window: last steps through which hypergradients are computed, with a validation set.
        max_iter: updates of the weights, with a validation set.
        threshold: as in `HypercleanedClassifier`.
        random_state: deals the folds and draws the first parameters.

    Attributes:
        params_: the parameters of the final model.
        classes_: the class labels.
        label_scores_: as in `HypercleanedClassifier`, as are the next ones.
        sample_weight_: the weights of the final training.
        suggested_labels_: the most probable class of every row.
        suspects_: rows whose label is probably wrong; for a DataFrame one with its index.
        suspect_scores_: their scores.
        n_iter_: how often the weights were set.
        n_features_in_: the number of columns.
        feature_names_in_: the names of the columns, if they have names.

    Raises:
        ValueError: from `fit`, for data or settings that cannot be used, or if `apply` returns
            another shape or NaN, or does not depend smoothly on the parameters.
    """

    def __init__(
        self,
        init: Init,
        apply: Apply,
        *,
        steps: int = 200,
        learning_rate: float = 0.01,
        weight_decay: float = 0.1,
        cv: Any = 5,
        rounds: int = 3,
        window: int = 5,
        max_iter: int = 30,
        threshold: float | None = None,
        random_state: Any = None,
    ):
        self.init = init
        self.apply = apply
        self.steps = steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.cv = cv
        self.rounds = rounds
        self.window = window
        self.max_iter = max_iter
        self.threshold = threshold
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None
    ) -> Self:
        """Rank the labels, and train with the resulting weights.

        Args:
            X: (n_samples, n_features).
            y: labels (n_samples,), some of which may be wrong.
            X_valid: (n_validation, n_features), in the units of `X`.
            y_valid: their checked labels (n_validation,), every class of `y` among them.
            sample_weight: factors of the examples' losses, (n_samples,).
        """
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        self._check_parameters()
        features, (self.classes_, labels) = checked[0], encode_labels(checked[1], self)
        factors: Any = _check_sample_weight(sample_weight, features, ensure_non_negative=True)
        valid = check_validation_set(self, features, X_valid, y_valid)
        self._standard = Standardization.of(features, factors)
        rows = jnp.asarray(self._standard.apply(features), jnp.float32)
        random_state = check_random_state(self.random_state)
        key = jax.random.key(int(random_state.randint(2**31)))
        require_trainable(self._program(), rows, key)
        if valid is None:
            folds = make_folds(self.cv, labels, random_state)
            suspect = self._cross_fit(rows, labels, factors, folds, key)
        else:
            judges = jnp.asarray(self._standard.apply(valid[0]), jnp.float32)
            truth = encode_validation_labels(valid[1], self.classes_)
            self._tune(rows, labels, factors, judges, truth, key)
            suspect = self.label_scores_ > FALLEN
        weights = (factors * self.sample_weight_)[None]
        # The final training uses the fold program with one fold that holds nothing out.
        params, _ = train_folds(self._program(), rows, jnp.asarray(labels), weights, key)
        self.params_ = jax.tree.map(lambda leaf: leaf[0], params)
        if valid is not None:
            self.suggested_labels_ = self.predict(X)
        if self.threshold is not None:
            suspect = self.label_scores_ > self.threshold
        self.suspects_, self.suspect_scores_ = name_suspects(
            X, suspect, self.label_scores_, self.classes_[labels], self.suggested_labels_
        )
        return self

    def _program(self) -> Program:
        rates = self.learning_rate, self.weight_decay
        return Program(self.init, self.apply, int(self.steps), *rates, len(self.classes_))

    def _cross_fit(
        self,
        rows: Array,
        labels: np.ndarray,
        factors: np.ndarray,
        folds: list[tuple[np.ndarray, np.ndarray]],
        key: RandomKey,
    ) -> np.ndarray:
        """Rank without a validation set; return which labels are suspect."""
        seen = np.zeros((len(folds), len(labels)))
        for index, (train, _) in enumerate(folds):
            # Weights of zero instead of fewer rows: folds of one shape are one program.
            seen[index, train] = 1

        def predict(weights: np.ndarray, number: int) -> np.ndarray:
            # The same first parameters in each round, so that weights alone make the difference.
            del number
            given = jnp.asarray(labels)
            _, scores = train_folds(self._program(), rows, given, seen * weights, key)
            logs = np.zeros((len(labels), len(self.classes_)))
            for index, (_, held_out) in enumerate(folds):
                logs[held_out] = np.asarray(scores[index], np.float64)[held_out]
            return logs

        ranking = rank_labels(predict, labels, rounds=self.rounds, factors=factors)
        self.label_scores_, self.sample_weight_ = expit(ranking.scores), ranking.weights
        self.suggested_labels_ = self.classes_[ranking.suggested]
        self.n_iter_ = int(self.rounds) + 1
        return ranking.suspect

    def _tune(
        self,
        rows: Array,
        labels: np.ndarray,
        factors: np.ndarray,
        judges: Array,
        truth: np.ndarray,
        key: RandomKey,
    ) -> None:
        program = self._program()
        given, shares = jnp.asarray(labels), jnp.asarray(factors / factors.sum(), jnp.float32)
        expected, equal = jnp.asarray(truth), jnp.full(len(truth), 1 / len(truth))
        problem = TrainingProblem(
            loss=lambda params, outer, batch: weighted_loss(
                program.apply, params, rows, given, shares * jax.nn.sigmoid(outer)
            ),
            objective=lambda params, outer: weighted_loss(
                program.apply, params, judges, expected, equal
            ),
            init_params=lambda outer, key: program.init(key, rows.shape[1], program.classes),
            # Without `eps_root` the derivative of Adam is infinite where a gradient is zero.
            optimizer=optax.adamw(
                program.learning_rate, eps_root=1e-8, weight_decay=program.weight_decay
            ),
            horizon=program.steps,
        )
        run = minimize(
            problem,
            jnp.zeros(len(labels)),
            TruncatedReverse(min(self.window, program.steps)),
            optimizer=scaled_descent(1.0),
            steps=self.max_iter,
            key=key,
            # One chunk: nothing is recorded between updates.
            every=self.max_iter,
            on_failure="raise",
            progress=False,
        )
        self.sample_weight_ = expit(np.asarray(run.outer, np.float64))
        self.label_scores_, self.n_iter_ = 1 - self.sample_weight_, self.max_iter

    def _check_parameters(self) -> None:
        check_counts(self, "steps", "window", "max_iter")
        check_counts(self, "rounds", least=0)
        check_number(self, "learning_rate", 0, boundaries="neither")
        check_number(self, "weight_decay", 0)
        if self.threshold is not None:
            check_number(self, "threshold", 0, 1, boundaries="both")

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities, (n_samples, n_classes); rows sum to 1."""
        check_is_fitted(self)
        features: Any = validate_data(self, X, reset=False, dtype=np.float64)
        rows = jnp.asarray(self._standard.apply(features), jnp.float32)
        return softmax(np.asarray(self.apply(self.params_, rows), np.float64), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, (n_samples,)."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]
