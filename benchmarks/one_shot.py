"""What an outer step of one-shot learning costs by window: `python benchmarks/one_shot.py`.

The experiment's network with 64 channels and 50 inner steps, a meta-batch of four tasks one after
the other, on noise for images. Rows take turns, so that all see the same disturbances; ratios are
medians of the rounds' ratios to full reverse mode. Options: `--channels`, `--queries`, `--rounds`.
"""

import argparse
from statistics import median

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import metastep as ms
from metastep.diagnosis.compare import compile_with, timed
from metastep_lab.shaban2019.one_shot.characters import (
    Characters,
    Hyperparameters,
    initial_hyperparameters,
)
from metastep_lab.shaban2019.one_shot.problem import Once, Tasks

TARGET = 0.6
HORIZON, TASKS, WAYS = 50, 4, 5
ESTIMATORS = {
    "full": ms.Reverse(),
    "full, checkpoint sqrt": ms.Reverse(checkpoint="sqrt"),
    "25-RMD": ms.TruncatedReverse(25),
    "10-RMD": ms.TruncatedReverse(10),
    "1-RMD": ms.TruncatedReverse(1),
}


def main() -> None:
    """Print seconds, memory and ratio for every estimator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--queries", type=int, default=15, help="of each character")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    key = jax.random.key(0)
    images = jax.random.uniform(key, (20, 1 + options.queries, 28, 28))
    tasks = Tasks(Characters(images), WAYS, options.queries, HORIZON)
    sizes = dict(channels=options.channels, ways=WAYS, rate=0.05, regularization=0.05)
    outer = initial_hyperparameters(key, **sizes)
    programs = {name: step(Once(estimator), tasks, outer) for name, estimator in ESTIMATORS.items()}
    for program in programs.values():
        jax.block_until_ready(program.call())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(options.rounds):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            seconds[name].append(timed(programs[name].call)[1])
    table = Table("estimator", "seconds", "ratio", "temporary MiB")
    ratios = {}
    for name, program in programs.items():
        pairs = zip(seconds[name], seconds["full"], strict=True)
        ratios[name] = median(one / full for one, full in pairs)
        memory = program.temporary_bytes
        size = "?" if memory is None else f"{memory / 2**20:.1f}"
        table.add_row(name, f"{median(seconds[name]):.3f}", f"{ratios[name]:.2f}", size)
    Console().print(table)
    kept = "kept" if ratios["1-RMD"] <= TARGET else "missed"
    print(f"window 1 takes {ratios['1-RMD']:.2f} of full; target {TARGET} {kept}")


def step(estimator: Once, tasks: Tasks, outer: Hyperparameters):
    """Compile the mean hypergradient of a meta-batch."""

    def mean(tasks: Tasks, outer: Hyperparameters, key: jax.Array) -> Hyperparameters:
        one = lambda key: estimator.estimate(tasks(key), outer, None, key)[0].grad
        grads = jax.lax.map(one, jax.random.split(key, TASKS))
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), grads)

    return compile_with(mean, tasks, outer, jax.random.key(1))


if __name__ == "__main__":
    main()
