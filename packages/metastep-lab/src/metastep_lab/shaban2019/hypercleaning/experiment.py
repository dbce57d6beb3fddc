"""Find corrupted labels by tuning one weight per training example on clean validation data.

Tables (one row per observation):

- `summary`: method ("K-RMD", "noisy labels", "clean labels"), window (empty for the two
  baselines), test_accuracy, validation_accuracy, validation_loss, f1_replaced, f1_wrong (of "weight
  below threshold" against "label was replaced" and "label is wrong"), gradient_norm (of the exact
  hypergradient), seconds_per_step.
- `history`: window, step, validation_loss, f1_replaced, f1_wrong, estimate_norm, gradient_norm (of
  the exact hypergradient, every `measure_every` steps, else empty), all before the update.

Arrays: `weights` (windows, train) after tuning, `given` and `true` labels (train,), `correct`
(rows of `summary`, test examples), and `suspect_images` with `suspects`, the indices of the
examples with the lowest weights of the longest window.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import WeightedClassification, accuracy
from metastep_lab import data
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Fraction, NotNegative, Positive, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.shaban2019.hypercleaning.claims import CLAIMS, answer
from metastep_lab.shaban2019.hypercleaning.figures import figures

CLASSES = 10
SUSPECTS_SHOWN = 40


@configuration
class Config:
    """The configuration; the defaults are the paper's sizes, for which MNIST has to be whole.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn) or mnist.
        train: training examples, class-balanced.
        validation: validation examples with clean labels, class-balanced; the rest is for testing.
        corruption: the probability that a training label is replaced by a random one.
        windows: the numbers K of inner steps that are differentiated.
        horizon: inner gradient steps T.
        step_size: of the inner descent.
        regularization: factor of |W|^2.
        outer_steps: updates of the weights.
        outer_step_size: of Adam; the first update has this size in every coordinate.
        threshold: an example counts as corrupted when its logit is below it.
        measure_every: outer steps between two measurements of the exact hypergradient.
    """

    dataset: Literal["digits", "mnist"] = "mnist"
    train: Count = 5000
    validation: Count = 5000
    corruption: Fraction = 0.5
    windows: tuple[int, ...] = (1, 5, 25, 50, 100)
    horizon: Count = 100
    step_size: Positive = 1.0
    regularization: NotNegative = 0.001
    outer_steps: Count = 1000
    outer_step_size: Positive = 0.1
    threshold: float = -3.0
    measure_every: Count = 20

    def __post_init__(self):
        """Check the values of the fields."""
        if not self.windows or not all(1 <= w <= self.horizon for w in self.windows):
            raise ValueError(
                f"windows is {self.windows}; allowed are integers from 1 to the horizon, "
                f"{self.horizon}"
            )


class Examples(eqx.Module):
    """The data of one run: inputs with a column of ones, labels before and after corruption."""

    task: WeightedClassification
    clean_task: WeightedClassification
    test_features: Array
    test_labels: Array
    replaced: Array
    wrong: Array
    images: np.ndarray


def prepare(config: Config, folder: Path | None, seed: int) -> Examples:
    """Load, split and corrupt the data set.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples of a class.
    """
    loaded = (data.digits if config.dataset == "digits" else data.mnist)(folder)
    images, labels = loaded.arrays["images"], loaded.arrays["labels"].astype(np.int32)
    pixels = images.reshape(len(images), -1).astype(np.float32) / images.max()
    features = np.concatenate([pixels, np.ones((len(images), 1), np.float32)], axis=1)
    train, validation = data.balanced_indices(labels, (config.train, config.validation), seed)
    test = np.setdiff1d(np.arange(len(labels)), np.concatenate([train, validation]))
    if test.size == 0:
        raise ValueError(
            f"train and validation are {config.train} and {config.validation}; together they must "
            f"leave some of the {len(labels)} examples of {config.dataset} for testing"
        )
    rng = np.random.default_rng(seed)
    given, replaced = data.corrupt_labels(labels[train], CLASSES, config.corruption, rng)

    def task(train_labels: np.ndarray) -> WeightedClassification:
        return WeightedClassification(
            jnp.asarray(features[train]),
            jnp.asarray(train_labels, jnp.int32),
            jnp.asarray(features[validation]),
            jnp.asarray(labels[validation]),
            CLASSES,
            config.regularization,
        )

    return Examples(
        task=task(given),
        clean_task=task(labels[train]),
        test_features=jnp.asarray(features[test]),
        test_labels=jnp.asarray(labels[test]),
        replaced=jnp.asarray(replaced),
        wrong=jnp.asarray(given != labels[train]),
        images=images[train],
    )


def make_problem(task: WeightedClassification, config: Config) -> ms.TrainingProblem:
    """Return the problem of the weighted classifier, with the validation loss as objective."""
    return ms.TrainingProblem(
        loss=task.loss,
        objective=task.validation_loss,
        init_params=task.initial_params(),
        optimizer=optax.sgd(config.step_size),
        horizon=config.horizon,
    )


def f1_score(flagged: Array, truth: Array) -> Array:
    """Return the F1 score of a flag against the truth; 0 when nothing is found."""
    hits = jnp.sum(flagged & truth)
    return 2 * hits / jnp.maximum(jnp.sum(flagged) + jnp.sum(truth), 1)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Tune the weights with every window, and train on noisy and clean labels for comparison."""
    examples = prepare(config, context.data, context.seed)
    key = jax.random.key(context.seed)
    problem = make_problem(examples.task, config)
    summary, history, weights, correct = [], [], [], []
    for window in config.windows:
        context.log(f"tuning {config.train} weights with window {window}")
        result = _tune(problem, examples, window, config, context, key)
        measured, right = _evaluate(problem, examples, result.outer, config, key)
        correct.append(right)
        summary.append((f"{window}-RMD", window, *measured, result.seconds_per_step))
        recorded = map(np.asarray, result.history.recorded)
        steps = np.arange(result.history.value.size)
        columns = (result.history.value, *recorded, result.history.gradient_norm)
        history.append((np.full(steps.size, window), steps, *map(np.asarray, columns)))
        weights.append(np.asarray(jax.nn.sigmoid(result.outer)))
    for name, task in (("noisy labels", examples.task), ("clean labels", examples.clean_task)):
        baseline = make_problem(task, config)
        measured, right = _evaluate(baseline, examples, jnp.zeros(config.train), config, key)
        correct.append(right)
        without_flags = (*measured[:3], np.nan, np.nan, measured[5])
        summary.append((name, np.nan, *without_flags, np.nan))
    names = "method window test_accuracy validation_accuracy validation_loss f1_replaced f1_wrong "
    names += "gradient_norm seconds_per_step"
    context.table("summary", _columns(names, zip(*summary, strict=True)))
    names = "window step validation_loss f1_replaced f1_wrong gradient_norm estimate_norm"
    context.table("history", _columns(names, map(np.concatenate, zip(*history, strict=True))))
    context.arrays({**_arrays(examples, np.stack(weights)), "correct": np.stack(correct)})
    last = summary[len(config.windows) - 1]
    return {
        "f1_replaced": last[5],
        "test_accuracy": last[2],
        "validation_loss": last[4],
        "test_examples": examples.test_labels.size,
    }


