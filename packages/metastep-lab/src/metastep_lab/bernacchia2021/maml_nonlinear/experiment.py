"""Does a negative inner step size in training help a wide network on quadratic regression?

MAML with one inner step on y = (<w, x> + b)^2 + z, for real (descent on the outer loss) and in the
linearized limit, where the outer problem is solved exactly. Every run has one network, one set of
training tasks and one set of new tasks, shared by all train rates and by both limits, so that
differences between rates are paired. The text leaves several things open; each is a reading:

- The 1/2 in front of the squared error. All rates here are of (1/2) mean squared error. Without the
  1/2 both rates act twice as strongly: the paper's train rate -0.0075 at test rate 0.01 is then
  -0.015 at 0.02 here (and every loss is twice as large).
- Biases at the start (zero, or drawn as the weights), width and depth: the table `reading`.
- Epochs: descent stops at each of `epochs`; inf is the exact solution. The order in which tasks or
  examples are visited plays no part in the limit.
- Test examples of each new task: they change the noise of the test loss and not its mean.

Tables (one row per observation):

- `reading`: reading, width, hidden_layers, bias_scale (of the biases' standard deviation, relative
  to that of the weights), linearized_runs, trained_runs.
- `loss`: reading, limit (linearized | trained), epochs, train_rate, test_rate, mean (over runs, of
  the loss on new tasks), standard_error, runs.
- `difference`: reading, limit, epochs, train_rate, test_rate, difference (to train rate 0, paired),
  standard_error, z, runs, correlation (with the linearized difference of the same runs). The limit
  `controlled` is the trained one with the linearized as control variate: the regression of the
  trained difference on the linearized, at the mean of all linearized runs.
- `training`: reading, epochs, train_rate, mean, maximum: the outer loss after training.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep import saving as checkpoint
from metastep.compilation import compiled
from metastep_lab.bernacchia2021.maml_nonlinear import statistics as statistics
from metastep_lab.bernacchia2021.maml_nonlinear.claims import answer, claims, figures
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
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns

SAVED_TOGETHER = 25
"""Linearized runs between two checkpoints; trained ones are saved one by one."""


@dataclass(frozen=True)
class Config:
    """The configuration; the defaults are the preset `reduced`.

    What it reduces: 500 epochs in place of 5,000, and 100 new tasks in place of 1,000. The outer
    descent is full-batch in every preset, where the paper's is stochastic; an epoch is one step.

    Attributes:
        dim: p, the length of the inputs.
        train_samples: n_t, for the inner step in training.
        validation_samples: n_v, for the outer loss, of each task.
        tasks: m, in training.
        target_samples: n_r, for the inner step on a new task.
        noise: sigma, of the targets.
        variability: nu, the standard deviation of <w, x>.
        width: of both hidden layers.
        step_size: of the outer descent.
        epochs: full-batch steps of the outer descent after which the loss is measured, ascending.
        train_rates: alpha_t in the linearized limit; 0 among them.
        trained_rates: those of them that are also trained; 0 among them.
        test_rates: alpha_r.
        paper_rate: the train rate that the paper finds best.
        paper_test_rate: the test rate at which it does.
        linearized_runs: of the paper's network.
        trained_runs: the first runs of these, which are also trained.
        reading_runs: linearized runs of each other reading; 0 leaves them out.
        reading_trained_runs: trained ones of the reading with drawn biases.
        test_tasks: new tasks of a run.
        test_samples: examples of each that measure the loss.
    """

    dim: int = 60
    train_samples: int = 30
    validation_samples: int = 2
    tasks: int = 3
    target_samples: int = 20
    noise: float = 1.0
    variability: float = 0.5
    width: int = 400
    step_size: float = 0.001
    epochs: tuple[int, ...] = (150, 500)
    train_rates: tuple[float, ...] = (
        *(-0.02, -0.015, -0.0125, -0.01, -0.0075, -0.005, -0.0025),
        *(0.0, 0.0025, 0.005, 0.0075, 0.01),
    )
    trained_rates: tuple[float, ...] = (-0.015, -0.01, -0.0075, -0.0025, 0.0, 0.0025, 0.005)
    test_rates: tuple[float, ...] = (0.0, 0.003, 0.01, 0.02)
    paper_rate: float = -0.0075
    paper_test_rate: float = 0.01
    linearized_runs: int = 1000
    trained_runs: int = 30
    reading_runs: int = 200
    reading_trained_runs: int = 10
    test_tasks: int = 100
    test_samples: int = 10

    def __post_init__(self):
        """Refuse impossible values, naming field, value and what is allowed."""
        sizes = ("dim", "train_samples", "validation_samples", "tasks", "target_samples", "width")
        least = dict.fromkeys((*sizes, "test_tasks", "test_samples"), 1)
        least |= {"linearized_runs": 2, "trained_runs": 0, "reading_runs": 0}
        for name, smallest in (least | {"reading_trained_runs": 0}).items():
            if getattr(self, name) < smallest:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; allowed are integers from {smallest}")
        for name, most in (
            ("trained_runs", self.linearized_runs),
            ("reading_trained_runs", self.reading_runs),
        ):
            if getattr(self, name) > most:
                value = getattr(self, name)
                raise ValueError(
                    f"{name} is {value}; allowed are as many as linearized ones, {most}"
                )
        for name in ("noise", "variability"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are numbers from 0")
        if self.step_size <= 0:
            raise ValueError(f"step_size is {self.step_size}; allowed are positive numbers")
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)) or self.epochs[0] < 1:
            raise ValueError(f"epochs is {self.epochs}; allowed are ascending integers from 1")
        self._check_rates()

    def _check_rates(self) -> None:
        for name in ("train_rates", "trained_rates", "test_rates"):
            rates = getattr(self, name)
            if not rates or len(set(rates)) != len(rates):
                raise ValueError(f"{name} is {rates}; allowed are different numbers, at least one")
        for name in ("train_rates", "trained_rates"):
            if 0 not in getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are numbers with 0")
        if not set(self.trained_rates) <= set(self.train_rates):
            allowed = f"allowed are some of train_rates, {self.train_rates}"
            raise ValueError(f"trained_rates is {self.trained_rates}; {allowed}")


class Reading(NamedTuple):
    """A network that the text allows, and how often it is run."""

    name: str
    width: int
    hidden_layers: int
    bias_scale: float
    linearized_runs: int
    trained_runs: int


def readings(config: Config) -> list[Reading]:
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
def draw_run(config: Config, reading: Reading, key: Array, run: Array) -> Draw:
    """Draw a network, its training tasks and the tasks that judge it."""
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
    return Draw(
        network,
        training,
        draw(keys[2], config.test_tasks, config.target_samples, config.test_samples),
    )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Run every reading in both limits and tabulate losses and paired differences."""
    shown, loss, difference, training = [], [], [], []
    for reading in readings(config):
        shown.append(tuple(reading))
        linearized = _linearized(config, reading, context)
        for place, epochs in enumerate((*config.epochs, math.inf)):
            where = (reading.name, "linearized", epochs)
            rates, values = (config.train_rates, config.test_rates), linearized[:, place]
            loss += _labeled(where, statistics.mean_rows(*rates, values))
            difference += _labeled(where, statistics.difference_rows(*rates, values))
        if not reading.trained_runs:
            continue
        trained, outer = _trained(config, reading, context)
        also = [config.train_rates.index(rate) for rate in config.trained_rates]
        for place, epochs in enumerate(config.epochs):
            where = (reading.name, "trained", epochs)
            rates, values = (config.trained_rates, config.test_rates), trained[:, place]
            control = linearized[:, place, also]
            loss += _labeled(where, statistics.mean_rows(*rates, values))
            paired = statistics.difference_rows(*rates, values, control[: len(values)])
            difference += _labeled(where, paired)
            more = statistics.controlled_rows(*rates, values, control)
            difference += _labeled((reading.name, "controlled", epochs), more)
            ends = outer[:, place].mean(axis=0), outer[:, place].max(axis=0)
            rows = list(zip(config.trained_rates, *ends, strict=True))
            training += _labeled((reading.name, epochs), rows)
    names = "reading width hidden_layers bias_scale linearized_runs trained_runs"
    context.table("reading", columns(names, shown))
    names = "reading limit epochs train_rate test_rate"
    context.table("loss", columns(names + " mean standard_error runs", loss))
    names += " difference standard_error z runs correlation"
    context.table("difference", columns(names, difference))
    context.table("training", columns("reading epochs train_rate mean maximum", training))
    return {}


