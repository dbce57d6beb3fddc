"""Accuracy, memory and speed of step-size tuning: `python benchmarks/step_size.py CASE`.

`accuracy` holds `LogDomain` and plain back-propagation against 80-digit arithmetic for one step
size; `vectors` does so for one step size per coordinate, one per inner step, and momentum (minutes,
all of them in the high-precision numbers); `memory` shows what a million inner steps need;
`least-squares` times the experiment's grids against the loop that the paper's authors published:
one task and one step size at a time.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import metastep as ms
from metastep.compilation import compiled
from metastep.tasks import random_quadratic
from metastep_lab.wang2021.least_squares.closed_form import OBJECTIVES
from metastep_lab.wang2021.least_squares.experiment import EXPERIMENT, Config
from metastep_lab.wang2021.least_squares.step_size_grid import draw_spectral_tasks, spectral_losses

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.high_precision import Spectral, descent

STEP_SIZES = np.concatenate([[0.0, 1e-6], np.logspace(-4, 1, 72)])
HORIZONS = (10, 20, 40, 80, 200, 1000, 5000)
PROBLEMS = {**{f"P{seed}": (seed, 20) for seed in range(5)}, "P5": (5, 40), "seed 11": (11, 20)}


def problem_of(hessian: np.ndarray, start: np.ndarray, horizon: int) -> ms.TrainingProblem:
    """Return gradient descent on a quadratic in the dtype of its arrays."""
    loss = lambda w, outer, batch: w @ jnp.asarray(hessian) @ w / 2
    return ms.TrainingProblem(
        loss, lambda w, outer: loss(w, outer, None), jnp.asarray(start), optax.sgd, horizon
    )


def accuracy(console: Console) -> None:
    """Print the largest relative error of F' over step sizes of [0, 10], and how many are good."""
    table = Table("precision", "horizon", "forward", "reverse", "plain: within 1 %")
    for dtype in (np.float32, np.float64):
        for horizon in HORIZONS:
            with jax.enable_x64(dtype is np.float64):
                worst, good = _worst_errors(dtype, horizon)
            table.add_row(dtype.__name__, str(horizon), *(f"{x:.1e}" for x in worst), f"{good:.2f}")
    console.print(table)


def _worst_errors(dtype: type, horizon: int) -> tuple[list[float], float]:
    errors: dict[str, list[float]] = {"forward": [], "reverse": [], "plain": []}
    for seed, rows in PROBLEMS.values():
        task = random_quadratic(seed, rows=rows)
        hessian, start = (np.asarray(x, dtype) for x in (task.hessian, task.start))
        etas, truth = jnp.asarray(STEP_SIZES, dtype), Spectral(hessian, start)
        slopes = [truth.derivative(eta, horizon)[1] for eta in np.asarray(etas)]
        problem = problem_of(hessian, start, horizon)
        logged = ms.log_transformed(problem.objective_of_params, horizon)
        plain = ms.TrainingProblem(problem.loss, logged, jnp.asarray(start), optax.sgd, horizon)
        for name, one, estimator in (
            ("forward", problem, ms.LogDomain(ms.Forward())),
            ("reverse", problem, ms.LogDomain(ms.Reverse(checkpoint="sqrt"))),
            ("plain", plain, ms.Reverse()),
        ):
            estimate = lambda eta, p=one, e=estimator: e.estimate(p, eta, None, jax.random.key(0))[
                0
            ]
            found = np.asarray(compiled(jax.vmap(estimate))(etas).grad)
            apart = [abs((float(f) - s) / s) for f, s in zip(found, slopes, strict=True)]
            errors[name] += [float(x) for x in apart]
    worst = [float(np.max(errors[name])) for name in ("forward", "reverse")]
    return worst, float(np.mean(np.array(errors["plain"]) < 0.01))


OPTIMIZERS = {
    "per coordinate": lambda outer: optax.sgd(outer["step_size"]),
    "per inner step": lambda outer: optax.sgd(lambda count: outer["step_size"][count]),
    "momentum": lambda outer: optax.sgd(outer["step_size"], momentum=outer["momentum"]),
}
VECTOR_CASES = [
    (name, t, size) for name in ("P0", "P5") for t in (40, 1000) for size in (0.01, 0.1, 3)
]
VECTOR_CASES.append(("P0", 5000, 0.1))


def vectors(console: Console) -> None:
    """Print the largest |error| / |gradient| for many hyperparameters, in reverse mode."""
    table = Table("hyperparameters", "horizon", "float32", "float64")
    for kind in OPTIMIZERS:
        for horizon in (40, 1000, 5000):
            worst = []
            for dtype in (np.float32, np.float64):
                cases = [case for case in VECTOR_CASES if case[1] == horizon]
                with jax.enable_x64(dtype is np.float64):
                    worst.append(max(_vector_error(kind, *case, dtype) for case in cases))
            table.add_row(kind, str(horizon), *(f"{x:.1e}" for x in worst))
    console.print(table)


