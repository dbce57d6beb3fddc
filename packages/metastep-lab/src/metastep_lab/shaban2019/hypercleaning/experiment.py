"""Find corrupted labels by tuning one weight per training example on clean validation data.

Tables (one row per observation):

- `summary`: method ("K-RMD", "noisy labels", "clean labels"), window (empty for the two
  baselines), test_accuracy, validation_accuracy, validation_loss, f1_replaced, f1_wrong (of "weight
  below threshold" against "label was replaced" and "label is wrong"), gradient_norm (of the exact
  hypergradient), seconds_per_step.
- `history`: window, step, validation_loss, f1_replaced, f1_wrong, estimate_norm, gradient_norm (of
  the exact hypergradient, every `measure_every` steps, else empty), all before the update.
- `identification`: window, threshold, step, flagged (examples below the threshold after `step`
  outer steps), replaced, wrong (such examples among them), f1_replaced, f1_wrong.
- `thresholds`: the rows of `identification` after the paper's 150 steps and at the end.

Arrays: `weights` (windows, train) after tuning, `given` and `true` labels (train,), `correct`
(rows of `summary`, test examples), and `suspect_images` with `suspects`, the indices of the
examples with the lowest weights of the longest window.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Predicate
from jaxtyping import Array

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import WeightedClassification, accuracy
from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    Ascending,
    Count,
    Fraction,
    NotNegative,
    Positive,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import Rows, no_rows, write_tables
from metastep_lab.shaban2019.hypercleaning.claims import (
    CLAIMS,
    CONVERGED,
    PAPER_THRESHOLDS,
    answer,
    printed,
)
from metastep_lab.shaban2019.hypercleaning.examples import Examples, prepare
from metastep_lab.shaban2019.hypercleaning.figures import figures
from metastep_lab.shaban2019.hypercleaning.identification import (
    IDENTIFICATION,
    count_flagged,
    f1_scores,
    identification_rows,
)

SUSPECTS_SHOWN = 40


@configuration
class Config:
    """The configuration; the defaults are the paper's sizes, for which MNIST has to be whole.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn) or mnist.
        train: training examples, class-balanced.
        validation: validation examples with clean labels, class-balanced; the rest is for testing.
        corruption: the probability that a training label is replaced by a random one.
        windows: the numbers K of inner steps that are differentiated, ascending.
        horizon: inner gradient steps T.
        step_size: of the inner descent.
        regularization: factor of |W|^2.
        outer_steps: updates of the weights.
        outer_step_size: of Adam; the first update has this size in every coordinate.
        threshold: an example counts as corrupted when its logit is below it.
        thresholds: all that are compared, that one among them; the paper's.
        measure_every: outer steps between two measurements of the exact hypergradient.
    """

    dataset: Literal["digits", "mnist"] = "mnist"
    train: Count = 5000
    validation: Count = 5000
    corruption: Fraction = 0.5
    windows: Ascending = (1, 5, 25, 50, 100)
    horizon: Count = 100
    step_size: Positive = 1.0
    regularization: NotNegative = 0.001
    outer_steps: Count = 1000
    outer_step_size: Positive = 0.1
    threshold: float = -3.0
    thresholds: Annotated[
        tuple[float, ...], Predicate(different), "different numbers, threshold among them"
    ] = tuple(PAPER_THRESHOLDS)
    measure_every: Count = 20

    def __post_init__(self):
        """Check the values of the fields."""
        if self.windows[-1] > self.horizon:
            raise ValueError(
                f"windows is {self.windows}; allowed are integers from 1 to the horizon, "
                f"{self.horizon}"
            )
        if self.threshold not in self.thresholds:
            raise ValueError(
                f"thresholds is {self.thresholds}; allowed are different numbers, threshold, "
                f"{self.threshold:g}, among them"
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


COLUMNS = {
    "summary": "method window test_accuracy validation_accuracy validation_loss f1_replaced "
    "f1_wrong gradient_norm seconds_per_step",
    "history": "window step validation_loss f1_replaced f1_wrong gradient_norm estimate_norm",
    "identification": IDENTIFICATION,
    "thresholds": IDENTIFICATION,
}


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Tune the weights with every window, and train on noisy and clean labels for comparison."""
    examples = prepare(config, context.data, context.seed)
    key = jax.random.key(context.seed)
    problem = make_problem(examples.task, config)
    rows = no_rows(COLUMNS)
    weights, correct = [], []
    for window in config.windows:
        context.log(f"tuning {config.train} weights with window {window}")
        result = _tune(problem, examples, window, config, context, key)
        ends = _add_paths(rows, window, result, examples, config)
        measured, right = _evaluate(problem, examples, result.outer, config, key)
        row = (*measured[:3], *ends, measured[3], result.seconds_per_step)
        rows["summary"].append((f"{window}-RMD", window, *row))
        correct.append(right)
        weights.append(np.asarray(jax.nn.sigmoid(result.outer)))
    # Of the longest window, before the baselines are added.
    last = rows["summary"][-1]
    for name, task in (("noisy labels", examples.task), ("clean labels", examples.clean_task)):
        baseline = make_problem(task, config)
        # Logits of 0, weights of 1/2: where tuning starts, so that every gain is that of tuning.
        measured, right = _evaluate(baseline, examples, jnp.zeros(config.train), config, key)
        correct.append(right)
        without_flags = (*measured[:3], np.nan, np.nan, measured[3])
        rows["summary"].append((name, np.nan, *without_flags, np.nan))
    write_tables(context, COLUMNS, rows)
    context.arrays({**_arrays(examples, np.stack(weights)), "correct": np.stack(correct)})
    return {
        "f1_replaced": last[5],
        "test_accuracy": last[2],
        "validation_loss": last[4],
        "test_examples": examples.test_labels.size,
    }


