"""A learned optimizer, meta-trained on training or on validation loss and tested on digits.

Train-by-train meta-trains on the training loss of n (or 2 n) examples, train-by-validation on the
loss of n further examples. All are then tested on new problems of n training examples, within the
horizon of meta-training. The weights are those with the least objective of meta-training
in fresh runs from scratch (`best`), and the last ones (`final`).

Tables (one row per observation):

- `accuracy`: noise, mode (the modes; SGD, Adam), checkpoint (best | final; tuned for SGD and Adam),
  meta_seed, test, step, split (train: with the noisy labels it was trained on | test clean | test
  noisy), accuracy, loss (cross-entropy in nats).
- `summary`: noise, mode, checkpoint, split, step (the last), meta_seeds, tests, accuracy, loss
  (means), sd_meta_seeds (standard deviation over meta-seeds of the mean accuracy over tests),
  sd_tests (over the tests of one meta-trained optimizer, root mean square over meta-seeds).
- `meta`: noise, mode, meta_seed, update, value (mean objective of the segment), gradient_norm,
  nonfinite (entries of the gradient set to zero).
- `monitor`: noise, mode, meta_seed, update, value (mean objective of fresh runs), best (1 for the
  one that is kept).
- `tuning`: noise, mode (SGD | Adam), step_size, validation_loss, chosen (0 or 1).
- `generalization`: noise (of meta-training), problem, problem_noise, mode, meta_seed, test,
  accuracy (clean test labels), loss; SGD and Adam are tuned on the problem itself.

Arrays: the best weights of every meta-trained optimizer as `MODE.NOISE.META_SEED.PATH`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import jax
import numpy as np
from annotated_types import Ge, MinLen, Predicate

from metastep import saving as checkpoint
from metastep.learned import MLPOptimizer
from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    Count,
    Fraction,
    NotNegative,
    Positive,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.wang2021.mlp_optimizer.claims import CLAIMS, answer
from metastep_lab.wang2021.mlp_optimizer.figures import figures
from metastep_lab.wang2021.mlp_optimizer.rows import (
    baseline_rows,
    generalization_rows,
    learned_rows,
    summary,
)
from metastep_lab.wang2021.mlp_optimizer.study import BATCH, Arm, Pool, arms, load_pool

Mode = Literal["train-by-train", "train-by-train-2n", "train-by-validation"]
COLUMNS = {
    "accuracy": "noise mode checkpoint meta_seed test step split accuracy loss",
    "meta": "noise mode meta_seed update value gradient_norm nonfinite",
    "monitor": "noise mode meta_seed update value best",
    "tuning": "noise mode step_size validation_loss chosen",
    "generalization": "noise problem problem_noise mode meta_seed test accuracy loss",
}


@configuration
class Config:
    """The configuration; the defaults are the preset `reduced`.

    What it reduces: the digits of MNIST (20 x 20 pixels averaged to 10 x 10), the horizon, the
    updates, the lengths of trajectories and the steps of a test (1,400 of 4,000). The schedule, the
    initial weights and the sampled objective are ours, too.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn) or mnist.
        input: reduced (for mnist the central 20 x 20 pixels, averaged over 2 x 2) or full.
        samples: training examples n of a problem; none takes all there are, which leaves
            train-by-validation a sixth of them for validation.
        hidden: units of the network's hidden layers.
        noise: parts of the labels that are replaced by a random class, maybe the same.
        modes: which optimizers are meta-trained.
        horizon: steps of the longest trajectory in meta-training.
        updates: of the weights, in meta-training.
        meta_seeds: repetitions of meta-training.
        tests: problems that each optimizer is tested on.
        test_steps: steps of a test, at most the horizon.
        measure_every: steps between two measurements in a test, a divisor of `test_steps`.
        segment: steps of a segment, to which a number with mean `segment_mean` is added.
        segment_mean: mean of an exponential distribution; 0 for segments of one length.
        unrolls: segments of a trajectory, to which a number with mean `unrolls_mean` is added.
        unrolls_mean: mean of an exponential distribution; 0 for trajectories of one length.
        longest_segment: segments are cut at so many steps.
        block: steps between stored states in the differentiation of a segment.
        trajectories: how many take turns.
        meta_batch: examples that measure the objective of a step; none takes all.
        meta_step_size: of RMSProp.
        cosine: whether it falls to zero along a cosine over the second half of the updates.
        fan_in: whether initial weights have variance 1 / inputs; else 1, as the authors' have.
        first_order: whether inner gradients are treated as constants, as in the authors' code.
        monitor_every: updates between two evaluations by new runs, and between checkpoints.
        monitor_tasks: the number of these runs.
        tuning_tasks: problems on which SGD and Adam are tuned.
        generalization: whether the optimizers are tested on problems of other kinds.
    """

    dataset: Literal["digits", "mnist"] = "mnist"
    input: Literal["reduced", "full"] = "reduced"
    samples: Annotated[
        Annotated[int, Ge(BATCH)] | None, f"none and integers from {BATCH}, a batch"
    ] = 1000
    hidden: Annotated[tuple[Count, ...], MinLen(1), "integers from 1, at least one"] = (100, 20)
    noise: Annotated[tuple[Fraction, ...], MinLen(1), "numbers from 0 to 1"] = (0.2, 0.0)
    modes: Annotated[
        tuple[Mode, ...], MinLen(1), Predicate(different), "different entries, at least one"
    ] = ("train-by-train", "train-by-validation", "train-by-train-2n")
    horizon: Count = 1500
    updates: Count = 700
    meta_seeds: Count = 3
    tests: Count = 5
    test_steps: Count = 1400
    measure_every: Count = 100
    segment: Count = 50
    segment_mean: NotNegative = 0.0
    unrolls: Count = 30
    unrolls_mean: NotNegative = 0.0
    longest_segment: Count = 50
    block: Count = 50
    trajectories: Count = 8
    meta_batch: Annotated[Count | None, "none and integers from 1"] = 64
    meta_step_size: Positive = 0.01
    cosine: bool = True
    fan_in: bool = True
    first_order: bool = True
    monitor_every: Count = 100
    monitor_tasks: Count = 4
    tuning_tasks: Count = 2
    generalization: bool = True

    def __post_init__(self):
        """Check the conditions on several fields."""
        if not different(self.noise):
            raise ValueError(f"noise is {self.noise}; allowed are different entries, at least one")
        if self.test_steps > min(self.horizon, self.updates * self.segment):
            raise ValueError(
                f"test_steps is {self.test_steps}; allowed are 1 to the horizon, {self.horizon}: "
                "learned optimizers may undo their work beyond what meta-training has seen"
            )
        if self.test_steps % self.measure_every:
            raise ValueError(
                f"measure_every is {self.measure_every}; allowed are the divisors of test_steps, "
                f"{self.test_steps}"
            )
        if self.segment > self.longest_segment:
            raise ValueError(
                f"longest_segment is {self.longest_segment}; allowed are integers from segment, "
                f"{self.segment}"
            )


def check_samples(config: Config, pool: Pool) -> dict[str, Arm]:
    """Return the arms of the configured modes.

    Raises:
        ValueError: if one needs more samples than the data set has, or there is none such.
    """
    found = arms(config.samples, len(pool.labels))
    for mode in config.modes:
        if mode not in found:
            raise ValueError(f"modes has {mode}; allowed with all samples are {', '.join(found)}")
        needed = found[mode].train + found[mode].validation
        if needed > len(pool.labels):
            raise ValueError(
                f"samples is {config.samples}, of which {mode} needs {needed}; allowed are at most "
                f"the {len(pool.labels)} that {config.dataset} has for training"
            )
    return {mode: found[mode] for mode in config.modes}


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Meta-train and test every optimizer; finished ones survive an interruption."""
    pools = {}
    for noise in config.noise:
        reduced = config.input == "reduced"
        pools[noise] = load_pool(config.dataset, reduced, noise, context.data, context.seed)
        check_samples(config, pools[noise])
    rows: dict[str, list] = {name: [] for name in COLUMNS}
    weights: dict[float, dict] = {noise: {} for noise in config.noise}
    like = MLPOptimizer().initial_weights(jax.random.key(0))

    def collect(noise: float, found: Mapping[str, list]) -> None:
        for table, some in found.items():
            rows[table] += [(noise, *row) for row in some]

    for noise, pool in pools.items():
        baselines = lambda pool=pool: ({}, baseline_rows(config, pool, context.seed))
        context.log(f"SGD and Adam, noise {noise}")
        collect(noise, _kept(context, f"baselines-{noise}", baselines, {})[1])
        for seed in range(config.meta_seeds):
            for mode, arm in check_samples(config, pool).items():
                name = f"{mode}-{noise}-{seed}"
                context.log(f"{mode}, noise {noise}, meta-seed {seed}")
                learn = partial(learned_rows, config, pool, arm, mode, seed, name, context)
                weights[noise][mode, seed], found = _kept(context, name, learn, like)
                collect(noise, found)
        if config.generalization:
            others = partial(generalization_rows, config, context, noise, weights[noise])
            keep = lambda others=others: ({}, {"generalization": others()})
            name = f"generalization-{noise}"
            context.log(f"problems that none of them saw, noise {noise}")
            collect(noise, _kept(context, name, keep, {})[1])
    for name, some in rows.items():
        context.table(name, columns(COLUMNS[name], some))
    context.table("summary", summary(columns(COLUMNS["accuracy"], rows["accuracy"])))
    context.arrays(_as_arrays(weights))
    return {"pool": len(pools[config.noise[0]].labels)}