def _vector_error(kind: str, name: str, horizon: int, size: float, dtype: type) -> float:
    seed, rows = PROBLEMS[name]
    task = random_quadratic(seed, rows=rows)
    hessian, start = (np.asarray(x, dtype) for x in (task.hessian, task.start))
    shape = {"per coordinate": 20, "per inner step": horizon, "momentum": ()}[kind]
    steps = np.asarray(size * np.random.default_rng(3).uniform(0.3, 1, shape), dtype)
    outer = {"step_size": jnp.asarray(steps)}
    if kind == "momentum":
        outer["momentum"] = jnp.asarray(0.9, dtype)
    problem = problem_of(hessian, start, horizon)
    problem = ms.TrainingProblem(
        problem.loss, problem.objective_of_params, jnp.asarray(start), OPTIMIZERS[kind], horizon
    )
    estimator = ms.LogDomain(ms.Reverse(checkpoint="sqrt"))
    found = ms.hypergradient(problem, outer, estimator, key=jax.random.key(0)).grad
    spread = steps[:, None] if kind == "per inner step" else steps
    momentum = np.asarray(outer.get("momentum", 0.0))
    _, by_step, by_momentum = descent(
        hessian, start, np.broadcast_to(spread, (horizon, 20)), momentum
    )
    if kind == "momentum":
        pairs = [(found["step_size"], by_step.sum()), (found["momentum"], by_momentum)]
        return max(abs(float((float(a) - b) / b)) for a, b in pairs)
    truth = by_step.sum(axis=0 if kind == "per coordinate" else 1).astype(float)
    apart = np.asarray(found["step_size"], float) - truth
    return float(np.linalg.norm(apart) / np.linalg.norm(truth))


def memory(console: Console) -> None:
    """Print the temporary buffer of one estimate by horizon, as the compiler reports it."""
    table = Table("estimator", *(f"T = {t:.0e}" for t in (1e2, 1e4, 1e6)))
    task = random_quadratic(5, rows=40)
    for name, estimator in (
        ("LogDomain(Forward())", ms.LogDomain(ms.Forward())),
        ("LogDomain(Reverse('sqrt'))", ms.LogDomain(ms.Reverse("sqrt"))),
        ("LogDomain(Reverse())", ms.LogDomain(ms.Reverse())),
    ):
        sizes = []
        for horizon in (10**2, 10**4, 10**6):
            problem = problem_of(np.asarray(task.hessian), np.asarray(task.start), horizon)
            run = lambda eta, p=problem, e=estimator: e.estimate(p, eta, None, jax.random.key(0))[0]
            analysis = jax.jit(run).lower(jnp.float32(0.01)).compile().memory_analysis()
            sizes.append(f"{analysis.temp_size_in_bytes:,} bytes")
        table.add_row(name, *sizes)
    console.print(table)


def published_loop(rng: np.random.Generator, config: Config, examples: tuple[int, int]) -> float:
    """Run one task with one step size as the published code does; return its seconds."""
    begin = perf_counter()
    samples, held_out = examples
    truth = rng.standard_normal(config.dim, np.float32)
    truth /= np.linalg.norm(truth)
    inputs = rng.standard_normal((samples, config.dim), np.float32)
    targets = inputs @ truth + rng.standard_normal(samples, np.float32)
    weights = np.zeros(config.dim, np.float32)
    for _ in range(config.horizon):
        weights = weights - np.float32(0.01 / samples) * (inputs.T @ (inputs @ weights - targets))
        if np.linalg.norm(weights) >= 40:
            break
    if held_out > 1:
        inputs = rng.standard_normal((held_out, config.dim), np.float32)
        targets = inputs @ truth + rng.standard_normal(held_out, np.float32)
    float(np.mean((inputs @ weights - targets) ** 2) / 2)
    return perf_counter() - begin


def least_squares(console: Console, repeats: int) -> None:
    """Time the grids of the `paper` preset, setting by setting, alternating with the loop."""
    config = EXPERIMENT.presets["paper"]
    grid, pairs = jnp.asarray(config.grid), config.tasks * len(config.grid)
    table = Table("samples", "mode", "loop, 7500 runs", "spectral grid", "ratio")
    rng, totals = np.random.default_rng(0), np.zeros(2)
    run = compiled(partial(spectral_losses, horizon=config.horizon, radius=40.0))
    for samples in config.samples:
        times = len(config.noise) if samples == config.samples[0] else 1
        for mode in OBJECTIVES:
            examples = config.split(samples) if mode == "train-by-validation" else (samples, 1)
            loop, ours = [], []
            for _ in range(repeats + 1):
                loop.append(median(published_loop(rng, config, examples) for _ in range(5)))
                begin = perf_counter()
                drawn = draw_spectral_tasks(
                    rng,
                    tasks=config.tasks,
                    dim=config.dim,
                    samples=examples[0],
                    noise=1.0,
                    validation_samples=examples[1],
                    steps=grid.size,
                )
                jax.block_until_ready(run(drawn, grid))
                ours.append(perf_counter() - begin)
            # The first round compiles.
            seconds = median(loop[1:]) * pairs, median(ours[1:])
            totals += times * np.array(seconds)
            cells = f"{seconds[0]:.0f} s", f"{seconds[1]:.2f} s", f"{seconds[0] / seconds[1]:.0f}"
            table.add_row(str(samples), mode, *cells)
    console.print(table)
    console.print(
        f"all settings of Figures 2 and 3: {totals[0]:.0f} s (extrapolated from "
        f"{5 * repeats} runs each) against {totals[1]:.1f} s, ratio {totals[0] / totals[1]:.0f}"
    )


def main() -> None:
    """Run one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=["accuracy", "vectors", "memory", "least-squares"])
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds of every setting")
    arguments, console = parser.parse_args(), Console(width=110)
    if arguments.case == "accuracy":
        accuracy(console)
    elif arguments.case == "vectors":
        vectors(console)
    elif arguments.case == "memory":
        memory(console)
    else:
        with jax.enable_x64(True):
            least_squares(console, arguments.repeats)


if __name__ == "__main__":
    main()
