"""The rows of the tables of `mlp-optimizer`: the measurements of an optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metastep.learned import AbstractLearnedOptimizer, TrainedOptimizer
from metastep.types import Outer
from metastep_lab.experiment import Context
from metastep_lab.tables import Frame, Table
from metastep_lab.wang2021.mlp_optimizer.digit_classification import training_objective
from metastep_lab.wang2021.mlp_optimizer.samples import Arm, Size, few
from metastep_lab.wang2021.mlp_optimizer.study import (
    SPLITS,
    TEST_TASKS,
    Pool,
    Tested,
    draw_task,
    load_pool,
    meta_train_mode,
    optimizer_family,
    train_and_measure,
    tune_baselines,
)

Rows = list[tuple]


def test_tasks(
    config: Any, pool: Pool, size: Size, seed: int, hidden: tuple[int, ...]
) -> list[Tested]:
    """Return the problems that every optimizer is tested on: the same for all."""
    # The tests of the papers train on all samples, also after train-by-validation has split them.
    arm = Arm(min(size.samples, len(pool.labels)), 0, training_objective)
    draw = lambda test: draw_task(
        pool, arm, size.test_steps, None, (seed, TEST_TASKS, test), hidden
    )
    return [draw(test) for test in range(config.tests)]


def _curves(
    steps: int,
    every: int,
    optimizer: AbstractLearnedOptimizer,
    weights: Outer,
    tasks: Sequence[Tested],
) -> Rows:
    """Return (test, step, split, accuracy, loss) of every test."""
    rows = []
    for test, task in enumerate(tasks):
        found = train_and_measure(optimizer, weights, task, steps, every, test)
        for index, values in enumerate(found):
            for split, (accuracy, loss) in zip(SPLITS, values.tolist(), strict=True):
                rows.append((test, index * every, split, accuracy, loss))
    return rows


def baseline_rows(config: Any, pool: Pool, size: Size, seed: int) -> tuple[dict, dict[str, Rows]]:
    """Tune SGD and Adam on validation loss and test them; return no arrays, and the rows."""
    tuned = tune_baselines(pool, size, config.tuning_tasks, seed, config.hidden)
    tasks = test_tasks(config, pool, size, seed, config.hidden)
    lengths = size.test_steps, config.measure_every
    accuracy, tuning = [], []
    for name, one in tuned.items():
        # A diverged step size has the loss NaN, which argmin would return.
        best = np.argmin(np.nan_to_num(one.losses, nan=np.inf))
        for index, (rate, loss) in enumerate(zip(one.rates, one.losses, strict=True)):
            tuning.append((name, rate, loss, int(index == best)))
        curves = _curves(*lengths, one.optimizer, one.weights, tasks)
        accuracy += [(name, "tuned", 0, *row) for row in curves]
    return {}, {"accuracy": accuracy, "tuning": tuning}


def learned_rows(
    config: Any, pool: Pool, size: Size, mode: str, meta_seed: int, name: str, context: Context
) -> tuple[Outer, dict[str, Rows]]:
    """Meta-train one optimizer and test it.

    Raises:
        ValueError: if no trajectory of meta-training was as long as a test, unless tests may go
            beyond.
    """
    found = meta_train_mode(config, pool, size.arms[mode], meta_seed, name, context)
    optimizer = optimizer_family(config)
    tasks = test_tasks(config, pool, size, context.seed, config.hidden)
    if not config.beyond:
        # For its refusal alone: trajectories are random, and the longest may be shorter than a
        # test.
        TrainedOptimizer(optimizer, found.weights, found.horizon).transformation(size.test_steps)
    accuracy, lengths = [], (size.test_steps, config.measure_every)
    for checkpoint, weights in (("best", found.best_weights), ("final", found.weights)):
        curves = _curves(*lengths, optimizer, weights, tasks)
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
) -> tuple[dict, dict[str, Rows]]:
    """Test the optimizers on other problems, with SGD and Adam tuned on each of them."""
    rows, steps = [], config.test_steps
    size = Size(config.samples, few(config.samples), steps)
    for problem, (pool, hidden, level) in other_problems(config, context, noise).items():
        tuned = tune_baselines(pool, size, config.tuning_tasks, context.seed, hidden)
        optimizers = {(name, 0): (one.optimizer, one.weights) for name, one in tuned.items()}
        optimizers |= {key: (optimizer_family(config), one) for key, one in weights.items()}
        tasks = test_tasks(config, pool, size, context.seed, hidden)
        for key, (optimizer, one) in optimizers.items():
            for test, task in enumerate(tasks):
                found = train_and_measure(optimizer, one, task, steps, steps, test)
                accuracy, loss = found[-1, SPLITS.index("test clean")].tolist()
                rows.append((problem, level, *key, test, accuracy, loss))
    return {}, {"rows": rows}


def summary(accuracy: Table) -> Table:
    """Return means at the last step, with the spread over meta-seeds and over tests apart."""
    rows: Frame = pd.DataFrame(dict(accuracy))
    keys = ["noise", "samples", "mode", "checkpoint", "split"]
    # Tests with `totals` are longer than those with `samples`.
    last = rows[rows["step"] == rows.groupby("samples")["step"].transform("max")]
    found = last.groupby(keys, sort=False).agg(
        step=("step", "first"),
        meta_seeds=("meta_seed", "nunique"),
        tests=("test", "nunique"),
        accuracy=("accuracy", "mean"),
        loss=("loss", "mean"),
    )
    by_seed = last.groupby([*keys, "meta_seed"])["accuracy"]
    found["sd_meta_seeds"] = by_seed.mean().groupby(keys).std()
    # Variances are averaged, not deviations: their mean is unbiased.
    found["sd_tests"] = np.sqrt(by_seed.var().groupby(keys).mean())
    return {str(name): column.to_numpy() for name, column in found.reset_index().items()}
