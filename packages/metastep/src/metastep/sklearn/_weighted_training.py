"""Tuning of example weights by K-RMD, with padding that limits the number of compiled shapes."""

from functools import cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from scipy.linalg import eigh

from metastep.compilation import compiled
from metastep.estimators import TruncatedReverse
from metastep.minimize.minimize import minimize
from metastep.problems import TrainingProblem, unroll
from metastep.tasks import StoredTwice, cross_entropy
from metastep.types import Outer, Scalar

# Small problems are padded to these sizes: their compilation takes longer than their fit.
ROWS = (64, 256)
COLUMNS = (16, 64)
CLASSES = (4, 10)
BARRED = -1e9  # a score whose softmax is exactly zero


class Labelled(NamedTuple):
    """Examples with a first column of ones, shape (examples, features), and labels from 0.

    `shares`, the weights of the mean training loss, sum to 1; None gives equal shares.
    """

    features: np.ndarray
    labels: np.ndarray
    shares: np.ndarray | None = None


class Settings(NamedTuple):
    """The options of the tuning, as in `HypercleanedClassifier`."""

    classes: int
    regularization: float
    horizon: int
    window: int
    learning_rate: float
    steps: int


class Tuned(NamedTuple):
    """The logits of the weights, parameters (classes, features), and the loss by outer step."""

    logits: np.ndarray
    params: np.ndarray
    losses: np.ndarray


class PaddedClassification(eqx.Module):
    """Softmax regression on weighted examples, with padding that has no effect.

    A row of zeros has no gradient, a column of zeros leaves its parameters at zero, and `offsets`
    give a padded class the probability zero. `shares` sum to 1, and are zero for padding.
    """

    features: StoredTwice
    labels: Int[Array, " examples"]
    shares: Float[Array, " examples"]
    validation_features: Float[Array, "validation features"]
    validation_labels: Int[Array, " validation"]
    validation_shares: Float[Array, " validation"]
    offsets: Float[Array, "classes features"]
    regularization: Scalar

    def loss(
        self,
        params: Float[Array, "classes features"],
        outer: Float[Array, " examples"],
        batch: None,
    ) -> Scalar:
        """Return the mean of weight times cross-entropy, plus the penalty of all but intercepts."""
        del batch
        losses = cross_entropy(params + self.offsets, self.features, self.labels)
        penalty = self.regularization * jnp.sum(params[:, 1:] ** 2)
        return jnp.sum(self.shares * jax.nn.sigmoid(outer) * losses) + penalty

    def validation_loss(
        self, params: Float[Array, "classes features"], outer: Float[Array, " examples"]
    ) -> Scalar:
        """Return the mean cross-entropy of the validation examples."""
        del outer
        scored = params + self.offsets
        losses = cross_entropy(scored, self.validation_features, self.validation_labels)
        return jnp.sum(self.validation_shares * losses)


class Descent(eqx.Module):
    """Gradient descent whose step size is an argument of the compiled program."""

    step_size: Scalar

    def __call__(self, outer: Outer) -> optax.GradientTransformation:
        del outer
        return optax.sgd(self.step_size)


def make_problem(train: Labelled, validation: Labelled, settings: Settings) -> TrainingProblem:
    """Return training by gradient descent with a step size that is stable for all weights."""
    rows = _padded_size(len(train.labels), ROWS)
    held_out = _padded_size(len(validation.labels), ROWS)
    columns = _padded_size(train.features.shape[1], COLUMNS)
    # Large problems are not padded in their classes: computing takes longer than compiling there.
    classes = _padded_size(settings.classes, CLASSES if rows in ROWS else ())
    count = len(train.labels)
    shares = np.full(count, 1 / count) if train.shares is None else train.shares
    offsets = np.zeros((classes, columns))
    # On the intercept, as the first column of every example is one.
    offsets[settings.classes :, 0] = BARRED
    task = PaddedClassification(
        StoredTwice(_pad(train.features, rows, columns)),
        _pad(train.labels, rows),
        _pad(shares, rows),
        _pad(validation.features, held_out, columns),
        _pad(validation.labels, held_out),
        _pad(np.full(len(validation.labels), 1 / len(validation.labels)), held_out),
        jnp.asarray(offsets, jnp.float32),
        jnp.asarray(settings.regularization, jnp.float32),
    )
    curvature = _largest_curvature(np.sqrt(shares)[:, None] * train.features)
    # Stable for weights up to 1, and fixed: not the speed of training is tuned, but the weights.
    step_size = 1 / (curvature + 2 * settings.regularization)
    return TrainingProblem(
        loss=task.loss,
        objective=task.validation_loss,
        init_params=jnp.zeros((classes, columns)),
        optimizer=Descent(jnp.asarray(step_size, jnp.float32)),
        horizon=settings.horizon,
    )


def tune_weights(train: Labelled, validation: Labelled, settings: Settings) -> Tuned:
    """Tune one weight per training example; start from 1/2 for all of them."""
    problem, key = make_problem(train, validation, settings), jax.random.key(0)
    run = minimize(
        problem,
        jnp.zeros(_padded_size(len(train.labels), ROWS)),
        TruncatedReverse(settings.window),
        optimizer=scaled_descent(settings.learning_rate),
        steps=settings.steps,
        key=key,
        # One chunk, hence one transfer to the host; between updates nothing is looked at.
        every=settings.steps,
        on_failure="raise",
        progress=False,
    )
    params = _train(problem, run.outer, key).params
    return Tuned(
        np.asarray(run.outer, np.float64)[: len(train.labels)],
        np.asarray(params, np.float64)[: settings.classes, : train.features.shape[1]],
        np.asarray(run.history.value, np.float64),
    )


_train = compiled(unroll)


@cache
def scaled_descent(learning_rate: float) -> optax.GradientTransformation:
    """Gradient descent in units of the first gradient's typical size, which ignores padding.

    Adam would move all weights equally, whatever the influence of an example, and spoil the
    ranking.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Array, Array]:
        del params
        sizes = jnp.abs(updates)
        total = jnp.sum(sizes)
        # The mean of the sizes weighted by themselves: zeros of padding have no part in it.
        typical = jnp.vdot(sizes, sizes / jnp.where(total > 0, total, 1))
        unit = jnp.where(state > 0, state, typical)
        return -learning_rate * updates / jnp.where(unit > 0, unit, 1), unit

    # Cached, since a new transformation would have new functions and be compiled again.
    return optax.GradientTransformation(lambda params: jnp.zeros(()), update)


def _largest_curvature(features: np.ndarray) -> float:
    """Bound the curvature of the sum of cross-entropies: that of the softmax is at most 1/2."""
    rows, columns = features.shape
    # Both Gram matrices have the same largest eigenvalue: the smaller one is taken.
    gram = features.T @ features if columns <= rows else features @ features.T
    last = len(gram) - 1
    largest = eigh(gram, eigvals_only=True, subset_by_index=[last, last])[0]
    return float(largest) / 2


def _padded_size(size: int, sizes: tuple[int, ...]) -> int:
    return next((padded for padded in sizes if size <= padded), size)


def _pad(array: np.ndarray, rows: int, columns: int | None = None) -> Array:
    widths = [(0, rows - array.shape[0])]
    if columns is not None:
        widths.append((0, columns - array.shape[1]))
    padded = np.pad(array, widths)
    return jnp.asarray(padded, jnp.int32 if padded.dtype.kind in "iu" else jnp.float32)