def _add_paths(
    rows: Rows, window: int, result: ms.Run, examples: Examples, config: Config
) -> tuple[float, ...]:
    """Add the rows of a window to all tables but `summary`; return both F1 scores at its end."""
    counts, norms = map(np.asarray, result.history.recorded)
    truth, thresholds = (examples.replaced, examples.wrong), config.thresholds
    last = count_flagged(result.outer, thresholds, *truth)
    counts = np.concatenate([counts, np.asarray(last)[None]])
    scores = f1_scores(counts, *truth)
    found = identification_rows(window, thresholds, counts, CONVERGED, scores)
    rows["identification"] += found
    rows["thresholds"] += [row for row in found if row[2] in (CONVERGED, config.outer_steps)]
    main = [score[:, thresholds.index(config.threshold)] for score in scores]
    values, estimates = map(np.asarray, (result.history.value, result.history.gradient_norm))
    before = [score[:-1] for score in main]
    steps = zip(range(values.size), values, *before, norms, estimates, strict=True)
    rows["history"] += [(window, *row) for row in steps]
    return tuple(float(score[-1]) for score in main)


class _Recorder(eqx.Module):
    """Measurements inside the outer loop; a module, so that its data are arguments."""

    problem: ms.TrainingProblem
    replaced: Array
    wrong: Array
    config: Config = eqx.field(static=True)

    def __call__(self, step: Array, outer: Array, estimate: ms.Estimate) -> tuple[Array, ...]:
        """Return what each threshold flags and, now and then, the exact hypergradient's norm."""
        counts = count_flagged(outer, self.config.thresholds, self.replaced, self.wrong)
        # Any key: the training draws nothing.
        exact = lambda: ms.Reverse().estimate(self.problem, outer, None, jax.random.key(0))[0]
        # Nothing is vmapped here: the exact hypergradient, twice as expensive as that of window 5,
        # is computed only when it is due.
        norm = jax.lax.cond(
            step % self.config.measure_every == 0,
            lambda: exact().stats["gradient_norm"],
            lambda: jnp.full((), jnp.nan, outer.dtype),
        )
        return counts, norm


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
        # Appendix G.1 adjusts eta_0 so that the first update has about the same norm for every K.
        # That of Adam is eta_0 sign(h), whatever the size of h.
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
    """Train once; return accuracies, loss and gradient norm, and which test examples are right."""
    params = compiled(ms.unroll)(problem, outer, key).params
    task = examples.task
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    correct = jnp.argmax(examples.test_features @ params.T, axis=1) == examples.test_labels
    measured = (
        jnp.mean(correct),
        accuracy(params, task.validation_features, task.validation_labels),
        exact.value,
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
    printed=printed,
    finite=("summary.validation_loss", "history.validation_loss"),
)
