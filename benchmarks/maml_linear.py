"""Speed of Figure 2b of `maml-linear`: `python benchmarks/maml_linear.py`.

The whole figure, 1000 runs at 15 train rates, with the test loss averaged analytically, against a
plain loop that draws every run anew and tests it on 100 tasks of 50 examples, as in the paper. The
two alternate; the loop is timed on a few runs and extrapolated unless `--loops 1000`.
"""

import argparse
from statistics import median
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from metastep_lab.bernacchia2021.curves import mean_and_error, rate_grid
from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression
from metastep_lab.bernacchia2021.mixed_regression_runs import simulate
from metastep_lab.theory.maml import expected_test_loss

DIM, NOISE, VARIABILITY, TEST_RATE = 60, 1.0, 0.5, 0.2
DESIGN = Design(train_samples=30, validation_samples=2, tasks=3, target_samples=20)
RATES = rate_grid(2.1, 15)
RUNS, TEST_TASKS, TEST_SAMPLES = 1000, 100, 50


def draw(rng: np.random.Generator, *samples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw one task: inputs and targets of every set of examples."""
    truth = rng.standard_normal(DIM) * VARIABILITY / np.sqrt(DIM)
    sets = []
    for count in samples:
        inputs = rng.standard_normal((count, DIM))
        sets.append((inputs, inputs @ truth + NOISE * rng.standard_normal(count)))
    return sets


def looped(rng: np.random.Generator, train_rate: float) -> float:
    """Run MAML once with one train rate and return its loss on test data."""
    rows, targets = [], []
    for _ in range(DESIGN.tasks):
        (x, y), (seen, measured) = draw(rng, DESIGN.train_samples, DESIGN.validation_samples)
        step = train_rate / DESIGN.train_samples * seen @ x.T
        rows.append(seen - step @ x)
        targets.append(measured - step @ y)
    rows, targets = np.concatenate(rows), np.concatenate(targets)
    omega = rows.T @ np.linalg.solve(rows @ rows.T, targets)
    losses = []
    for _ in range(TEST_TASKS):
        (x, y), (seen, measured) = draw(rng, DESIGN.target_samples, TEST_SAMPLES)
        adapted = omega - TEST_RATE / DESIGN.target_samples * x.T @ (x @ omega - y)
        losses.append(np.mean((measured - seen @ adapted) ** 2) / 2)
    return float(np.mean(losses))


def shared(seed: int) -> np.ndarray:
    """Return the losses of all runs and rates, shape (runs, rates)."""
    distribution = MixedRegression(jnp.zeros(DIM), NOISE, VARIABILITY**2 / DIM)
    rates = jnp.asarray(RATES), jnp.array([TEST_RATE])
    found = simulate(jax.random.key(seed), distribution, DESIGN, *rates, runs=RUNS)
    return np.asarray(found.loss)[:, :, 0]


def main() -> None:
    """Time both, alternating, and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--loops", type=int, default=3, help="runs of the loop in each round")
    arguments, console = parser.parse_args(), Console(width=100)
    rng, ours, loop, sampled = np.random.default_rng(0), [], [], []
    begin = perf_counter()
    losses = shared(0)
    compiling = perf_counter() - begin
    for repeat in range(arguments.repeats):
        begin = perf_counter()
        losses = shared(repeat)
        ours.append(perf_counter() - begin)
        begin = perf_counter()
        sampled += [[looped(rng, rate) for rate in RATES] for _ in range(arguments.loops)]
        loop.append((perf_counter() - begin) * RUNS / arguments.loops)
    mean, error = mean_and_error(losses)
    sizes = DESIGN._asdict() | {"dim": DIM, "noise": NOISE, "variability": VARIABILITY}
    theory = expected_test_loss(RATES, TEST_RATE, **sizes)
    table = Table("train rate", "theory", "simulated", "standard error", "loop")
    for row in zip(RATES, theory, mean, error, np.mean(sampled, axis=0), strict=True):
        table.add_row(f"{row[0]:.1f}", *(f"{number:.5f}" for number in row[1:]))
    console.print(table)
    fast, slow = median(ours), median(loop)
    console.print(
        f"{RUNS} runs x {RATES.size} train rates: {fast:.3f} s (first call {compiling:.1f} s) "
        f"against {slow:.0f} s for the loop (from {arguments.loops} runs a round): "
        f"{slow / fast:.0f} times as fast"
    )


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
