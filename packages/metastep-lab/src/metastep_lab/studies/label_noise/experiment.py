"""Who finds the wrong labels: hypercleaning, confident learning, or the loss itself?

Training labels are corrupted in three ways, and every method flags labels as wrong by its own rule
and without the true labels. Methods differ in what they are given: no validation set,
one with clean labels, or one whose labels are corrupted like those of the training set. The table
holds every method at every level that it can use.

Tables (one row per observation):

- `detection`: noise (uniform-20 and uniform-50: replaced by a random class, maybe the same, with
  probability 0.2 or 0.5; class-dependent: 2 -> 7, 3 -> 8, 5 <-> 6, 7 -> 1 with probability 0.4),
  seed, method, validation (none | clean | noisy), wrong (the part of training labels that is
  wrong), flagged (the part that the method flags), precision, recall, f1 (of flagged against
  wrong), roc_auc (of the method's scores), test_accuracy (of its final model), seconds
  (with the choice of penalties, if there is one).
- `summary`: noise, method, validation, seeds, then for f1, precision, recall, roc_auc and
  test_accuracy the mean and `NAME_error`, its standard error over seeds; seconds, the median;
  f1_lead and f1_lead_error, by how much the F1 of hypercleaning is higher than this one, paired by
  seed: with the same validation set, or with the clean one where the method has none.
"""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from annotated_types import Ge, MinLen, Predicate
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from metastep import saving as checkpoint
from metastep_lab import data
from metastep_lab.catalog import listing
from metastep_lab.claims import mean_and_error
from metastep_lab.configuration import Count, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.studies.label_noise.claims import (
    CLAIMS,
    METRICS,
    OURS,
    OURS_NOISY,
    answer,
    compared,
)
from metastep_lab.studies.label_noise.figures import figures
from metastep_lab.studies.label_noise.methods import (
    CLASSES,
    METHODS,
    Examples,
    Setting,
    Verdict,
    choose_penalty,
    require_cleanlab,
    validation_model,
)
from metastep_lab.tables import Frame, Table, columns

FLIPS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}  # Patrini et al. (2017), MNIST
FLIP_PROBABILITY = 0.4
REPLACED = {"uniform-20": 0.2, "uniform-50": 0.5}
COLUMNS = (
    "noise seed method validation wrong flagged precision recall f1 roc_auc test_accuracy seconds"
)


@configuration
class Config:
    """The configuration.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn) or mnist.
        train: training examples, class-balanced.
        validation: validation examples, class-balanced; the rest is for testing.
        noise: how labels are corrupted.
        seeds: repetitions, each with its own split and corruption.
        outer_steps: updates of the weights in hypercleaning.
    """

    dataset: Literal["digits", "mnist"] = "mnist"
    train: Annotated[int, Ge(100)] = 2000
    validation: Annotated[int, Ge(50)] = 500
    noise: Annotated[
        tuple[Literal["uniform-20", "uniform-50", "class-dependent"], ...],
        MinLen(1),
        Predicate(different),
        "different kinds, at least one",
    ] = ("uniform-20", "uniform-50", "class-dependent")
    seeds: Count = 5
    outer_steps: Count = 30


class Split(NamedTuple):
    """The data of one repetition."""

    train: Examples
    wrong: np.ndarray
    extra: Mapping[str, Examples | None]
    test: Examples


def corrupt(labels: np.ndarray, noise: str, rng: np.random.Generator) -> np.ndarray:
    """Return labels, integers from 0 to 9, corrupted as the module says."""
    if noise in REPLACED:
        return data.corrupt_labels(labels, CLASSES, REPLACED[noise], rng)[0]
    partner = np.array([FLIPS.get(label, label) for label in range(CLASSES)])
    flipped = rng.random(labels.shape) < FLIP_PROBABILITY
    return np.where(flipped, partner[labels], labels)


