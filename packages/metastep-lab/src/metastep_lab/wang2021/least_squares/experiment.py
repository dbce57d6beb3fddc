"""Tuning a step size on training loss overfits, on validation loss it does not: least squares.

Every noise level is run with the first number of samples (Figure 2 of the paper), and every number
of samples with the first noise level (Figure 3). Train-by-train sees all `samples` in training;
train-by-validation holds a part of them out. The step sizes that both choose are then run on new
tasks, training on all samples, and judged on as many fresh ones.

Tables (one row per observation):

- `objective`: noise, samples, mode (train-by-train | train-by-validation), step_size, objective
  (mean over tasks), standard_error, stopped (share of runs that left the ball of 40 sigma).
- `optimum`: noise, samples, mode, step_size (the grid's best), population_step_size (the best of
  the closed form).
- `rmse`: noise, samples, mode, split (training | test), mean, minimum, maximum over the test tasks,
  prediction (of the closed form).
- `population`: noise, samples, mode, step_size, objective, standard_error, population, z: the
  simulation beside the closed form, up to the step size where runs begin to diverge.
- `descent`: noise, samples, mode, step, step_size, objective ((1/t) log of the mean loss over
  `descent_tasks` tasks): meta-gradient descent from step size 0.003.
- `descent_end`: noise, samples, mode, step_size (where it ended), grid_step_size (the best of a
  fine grid on the same tasks).
- `theorem_5`: noise, horizon, mode, step_size, scaled (times the horizon for train-by-validation),
  error E|w - w*|^2: population optima over a range of horizons, at the first number of samples.
- `theorem_6`: ratio (samples / dim), step_size, error (of the population optimum over
  d sigma^2 / n), solution (the same for the least-squares solution, n / (n - d)).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from metastep.compilation import compiled
from metastep.tasks import random_least_squares
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import Table, columns
from metastep_lab.theory import least_squares as theory
from metastep_lab.wang2021.least_squares.claims import answer, claims, figures
from metastep_lab.wang2021.least_squares.descent import descend, draw_tasks
from metastep_lab.wang2021.least_squares.step_size_grid import (
    GridLosses,
    dense_losses,
    draw_spectral_tasks,
    spectral_losses,
)

MODES = ("train-by-train", "train-by-validation")
POPULATION: Mapping[str, Callable[..., np.ndarray]] = {
    "train-by-train": theory.train_by_train,
    "train-by-validation": theory.train_by_validation,
}
RADIUS = 40.0
"""A run has diverged once |w| reaches this many noise levels (footnote 3)."""


@dataclass(frozen=True)
class Config:
    """The configuration; the paper's values where it gives them.

    Attributes:
        dim: coefficients d.
        horizon: inner steps t.
        tasks: tasks that choose a step size.
        test_tasks: new tasks that judge it.
        noise: standard deviations sigma of the targets' noise.
        samples: numbers of examples n.
        grid: candidate step sizes.
        validation_fraction: the part of the samples that train-by-validation holds out.
        sampler: draw tasks in their singular basis (exact in law, fast), or their examples.
        descent_steps: meta-gradient steps; 0 leaves the descent out.
        descent_tasks: tasks of their meta-objective.
    """

    dim: int = 1000
    horizon: int = 40
    tasks: int = 300
    test_tasks: int = 10
    noise: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
    samples: tuple[int, ...] = (500, 1000, 2000, 5000, 10000)
    grid: tuple[float, ...] = tuple(float(x) for x in np.logspace(-6, 0, 25))
    validation_fraction: float = 0.5
    sampler: Literal["spectral", "dense"] = "spectral"
    descent_steps: int = 60
    descent_tasks: int = 8

    def __post_init__(self):
        """Refuse impossible values, naming field, value and what is allowed."""
        for name in ("dim", "horizon", "tasks", "test_tasks", "descent_tasks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are integers from 1")
        if self.descent_steps < 0:
            raise ValueError(f"descent_steps is {self.descent_steps}; allowed are integers from 0")
        if not self.noise or not all(sigma > 0 for sigma in self.noise):
            raise ValueError(f"noise is {self.noise}; allowed are positive numbers")
        if not self.samples or not all(n >= 2 for n in self.samples):
            raise ValueError(f"samples is {self.samples}; allowed are integers from 2")
        if not self.grid or not all(eta > 0 for eta in self.grid):
            raise ValueError(f"grid is {self.grid}; allowed are positive step sizes, at least one")
        for name in ("noise", "samples", "grid"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are different values")
        parts = [self.split(n) for n in self.samples]
        if not 0 < self.validation_fraction < 1 or min(min(part) for part in parts) < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; allowed are numbers between 0 "
                "and 1 that leave an example on each side"
            )

    def split(self, samples: int) -> tuple[int, int]:
        """Return the numbers of training and validation examples of train-by-validation."""
        held_out = round(self.validation_fraction * samples)
        return samples - held_out, held_out

    def settings(self) -> list[tuple[float, int]]:
        """Return the pairs (noise, samples) of both figures, each once."""
        figure_2 = [(sigma, self.samples[0]) for sigma in self.noise]
        return figure_2 + [(self.noise[0], n) for n in self.samples[1:]]


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table: simulation and theory in float64, meta-gradient descent in float32."""
    optima: dict[tuple[float, int, str], float] = {}
    objective, population, rmse = [], [], []
    settings = config.settings()
    for done, (noise, samples) in enumerate(settings):
        context.progress(done, len(settings), "grids of step sizes")
        rng = np.random.default_rng([context.seed, done])
        with jax.enable_x64(True):
            for mode in MODES:
                rows, beside, best = _search(config, noise, samples, mode, rng)
                objective += rows
                population += beside
                optima[noise, samples, mode] = best
            rmse += _judge(config, noise, samples, optima, rng)
    context.progress(len(settings), len(settings), "grids of step sizes")
    paths, ends = _descents(config, context) if config.descent_steps else ([], [])
    names = "noise samples mode step_size objective standard_error"
    context.table("objective", columns(names + " stopped", objective))
    optimum = _optimum(config, optima)
    context.table("optimum", columns("noise samples mode step_size population_step_size", optimum))
    context.table("rmse", columns("noise samples mode split mean minimum maximum prediction", rmse))
    context.table("population", columns(names + " population z", population))
    context.table("descent", columns("noise samples mode step step_size objective", paths))
    context.table("descent_end", columns("noise samples mode step_size grid_step_size", ends))
    context.table("theorem_5", _theorem_5(config))
    context.table("theorem_6", _theorem_6(config))
    return {}


