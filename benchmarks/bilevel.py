"""Bilevel solvers against unrolled estimators at equal cost: `python benchmarks/bilevel.py CASE`.

Two problems: data hypercleaning (one weight per training example, half of the labels replaced) and
multinomial logistic regression with one regularizer per feature. Every method gets the same number
of full-batch oracle calls: gradients of the training loss, Hessian and cross products, gradients of
the validation loss count one each; a call on b of n examples counts b / n. T unrolled steps
of which K are differentiated cost T + 2 K + 1.

What counts is the hyperparameters: each method's are judged by training a fresh model with them for
T full-batch steps, the objective that the unrolled estimators descend, and for so many steps that
it has converged, the objective of the bilevel solvers.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metastep as ms
from metastep.bilevel import F2SA, SOBA, AmIGO, BilevelProblem
from metastep.compilation import compiled
from metastep.tasks import cross_entropy
from metastep_lab.shaban2019.hypercleaning.examples import Examples, prepare
from metastep_lab.shaban2019.hypercleaning.experiment import Config

HORIZON, CONVERGED = 100, 3000
WINDOW = 5
INNER_STEPS = 10
STRETCHES = 4
TRAINING_EXAMPLES = 200  # of logistic regression: few, so that regularization matters


@dataclass(frozen=True)
class Case:
    """A problem in batches.

    Attributes:
        loss: the inner loss; the batch holds indices of training examples, None for all.
        objective: the validation loss; likewise.
        sizes: how many training and validation examples there are.
        params: where training begins.
        outer: the hyperparameters to start from.
        step_size: of gradient descent on the inner loss, and of the linear system.
        largest: of a hyperparameter.
    """

    loss: Callable
    objective: Callable
    sizes: tuple[int, int]
    params: jax.Array
    outer: jax.Array
    step_size: float
    largest: float = float("inf")

    def problem(self, horizon: int, batch: int | None = None) -> BilevelProblem:
        """Return the problem with batches of this size, drawn with replacement."""
        draw = lambda size: lambda t, key: jax.random.randint(key, (batch,), 0, size)
        draws = [None if batch is None else draw(size) for size in self.sizes]
        optimizer = optax.sgd(self.step_size)
        return BilevelProblem(
            self.loss, self.objective, self.params, optimizer, horizon, draws[0], draws[1]
        )


def validation_loss(task) -> Callable:
    """Return the mean cross-entropy of a batch of validation examples."""

    def objective(params: jax.Array, outer: jax.Array, batch: jax.Array | None) -> jax.Array:
        del outer
        rows = slice(None) if batch is None else batch
        features, labels = task.validation_features[rows], task.validation_labels[rows]
        return jnp.mean(cross_entropy(params, features, labels))

    return objective


def hypercleaning(examples: Examples, config: Config) -> Case:
    """One weight per example; a batch brings the indices of its own."""
    task = examples.task

    def loss(params: jax.Array, outer: jax.Array, batch: jax.Array | None) -> jax.Array:
        rows = slice(None) if batch is None else batch
        features = task.features if batch is None else task.features.rows[batch]
        losses = cross_entropy(params, features, task.labels[rows])
        weighted = jnp.mean(jax.nn.sigmoid(outer[rows]) * losses)
        return weighted + config.regularization * jnp.sum(params**2)

    sizes = config.train, config.validation
    outer = jnp.zeros(config.train)
    return Case(loss, validation_loss(task), sizes, task.initial_params(), outer, 1.0)


def regularization(examples: Examples, config: Config) -> Case:
    """One regularizer exp(outer_j) / 2 per feature, clean labels.

    Regularizers are bounded: bilevel solvers do not see that a larger one makes the inner descent
    unstable, unrolled estimators do.
    """
    task = examples.clean_task
    chosen = slice(0, TRAINING_EXAMPLES)
    features, labels = task.features.rows[chosen], task.labels[chosen]

    def loss(params: jax.Array, outer: jax.Array, batch: jax.Array | None) -> jax.Array:
        rows = slice(None) if batch is None else batch
        losses = cross_entropy(params, features[rows], labels[rows])
        return jnp.mean(losses) + jnp.sum(jnp.exp(outer) * params**2) / 2

    sizes = len(labels), config.validation
    outer = jnp.full(features.shape[1], -2.0)
    return Case(loss, validation_loss(task), sizes, task.initial_params(), outer, 0.5, 0.0)


@dataclass(frozen=True)
class Entry:
    """One method: an estimator, its outer step size (of Adam), its batches.

    With batches the step size decays by a cosine, which averages the noise away.
    """

    name: str
    estimator: Callable[[Case, int], ms.AbstractEstimator]
    calls: int
    step_size: float
    batch: int | None = None


def entries(batch: int) -> list[Entry]:
    """Return the methods; `calls` is what one outer step costs."""
    n = INNER_STEPS
    sgd = lambda case: optax.sgd(case.step_size)
    penalty = lambda steps: optax.linear_schedule(10.0, 300.0, steps)
    bilevel = [
        ("SOBA", lambda case, steps: SOBA(sgd(case)), 4, 0.02),
        (f"AmIGO({n})", lambda case, steps: AmIGO(sgd(case), n, n), 2 * n + 2, 0.1),
        (f"StocBiO({n})", lambda case, steps: AmIGO(sgd(case), n, n, False), 2 * n + 2, 0.1),
        (f"F2SA({n})", lambda case, steps: F2SA(penalty(steps), n), 3 * n + 3, 0.1),
    ]
    return [
        Entry("Reverse", lambda case, steps: ms.Reverse(), 3 * HORIZON + 1, 0.1),
        Entry(
            f"TruncatedReverse({WINDOW})",
            lambda case, steps: ms.TruncatedReverse(WINDOW),
            HORIZON + 2 * WINDOW + 1,
            0.1,
        ),
        *(Entry(name, make, calls, rate) for name, make, calls, rate in bilevel),
        *(
            Entry(f"{name}, batches of {batch}", make, calls, rate / 4, batch)
            for name, make, calls, rate in bilevel
        ),
    ]


@compiled
def judge(problem: BilevelProblem, outer: jax.Array) -> jax.Array:
    """Train a fresh model; return its validation loss on all examples."""
    key = jax.random.key(0)
    return problem.objective(ms.unroll(problem, outer, key), outer, key)


def measure(case: Case, entry: Entry, budget: float) -> list[str]:
    """Run one method to the end of its budget, looking at a quarter, a half and all of it."""
    share = 1.0 if entry.batch is None else entry.batch / case.sizes[0]
    every = int(budget / (entry.calls * share)) // STRETCHES
    steps, found, seconds = every * STRETCHES, [], []
    begin = perf_counter()

    def look(report: ms.Report) -> None:
        seconds.append(perf_counter() - begin)
        found.append(report.outer)

    step_size = entry.step_size
    if entry.batch is not None:
        step_size = optax.cosine_decay_schedule(step_size, steps)
    run = ms.minimize(
        case.problem(HORIZON, entry.batch),
        case.outer,
        entry.estimator(case, steps),
        optimizer=optax.adam(step_size),
        steps=steps,
        key=jax.random.key(1),
        project=lambda outer: jnp.minimum(outer, case.largest),
        every=every,
        callback=look,
    )
    losses = [float(judge(case.problem(HORIZON), found[i])) for i in (0, 1, 3)]
    converged = float(judge(case.problem(CONVERGED), run.outer))
    tail = np.asarray(run.history.value[-every // 10 :])
    # The first stretch includes compilation.
    pace = (seconds[-1] - seconds[0]) / (steps - every)
    return [
        entry.name,
        f"{entry.calls * share:.3g}",
        str(steps),
        *(f"{loss:.4f}" for loss in losses),
        f"{converged:.4f}",
        f"{tail.mean():.4f}",
        f"{pace * steps:.1f}",
        "ok" if run.skipped == 0 else f"{run.skipped} skipped",
    ]


def main() -> None:
    """Print the table of one problem."""
    cases = {"hypercleaning": hypercleaning, "regularization": regularization}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=cases, nargs="?", default="hypercleaning")
    parser.add_argument("--data", type=Path, help="folder with MNIST; without it, 8 x 8 digits")
    parser.add_argument("--outer-steps", type=int, default=150, help="of Reverse; sets the budget")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments, console = parser.parse_args(), Console(width=150)
    config = Config() if arguments.data else Config(dataset="digits", train=800, validation=400)
    examples = prepare(config, arguments.data, arguments.seed)
    budget = arguments.outer_steps * (3 * HORIZON + 1)
    case = cases[arguments.case](examples, config)
    before = [float(judge(case.problem(horizon), case.outer)) for horizon in (HORIZON, CONVERGED)]
    table = Table(
        *("method", "calls / step", "steps", "1/4", "1/2", "all", "converged", "own model"),
        *("seconds", "result"),
        title=(
            f"{arguments.case}: validation loss after {budget:,} full-batch oracle calls "
            f"(before: {before[0]:.4f}, converged {before[1]:.4f})"
        ),
    )
    for entry in entries(arguments.batch):
        table.add_row(*measure(case, entry, budget))
    console.print(table)


if __name__ == "__main__":
    main()