def _columns(names: str, columns) -> dict[str, np.ndarray]:
    return {name: np.asarray(column) for name, column in zip(names.split(), columns, strict=True)}


class _Recorder(eqx.Module):
    """Measurements inside the outer loop; a module, so that its data are arguments."""

    problem: ms.TrainingProblem
    replaced: Array
    wrong: Array
    config: Config = eqx.field(static=True)

    def __call__(self, step: Array, outer: Array, estimate: ms.Estimate) -> tuple[Array, ...]:
        """Return both F1 scores and, now and then, the norm of the exact hypergradient."""
        flagged = outer < self.config.threshold
        exact = lambda: ms.Reverse().estimate(self.problem, outer, None, jax.random.key(0))[0]
        norm = jax.lax.cond(
            step % self.config.measure_every == 0,
            lambda: exact().stats["gradient_norm"],
            lambda: jnp.full((), jnp.nan, outer.dtype),
        )
        return f1_score(flagged, self.replaced), f1_score(flagged, self.wrong), norm


def _tune(
    problem: ms.TrainingProblem,
    examples: Examples,
    window: int,
    config: Config,
    context: Context,
    key: Array,
) -> ms.Run:
    return ms.minimize(
        problem,
        jnp.zeros(config.train),
        ms.TruncatedReverse(window),
        optimizer=optax.adam(config.outer_step_size),
        steps=config.outer_steps,
        key=key,
        record=_Recorder(problem, examples.replaced, examples.wrong, config),
        every=min(10, config.outer_steps),
        checkpoint=ms.Checkpoint(context.checkpoint(f"window-{window}"), 100, context.resume),
    )


def _evaluate(
    problem: ms.TrainingProblem, examples: Examples, outer: Array, config: Config, key: Array
) -> tuple[tuple[float, ...], np.ndarray]:
    """Train once; return the row of `summary`, and which test examples are correct."""
    params = compiled(ms.unroll)(problem, outer, key).params
    task, flagged = examples.task, outer < config.threshold
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    correct = jnp.argmax(examples.test_features @ params.T, axis=1) == examples.test_labels
    measured = (
        jnp.mean(correct),
        accuracy(params, task.validation_features, task.validation_labels),
        exact.value,
        f1_score(flagged, examples.replaced),
        f1_score(flagged, examples.wrong),
        exact.stats["gradient_norm"],
    )
    return tuple(map(float, measured)), np.asarray(correct)


def _arrays(examples: Examples, weights: np.ndarray) -> dict[str, np.ndarray]:
    suspects = np.argsort(weights[-1], kind="stable")[:SUSPECTS_SHOWN]
    return {
        "weights": weights,
        "given": np.asarray(examples.task.labels),
        "true": np.asarray(examples.clean_task.labels),
        "replaced": np.asarray(examples.replaced),
        "suspects": suspects,
        "suspect_images": examples.images[suspects],
    }


QUICK = Config(
    dataset="digits",
    train=800,
    validation=400,
    windows=(1, 5, 25, 100),
    outer_steps=150,
)

REDUCED = Config(train=4000, validation=3000)
"""What the test set of MNIST is enough for; 3,000 of its examples are left for testing."""

EXPERIMENT = Experiment(
    listing("hypercleaning"),
    config=Config,
    presets={"quick": QUICK, "reduced": REDUCED, "paper": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {"finds-corrupted-labels", "window-five-suffices", "loss-falls-with-window", "better-model"}
    ),
    answer=answer,
    finite=("summary.validation_loss", "history.validation_loss"),
)