def prepare(config: Config, folder: Path | None, noise: str, seed: tuple[int, int]) -> Split:
    """Load, split and corrupt the data set.

    Raises:
        DataNotFoundError: if the data set is not there.
        ValueError: if it has too few examples.
    """
    loaded = (data.digits if config.dataset == "digits" else data.mnist)(folder)
    labels = loaded.arrays["labels"].astype(np.int64)
    images = loaded.arrays["images"].reshape(len(labels), -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    sizes = (config.train, config.validation)
    train, validation = data.balanced_indices(labels, sizes, int(rng.integers(2**31)))
    test = np.setdiff1d(np.arange(len(labels)), np.concatenate([train, validation]))
    if test.size == 0:
        raise ValueError(
            f"train and validation are {config.train} and {config.validation}; together they must "
            f"leave some of the {len(labels)} examples of {config.dataset} for testing"
        )
    given, noisy = (corrupt(labels[rows], noise, rng) for rows in (train, validation))
    clean = Examples(images[validation], labels[validation])
    return Split(
        train=Examples(images[train], given),
        wrong=given != labels[train],
        extra={"none": None, "clean": clean, "noisy": Examples(clean.inputs, noisy)},
        test=Examples(images[test], labels[test]),
    )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Evaluate every method on every repetition; finished ones survive an interruption."""
    require_cleanlab()
    # Missing data are refused here, while the run has not written anything.
    prepare(config, context.data, config.noise[0], (context.seed, 0))
    cells = [(noise, seed) for seed in range(config.seeds) for noise in config.noise]
    rows = []
    for done, (noise, seed) in enumerate(cells):
        context.progress(done, len(cells), f"{noise}, repetition {seed}")
        path = context.checkpoint(f"{noise}-{seed}")
        if not (context.resume and path.exists()):
            split = prepare(config, context.data, noise, (context.seed, seed))
            # Several threads do not speed up such regressions, and slow them on a busy machine.
            with threadpool_limits(1, user_api="blas"):
                judged = _judge_all(config, split, seed)
            checkpoint.save(path, {}, {"rows": judged})
        kept = checkpoint.load(path, {})[1]["rows"]
        rows += [(noise, seed, *row) for row in kept]
    context.progress(len(cells), len(cells), "judged")
    detection = columns(COLUMNS, rows)
    context.table("detection", detection)
    context.table("summary", _summary(pd.DataFrame(dict(detection))))
    return {}


def _judge_all(config: Config, split: Split, seed: int) -> list[tuple]:
    penalties = {}
    for level, extra in split.extra.items():
        begin = perf_counter()
        penalties[level] = choose_penalty(split.train.join(extra), seed), perf_counter() - begin
    rows = []
    for name, (method, levels) in METHODS.items():
        for level in levels:
            penalty, tuning = penalties[level]
            begin = perf_counter()
            setting = Setting(config.outer_steps, seed, penalty)
            verdict = method(split.train, split.extra[level], setting)
            own = method is validation_model  # it chooses its own penalty
            seconds = perf_counter() - begin + (0.0 if own else tuning)
            rows.append((name, level, *_measure(verdict, split), seconds))
    return rows


def _measure(verdict: Verdict, split: Split) -> tuple[float, ...]:
    wrong, flagged = split.wrong, verdict.flagged
    hits = np.sum(wrong & flagged)
    measured = (
        wrong.mean(),
        flagged.mean(),
        hits / max(flagged.sum(), 1),
        hits / wrong.sum(),
        # 2 P R / (P + R), also where nothing was hit.
        2 * hits / (wrong.sum() + flagged.sum()),
        roc_auc_score(wrong, verdict.scores),
        np.mean(verdict.predict(split.test.inputs) == split.test.labels),
    )
    return tuple(map(float, measured))


def _summary(detection: Frame) -> Table:
    rows = []
    for key, found in detection.groupby(["noise", "method", "validation"], sort=False):
        noise, method, level = key
        ours = OURS_NOISY if level == "noisy" else OURS
        lead = compared(detection, noise, ours, (method, level))
        moments = zip(*mean_and_error(found[list(METRICS)]), strict=True)
        numbers = [number for pair in moments for number in pair]
        last = found["seconds"].median(), lead["mean"], lead["error"]
        rows.append((noise, method, level, len(found), *numbers, *last))
    names = " ".join(f"{name} {name}_error" for name in METRICS)
    return columns(f"noise method validation seeds {names} seconds f1_lead f1_lead_error", rows)


EXPERIMENT = Experiment(
    listing("label-noise"),
    config=Config,
    presets={"quick": Config(dataset="digits", train=500, validation=200), "paper": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"beats-confident-learning", "better-model"}),
    answer=answer,
)