def _examples(config: Config, samples: int, mode: str) -> tuple[int, int]:
    """Return training and held-out examples; train-by-train holds out one that nobody reads."""
    return config.split(samples) if mode == "train-by-validation" else (samples, 1)


def _simulate(
    config: Config,
    noise: float,
    examples: tuple[int, int],
    step_sizes: np.ndarray,
    tasks: int,
    radius: float,
    rng: np.random.Generator,
) -> GridLosses:
    """Run descent on new tasks with every step size; the same tasks for all of them."""
    samples, held_out = examples
    etas = jnp.asarray(step_sizes)
    if config.sampler == "spectral":
        drawn = draw_spectral_tasks(
            rng,
            tasks=tasks,
            dim=config.dim,
            samples=samples,
            noise=noise,
            validation_samples=held_out,
            steps=etas.size,
        )
        return _spectral(drawn, etas, config.horizon, jnp.asarray(radius))
    keys = jax.random.split(jax.random.key(int(rng.integers(2**32))), tasks)
    return _dense(keys, etas, config, jnp.asarray(noise), examples, jnp.asarray(radius))


@compiled
def _spectral(drawn, step_sizes, horizon, radius) -> GridLosses:
    return spectral_losses(drawn, step_sizes, horizon=horizon, radius=radius)


@compiled
def _dense(keys, step_sizes, config, noise, examples, radius) -> GridLosses:
    def one(key: jax.Array) -> GridLosses:
        task = random_least_squares(
            key,
            dim=config.dim,
            samples=examples[0],
            noise=noise,
            validation_samples=examples[1],
        )
        return dense_losses(task, step_sizes, horizon=config.horizon, radius=radius)

    return jax.lax.map(one, keys)


def _search(
    config: Config, noise: float, samples: int, mode: str, rng: np.random.Generator
) -> tuple[list[tuple], list[tuple], float]:
    """Return the rows of `objective` and of `population`, and the best step size of the grid."""
    grid = np.array(config.grid)
    examples = _examples(config, samples, mode)
    losses = _simulate(config, noise, examples, grid, config.tasks, RADIUS * noise, rng)
    validated = mode == "train-by-validation"
    values = np.asarray(losses.validation if validated else losses.training)
    mean = values.mean(axis=0)
    error = (
        values.std(axis=0, ddof=1) / np.sqrt(config.tasks) if config.tasks > 1 else mean * np.nan
    )
    stopped = np.asarray(losses.stopped).mean(axis=0)
    ratio = config.dim / examples[0]
    expected = POPULATION[mode](grid, ratio=ratio, noise=noise, horizon=config.horizon)
    where = (noise, samples, mode)
    rows = [(*where, *row) for row in zip(grid, mean, error, stopped, strict=True)]
    stable = grid <= 2 / (1 + math.sqrt(ratio)) ** 2
    beside = [
        (*where, *row, (row[1] - row[3]) / row[2])
        for row in zip(*(x[stable] for x in (grid, mean, error, expected)), strict=True)
    ]
    return rows, beside, float(grid[np.argmin(mean)])


