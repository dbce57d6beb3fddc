"""Tune the step size of gradient descent on one quadratic, by ten ways of doing it.

The inner problem is t steps w <- w - eta H w from w_0; the meta-objective is F(eta) = (1/t) log f,
f = w_t^T H w_t / 2. A method is a way to compute F'(eta), a precision and a meta-optimizer. Those
named after `constant` and `rmsprop` repeat the TensorFlow runs of the paper's appendix: they judge
w_{t-1}, descend t - 1 times F, and reset nothing. Their own optimum is at most a percent or so
below that of t, to which every method is compared.

Tables (one row per observation):

- `trajectory`: method, horizon, start, step, step_size, meta_gradient (F' as the method computed
  it; empty is NaN), meta_objective (F), before update number `step` + 1. Where F or F' is not
  finite the update is skipped.
- `convergence`: method, horizon, start, final_step_size, optimal_step_size, relative_error_300 and
  relative_error_1000 (after so many updates; empty if there were fewer), relative_error_last (the
  largest after the last 100 updates), status, failed_steps (updates skipped). The status is
  `converged` if relative_error_last is below 0.1, else `stuck` if the step size never moved in the
  last 100 updates, else `oscillating` (or still on its way); `nan` if the step size is no number.
  zero_steps counts those with an F' of exactly zero.
- `optimum`: horizon, optimal_step_size, predicted_steps (the number of updates after which descent
  with meta step size scale / sqrt(k) can settle, (scale F''(eta*) / 2)^2).
- `limit`: horizon, optimal_step_size, limit = 2 / (L + alpha).
- `overflow`: horizon, start, log10_bound (of (eta_0 L - 1)^{2t} L |w_0|^2, above 38.53 beyond
  float32), log10_loss (of f(w_t) itself).
- `accuracy`: method, horizon, step_size, meta_gradient (F', empty is NaN), relative_error (against
  the closed form, infinite where F' is not finite), on a grid of step sizes.
- `stop_gradient`: horizon, step_size, true (d log f(w_t) / d eta), stop_gradient (what is left of
  it without second derivatives, the flag that the paper's TensorFlow run set).

Arrays: `hessian` and `start`, the problem.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import metastep as ms
from metastep.compilation import compiled
from metastep.files import parse_arrays, read_bytes
from metastep.tasks import Quadratic, random_quadratic
from metastep.types import Outer
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import Table, columns
from metastep_lab.theory import quadratic_step_size as theory
from metastep_lab.wang2021.step_size_quadratic.claims import claims
from metastep_lab.wang2021.step_size_quadratic.figures import answer, figures
from metastep_lab.wang2021.step_size_quadratic.methods import (
    LOG_DOMAIN,
    METHODS,
    Method,
    without_second_derivatives,
)

CONVERGED = 0.1
LAST = 100
LONG_HORIZONS = (1, 2, 5, 10, 20, 40, 80, 200, 1000, 5000)
COMPARED = ("log-domain", "log-domain-float32", "reverse-float32", "reverse-float64")
GRID = np.geomspace(1e-3, 10, 61)
KEY_SEED = 0


@dataclass(frozen=True)
class Config:
    """The configuration; the paper's values.

    Attributes:
        dim: the length of w, for a random problem.
        horizons: inner steps t.
        start_step_sizes: eta_0.
        meta_steps: updates of the step size.
        meta_step_scale: update number k of the methods of Theorem 4 has size scale / sqrt(k).
        problem: path of an .npz file with arrays H, shape (dim, dim), and w0, shape (dim,). None
            draws H = X^T X and w0 from standard normals: the seed names the problem.
        methods: names from `METHODS`.
    """

    dim: int = 20
    horizons: tuple[int, ...] = (10, 20, 40, 80)
    start_step_sizes: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0)
    meta_steps: int = 1000
    meta_step_scale: float = 0.01
    problem: str | None = None
    methods: tuple[str, ...] = tuple(METHODS)

    def __post_init__(self):
        """Refuse impossible values, naming field, value and what is allowed.

        The file is looked at by `run`: a finished run must be readable after it moved.
        """
        if self.dim < 2:
            raise ValueError(f"dim is {self.dim}; allowed are integers from 2")
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            names = ", ".join(METHODS)
            raise ValueError(f"methods is {','.join(self.methods)!r}; allowed are {names}")
        least = 1 + max(METHODS[name].early for name in self.methods)
        if not self.horizons or any(horizon < least for horizon in self.horizons):
            why = "; methods that judge one step early need two" if least > 1 else ""
            raise ValueError(f"horizons is {self.horizons}; allowed are integers from {least}{why}")
        if not self.start_step_sizes or any(start < 0 for start in self.start_step_sizes):
            raise ValueError(
                f"start_step_sizes is {self.start_step_sizes}; allowed are numbers from 0"
            )
        for name in ("horizons", "start_step_sizes", "methods"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; allowed are values that differ")
        if self.meta_steps < 1:
            raise ValueError(f"meta_steps is {self.meta_steps}; allowed are integers from 1")
        if not self.meta_step_scale > 0:
            raise ValueError(
                f"meta_step_scale is {self.meta_step_scale}; allowed are positive numbers"
            )


def load_problem(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read H and w0 from an .npz file.

    Args:
        path: the file.

    Returns:
        Both in float64, H exactly symmetric.

    Raises:
        ValueError: if the file is none, lacks an array, or holds a problem that the theory of the
            step size excludes (see `theory.quadratic_step_size.spectrum`).
    """
    allowed = "allowed is an .npz file with arrays H, shape (dim, dim), and w0, shape (dim,)"
    try:
        arrays = parse_arrays(read_bytes(Path(path)), ("H", "w0"))
        hessian, start = arrays["H"], arrays["w0"]
    except KeyError as error:
        raise ValueError(f"problem is {path!r}, which lacks H or w0; {allowed}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"problem is {path!r}, which cannot be read; {allowed}") from error
    if not {hessian.dtype.kind, start.dtype.kind} <= set("iuf"):
        raise ValueError(f"problem is {path!r}, whose arrays are not real numbers; {allowed}")
    try:
        theory.spectrum(hessian, start)
    except ValueError as error:
        raise ValueError(
            f"problem is {path!r}, whose H (hessian) or w0 (start) is impossible: {error}"
        ) from error
    hessian = np.asarray(hessian, np.float64)
    return (hessian + hessian.T) / 2, np.asarray(start, np.float64)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Tune the step size by every method from every start, and write the closed forms beside it."""
    with jax.enable_x64(True):
        if config.problem is None:
            drawn = random_quadratic(context.seed, config.dim)
            hessian, start = np.asarray(drawn.hessian), np.asarray(drawn.start)
            theory.spectrum(hessian, start)
        else:
            hessian, start = load_problem(config.problem)
        context.arrays({"hessian": hessian, "start": start})
        context.table("optimum", _optimum(config, hessian, start))
        context.table("limit", _limit(hessian, start))
        context.table("overflow", _overflow(config, hessian, start))
        context.log("accuracy of the meta-gradient")
        context.table("accuracy", _accuracy(config, hessian, start))
        context.table("stop_gradient", _stop_gradient(config, Quadratic(hessian, start)))
    trajectory, convergence = [], []
    for place, name in enumerate(config.methods):
        context.log(f"{name} ({place + 1} of {len(config.methods)})")
        for horizon in config.horizons:
            best = theory.optimal_step_size(hessian, start, horizon)
            for number, found in enumerate(_tune(name, horizon, (hessian, start), config, context)):
                cell = name, horizon, config.start_step_sizes[number]
                trajectory += [(*cell, step, *row) for step, row in enumerate(found.rows())]
                path = found.path()
                summary = path[-1], best, *errors(path, best), status(path, best)
                idle = found.skipped, int(np.sum(found.meta_gradients == 0))
                convergence.append((*cell, *summary, *idle))
    names = "method horizon start step step_size meta_gradient meta_objective"
    context.table("trajectory", columns(names, trajectory))
    names = "method horizon start final_step_size optimal_step_size relative_error_300"
    names += " relative_error_1000 relative_error_last status failed_steps zero_steps"
    context.table("convergence", columns(names, convergence))
    return {}


def errors(path: np.ndarray, best: float) -> tuple[float, float, float]:
    """Return the relative error after 300 and after 1000 updates and the largest after the last.

    Args:
        path: the step size before the first update and after each.
        best: eta*.

    Returns:
        Three errors; NaN for a number of updates that was not reached.
    """
    off = np.abs(path - best) / best
    after = lambda updates: float(off[updates]) if updates < off.size else float("nan")
    return after(300), after(1000), float(np.max(off[1:][-LAST:]))


def status(path: np.ndarray, best: float) -> str:
    """Return how a descent ended: `converged`, `oscillating`, `stuck` or `nan`.

    Args:
        path: the step size before the first update and after each.
        best: eta*.
    """
    if not np.all(np.isfinite(path)):
        return "nan"
    if errors(path, best)[2] < CONVERGED:
        return "converged"
    return "stuck" if np.ptp(path[-LAST - 1 :]) == 0 else "oscillating"


class Descent(NamedTuple):
    """One descent: step size, F' and F before every update, the end, and how many were skipped."""

    step_sizes: np.ndarray
    meta_gradients: np.ndarray
    meta_objectives: np.ndarray
    final: float
    skipped: int

    def path(self) -> np.ndarray:
        """Return the step size before the first update and after each."""
        return np.append(self.step_sizes, self.final)

    def rows(self) -> Iterator[tuple[float, ...]]:
        """Return step size, F' and F, update by update."""
        return zip(self.step_sizes, self.meta_gradients, self.meta_objectives, strict=True)


def _record(step: Array, step_size: Outer, estimate: ms.Estimate) -> tuple[Array, Array]:
    del step
    return step_size, estimate.grad


def _tune(
    name: str,
    horizon: int,
    arrays: tuple[np.ndarray, np.ndarray],
    config: Config,
    context: Context,
) -> Iterator[Descent]:
    """Descend from every start with one compiled loop."""
    method = METHODS[name]
    with jax.enable_x64(method.precision == "float64"):
        problem = method.problem(Quadratic(*arrays), horizon)
        optimizer = method.meta_optimizer(config.meta_step_scale, problem.horizon)
        for number, step_size in enumerate(config.start_step_sizes):
            saved = context.checkpoint(f"{name}-{horizon}-{number}")
            found = ms.minimize(
                problem,
                step_size,
                method.estimator,
                optimizer=optimizer,
                steps=config.meta_steps,
                key=jax.random.key(KEY_SEED),
                project=method.project,
                record=_record,
                every=config.meta_steps,
                checkpoint=ms.Checkpoint(saved, config.meta_steps, context.resume),
                progress=False,
            )
            path, slopes = (np.asarray(x, np.float64) for x in found.history.recorded)
            values = np.asarray(found.history.value, np.float64)
            yield Descent(path, slopes, values, float(found.outer), found.skipped)


def _optimum(config: Config, hessian: np.ndarray, start: np.ndarray) -> Table:
    rows = []
    for horizon in config.horizons:
        best = theory.optimal_step_size(hessian, start, horizon)
        curvature = theory.meta_curvature(best, hessian, start, horizon)
        rows.append((horizon, best, float(config.meta_step_scale * curvature / 2) ** 2))
    return columns("horizon optimal_step_size predicted_steps", rows)


def _limit(hessian: np.ndarray, start: np.ndarray) -> Table:
    eigenvalues, _ = theory.spectrum(hessian, start)
    limit = 2 / (eigenvalues[0] + eigenvalues[-1])
    best = lambda horizon: theory.optimal_step_size(hessian, start, horizon)
    rows = [(horizon, best(horizon), limit) for horizon in LONG_HORIZONS]
    return columns("horizon optimal_step_size limit", rows)


def _overflow(config: Config, hessian: np.ndarray, start: np.ndarray) -> Table:
    eigenvalues, _ = theory.spectrum(hessian, start)
    largest, rows = eigenvalues[-1], []
    for horizon, step_size in product(config.horizons, config.start_step_sizes):
        growth = 2 * horizon * np.log10(np.abs(step_size * largest - 1))
        bound = growth + np.log10(largest * np.sum(start**2))
        loss = theory.meta_objective(step_size, hessian, start, horizon) * horizon / np.log(10)
        rows.append((horizon, step_size, bound, loss))
    return columns("horizon start log10_bound log10_loss", rows)


def _accuracy(config: Config, hessian: np.ndarray, start: np.ndarray) -> Table:
    """Hold F' on a grid of step sizes against the closed form, without any descent."""
    rows = []
    for name, horizon in product(COMPARED, config.horizons):
        method = METHODS[name]
        with jax.enable_x64(method.precision == "float64"):
            task, grid, key = Quadratic(hessian, start), jnp.asarray(GRID), jax.random.key(0)
            problem = method.problem(task, horizon)
            slopes = np.asarray(compiled(jax.vmap(_slope(problem, method, key)))(grid), np.float64)
        # A float32 method is judged at the numbers that it saw.
        seen = _as_seen(task, (hessian, start))
        exact = theory.meta_gradient(np.asarray(grid, np.float64), *seen, horizon)
        off = np.where(np.isfinite(slopes), np.abs(slopes / exact - 1), np.inf)
        rows += [(name, horizon, *row) for row in zip(GRID, slopes, off, strict=True)]
    return columns("method horizon step_size meta_gradient relative_error", rows)


def _as_seen(
    task: Quadratic, arrays: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return H and w0 as they were rounded, unless rounding made them no problem at all."""
    rounded = np.asarray(task.hessian, np.float64), np.asarray(task.start, np.float64)
    try:
        theory.spectrum(*rounded)
    except ValueError:
        return arrays
    return rounded


def _slope(problem: ms.TrainingProblem, method: Method, key: Array) -> Callable[[Array], Array]:
    return lambda step_size: method.estimator.estimate(problem, step_size, None, key)[0].grad


def _stop_gradient(config: Config, task: Quadratic) -> Table:
    """Compare d log f / d eta with what is left of it, both in float64 and free of overflow."""
    key, rows = jax.random.key(KEY_SEED), []
    for horizon in config.horizons:
        cut = without_second_derivatives
        problem = ms.TrainingProblem(task.loss, task.objective, task.start, cut, horizon)
        for step_size in config.start_step_sizes:
            left = ms.hypergradient(problem, step_size, LOG_DOMAIN, key=key).grad
            true = theory.meta_gradient(step_size, task.hessian, task.start, horizon)
            rows.append((horizon, step_size, horizon * float(true), horizon * float(left)))
    return columns("horizon step_size true stop_gradient", rows)


EXPERIMENT = Experiment(
    listing("step-size-quadratic"),
    config=Config,
    presets={
        "quick": Config(horizons=(10, 40), start_step_sizes=(0.01, 0.1)),
        "paper": Config(),
    },
    run=run,
    claims=claims,
    figures=figures,
    # Not the row of RMSProp in Tables 1-2, which holds on most problems: its limit cycle is as wide
    # as the line between converged and not.
    reproducible=frozenset(
        {
            "log-domain-is-exact",
            "float32-stuck-by-overflow",
            "float64-agrees",
            "tables-1-2-gd",
            "gd-fails-with-the-exact-gradient",
            "rmsprop-with-the-exact-gradient",
            "meta-gradient-bounded",
            "optimum-tends-to-its-limit",
        }
    ),
    answer=answer,
    finite=("optimum.optimal_step_size",),
)
