"""Theorems 5 to 8 by simulation: draw the training tasks again and again, and tune on each draw.

One repetition draws m training tasks, minimizes the empirical meta-objective over a grid of step
sizes that holds 0, and judges the minimizer on new tasks. Runs are truncated at |w| = 40 sigma, and
the validation loss is that of a drawn validation set, as the theorems have it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metastep_lab.wang2021.least_squares.step_size_grid import (
    RADIUS,
    draw_spectral_tasks,
    spectral_losses,
)

TIED = 1e-12
"""Relative difference up to which step sizes count as minimizers, all of which are judged."""
# A factor of 1.35 between step sizes at t = 160: an order is judged within a factor of 4.
POINTS = 48
CHUNK = 1600
"""Tasks that are drawn and run together: one size, so that it is compiled once."""


class Case(NamedTuple):
    """The sizes of the tasks of one meta-objective.

    Attributes:
        mode: `train-by-train` or `train-by-validation`.
        dim: d.
        samples: training examples, n or n_1.
        validation_samples: n_2; train-by-train has one, which is not used.
        noise: sigma.
        horizon: t.
    """

    mode: str
    dim: int
    samples: int
    validation_samples: int
    noise: float
    horizon: int

    @property
    def validated(self) -> bool:
        """Whether the meta-objective is the loss on the validation set."""
        return self.mode == "train-by-validation"


class Chosen(NamedTuple):
    """What each repetition chose: arrays with one entry for each.

    Attributes:
        smallest: the smallest minimizer on the grid.
        largest: the largest; the same unless several are tied.
        error: E |w_t - w*|^2 over new tasks of the worst minimizer.
    """

    smallest: np.ndarray
    largest: np.ndarray
    error: np.ndarray


class Judged(NamedTuple):
    """New tasks: the mean of |w_t - w*|^2 for every step size, and its standard error."""

    error: np.ndarray
    standard_error: np.ndarray


class Losses(NamedTuple):
    """The meta-objective and |w_t - w*|^2 of every task and step size."""

    objective: np.ndarray
    error: np.ndarray


def grid_of(horizon: int) -> np.ndarray:
    """Return the step sizes that are tried: 0, and geometrically from 1e-3 / t to 10."""
    # Zero is a step size of "argmin over eta >= 0", and with few tasks sometimes the best.
    return np.append(0.0, np.geomspace(1e-3 / horizon, 10.0, POINTS))


def simulate(case: Case, tasks: int, rng: np.random.Generator) -> Losses:
    """Train on drawn tasks with every step size of the grid, truncated."""
    grid = grid_of(case.horizon)
    chunks = []
    for _ in range(-(-tasks // CHUNK)):
        drawn = draw_spectral_tasks(
            rng,
            tasks=CHUNK,
            dim=case.dim,
            samples=case.samples,
            noise=case.noise,
            validation_samples=case.validation_samples,
            steps=grid.size,
        )
        with jax.enable_x64(True):
            radius = jnp.asarray(RADIUS * case.noise)
            found = spectral_losses(drawn, jnp.asarray(grid), horizon=case.horizon, radius=radius)
        objective = found.validation if case.validated else found.training
        chunks.append(Losses(np.asarray(objective), np.asarray(found.error)))
    return Losses(*(np.concatenate(part)[:tasks] for part in zip(*chunks, strict=True)))


def judge(case: Case, tasks: int, rng: np.random.Generator) -> Judged:
    """Measure every step size of the grid on new tasks."""
    error = simulate(case, tasks, rng).error
    return Judged(error.mean(axis=0), error.std(axis=0, ddof=1) / np.sqrt(tasks))


def tune(
    case: Case, repeats: int, tasks: tuple[int, ...], judged: Judged, rng: np.random.Generator
) -> dict[int, Chosen]:
    """Tune the step size on `repeats` independent draws of m tasks, for each m.

    Smaller m use the first tasks of each draw of the largest.
    """
    most = max(tasks)
    losses = simulate(case, repeats * most, rng).objective.reshape(repeats, most, -1)
    return {m: _minimize(case, losses[:, :m].mean(axis=1), judged) for m in tasks}


def _minimize(case: Case, objective: np.ndarray, judged: Judged) -> Chosen:
    grid = grid_of(case.horizon)
    least = objective.min(axis=1, keepdims=True)
    # The theorems are about every minimizer: the range is judged at both ends, the error at the
    # worst.
    tied = objective <= least + TIED * np.abs(least)
    return Chosen(
        smallest=np.where(tied, grid, np.inf).min(axis=1),
        largest=np.where(tied, grid, 0.0).max(axis=1),
        error=np.where(tied, judged.error, -np.inf).max(axis=1),
    )
