"""The parts of `mlp-optimizer`: data, tasks, meta-training, tests, and the tuned baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from metastep.learned import AbstractLearnedOptimizer, LearnedAdam, LearnedSGD, MLPOptimizer
from metastep.learned.meta_training import MetaRun, MetaTraining, Monitor, Unrolls, meta_train
from metastep.learned.segment import LearnedTraining, train_from_scratch
from metastep.minimize import Checkpoint
from metastep.types import Outer, RandomKey, StepIndex
from metastep_lab import data
from metastep_lab.experiment import Context
from metastep_lab.wang2021.mlp_optimizer.digit_classification import (
    DigitClassification,
    cross_entropy,
    epochs,
    fraction_correct,
    validation_objective,
)
from metastep_lab.wang2021.mlp_optimizer.samples import TRAIN_BY_VALIDATION, Arm, Size

CLASSES = 10
BATCH = 32
POOL = 0.7  # of the images, where the data set has no split of its own
SPLITS = ("train", "test clean", "test noisy")
RATES = tuple(float(10**power) for power in np.arange(-2.5, 0.01, 0.25))
ADAM_RATES = tuple(float(10**power) for power in np.arange(-4, -0.99, 0.25))
META_TASKS, MONITOR_TASKS, TUNING_TASKS, TEST_TASKS = range(4)  # random streams


class Pool(NamedTuple):
    """The images of a run; labels of the pool are noisy, once and for all."""

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    test_noisy: np.ndarray


class Tested(eqx.Module):
    """A task and the test data of its network."""

    task: DigitClassification
    inputs: Array
    clean: Array
    noisy: Array

    def init(self, key: RandomKey) -> dict:
        """Return random parameters."""
        return self.task.init(key)

    def loss(self, params: dict, step: StepIndex) -> Array:
        """Return the inner loss."""
        return self.task.loss(params, step)


def load_pool(dataset: str, reduced: bool, noise: float, folder: Path | None, seed: int) -> Pool:
    """Load images, split them, and put noise on the labels: exactly that part of them.

    Raises:
        DataNotFoundError: if the data set is not there.
    """
    loaded = (data.digits if dataset == "digits" else data.mnist)(folder)
    images, labels = loaded.arrays["images"], loaded.arrays["labels"].astype(np.int32)
    inputs = images.astype(np.float32) / images.max()
    if reduced and dataset == "mnist":
        # MNIST's digits are centred in 20 x 20 pixels: the margin of four holds almost nothing.
        inputs = inputs[:, 4:-4, 4:-4].reshape(len(inputs), 10, 2, 10, 2).mean(axis=(2, 4))
    inputs = inputs.reshape(len(inputs), -1)
    rng = np.random.default_rng(seed)
    split = loaded.arrays.get("split")
    in_test = np.zeros(len(labels), bool)
    if split is not None and {"train", "test"} <= set(split.tolist()):
        in_test = split == "test"
    else:
        in_test[rng.permutation(len(labels))[round(POOL * len(labels)) :]] = True
    noisy = labels.copy()
    for part in (~in_test, in_test):
        rows = rng.permutation(np.flatnonzero(part))[: round(noise * part.sum())]
        # As in the authors' code: an exact number of labels, replaced once for all problems by any
        # class, the right one included; and test labels, too, so that `test noisy` is what the
        # figures show.
        noisy[rows] = rng.integers(CLASSES, size=len(rows))
    return Pool(inputs[~in_test], noisy[~in_test], inputs[in_test], labels[in_test], noisy[in_test])


def draw_task(
    pool: Pool,
    arm: Arm,
    steps: int,
    sample: int | None,
    stream: Sequence[int],
    hidden: tuple[int, ...],
) -> Tested:
    """Draw a problem: a subset of the pool, a permutation of the class names, the batches."""
    rng = np.random.default_rng(stream)
    rows = rng.permutation(len(pool.labels))
    train, validation = np.split(rows[: arm.train + arm.validation], [arm.train])
    # "100 different inner problems by shuffling the 10 classes and also sampling a new subset of
    # data" (Wang et al. 2020, appendix F.1).
    names = rng.permutation(CLASSES).astype(np.int32)
    task = DigitClassification(
        inputs=jnp.asarray(pool.inputs[train]),
        labels=jnp.asarray(names[pool.labels[train]]),
        validation_inputs=jnp.asarray(pool.inputs[validation]),
        validation_labels=jnp.asarray(names[pool.labels[validation]]),
        batches=jnp.asarray(epochs(arm.train, BATCH, steps, rng)),
        sizes=(pool.inputs.shape[1], *hidden, CLASSES),
        sample=sample,
    )
    clean, noisy = (jnp.asarray(names[one]) for one in (pool.test_labels, pool.test_noisy))
    return Tested(task, jnp.asarray(pool.test_inputs), clean, noisy)


def measure(tested: Tested, params: dict, key: Array) -> Array:
    """Return accuracy and loss on each of the `SPLITS`, shape (3, 2)."""
    del key
    task = tested.task
    examples = (
        (task.inputs, task.labels),
        (tested.inputs, tested.clean),
        (tested.inputs, tested.noisy),
    )
    both = lambda pair: jnp.stack([fraction_correct(params, *pair), cross_entropy(params, *pair)])
    return jnp.stack([both(pair) for pair in examples])


def validation_loss(tested: Tested, params: dict, key: Array) -> Array:
    """Return the loss on all validation images, by which the baselines are tuned."""
    del key
    return cross_entropy(params, tested.task.validation_inputs, tested.task.validation_labels)


def _no_objective(tested: Tested, params: dict, key: Array) -> Array:
    del tested, params, key
    return jnp.zeros(())


def train_and_measure(
    optimizer: AbstractLearnedOptimizer,
    weights: Outer,
    tested: Tested,
    steps: int,
    every: int,
    number: int,
    record: Any = measure,
) -> np.ndarray:
    """Train one network; return the values of `record` at the start and after every few steps.

    `number` gives its initialization.
    """
    problem = LearnedTraining(
        task=tested, optimizer=optimizer, measure=_no_objective, horizon=steps
    )
    # Not of the run's seed: test number i starts from the same parameters for every optimizer.
    key = jax.random.fold_in(jax.random.key(TEST_TASKS), number)
    return np.asarray(train_from_scratch(problem, weights, key, record, every)[0])


class Tuned(NamedTuple):
    """A baseline tuned on validation loss."""

    optimizer: AbstractLearnedOptimizer
    weights: Outer
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def tune(family: type, rates: tuple[float, ...], tasks: Sequence[Tested], steps: int) -> Tuned:
    """Choose the step size with the least mean validation loss at the end; not finite is worst."""
    optimizer, losses = family(), []
    start = optimizer.initial_weights(jax.random.key(0))
    weights = [start | {"log step size": jnp.log(jnp.asarray(rate))} for rate in rates]
    for one in weights:
        ends = [
            train_and_measure(optimizer, one, task, steps, steps, number, validation_loss)[-1]
            for number, task in enumerate(tasks)
        ]
        losses.append(float(np.mean(ends)))
    chosen = int(np.argmin(np.nan_to_num(losses, nan=np.inf)))
    return Tuned(optimizer, weights[chosen], rates, tuple(losses))


def tune_baselines(
    pool: Pool, size: Size, count: int, seed: int, hidden: tuple[int, ...]
) -> dict[str, Tuned]:
    """Tune SGD and Adam on problems with the samples of train-by-validation, or all there are."""
    arm, half = size.arms[TRAIN_BY_VALIDATION], len(pool.labels) // 2
    if arm.train + arm.validation > len(pool.labels):
        arm = Arm(half, half, validation_objective)
    tasks = [
        draw_task(pool, arm, size.test_steps, None, (seed, TUNING_TASKS, number), hidden)
        for number in range(count)
    ]
    return {
        "SGD": tune(LearnedSGD, RATES, tasks, size.test_steps),
        "Adam": tune(LearnedAdam, ADAM_RATES, tasks, size.test_steps),
    }


def optimizer_family(config: Any) -> MLPOptimizer:
    """Return the family of optimizers of a configuration."""
    return MLPOptimizer(fan_in=config.fan_in, standardize=config.standardize)


def meta_setting(config: Any, pool: Pool, arm: Arm, seeds: tuple[int, int]) -> MetaTraining:
    """Return how a mode is meta-trained."""
    segment = (config.segment, config.segment_mean, config.unrolls, config.unrolls_mean)
    unrolls = Unrolls(*segment, config.longest_segment, config.horizon, config.block)

    def task(stream: int, number: int) -> DigitClassification:
        # From 1: NumPy pads a seed with zeros, so that (seed, 3, 0, 0) would be (seed, 3, 0), the
        # first test, and with (seed, 3, 1, 0) the monitor would choose weights by the second.
        where = (*seeds, stream, number + 1)
        return draw_task(pool, arm, config.horizon, config.meta_batch, where, config.hidden).task

    def problem(trajectory: int) -> DigitClassification:
        number = trajectory // config.repeats
        return task(META_TASKS, number if config.problems is None else number % config.problems)

    monitored = [task(MONITOR_TASKS, number) for number in range(config.monitor_tasks)]
    rate: Any = config.meta_step_size
    if config.cosine:
        half = config.updates // 2
        # Ours: RMSProp's step has the same length however small the gradient is, and 700 updates
        # have no time to average over it.
        rate = optax.join_schedules(
            [
                optax.constant_schedule(rate),
                optax.cosine_decay_schedule(rate, config.updates - half),
            ],
            [half],
        )
    return MetaTraining(
        tasks=problem,
        optimizer=optimizer_family(config),
        objective=arm.objective,
        # TensorFlow's RMSProp, which the authors used, starts its mean square at one.
        meta_optimizer=optax.rmsprop(rate, decay=0.9, eps=1e-10, initial_scale=1.0),
        updates=config.updates,
        unrolls=unrolls,
        trajectories=config.trajectories,
        first_order=config.first_order,
        monitor=Monitor(monitored, config.monitor_every, min(config.test_steps, config.horizon)),
    )


def meta_train_mode(
    config: Any, pool: Pool, arm: Arm, meta_seed: int, name: str, context: Context
) -> MetaRun:
    """Meta-train one optimizer; its state is kept when the run is interrupted."""
    setting = meta_setting(config, pool, arm, (context.seed, meta_seed))
    key = jax.random.fold_in(jax.random.key(context.seed), meta_seed)
    path = context.checkpoint(f"{name}-state")
    return meta_train(
        setting,
        key,
        checkpoint=Checkpoint(path, config.monitor_every, context.resume),
        callback=lambda done, history: context.progress(done, config.updates, name),
    )