def _labeled(where: tuple, rows: list[tuple]) -> list[tuple]:
    return [(*where, *row) for row in rows]


def _linearized(config: Config, reading: Reading, context: Context) -> np.ndarray:
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
    draw = jax.tree.map(lambda x: x.astype(jnp.float64), draw)
    problem = tangent_problem(draw.network, draw.training)
    solve = lambda epochs, rate: outer_coefficients(problem, rate, step_size, epochs)
    grid = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(epochs, train_rates)
    flat = grid.reshape(-1, grid.shape[-1])
    losses = tangent_losses(draw.network, problem, flat, draw.new, test_rates)
    return losses.reshape(*grid.shape[:2], -1)


def _trained(config: Config, reading: Reading, context: Context) -> tuple[np.ndarray, np.ndarray]:
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
        for epochs in jnp.diff(jnp.array((0, *config.epochs))):
            networks, ends = _train(networks, draw.training, rates, step_size, epochs)
            outer.append(ends)
            losses.append(_test(networks, draw.new, test_rates))
        return {"loss": np.stack(losses), "outer": np.stack(outer)}

    like = {"loss": (*shape, len(config.test_rates)), "outer": shape}
    zeros = {name: np.zeros(size, np.float32) for name, size in like.items()}
    found = _by_run(zeros, 1, f"{reading.name}, trained", context, one)
    return found["loss"].astype(float), found["outer"].astype(float)


@compiled
def _train(
    networks: Network, tasks: RegressionTasks, rates: Array, step_size: Array, epochs: Array
) -> tuple[Network, Array]:
    return meta_train(networks, tasks, rates, step_size=step_size, epochs=epochs)


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
    """Fill arrays along their first axis, run by run, so that it can be resumed."""
    path: Path = context.checkpoint(what.replace(", ", "-").replace(" ", "-"))
    total, done = len(next(iter(arrays.values()))), 0
    if context.resume and path.exists():
        with jax.enable_x64(True):
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


PAPER = Config(epochs=(150, 500, 5000), test_tasks=1000)
"""The paper's epochs and new tasks, with more runs than its ten."""

EXPERIMENT = Experiment(
    listing("maml-nonlinear"),
    config=Config,
    presets={
        "quick": Config(
            epochs=(150, 300),
            trained_rates=(-0.015, -0.0075, 0.0, 0.0025),
            linearized_runs=200,
            trained_runs=6,
            reading_runs=0,
            reading_trained_runs=0,
        ),
        "reduced": Config(),
        "paper": PAPER,
    },
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset({"training-converged", "adaptation-helps", "ten-runs-undecided"}),
    answer=answer,
    finite=("training.mean", "loss.mean"),
)
