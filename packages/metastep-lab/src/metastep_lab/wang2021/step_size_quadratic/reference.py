"""The tables of `step-size-quadratic` that need no descent: closed forms, and F' on a grid."""

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import Quadratic
from metastep_lab.tables import Table, columns
from metastep_lab.theory import quadratic_step_size as theory
from metastep_lab.wang2021.step_size_quadratic.methods import (
    LOG_DOMAIN,
    METHODS,
    without_second_derivatives,
)

Problem = tuple[np.ndarray, np.ndarray]
LONG_HORIZONS = (1, 2, 5, 10, 20, 40, 80, 200, 1000, 5000)
COMPARED = ("log-domain", "log-domain-float32", "reverse-float32", "reverse-float64")
GRID = np.geomspace(1e-3, 10, 61)


def optimum(config: Any, hessian: np.ndarray, start: np.ndarray) -> Table:
    """Return eta*, and the number of updates after which descent can converge to it."""
    rows = []
    for horizon in config.horizons:
        best = theory.optimal_step_size(hessian, start, horizon)
        curvature = theory.meta_curvature(best, hessian, start, horizon)
        rows.append((horizon, best, float(config.meta_step_scale * curvature / 2) ** 2))
    return columns("horizon optimal_step_size predicted_steps", rows)


def limit(hessian: np.ndarray, start: np.ndarray) -> Table:
    """Return eta* at long horizons, with its limit."""
    eigenvalues, _ = theory.spectrum(hessian, start)
    limit = 2 / (eigenvalues[0] + eigenvalues[-1])
    best = lambda horizon: theory.optimal_step_size(hessian, start, horizon)
    rows = [(horizon, best(horizon), limit) for horizon in LONG_HORIZONS]
    return columns("horizon optimal_step_size limit", rows)


def overflow(config: Any, hessian: np.ndarray, start: np.ndarray) -> Table:
    """Return the size of f(w_t) at every start, and the paper's estimate of it."""
    eigenvalues, _ = theory.spectrum(hessian, start)
    largest, rows = eigenvalues[-1], []
    for horizon, step_size in product(config.horizons, config.start_step_sizes):
        # In logarithms: the number itself is beyond float64 for large horizons.
        growth = 2 * horizon * np.log10(np.abs(step_size * largest - 1))
        bound = growth + np.log10(largest * np.sum(start**2))
        loss = theory.meta_objective(step_size, hessian, start, horizon) * horizon / np.log(10)
        rows.append((horizon, step_size, bound, loss))
    return columns("horizon start log10_bound log10_loss", rows)


def accuracy(config: Any, hessian: np.ndarray, start: np.ndarray) -> Table:
    """Compare F' on a grid of step sizes with the closed form, without any descent."""
    rows = []
    cells: list[tuple[str, int]] = list(product(COMPARED, config.horizons))
    for name, horizon in cells:
        method = METHODS[name]
        with jax.enable_x64(method.precision == "float64"):
            task, grid, key = Quadratic(hessian, start), jnp.asarray(GRID), jax.random.key(0)
            estimate = partial(method.estimator.estimate, method.problem(task, horizon))
            slope = lambda step_size, estimate=estimate, key=key: (
                estimate(step_size, None, key)[0].grad
            )
            slopes = np.asarray(compiled(jax.vmap(slope))(grid), np.float64)
        # A float32 method is compared at its own rounded numbers.
        seen = _as_seen(task, (hessian, start))
        exact = theory.meta_gradient(np.asarray(grid, np.float64), *seen, horizon)
        off = np.where(np.isfinite(slopes), np.abs(slopes / exact - 1), np.inf)
        rows += [(name, horizon, *row) for row in zip(GRID, slopes, off, strict=True)]
    return columns("method horizon step_size meta_gradient relative_error", rows)


def _as_seen(task: Quadratic, arrays: Problem) -> Problem:
    """Return H and w0 as they were rounded, unless the rounded problem is invalid."""
    rounded = np.asarray(task.hessian, np.float64), np.asarray(task.start, np.float64)
    try:
        theory.spectrum(*rounded)
    except ValueError:
        return arrays
    return rounded


def stop_gradient(config: Any, task: Quadratic) -> Table:
    """Compare d log f / d eta with and without second derivatives, in float64, without overflow."""
    key, rows = jax.random.key(0), []
    training = partial(ms.TrainingProblem, task.loss, task.objective, task.start)
    for horizon in config.horizons:
        problem = training(without_second_derivatives, horizon)
        for step_size in config.start_step_sizes:
            # Rescaled, so that what is compared is the derivative and not its overflow.
            left = ms.hypergradient(problem, step_size, LOG_DOMAIN, key=key).grad
            true = theory.meta_gradient(step_size, task.hessian, task.start, horizon)
            # Both are of F = (1 / t) log f; the table is about log f.
            rows.append((horizon, step_size, horizon * float(true), horizon * float(left)))
    return columns("horizon step_size true stop_gradient", rows)
