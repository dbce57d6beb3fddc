"""Learn to fit a sine wave from ten points: MAML and its relatives, side by side.

    python examples/few_shot_sinusoids.py --out runs/few_shot_sinusoids

Every method tunes the start of the same 1-40-40-1 network, with the same number of outer steps on
tasks drawn anew, and is judged by its error on new tasks along ten steps of adaptation. Under a
minute on two cores. The number of outer steps is small: this shows how the methods are written,
and is no ranking of them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import random_sinusoid, squared_error
from metastep_lab.figures.style import Lines, draw_lines, new_figure, save

SIZES = (1, 40, 40, 1)
POINTS = 10  # for adaptation, and as many to judge it
INNER_STEPS, RATE = 5, 0.01
IMPLICIT_STEPS, IMPLICIT_RATE, IMPLICIT_PULL = 150, 0.02, 2.0
OUTER_STEPS, META_BATCH = 600, 25
TEST_TASKS, TEST_STEPS = 600, 10


def network(key: jax.Array) -> dict:
    """Return random parameters."""
    layers = {}
    for index, layer_key in enumerate(jax.random.split(key, len(SIZES) - 1)):
        shape = SIZES[index : index + 2]
        weight = jax.random.normal(layer_key, shape) * jnp.sqrt(2 / shape[0])
        layers[f"layer {index}"] = {"weight": weight, "bias": jnp.zeros(shape[1])}
    return layers


def predict(params: dict, inputs: jax.Array) -> jax.Array:
    """Return the network's value at one input of shape (1,)."""
    *hidden_layers, last = params.values()
    for layer in hidden_layers:
        inputs = jax.nn.tanh(inputs @ layer["weight"] + layer["bias"])
    return (inputs @ last["weight"] + last["bias"])[0]


def loss(params: dict, outer: object, batch: object) -> jax.Array:
    """Return the mean squared error, the loss of both loops."""
    return squared_error(lambda inputs: predict(params, inputs), batch)


def task(key: jax.Array) -> ms.MAMLProblem:
    """Draw a sine wave and ask for plain MAML: the distribution of tasks."""
    wave = random_sinusoid(key, samples=POINTS, validation_samples=POINTS)
    return ms.MAMLProblem(loss, wave.training, wave.validation, horizon=INNER_STEPS, rate=RATE)


@dataclass(frozen=True)
class Method:
    """A member of the family.

    Attributes:
        change: makes a task of plain MAML one of this method.
        at_test: the same for new tasks; None is `change`.
        start: maps initial parameters to what is tuned.
        estimator: of the gradient.
        optimizer: of what is tuned.
    """

    change: Callable[[ms.MAMLProblem], ms.AbstractProblem]
    at_test: Callable[[ms.MAMLProblem], ms.MAMLProblem] | None = None
    start: Callable[[dict], object] = lambda params: params
    estimator: ms.AbstractEstimator = field(default_factory=ms.Reverse)
    optimizer: optax.GradientTransformation = field(default_factory=lambda: optax.adam(2e-3))


def plain(task: ms.MAMLProblem) -> ms.MAMLProblem:
    """Leave a task as it is."""
    return task


def head(params: dict) -> dict:
    """Return the last layer."""
    return params["layer 2"]


def implicit(task: ms.MAMLProblem) -> ms.MAMLProblem:
    """Adapt until nothing moves any more, held near the start: iMAML.

    Only the last layer, in which the inner loss is convex: an adaptation that has not converged
    has no implicit gradient, and `Implicit` refuses to guess one.
    """
    return replace(
        task, where=head, proximal=IMPLICIT_PULL, horizon=IMPLICIT_STEPS, rate=IMPLICIT_RATE
    )


def reptile(task: ms.MAMLProblem) -> ms.Reptile:
    """Adapt on all points of the task; there is no outer loss."""
    join = lambda first, second: jnp.concatenate([first, second])
    return ms.Reptile(replace(task, training=jax.tree.map(join, task.training, task.validation)))


def learned_rates(params: dict) -> MetaSGD:
    """Give every parameter a rate of its own."""
    return ms.MetaSGD(params, jax.tree.map(lambda leaf: jnp.full_like(leaf, RATE), params))


# The last layer is small enough for a direct solver, which does not stagnate in float32 as
# conjugate gradients may.
DIRECT = ms.Implicit(lx.LU())

