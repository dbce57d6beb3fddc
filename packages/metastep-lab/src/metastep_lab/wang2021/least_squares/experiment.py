"""Tuning a step size on training loss overfits, on validation loss it does not: least squares.

Every noise level is run with the first number of samples (Figure 2 of the paper), and every number
of samples with the first noise level (Figure 3). Train-by-train sees all `samples` in training;
train-by-validation holds a part of them out. The step sizes that both choose are then run on new
tasks, training on all samples, and tested on as many new ones.

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
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from annotated_types import Ge, MinLen

from metastep.compilation import compiled
from metastep.tasks import random_least_squares
from metastep_lab.catalog import listing
from metastep_lab.claims import mean_and_error
from metastep_lab.configuration import Count, Positive, Several, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import Rows, in_turn, no_rows, write_tables
from metastep_lab.theory import least_squares as theory
from metastep_lab.wang2021.least_squares import closed_form
from metastep_lab.wang2021.least_squares.claims import CLAIMS, VALIDATION, answer
from metastep_lab.wang2021.least_squares.descent import descend, draw_tasks
from metastep_lab.wang2021.least_squares.figures import figures
from metastep_lab.wang2021.least_squares.step_size_grid import (
    RADIUS,
    GridLosses,
    dense_losses,
    draw_spectral_tasks,
    spectral_losses,
)


@configuration
class Config:
    """The configuration; the paper's values where it gives them.

    Attributes:
        dim: coefficients d.
        horizon: inner steps t.
        tasks: tasks that choose a step size.
        test_tasks: new tasks that test it.
        noise: standard deviations sigma of the targets' noise.
        samples: numbers of examples n.
        grid: candidate step sizes.
        validation_fraction: the fraction of the samples that train-by-validation holds out.
        sampler: draw tasks in their singular basis (exact in law, fast), or their examples.
        descent_steps: meta-gradient steps; 0 leaves the descent out.
        descent_tasks: tasks of their meta-objective.
    """

    dim: Count = 1000
    horizon: Count = 40
    tasks: Count = 300
    test_tasks: Count = 10
    noise: Annotated[tuple[Positive, ...], MinLen(1), "positive numbers"] = (
        *(1.0, 2.0, 3.0, 4.0, 5.0),
    )
    samples: Annotated[tuple[Several, ...], MinLen(1), "integers from 2"] = (
        *(500, 1000, 2000, 5000, 10000),
    )
    grid: Annotated[tuple[Positive, ...], MinLen(1), "positive step sizes, at least one"] = tuple(
        float(x) for x in np.logspace(-6, 0, 25)
    )
    validation_fraction: float = 0.5
    sampler: Literal["spectral", "dense"] = "spectral"
    descent_steps: Annotated[int, Ge(0)] = 60
    descent_tasks: Count = 8

    def __post_init__(self):
        """Refuse equal entries, and splits that leave one part without an example."""
        for name in ("noise", "samples", "grid"):
            if not different(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are different values")
        parts = [self.split(n) for n in self.samples]
        if not 0 < self.validation_fraction < 1 or min(map(min, parts)) < 1:
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


TABLES = {
    "objective": "noise samples mode step_size objective standard_error stopped",
    "optimum": "noise samples mode step_size population_step_size",
    "rmse": "noise samples mode split mean minimum maximum prediction",
    "population": "noise samples mode step_size objective standard_error population z",
    "descent": "noise samples mode step step_size objective",
    "descent_end": "noise samples mode step_size grid_step_size",
}


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table: simulation and theory in float64, meta-gradient descent in float32."""
    optima: dict[tuple[float, int, str], float] = {}
    rows, settings = no_rows(TABLES), list(enumerate(config.settings()))
    for number, (noise, samples) in in_turn(context, settings, "grids of step sizes"):
        # A stream for each setting: the tasks of one do not change with the number of draws before
        # it.
        rng = np.random.default_rng([context.seed, number])
        with jax.enable_x64(True):
            for mode in closed_form.OBJECTIVES:
                optima[noise, samples, mode] = _search(config, noise, samples, mode, rng, rows)
            rows["rmse"] += _judge(config, noise, samples, optima, rng)
    if config.descent_steps:
        _descents(config, context, rows)
    predict = lambda where: closed_form.best_step_size(config, *where)
    rows["optimum"] = [(*where, best, predict(where)) for where, best in optima.items()]
    write_tables(context, TABLES, rows)
    return {}


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
    etas = jnp.asarray(step_sizes)
    if config.sampler == "spectral":
        drawn = draw_spectral_tasks(
            rng,
            tasks=tasks,
            dim=config.dim,
            samples=examples[0],
            noise=noise,
            validation_samples=examples[1],
            steps=etas.size,
        )
        return spectral_losses(drawn, etas, horizon=config.horizon, radius=jnp.asarray(radius))
    keys = jax.random.split(jax.random.key(int(rng.integers(2**32))), tasks)
    return _dense(keys, etas, config, jnp.asarray(noise), examples, jnp.asarray(radius))


