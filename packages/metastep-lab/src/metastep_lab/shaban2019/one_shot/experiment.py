"""One-shot classification of characters with a representation that is learned by K-RMD.

Two convolutions, the center of a head (two convolutions and an affine map), one regularization
weight for each layer of the head and the inner step size are tuned; the head is fitted to five
images by T steps of gradient descent that starts at the center. Assumptions that the paper does not
state: the descent starts at the centers, so that the exact gradient has a term B_0 that no window
has; rho and the step size are tuned on a logarithmic scale; batch normalization by the batch.

Methods: "K-RMD"; "full", exact reverse mode; "short horizon", exact through one step, tested after
T. With `study`: possible causes of the lower accuracy of full reverse mode, one at a time. "full,
start detached" leaves out B_0 alone; "clipped" scales the gradient to at most `clip`; "plain head"
has no normalization in the head.

Tables (one row per observation):

- `summary`: method, window (empty where there is none), horizon, repetition, steps, accuracy (of
  the queries of `test_tasks` tasks of held-out characters, after T inner steps), standard_error
  (over tasks), loss, rate (the inner step size at the end), gradient_norm (of the estimates, median
  over steps), failed_steps, seconds_per_step.
- `paired`: method, other, repetition, difference (of test accuracy, method minus other, on the same
  tasks), standard_error.
- `curve`: method, repetition, step, split (validation | test), accuracy, standard_error, loss.
- `training`: method, repetition, step, loss, gradient_norm, every tenth step.
- `cosine`: method, repetition, step, window, relative_error, cosine: of K-RMD and the exact
  gradient, averaged over `gradient_tasks`, along the trajectory of that method.
- `depth`: point (start | tuned), regularization (tuned | none | strong), repetition, window,
  relative_error, cosine: medians over `gradient_tasks` tasks. "strong" contracts by 1 - 2 rate rho
  = 0.8 in each step.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

import metastep as ms
from metastep_lab import data
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.shaban2019.one_shot.claims import answer, claims, printed
from metastep_lab.shaban2019.one_shot.figures import figures
from metastep_lab.shaban2019.one_shot.setup import Config, compared_windows, methods, split
from metastep_lab.shaban2019.one_shot.training import Measured, Part
from metastep_lab.tables import columns

CONTRACTION = 0.8  # of an inner step by the strong regularization
THINNED = 10  # outer steps between two rows of `training`


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Tune by every method in every repetition; measure during tuning and at the end."""
    images = data.omniglot(context.data).arrays["images"]
    splits = [
        # Not seed + repetition, by which runs of neighbouring seeds would share their splits.
        split(config, images, np.random.default_rng((context.seed, repetition)))
        for repetition in range(config.repetitions)
    ]
    found, total = [], len(methods(config)) * config.repetitions
    for method in methods(config):
        for repetition, characters in enumerate(splits):
            context.log(f"{method.name}, repetition {repetition}")
            part = Part(config, method, characters, repetition, context)
            result = part.tune()
            found.append((part, result, part.measure(result)))
            context.progress(len(found), total, "runs")
    _write_results(context, found)
    _write_gradients(config, context, found)
    return {}


Found = tuple[Part, ms.Run, Measured]


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size))


def _write_results(context: Context, found: list[Found]) -> None:
    summary, paired, curve, training = [], [], [], []
    for part, result, measured in found:
        method, where = part.method, (part.method.name, part.repetition)
        history = result.history
        judged = (measured.accuracy.mean(), _error(measured.accuracy), measured.loss.mean())
        norms = np.asarray(history.gradient_norm)
        ends = (float(jnp.exp(result.outer.log_rate)), np.median(norms), result.skipped)
        row = (method.name, method.window or np.nan, method.horizon, part.repetition, method.steps)
        summary.append((*row, *judged, *ends, result.seconds_per_step))
        for point, step in enumerate(part.steps):
            for place, name in enumerate(("validation", "test")):
                curve.append((*where, step, name, *measured.curve[point, place]))
        values = np.asarray(history.value)
        thinned = range(0, method.steps, THINNED)
        training += [(*where, step, values[step], norms[step]) for step in thinned]
        for other, _, measured_other in found:
            # Only then do both see the same characters, and have they had the same budget.
            same = other.repetition == part.repetition and other.method.steps == method.steps
            if same and other.method.name != method.name:
                difference = measured.accuracy - measured_other.accuracy
                row = (method.name, other.method.name, part.repetition)
                paired.append((*row, difference.mean(), _error(difference)))
    names = "method window horizon repetition steps accuracy standard_error loss rate "
    context.table(
        "summary", columns(names + "gradient_norm failed_steps seconds_per_step", summary)
    )
    names = "method other repetition difference standard_error"
    context.table("paired", columns(names, paired))
    names = "method repetition step split accuracy standard_error loss"
    context.table("curve", columns(names, curve))
    context.table("training", columns("method repetition step loss gradient_norm", training))


def _write_gradients(config: Config, context: Context, found: list[Found]) -> None:
    windows, angles, depth = compared_windows(config), [], []
    for part, result, measured in found:
        where = (part.method.name, part.repetition)
        if part.has_windows():
            for point, step in enumerate(part.steps):
                rows = zip(windows, *measured.gradients[:, point], strict=True)
                angles += [(*where, step, *row) for row in rows]
        if where[0] != f"{config.middle}-RMD":
            continue
        for name, outer in (("start", part.start()), ("tuned", result.outer)):
            # 1 - 2 rate rho = CONTRACTION, solved for log rho.
            strong = jnp.log((1 - CONTRACTION) / 2) - outer.log_rate
            # exp(-50) = 2e-22 adds nothing to a gradient in float32, and its logarithm is finite.
            for kind, logarithm in (("tuned", None), ("none", -50.0), ("strong", strong)):
                changed = outer
                if logarithm is not None:
                    same = jnp.zeros_like(outer.log_regularization)
                    changed = outer._replace(log_regularization=same + logarithm)
                errors, cosines = part.gradients(changed)[2:]
                rows = zip(windows, errors, cosines, strict=True)
                depth += [(name, kind, part.repetition, *row) for row in rows]
    names = "method repetition step window relative_error cosine"
    context.table("cosine", columns(names, angles))
    names = "point regularization repetition window relative_error cosine"
    context.table("depth", columns(names, depth))


QUICK = Config(
    windows=(10,),
    full=False,
    study=False,
    outer_steps=300,
    rotations=False,
    measure_every=100,
    measured_tasks=20,
    gradient_tasks=4,
)

PAPER = Config(
    channels=64,
    queries=15,
    outer_steps=5000,
    study_steps=1000,
    validation_characters=100,
    test_characters=323,
    rotations=False,
    measure_every=1000,
)
"""The sizes of the paper, for which Omniglot has to be whole; in three repetitions, not one."""

LONG = replace(PAPER, windows=(1, 10), full=False, study=False, outer_steps=15000)
"""The last rows of Table 4."""

EXPERIMENT = Experiment(
    listing("one-shot"),
    config=Config,
    presets={"quick": QUICK, "reduced": Config(), "paper": PAPER, "paper-15k": LONG},
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset({"window-ten-beats-short-horizon"}),
    answer=answer,
    printed=printed,
    finite=("summary.loss", "training.loss"),
)