def _kept(
    context: Context, name: str, compute: Callable[[], tuple[Any, dict]], like: Any
) -> tuple[Any, dict]:
    """Return arrays and rows of one part of the run, computed once even if it is interrupted."""
    path = context.checkpoint(name)
    if not (context.resume and path.exists()):
        checkpoint.save(path, *compute())
    return checkpoint.load(path, like)


def _as_arrays(weights: Mapping[float, Mapping[tuple[str, int], Any]]) -> dict[str, np.ndarray]:
    return {
        ".".join([mode, str(noise), str(seed), *(str(part.key) for part in path)]): np.asarray(leaf)
        for noise, found in weights.items()
        for (mode, seed), tree in found.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


QUICK = Config(
    dataset="digits",
    samples=200,
    noise=(0.2,),
    modes=("train-by-train", "train-by-validation"),
    horizon=500,
    updates=300,
    meta_seeds=2,
    tests=3,
    test_steps=400,
    measure_every=50,
    segment=25,
    unrolls=20,
    longest_segment=25,
    block=25,
    trajectories=6,
    monitor_every=50,
    monitor_tasks=4,
    generalization=False,
)

PAPER = Config(
    input="full",
    horizon=20000,
    updates=12000,
    meta_seeds=2,
    test_steps=4000,
    segment_mean=100.0,
    unrolls=10,
    unrolls_mean=30.0,
    longest_segment=1000,
    trajectories=1,
    meta_batch=None,
    cosine=False,
    fan_in=False,
    monitor_every=250,
)

EXPERIMENT = Experiment(
    listing("mlp-optimizer"),
    config=Config,
    presets={"quick": QUICK, "reduced": Config(), "paper": PAPER},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"validation-beats-training", "training-memorizes-noise"}),
    answer=answer,
    finite=("accuracy.loss", "meta.value"),
)