# Rates are small numbers, and their steps have to be smaller still.
SLOWER_RATES = optax.masked(optax.scale(0.1), ms.MetaSGD(False, True))

METHODS = {
    "MAML": Method(plain),
    "first-order MAML": Method(lambda task: replace(task, first_order=True)),
    "ANIL, last layer": Method(lambda task: replace(task, where=head)),
    "Meta-SGD": Method(
        lambda task: replace(task, rate=None),
        start=learned_rates,
        optimizer=optax.chain(optax.adam(2e-3), SLOWER_RATES),
    ),
    "iMAML, last layer": Method(implicit, estimator=DIRECT),
    "Reptile": Method(reptile, at_test=plain),
    "negative rate": Method(lambda task: replace(task, rate=-RATE), at_test=plain),
}


def train(method: Method, outer: object, key: jax.Array) -> ms.Run:
    """Tune what a method tunes."""
    return ms.minimize(
        lambda key: method.change(task(key)),
        outer,
        method.estimator,
        optimizer=method.optimizer,
        steps=OUTER_STEPS,
        meta_batch=META_BATCH,
        every=OUTER_STEPS,
        key=key,
    )


@compiled
def test_errors(outer: object, change: Callable, keys: jax.Array) -> jax.Array:
    """Return the error on new tasks after 0, 1, ... steps, shape (tasks, TEST_STEPS + 1)."""

    def errors(key: jax.Array) -> jax.Array:
        problem = change(task(key))

        def step(inner: object, t: jax.Array) -> tuple[object, jax.Array]:
            return problem.step(inner, outer, t, key), problem.objective(inner, outer, key)

        return jax.lax.scan(step, problem.init(outer, key), jnp.arange(TEST_STEPS + 1))[1]

    return jax.vmap(errors)(keys)


def fits(params: dict, key: jax.Array) -> Lines:
    """Return a panel with one new task before and after adaptation."""
    wave = random_sinusoid(key, samples=POINTS, validation_samples=POINTS)
    x = np.linspace(-5, 5, 200)
    curve = lambda params: jax.vmap(lambda x: predict(params, x[None]))(jnp.asarray(x))
    adapted = lambda steps: replace(task(key), horizon=steps).adapt(params)
    series = {
        "true": (x, wave(jnp.asarray(x))),
        "start": (x, curve(params)),
        "1 step": (x, curve(adapted(1))),
        f"{TEST_STEPS} steps": (x, curve(adapted(TEST_STEPS))),
    }
    return Lines(series, "x", "y", "A new task, adapted from MAML's start")


def main() -> None:
    """Train, test, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot_sinusoids"))
    parser.add_argument("--seed", type=int, default=0)
    arguments, console = parser.parse_args(), Console(width=100)
    start_key, train_key, test_key = jax.random.split(jax.random.key(arguments.seed), 3)
    params, keys = network(start_key), jax.random.split(test_key, TEST_TASKS)
    table = Table("method", "start", "1 step", "5 steps", "10 steps", "+- at 10", "seconds")
    series, tuned = {}, {}
    for name, method in METHODS.items():
        begin = perf_counter()
        run = train(method, method.start(params), train_key)
        tuned[name] = run.outer
        errors = np.asarray(test_errors(run.outer, method.at_test or method.change, keys))
        mean, spread = errors.mean(axis=0), errors.std(axis=0) / np.sqrt(TEST_TASKS)
        series[name] = (np.arange(TEST_STEPS + 1), mean)
        cells = [f"{mean[step]:.3f}" for step in (0, 1, 5, 10)]
        table.add_row(name, *cells, f"{spread[-1]:.3f}", f"{perf_counter() - begin:.1f}")
        if run.skipped:
            console.print(f"{name}: {run.skipped} of {OUTER_STEPS} updates skipped.")
    console.print(table)
    figure, axes = new_figure(columns=2, height=4.4)
    labels = "steps of adaptation", "mean squared error on new tasks", "Error"
    draw_lines(axes[0], Lines(series, *labels, y_log=True))
    draw_lines(axes[1], fits(tuned["MAML"], keys[3]))
    axes[0].get_legend().remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    paths = save(figure, arguments.out / "few_shot_sinusoids")
    console.print("wrote", ", ".join(map(str, paths)))


if __name__ == "__main__":
    main()
