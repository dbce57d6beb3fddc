"""The rows of the tables of `mlp-optimizer`: the measurements of an optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metastep.learned import AbstractLearnedOptimizer, MLPOptimizer, TrainedOptimizer
from metastep.types import Outer
from metastep_lab.experiment import Context
from metastep_lab.tables import Table, where
from metastep_lab.wang2021.mlp_optimizer.digit_classification import training_objective
from metastep_lab.wang2021.mlp_optimizer.study import (
    SPLITS,
    TEST_TASKS,
    Arm,
    Pool,
    Tested,
    draw_task,
    load_pool,
    meta_train_mode,
    train_and_measure,
    tune_baselines,
)

Rows = list[tuple]


def test_tasks(config: Any, pool: Pool, seed: int, hidden: tuple[int, ...]) -> list[Tested]:
    """Return the problems that every optimizer is tested on: the same for all."""
    samples = min(config.samples or len(pool.labels), len(pool.labels))
    arm = Arm(samples, 0, training_objective)
    draw = lambda test: draw_task(
        pool, arm, config.test_steps, None, (seed, TEST_TASKS, test), hidden
    )
    return [draw(test) for test in range(config.tests)]


def _curves(
    config: Any, optimizer: AbstractLearnedOptimizer, weights: Outer, tasks: Sequence[Tested]
) -> Rows:
    """Return (test, step, split, accuracy, loss) of every test."""
    rows = []
    for test, task in enumerate(tasks):
        steps, every = config.test_steps, config.measure_every
        found = train_and_measure(optimizer, weights, task, steps, every, test)
        for index, values in enumerate(found):
            for split, (accuracy, loss) in zip(SPLITS, values.tolist(), strict=True):
                rows.append((test, index * every, split, accuracy, loss))
    return rows


def baseline_rows(config: Any, pool: Pool, seed: int) -> dict[str, Rows]:
    """Tune SGD and Adam on validation loss and test them."""
    samples = config.samples or len(pool.labels) // 2
    tuned = tune_baselines(
        pool, samples, config.test_steps, config.tuning_tasks, seed, config.hidden
    )
    tasks = test_tasks(config, pool, seed, config.hidden)
    accuracy, tuning = [], []
    for name, one in tuned.items():
        best = np.argmin(np.nan_to_num(one.losses, nan=np.inf))
        for index, (rate, loss) in enumerate(zip(one.rates, one.losses, strict=True)):
            tuning.append((name, rate, loss, int(index == best)))
        curves = _curves(config, one.optimizer, one.weights, tasks)
        accuracy += [(name, "tuned", 0, *row) for row in curves]
    return {"accuracy": accuracy, "tuning": tuning}


def learned_rows(
    config: Any, pool: Pool, arm: Arm, mode: str, meta_seed: int, name: str, context: Context
) -> tuple[Outer, dict[str, Rows]]:
    """Meta-train one optimizer and test it.

    Raises:
        ValueError: if no trajectory of meta-training was as long as a test.
    """
    found = meta_train_mode(config, pool, arm, meta_seed, name, context)
    optimizer, tasks = MLPOptimizer(), test_tasks(config, pool, context.seed, config.hidden)
    TrainedOptimizer(optimizer, found.weights, found.horizon).transformation(config.test_steps)
    accuracy = []
    for checkpoint, weights in (("best", found.best_weights), ("final", found.weights)):
        curves = _curves(config, optimizer, weights, tasks)
        accuracy += [(mode, checkpoint, meta_seed, *row) for row in curves]
    history = found.history
    updates = zip(history.value, history.gradient_norm, history.nonfinite, strict=True)
    meta = [(mode, meta_seed, update, *row) for update, row in enumerate(updates)]
    monitor = [
        (mode, meta_seed, update, value, int(update == found.best_update))
        for update, value in history.monitored
    ]
    return found.best_weights, {"accuracy": accuracy, "meta": meta, "monitor": monitor}


def other_problems(config: Any, context: Context, noise: float) -> dict[str, tuple]:
    """Return problems unlike those of meta-training: name to (pool, hidden layers, noise)."""
    reduced = config.input == "reduced"
    load = lambda dataset, noise: load_pool(dataset, reduced, noise, context.data, context.seed)
    same, hidden = load(config.dataset, noise), config.hidden
    more = 0.4 if noise < 0.4 else 0.0
    problems = {
        "as trained": (same, hidden, noise),
        "wider": (same, tuple(2 * units for units in hidden), noise),
        "deeper": (same, (hidden[0], -(-hidden[0] // 2), *hidden[1:]), noise),
        "other noise": (load(config.dataset, more), hidden, more),
    }
    if config.dataset != "digits":
        problems["other data: digits"] = (load("digits", noise), hidden, noise)
    return problems


def generalization_rows(
    config: Any, context: Context, noise: float, weights: Mapping[tuple[str, int], Outer]
) -> Rows:
    """Test the optimizers on other problems, with SGD and Adam tuned on each of them."""
    rows = []
    for problem, (pool, hidden, level) in other_problems(config, context, noise).items():
        samples, steps = config.samples or len(pool.labels) // 2, config.test_steps
        tuned = tune_baselines(pool, samples, steps, config.tuning_tasks, context.seed, hidden)
        optimizers = {(name, 0): (one.optimizer, one.weights) for name, one in tuned.items()}
        optimizers |= {key: (MLPOptimizer(), one) for key, one in weights.items()}
        tasks = test_tasks(config, pool, context.seed, hidden)
        for key, (optimizer, one) in optimizers.items():
            for test, task in enumerate(tasks):
                found = train_and_measure(optimizer, one, task, steps, steps, test)
                accuracy, loss = found[-1, SPLITS.index("test clean")].tolist()
                rows.append((problem, level, *key, test, accuracy, loss))
    return rows


def summary(accuracy: Table) -> Table:
    """Return means at the last step, with the spread over meta-seeds and over tests apart."""
    rows, keys = pd.DataFrame(dict(accuracy)), ["noise", "mode", "checkpoint", "split"]
    last = where(rows, step=rows["step"].max())
    found = last.groupby(keys, sort=False).agg(
        step=("step", "first"),
        meta_seeds=("meta_seed", "nunique"),
        tests=("test", "nunique"),
        accuracy=("accuracy", "mean"),
        loss=("loss", "mean"),
    )
    by_seed = last.groupby([*keys, "meta_seed"])["accuracy"]
    found["sd_meta_seeds"] = by_seed.mean().groupby(keys).std()
    found["sd_tests"] = np.sqrt(by_seed.var().groupby(keys).mean())
    return {str(name): column.to_numpy() for name, column in found.reset_index().items()}