@compiled
def _dense(keys, step_sizes, config, noise, examples, radius) -> GridLosses:
    sizes = {"dim": config.dim, "samples": examples[0], "validation_samples": examples[1]}

    def one(key: jax.Array) -> GridLosses:
        task = random_least_squares(key, noise=noise, **sizes)
        return dense_losses(task, step_sizes, horizon=config.horizon, radius=radius)

    # One task at a time in memory: 300 tasks of 10,000 examples with 1,000 inputs are 24 GB.
    return jax.lax.map(one, keys)


def _search(
    config: Config, noise: float, samples: int, mode: str, rng: np.random.Generator, rows: Rows
) -> float:
    """Add the rows of `objective` and of `population`; return the best step size of the grid."""
    grid = np.array(config.grid)
    examples = closed_form.examples(config, samples, mode)
    # All step sizes see the same tasks, which the argmin below compares: independent tasks for
    # each, as the authors' code draws them, would add the spread between tasks to every
    # difference.
    losses = _simulate(config, noise, examples, grid, config.tasks, RADIUS * noise, rng)
    values = losses.validation if mode == VALIDATION else losses.training
    mean, error = mean_and_error(pd.DataFrame(np.asarray(values)))
    stopped = np.asarray(losses.stopped).mean(axis=0)
    setting = closed_form.setting_of(config, noise, examples[0])
    expected = closed_form.OBJECTIVES[mode](grid, **setting)
    where = (noise, samples, mode)
    shown = zip(grid, mean, error, stopped, strict=True)
    rows["objective"] += [(*where, *row) for row in shown]
    # 2 / lambda_+ of the Marchenko-Pastur law: beyond it, powers of 1 - eta lambda grow with t,
    # runs are stopped at the radius, and the closed form, which knows no radius, is that of
    # another objective.
    stable = grid <= 2 / (1 + math.sqrt(setting["ratio"])) ** 2
    compared = zip(grid, mean, error, expected, (mean - expected) / error, strict=True)
    kept = zip(compared, stable, strict=True)
    rows["population"] += [(*where, *row) for row, keep in kept if keep]
    return float(grid[np.argmin(mean)])


def _judge(
    config: Config,
    noise: float,
    samples: int,
    optima: Mapping[tuple[float, int, str], float],
    rng: np.random.Generator,
) -> list[tuple]:
    """Run both best step sizes on the same new tasks, on all samples, without truncation."""
    chosen = np.array([optima[noise, samples, mode] for mode in closed_form.OBJECTIVES])
    losses = _simulate(config, noise, (samples, samples), chosen, config.test_tasks, math.inf, rng)
    rows = []
    setting = closed_form.setting_of(config, noise, samples)
    for split, values, objective in (
        ("training", losses.training, theory.train_by_train),
        ("test", losses.validation, theory.train_by_validation),
    ):
        measured = np.sqrt(2 * np.asarray(values)).T
        # The root of a mean, beside means of roots: larger by an eighth of the squares' relative
        # variance, which falls as 1 / n.
        predicted = np.sqrt(2 * objective(chosen, **setting))
        for mode, column, expected in zip(closed_form.OBJECTIVES, measured, predicted, strict=True):
            numbers = column.mean(), column.min(), column.max(), expected
            rows.append((noise, samples, mode, split, *numbers))
    return rows


def _descents(config: Config, context: Context, rows: Rows) -> None:
    """Tune by meta-gradient in the setting where the modes differ most; add paths and ends."""
    noises, samples = sorted({config.noise[0], config.noise[-1]}), config.samples[0]
    for index, (noise, mode) in enumerate(product(noises, closed_form.OBJECTIVES)):
        context.log(f"meta-gradient descent, {mode}, noise {noise:g}")
        key = jax.random.fold_in(jax.random.key(context.seed), index)
        tasks = draw_tasks(
            key,
            tasks=config.descent_tasks,
            dim=config.dim,
            examples=closed_form.examples(config, samples, mode),
            noise=noise,
        )
        found = descend(
            tasks,
            validated=mode == VALIDATION,
            horizon=config.horizon,
            steps=config.descent_steps,
            key=key,
        )
        where = (noise, samples, mode)
        path = zip(found.step_sizes, found.objectives, strict=True)
        rows["descent"] += [(*where, step, *point) for step, point in enumerate(path)]
        rows["descent_end"].append((*where, found.step_sizes[-1], found.grid_step_size))


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
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "train-by-train-overfits",
            "validation-generalises",
            "gap-grows-with-noise",
            "gap-closes-beyond-dim",
            "closed-form",
        }
    ),
    answer=answer,
    finite=("rmse.mean",),
)
