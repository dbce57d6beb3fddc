"""Learn from few examples which classes resemble each other, by K-RMD.

One linear model per class on fixed features; a tuned symmetric matrix C pulls the models of similar
classes together, and rho pulls all to zero. The paper's features come from a network trained on
ImageNet; here they are convolutions with random whitened patches, or come from a network or a file
of the user. Scaling
the features is equivalent to scaling the inner step size; here they are scaled so that the
curvature of the cross-entropy is at most `smoothness`.

Tables (one row per observation):

- `summary`: method ("K-RMD" | "untuned"), window (empty for "untuned"), trial, validation_loss,
  test_accuracy (both at the end), stopped_step, stopped_accuracy (the paper's early stopping, which
  looks at the test examples: where their accuracy has not improved for `patience` steps, empty if
  that was never so, and the best until then), gradient_norm (of the exact hypergradient),
  largest_coupling
  (the largest C_ij), stability (largest on the way; below 1 the inner descent cannot diverge),
  guarded_steps (outer steps that began at the guard's limit), failed_steps.
- `history`: window, trial, step, validation_loss, estimate_norm, gradient_norm (exact), cosine (of
  estimate and exact), test_accuracy, stability, successful (0 where the estimate failed): every
  `measure_every` steps and at the last one, before the update.
- `cost`: window, relative_error, cosine, seconds, mebibytes of one hypergradient at the
  hyperparameters that the longest window found in the first trial; mebibytes of temporary memory.

Arrays: `coupling`, C after tuning, shape (windows, trials, classes, classes); `classes`, names.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metastep as ms
from metastep_lab.catalog import listing
from metastep_lab.configuration import Ascending, Count, Positive, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.shaban2019.task_interaction.claims import CLAIMS, answer, printed
from metastep_lab.shaban2019.task_interaction.examples import draw, load
from metastep_lab.shaban2019.task_interaction.figures import figures
from metastep_lab.shaban2019.task_interaction.interaction import (
    Guard,
    Interaction,
    interaction,
)
from metastep_lab.shaban2019.task_interaction.measuring import Measured, Recorder, early_stop
from metastep_lab.tables import columns


@configuration
class Config:
    """The configuration; the defaults are the preset `reduced`.

    What it reduces: features are random patches in place of a pretrained network's, and there are
    1,000 outer steps, in which early stopping hardly ever stops.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn), cifar10 or cifar100.
        features: a directory with a pretrained image network of Hugging Face that reads the
            images of the data set, such as ResNet-18; or an .npz file with features and labels
            that replace these images; or none. The folder of the data sets is searched, too.
        filters: random patches of the features.
        patch_size: their side in pixels.
        examples: training examples in total, and as many for validation; the rest is for testing.
        trials: independent draws of these.
        windows: the numbers K of inner steps that are differentiated, ascending.
        horizon: inner gradient steps T.
        step_size: of the inner descent.
        smoothness: features are scaled so that the cross-entropy's curvature is at most this.
        stability_limit: C and rho are kept below it (see `interaction.Guard`),
            or none for no guard.
        coupling: C_ij to start from.
        regularization: rho to start from.
        outer_steps: updates of C and rho.
        outer_step_size: of Adam.
        measure_every: outer steps between two measurements.
        patience: steps without an improvement of the test accuracy after which early stopping
            stops. Tuning goes on, and the tables say where it would have stopped.
    """

    dataset: Literal["digits", "cifar10", "cifar100"] = "cifar10"
    features: str | None = None
    filters: Count = 64
    patch_size: Count = 6
    examples: Count = 50
    trials: Count = 10
    windows: Ascending = (1, 5, 25, 100)
    horizon: Count = 100
    step_size: Positive = 0.1
    smoothness: Positive = 10.0
    stability_limit: float | None = 0.95
    coupling: Positive = 0.002
    regularization: Positive = 0.001
    outer_steps: Count = 1000
    outer_step_size: Positive = 0.05
    measure_every: Count = 20
    patience: Count = 500

    def __post_init__(self):
        """Check the values of the fields."""
        if self.windows[-1] > self.horizon:
            raise ValueError(
                f"windows is {self.windows}; allowed are integers up to the horizon, {self.horizon}"
            )
        # The stability of the cross-entropy alone, without the penalties that the guard can
        # shrink.
        least = self.step_size * self.smoothness / 2
        if self.stability_limit is not None and not least < self.stability_limit <= 1:
            raise ValueError(
                f"stability_limit is {self.stability_limit}; allowed are numbers above "
                f"step_size * smoothness / 2 = {least:g}, up to 1"
            )


@cache
def _optimizers(
    inner: float, outer: float
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Return gradient descent and Adam, the same objects for all runs, which then compile once."""
    return optax.sgd(inner), optax.adam(outer)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Tune C and rho with every window in every trial."""
    features, labels, names = load(config, context)
    optimizers = _optimizers(config.step_size, config.outer_step_size)
    summary, history, couplings = [], [], []
    for trial in range(config.trials):
        examples = draw(config, features, labels, context.seed, trial)
        problem = ms.TrainingProblem(
            loss=examples.task.loss,
            objective=examples.task.validation_loss,
            init_params=jnp.zeros((len(names), features.shape[1] + 1)),
            optimizer=optimizers[0],
            horizon=config.horizon,
        )
        limit = None if config.stability_limit is None else jnp.asarray(config.stability_limit)
        guard = Guard(jnp.asarray(config.step_size), examples.task.smoothness, limit)
        pace = config.measure_every, config.outer_steps - 1
        recorder = Recorder(problem, examples, guard, *pace)
        for window in config.windows:
            context.log(f"trial {trial}: tuning with window {window}")
            result = _tune(recorder, window, optimizers[1], config, context, trial)
            measured, stability = recorder.path(result)
            # Before the first update all windows are at the same point.
            if window == config.windows[0]:
                first = np.nan, measured.test_accuracy[0]
                row = _summary_row(measured, 0, stability[:1], first)
                summary.append(("untuned", np.nan, trial, *row))
            steps = recorder.steps
            ends = np.append(steps, config.outer_steps)
            stopped = early_stop(ends, measured.test_accuracy, config.patience)
            limits = config.stability_limit, result.skipped
            row = _summary_row(measured, -1, stability, stopped, *limits)
            summary.append((f"{window}-RMD", window, trial, *row))
            rows = _history_rows(steps, result, measured, stability)
            history += [(window, trial, *row) for row in rows]
            couplings.append(np.asarray(result.outer.strengths()[0]))
            if trial == 0 and window == config.windows[-1]:
                context.table("cost", _cost(problem, result.outer, config))
        context.progress(trial + 1, config.trials, "trials")
    table = "method window trial validation_loss test_accuracy stopped_step stopped_accuracy "
    table += "gradient_norm largest_coupling stability guarded_steps failed_steps"
    context.table("summary", columns(table, summary))
    table = "window trial step validation_loss estimate_norm gradient_norm cosine test_accuracy "
    context.table("history", columns(table + "stability successful", history))
    shape = (config.trials, len(config.windows), len(names), len(names))
    by_window = np.reshape(couplings, shape).swapaxes(0, 1)
    context.arrays({"coupling": by_window, "classes": np.array(names)})
    return {"test_examples": labels.size - 2 * config.examples}


def _tune(
    recorder: Recorder,
    window: int,
    optimizer: optax.GradientTransformation,
    config: Config,
    context: Context,
    trial: int,
) -> ms.Run:
    classes = jax.tree.leaves(recorder.problem.init_params)[0].shape[0]
    path = context.checkpoint(f"trial-{trial}-window-{window}")
    return ms.minimize(
        recorder.problem,
        interaction(classes, config.coupling, config.regularization),
        ms.TruncatedReverse(window),
        optimizer=optimizer,
        steps=config.outer_steps,
        key=jax.random.key(context.seed),
        project=recorder.guard,
        record=recorder,
        every=min(100, config.outer_steps),
        checkpoint=ms.Checkpoint(path, 500, context.resume),
    )


def _summary_row(
    measured: Measured,
    place: int,
    stability: np.ndarray,
    stopped: tuple[float, float],
    limit: float | None = None,
    skipped: int = 0,
) -> tuple:
    """Return the row of `summary` of one point of a run."""
    at = Measured(*(column[place] for column in measured))
    # After scaling by the guard, rounding errors leave a small distance to the limit.
    guarded = 0 if limit is None else int(np.sum(stability >= limit * (1 - 1e-5)))
    row = (at.validation_loss, at.test_accuracy, *stopped, at.gradient_norm, at.largest_coupling)
    return (*row, np.max(stability), guarded, skipped)


def _history_rows(
    steps: np.ndarray, result: ms.Run, measured: Measured, stability: np.ndarray
) -> list[tuple]:
    history = result.history
    good = np.asarray(history.result == ms.RESULTS.successful, int)[steps]
    estimate = np.asarray(history.gradient_norm)[steps]
    loss, exact, angle, correct, _ = (column[:-1] for column in measured)
    rows = (steps, loss, estimate, exact, angle, correct, stability[steps], good)
    return list(zip(*rows, strict=True))


def _cost(problem: ms.TrainingProblem, outer: Interaction, config: Config) -> Mapping:
    estimators = [ms.TruncatedReverse(window) for window in config.windows]
    found = ms.compare(problem, outer, estimators, key=jax.random.key(0), repeats=9)
    size = lambda row: np.nan if row.temporary_bytes is None else row.temporary_bytes / 2**20
    rows = [
        (window, row.relative_error, row.cosine, row.seconds, size(row))
        for window, row in zip(config.windows, found.rows, strict=True)
    ]
    return columns("window relative_error cosine seconds mebibytes", rows)


QUICK = Config(
    dataset="digits",
    filters=32,
    patch_size=3,
    trials=4,
    windows=(1, 5, 100),
    outer_steps=200,
    measure_every=10,
)

PAPER = Config(features="resnet-18", outer_steps=8000)
"""Features of ResNet-18 before its last layer, which a user has to bring, for all of CIFAR-10.

The paper stops after 3,300 to 4,950 steps on average. It neither scales the features nor guards the
inner descent (`smoothness`, `stability_limit`).
"""

PAPER_CIFAR100 = replace(PAPER, dataset="cifar100", examples=300, outer_steps=15000)
"""The same for CIFAR-100, where the paper stops after 5,670 to 8,805 steps on average."""

EXPERIMENT = Experiment(
    listing("task-interaction"),
    config=Config,
    presets={
        "quick": QUICK,
        "reduced": Config(),
        "paper": PAPER,
        "paper-cifar100": PAPER_CIFAR100,
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"tuning-helps", "loss-falls-with-window", "never-diverges"}),
    answer=answer,
    printed=printed,
    finite=("summary.validation_loss",),
)
