"""A learned optimizer, meta-trained on training or on validation loss and tested on digits.

Train-by-train meta-trains on the training loss of n (or 2 n) examples, train-by-validation on the
loss of n further examples. All are then tested on new problems of n training examples, within the
horizon of meta-training. The weights are those with the least objective of meta-training
in fresh runs from scratch (`best`), and the last ones (`final`). With larger numbers of samples,
train-by-train has all of them, and train-by-validation five sixths and a sixth; tests train on all.

Tables (one row per observation):

- `accuracy`: noise, samples, mode (the modes; SGD, Adam), checkpoint (best | final; tuned for SGD
  and Adam), meta_seed, test, step, split (train: with the noisy labels it was trained on | test
  clean | test noisy), accuracy, loss (cross-entropy in nats).
- `summary`: noise, samples, mode, checkpoint, split, step (the last), meta_seeds, tests, accuracy,
  loss (means), sd_meta_seeds (standard deviation over meta-seeds of the mean accuracy over tests),
  sd_tests (over the tests of one meta-trained optimizer, root mean square over meta-seeds).
- `meta`: noise, samples, mode, meta_seed, update, value (mean objective of the segment),
  gradient_norm, nonfinite (entries of the gradient set to zero).
- `monitor`: noise, samples, mode, meta_seed, update, value (mean objective of fresh runs), best (1
  for the one that is kept).
- `tuning`: noise, samples, mode (SGD | Adam), step_size, validation_loss, chosen (0 or 1).
- `generalization`: noise (of meta-training), problem, problem_noise, mode, meta_seed, test,
  accuracy (clean test labels), loss; SGD and Adam are tuned on the problem itself.

Arrays: the best weights of every meta-trained optimizer as `MODE.NOISE.META_SEED.PATH`, with
`totals` as `MODE-SAMPLES.NOISE.META_SEED.PATH`.
"""

from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np

from metastep.learned import MLPOptimizer
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import Rows, kept, no_rows, write_tables
from metastep_lab.tables import columns
from metastep_lab.wang2021.mlp_optimizer.claims import answer
from metastep_lab.wang2021.mlp_optimizer.figures import figures
from metastep_lab.wang2021.mlp_optimizer.rows import (
    baseline_rows,
    generalization_rows,
    learned_rows,
    summary,
)
from metastep_lab.wang2021.mlp_optimizer.samples import Size, sizes
from metastep_lab.wang2021.mlp_optimizer.setting import PRESETS, Config
from metastep_lab.wang2021.mlp_optimizer.size_claims import claims
from metastep_lab.wang2021.mlp_optimizer.study import Pool, load_pool

COLUMNS = {
    "accuracy": "noise samples mode checkpoint meta_seed test step split accuracy loss",
    "meta": "noise samples mode meta_seed update value gradient_norm nonfinite",
    "monitor": "noise samples mode meta_seed update value best",
    "tuning": "noise samples mode step_size validation_loss chosen",
    "generalization": "noise problem problem_noise mode meta_seed test accuracy loss",
}


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Meta-train and test every optimizer; finished ones survive an interruption."""
    pools = {}
    for noise in config.noise:
        reduced = config.input == "reduced"
        pools[noise] = load_pool(config.dataset, reduced, noise, context.data, context.seed)
        # Refuses too many samples before hours of meta-training, for every noise.
        sizes(config, len(pools[noise].labels))
    rows = no_rows(COLUMNS)
    weights: dict[str, Any] = {}
    for noise, pool in pools.items():
        found: dict[tuple[str, int], Any] = {}
        for size in sizes(config, len(pool.labels)):
            found = _run_size(config, context, pool, size, noise, rows)
            label = "" if size.samples == config.samples else f"-{size.samples}"
            for (mode, seed), one in found.items():
                weights[f"{mode}{label}.{noise}.{seed}"] = one
            if size.samples == config.samples and config.generalization:
                context.log(f"problems that none of them saw, noise {noise}")
                others = partial(generalization_rows, config, context, noise, found)
                more = kept(context, f"generalization-{noise}", others)[1]["rows"]
                rows["generalization"] += [(noise, *row) for row in more]
    write_tables(context, COLUMNS, rows)
    context.table("summary", summary(columns(COLUMNS["accuracy"], rows["accuracy"])))
    context.arrays(_as_arrays(weights))
    return {"pool": len(pools[config.noise[0]].labels)}


def _run_size(
    config: Config, context: Context, pool: Pool, size: Size, noise: float, rows: Rows
) -> dict[tuple[str, int], Any]:
    """Meta-train and test all modes with one number of samples; return the best weights."""
    # Only its shapes are used; no field of the configuration changes them.
    like, weights = MLPOptimizer().initial_weights(jax.random.key(0)), {}

    def collect(found: Mapping[str, list]) -> None:
        for table, some in found.items():
            rows[table] += [(noise, size.samples, *row) for row in some]

    context.log(f"SGD and Adam, {size.samples} samples, noise {noise}")
    baselines = partial(baseline_rows, config, pool, size, context.seed)
    collect(kept(context, f"baselines-{size.samples}-{noise}", baselines)[1])
    for seed, mode in product(range(config.meta_seeds), config.modes):
        if mode not in size.arms:
            continue
        name = f"{mode}-{size.samples}-{noise}-{seed}"
        context.log(f"{mode}, {size.samples} samples, noise {noise}, meta-seed {seed}")
        learn = partial(learned_rows, config, pool, size, mode, seed, name, context)
        weights[mode, seed], found = kept(context, name, learn, like)
        collect(found)
    return weights


def _as_arrays(weights: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        ".".join([name, *(str(part.key) for part in path)]): np.asarray(leaf)
        for name, tree in weights.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


EXPERIMENT = Experiment(
    listing("mlp-optimizer"),
    config=Config,
    presets=PRESETS,
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset({"validation-beats-training", "training-memorizes-noise"}),
    answer=answer,
    finite=("accuracy.loss", "meta.value"),
)
