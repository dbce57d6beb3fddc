"""The runs of `maml-nonlinear`: each network in the linearized limit, and trained."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep import saving as checkpoint
from metastep.compilation import compiled
from metastep.types import RandomKey
from metastep_lab.bernacchia2021.maml_nonlinear.nonlinear_regression import (
    Network,
    draw_quadratic_tasks,
    initial_network,
    meta_train,
    new_task_losses,
)
from metastep_lab.bernacchia2021.maml_nonlinear.tangent_regression import (
    outer_coefficients,
    tangent_losses,
    tangent_problem,
)
from metastep_lab.bernacchia2021.mixed_regression import RegressionTasks
from metastep_lab.experiment import Context

SAVED_TOGETHER = 25
"""Linearized runs between two checkpoints; trained ones are saved one by one."""

ORDER = 3
"""The random stream of the order of tasks; those before are the parts of a draw."""


class Reading(NamedTuple):
    """A network that agrees with the paper's text, and its number of runs."""

    name: str
    width: int
    hidden_layers: int
    bias_scale: float
    linearized_runs: int
    trained_runs: int


def readings(config: Any) -> list[Reading]:
    """Return the networks of a configuration, the paper's first."""
    width = config.width
    first = Reading("paper", width, 2, 0.0, config.linearized_runs, config.trained_runs)
    if not config.reading_runs:
        return [first]
    runs = config.reading_runs
    return [
        first,
        Reading("drawn biases", width, 2, 1.0, runs, config.reading_trained_runs),
        Reading("one hidden layer", width, 1, 0.0, runs, 0),
        Reading("quarter width", max(1, width // 4), 2, 0.0, runs, 0),
        Reading("double width", 2 * width, 2, 0.0, runs, 0),
    ]


class Draw(NamedTuple):
    """Everything random in a run, float32: the same for every rate and both limits."""

    network: Network
    training: RegressionTasks
    new: RegressionTasks


@compiled
def draw_run(config: Any, reading: Reading, key: Array, run: Array) -> Draw:
    """Draw a network, its training tasks and its test tasks."""
    keys = jax.random.split(jax.random.fold_in(key, run), 3)
    draw = lambda key, tasks, samples, held_out: draw_quadratic_tasks(
        key,
        dim=config.dim,
        variability=config.variability,
        noise=config.noise,
        tasks=tasks,
        train_samples=samples,
        validation_samples=held_out,
    )
    network = initial_network(
        keys[0],
        dim=config.dim,
        width=reading.width,
        bias_scale=reading.bias_scale,
        hidden_layers=reading.hidden_layers,
    )
    training = draw(keys[1], config.tasks, config.train_samples, config.validation_samples)
    new = draw(keys[2], config.test_tasks, config.target_samples, config.test_samples)
    return Draw(network, training, new)


def linearized(config: Any, reading: Reading, context: Context) -> np.ndarray:
    """Losses by run, epochs (and inf), train rate and test rate; float64."""
    epochs = (*config.epochs, math.inf)
    shape = (reading.linearized_runs, len(epochs), len(config.train_rates), len(config.test_rates))
    key = jax.random.key(context.seed)

    def one(run: int) -> dict[str, np.ndarray]:
        draw = draw_run(config, reading, key, jnp.asarray(run))
        with jax.enable_x64(True):
            rates = (config.train_rates, config.test_rates, config.step_size, epochs)
            return {"loss": np.asarray(_solve(draw, *map(jnp.asarray, rates)))}

    what = f"{reading.name}, linearized"
    return _by_run({"loss": np.zeros(shape)}, SAVED_TOGETHER, what, context, one)["loss"]


@compiled
def _solve(
    draw: Draw, train_rates: Array, test_rates: Array, step_size: Array, epochs: Array
) -> Array:
    # Drawn in float32 and solved in float64: the trained network sees the same numbers, and
    # differences of 1e-3 of a loss are not rounding.
    draw = jax.tree.map(lambda x: x.astype(jnp.float64), draw)
    problem = tangent_problem(draw.network, draw.training)
    solve = lambda epochs, rate: outer_coefficients(problem, rate, step_size, epochs)
    grid = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(epochs, train_rates)
    flat = grid.reshape(-1, grid.shape[-1])
    losses = tangent_losses(draw.network, problem, flat, draw.new, test_rates)
    return losses.reshape(*grid.shape[:2], -1)


def trained(config: Any, reading: Reading, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Losses by run, epochs, train rate and test rate; outer losses by the first three."""
    shape = (reading.trained_runs, len(config.epochs), len(config.trained_rates))
    rates = jnp.array(config.trained_rates, jnp.float32)
    test_rates = jnp.array(config.test_rates, jnp.float32)
    step_size = jnp.float32(config.step_size)
    key = jax.random.key(context.seed)

    def one(run: int) -> dict[str, np.ndarray]:
        draw = draw_run(config, reading, key, jnp.asarray(run))
        networks = jax.tree.map(lambda x: jnp.broadcast_to(x, (rates.size, *x.shape)), draw.network)
        outer, losses = [], []
        run_key = jax.random.fold_in(key, run)
        order = jax.random.fold_in(run_key, ORDER) if config.stochastic else None
        # As arrays: every stretch of epochs runs the same compiled program.
        for done, until in pairwise(jnp.array((0, *config.epochs))):
            how = (rates, step_size, until - done, order, done)
            networks, ends = _train(networks, draw.training, *how)
            outer.append(ends)
            losses.append(_test(networks, draw.new, test_rates))
        return {"loss": np.stack(losses), "outer": np.stack(outer)}

    like = {"loss": (*shape, len(config.test_rates)), "outer": shape}
    zeros = {name: np.zeros(size, np.float32) for name, size in like.items()}
    found = _by_run(zeros, 1, f"{reading.name}, trained", context, one)
    return found["loss"].astype(float), found["outer"].astype(float)


@compiled
def _train(
    networks: Network,
    tasks: RegressionTasks,
    rates: Array,
    step_size: Array,
    epochs: Array,
    order: RandomKey | None,
    done: Array,
) -> tuple[Network, Array]:
    options = {"step_size": step_size, "epochs": epochs, "order": order, "done": done}
    return meta_train(networks, tasks, rates, **options)


@compiled
def _test(networks: Network, tasks: RegressionTasks, test_rates: Array) -> Array:
    return jax.lax.map(lambda network: new_task_losses(network, tasks, test_rates), networks)


def _by_run(
    arrays: dict[str, np.ndarray],
    saved_together: int,
    what: str,
    context: Context,
    compute: Callable[[int], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Fill arrays along their first axis, run by run, so that the loop can be resumed."""
    path: Path = context.checkpoint(what.replace(", ", "-").replace(" ", "-"))
    total, done = len(next(iter(arrays.values()))), 0
    if context.resume and path.exists():
        with jax.enable_x64(True):
            # Without float64, `jnp.asarray` would round what is saved and read, and a resumed run
            # would differ.
            restored, notes = checkpoint.load(path, _as_jax(arrays))
            arrays, done = jax.tree.map(np.array, restored), notes["done"]
    for run in range(done, total):
        context.progress(run, total, what)
        for name, values in compute(run).items():
            arrays[name][run] = values
        if (run + 1) % saved_together == 0 or run + 1 == total:
            with jax.enable_x64(True):
                checkpoint.save(path, _as_jax(arrays), {"done": run + 1})
    context.progress(total, total, what)
    return arrays


def _as_jax(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
    return {name: jnp.asarray(values) for name, values in arrays.items()}
