"""Tune the step size of gradient descent on one quadratic by ten methods.

The inner problem is t steps w <- w - eta H w from w_0; the meta-objective is F(eta) = (1/t) log f,
f = w_t^T H w_t / 2. A method is a way to compute F'(eta), a precision and a meta-optimizer. Those
named after `constant` and `rmsprop` repeat the TensorFlow runs of the paper's appendix: their
objective is the loss at w_{t-1}, they descend t - 1 times F, and they reset nothing. Their own
optimum is at most about a percent below that of t, with which every method is compared.

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

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from annotated_types import MinLen
from jaxtyping import Array

import metastep as ms
from metastep.files import parse_arrays, read_bytes
from metastep.tasks import Quadratic, random_quadratic
from metastep.types import Outer
from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    Count,
    NotNegative,
    Positive,
    Several,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.theory import quadratic_step_size as theory
from metastep_lab.wang2021.step_size_quadratic import reference
from metastep_lab.wang2021.step_size_quadratic.claims import CLAIMS, answer
from metastep_lab.wang2021.step_size_quadratic.figures import figures
from metastep_lab.wang2021.step_size_quadratic.methods import METHODS

CONVERGED = 0.1
LAST = 100


@configuration
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

    dim: Several = 20
    horizons: tuple[int, ...] = (10, 20, 40, 80)
    start_step_sizes: Annotated[tuple[NotNegative, ...], MinLen(1), "numbers from 0"] = (
        *(0.001, 0.01, 0.1, 1.0),
    )
    meta_steps: Count = 1000
    meta_step_scale: Positive = 0.01
    problem: str | None = None
    methods: tuple[str, ...] = tuple(METHODS)

    def __post_init__(self):
        """Check the conditions on several fields.

        Only `run` reads the file, so that a finished run can be read after the file was moved.
        """
        if not self.methods or not set(self.methods) <= set(METHODS):
            names = ", ".join(METHODS)
            raise ValueError(f"methods is {','.join(self.methods)!r}; allowed are {names}")
        least = 1 + max(METHODS[name].early for name in self.methods)
        if not self.horizons or min(self.horizons) < least:
            why = "; methods that judge one step early need two" if least > 1 else ""
            raise ValueError(f"horizons is {self.horizons}; allowed are integers from {least}{why}")
        for name in ("horizons", "start_step_sizes", "methods"):
            values = getattr(self, name)
            if not different(values):
                raise ValueError(f"{name} is {values}; allowed are values that differ")


def load_problem(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return H, exactly symmetric, and w0 from an .npz file, in float64.

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
        context.table("optimum", reference.optimum(config, hessian, start))
        context.table("limit", reference.limit(hessian, start))
        context.table("overflow", reference.overflow(config, hessian, start))
        context.log("accuracy of the meta-gradient")
        context.table("accuracy", reference.accuracy(config, hessian, start))
        context.table("stop_gradient", reference.stop_gradient(config, Quadratic(hessian, start)))
    trajectory, convergence = [], []
    for place, name in enumerate(config.methods, 1):
        context.log(f"{name} ({place} of {len(config.methods)})")
        for horizon in config.horizons:
            for path, end in _tune(name, horizon, (hessian, start), config, context):
                trajectory += path
                convergence.append(end)
    names = "method horizon start step step_size meta_gradient meta_objective"
    context.table("trajectory", columns(names, trajectory))
    names = "method horizon start final_step_size optimal_step_size relative_error_300"
    names += " relative_error_1000 relative_error_last status failed_steps zero_steps"
    context.table("convergence", columns(names, convergence))
    return {}


def errors(path: np.ndarray, best: float) -> tuple[float, float, float]:
    """Return the relative error after 300 and 1000 updates, NaN if not reached, and at the end.

    `path` has the step size before the first update and after each; the end is the largest error
    after the last hundred updates.
    """
    off = np.abs(path - best) / best
    after = lambda updates: float(off[updates]) if updates < off.size else float("nan")
    # Without the start, which is no update: a run of fewer than a hundred would be judged by it.
    return after(300), after(1000), float(np.max(off[1:][-LAST:]))


def status(path: np.ndarray, best: float) -> str:
    """Return how a descent to `best` ended: `converged`, `oscillating`, `stuck` or `nan`."""
    if not np.all(np.isfinite(path)):
        return "nan"
    # First: a step size that rests at the optimum does not move either.
    if errors(path, best)[2] < CONVERGED:
        return "converged"
    return "stuck" if np.ptp(path[-LAST - 1 :]) == 0 else "oscillating"


def _tune(
    name: str,
    horizon: int,
    arrays: tuple[np.ndarray, np.ndarray],
    config: Config,
    context: Context,
) -> Iterator[tuple[list[tuple], tuple]]:
    """Descend from every start by one compiled loop; yield rows of `trajectory` and the end."""
    method, best = METHODS[name], theory.optimal_step_size(*arrays, horizon)
    # Around the problem, not inside of it: arrays take their precision when they are made.
    with jax.enable_x64(method.precision == "float64"):
        problem = method.problem(Quadratic(*arrays), horizon)
        optimizer = method.meta_optimizer(config.meta_step_scale, problem.horizon)
        for number, start in enumerate(config.start_step_sizes):
            saved = context.checkpoint(f"{name}-{horizon}-{number}")
            found = ms.minimize(
                problem,
                start,
                method.estimator,
                optimizer=optimizer,
                steps=config.meta_steps,
                # Nothing is random: full gradients of one problem.
                key=jax.random.key(0),
                project=method.project,
                record=_record,
                # One compiled call for all updates; the host is needed at the end only.
                every=config.meta_steps,
                checkpoint=ms.Checkpoint(saved, config.meta_steps, context.resume),
                progress=False,
            )
            history = (*found.history.recorded, found.history.value)
            sizes, slopes, values = (np.asarray(x, np.float64) for x in history)
            path, cell = np.append(sizes, float(found.outer)), (name, horizon, start)
            rows = zip(range(sizes.size), sizes, slopes, values, strict=True)
            # f overflows to infinity before w does, and d log f = f' / f is then exactly zero: as
            # common a way to be stuck as NaN, which `minimize` skips and counts.
            idle = found.skipped, int(np.sum(slopes == 0))
            end = (*cell, path[-1], best, *errors(path, best), status(path, best), *idle)
            yield [(*cell, *row) for row in rows], end


def _record(step: Array, step_size: Outer, estimate: ms.Estimate) -> tuple[Array, Array]:
    del step
    return step_size, estimate.grad


EXPERIMENT = Experiment(
    listing("step-size-quadratic"),
    config=Config,
    presets={
        "quick": Config(horizons=(10, 40), start_step_sizes=(0.01, 0.1)),
        "paper": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    # The row of RMSProp in Tables 1-2 is not among them. It holds on most problems only, since its
    # limit cycle is about as wide as the threshold of convergence.
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