def _judge(
    config: Config,
    noise: float,
    samples: int,
    optima: Mapping[tuple[float, int, str], float],
    rng: np.random.Generator,
) -> list[tuple]:
    """Run both optima on the same new tasks, on all samples, without truncation."""
    chosen = np.array([optima[noise, samples, mode] for mode in MODES])
    losses = _simulate(config, noise, (samples, samples), chosen, config.test_tasks, math.inf, rng)
    setting = {"ratio": config.dim / samples, "noise": noise, "horizon": config.horizon}
    rows = []
    for split, values, population in (
        ("training", losses.training, theory.train_by_train),
        ("test", losses.validation, theory.train_by_validation),
    ):
        measured = np.sqrt(2 * np.asarray(values))
        predicted = np.sqrt(2 * population(chosen, **setting))
        for mode, column, expected in zip(MODES, measured.T, predicted, strict=True):
            numbers = column.mean(), column.min(), column.max(), expected
            rows.append((noise, samples, mode, split, *numbers))
    return rows


def _descents(config: Config, context: Context) -> tuple[list[tuple], list[tuple]]:
    """Tune by meta-gradient where the two modes differ most; return the paths and the ends."""
    noises = sorted({config.noise[0], config.noise[-1]})
    samples, paths, ends = config.samples[0], [], []
    for index, (noise, mode) in enumerate(product(noises, MODES)):
        context.log(f"meta-gradient descent, {mode}, noise {noise:g}")
        key = jax.random.fold_in(jax.random.key(context.seed), index)
        tasks = draw_tasks(
            key,
            tasks=config.descent_tasks,
            dim=config.dim,
            examples=_examples(config, samples, mode),
            noise=noise,
        )
        found = descend(
            tasks,
            validated=mode == "train-by-validation",
            horizon=config.horizon,
            steps=config.descent_steps,
            key=key,
        )
        where = (noise, samples, mode)
        path = zip(found.step_sizes, found.objectives, strict=True)
        paths += [(*where, step, *point) for step, point in enumerate(path)]
        ends.append((*where, found.step_sizes[-1], found.grid_step_size))
    return paths, ends


def _optimum(config: Config, optima: Mapping[tuple[float, int, str], float]) -> list[tuple]:
    rows = []
    for where, best in optima.items():
        noise, samples, mode = where
        ratio = config.dim / _examples(config, samples, mode)[0]
        setting = {"ratio": ratio, "noise": noise, "horizon": config.horizon}
        rows.append((*where, best, theory.optimal_step_size(POPULATION[mode], **setting)))
    return rows


THEOREM_5_HORIZONS = tuple(10 * 2**k for k in range(8))
THEOREM_6_RATIOS = (2, 5, 10, 20, 50, 100, 1000)


def _theorem_5(config: Config) -> Table:
    rows = []
    for noise in config.noise:
        for mode in MODES:
            ratio = config.dim / _examples(config, config.samples[0], mode)[0]
            for horizon in THEOREM_5_HORIZONS:
                setting = {"ratio": ratio, "noise": noise, "horizon": horizon}
                best = theory.optimal_step_size(POPULATION[mode], **setting)
                scaled = best * horizon if mode == "train-by-validation" else best
                error = float(theory.mean_squared_error(best, **setting))
                rows.append((noise, horizon, mode, best, scaled, error))
    return columns("noise horizon mode step_size scaled error", rows)


def _theorem_6(config: Config) -> Table:
    rows, noise = [], config.noise[0]
    for multiple in THEOREM_6_RATIOS:
        setting = {"ratio": 1 / multiple, "noise": noise, "horizon": config.horizon}
        best = theory.optimal_step_size(theory.train_by_train, **setting)
        error = float(theory.mean_squared_error(best, **setting)) * multiple / noise**2
        rows.append((multiple, best, error, multiple / (multiple - 1)))
    return columns("ratio step_size error solution", rows)


EXPERIMENT = Experiment(
    listing("least-squares"),
    config=Config,
    presets={
        "quick": Config(
            dim=200,
            tasks=100,
            noise=(1.0, 3.0, 5.0),
            samples=(100, 200, 1000, 2000),
            descent_tasks=60,
        ),
        "paper": Config(),
    },
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset(
        {
            "train-by-train-overfits",
            "validation-generalises",
            "gap-grows-with-noise",
            "gap-closes-beyond-dim",
            "closed-form",
            "theorem-5",
            "theorem-6",
        }
    ),
    answer=answer,
    finite=("rmse.mean",),
)
