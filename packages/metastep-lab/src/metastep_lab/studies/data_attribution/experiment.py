"""Do scores of training examples predict the effect of training without them?

Three models are trained on examples of which some are spoilt on purpose. Every method scores each
example for each query, a held-out loss. Random shares of the examples are left out and the model
trained again; the linear datamodelling score (LDS) is the rank correlation between the changes that
the scores predict and those that happen. Larger step sizes make training less smooth.

Tables (one row per observation):

- `scores`: model, speed (the step size in multiples of the smooth one), seed, method, lds (mean
  over queries; NaN where the scores are not finite), lds_error (its standard error over queries),
  seconds (of one call for all queries; the first of a model compiles its programs, too).
- `training`: model, speed, seed, loss (mean over queries), metasmoothness and removal_error of the
  exact scores, both known before anything is left out, trusted (1 if nothing spoke against them),
  seconds (one retraining).
- `curves`, at the smooth step size: model, seed, method, removed (share of the examples, the most
  helpful ones by the sum of the scores), rise (of the mean loss of the queries when trained
  without them), predicted (by the exact scores).
- `recall`, at the smooth step size: model, seed, method, checked (share of the examples, the most
  harmful ones by the sum of the scores), recall (share of the spoilt examples among them).
- `removals`: model, speed, query, predicted, true: the changes of a few queries with the first
  seed, by the exact scores.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Gt, Lt, MinLen, Predicate

from metastep.attribution import attribute, random_removals
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Fraction, Several, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.studies.data_attribution.claims import CLAIMS, answer
from metastep_lab.studies.data_attribution.examples import Split, images, paragraphs
from metastep_lab.studies.data_attribution.figures import figures
from metastep_lab.studies.data_attribution.judging import (
    Case,
    Name,
    curve_rows,
    lds,
    recall_rows,
    retrain,
)
from metastep_lab.studies.data_attribution.methods import other_scores
from metastep_lab.studies.data_attribution.models import (
    Training,
    linear,
    network,
    train,
    transformer,
)
from metastep_lab.tables import columns

SHOWN = 4
"""Queries whose changes are kept."""


def _rising(values: tuple[float, ...]) -> bool:
    return all(value > 0 for value in values) and list(values) == sorted(set(values))


@configuration
class Config:
    """The configuration.

    The transformer takes most of the time of `full`, hours for each step size and seed.

    Attributes:
        models: softmax regression and a convolutional network on images, a transformer on
            paragraphs of WikiText-2.
        dataset: of the images: digits (ships with scikit-learn) or mnist.
        train: training examples.
        queries: held-out examples whose loss is explained.
        planted: share of the training examples that is spoilt.
        steps: of training.
        batch: examples of a step, but for the linear model.
        speeds: step sizes in multiples of the smooth one; the first counts as smooth.
        subsets: random removals for each LDS.
        share: of the examples that each of them leaves out.
        removed: shares of the most helpful examples that are left out.
        seeds: repetitions, each with its own split, initialisation and order.
        window: last steps that the truncated scores differentiate.
        width: of the transformer.
        vocabulary: of the transformer.
    """

    models: Annotated[
        tuple[Name, ...], MinLen(1), Predicate(different), "different models, at least one"
    ] = ("linear", "network", "transformer")
    dataset: Literal["digits", "mnist"] = "mnist"
    train: Annotated[int, Ge(20)] = 2000
    queries: Several = 100
    planted: Fraction = 0.1
    steps: Count = 300
    batch: Count = 100
    speeds: Annotated[
        tuple[float, ...], MinLen(1), Predicate(_rising), "ascending positive numbers"
    ] = (1.0, 2.0, 4.0, 8.0, 20.0)
    subsets: Annotated[int, Ge(3)] = 100
    share: Annotated[float, Gt(0), Lt(1), "numbers between 0 and 1"] = 0.05
    removed: Annotated[
        tuple[float, ...],
        MinLen(1),
        Predicate(lambda values: _rising(values) and values[-1] < 1),
        "ascending numbers between 0 and 1",
    ] = (0.02, 0.05, 0.1, 0.2)
    seeds: Count = 3
    window: Count = 30
    width: Annotated[int, Ge(2)] = 32
    vocabulary: Annotated[int, Ge(10)] = 1000

    def __post_init__(self):
        """Check the conditions on several fields."""
        if self.window > self.steps:
            raise ValueError(
                f"window is {self.window}; allowed are integers from 1 to the steps, {self.steps}"
            )
        if self.width % 2:
            raise ValueError(f"width is {self.width}; allowed are even integers from 2")


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Score, leave out and train again: every model, seed and step size."""
    tables: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    rounds: list[tuple[Name, int, float]] = [
        (model, seed, speed)
        for model in config.models
        for seed in range(config.seeds)
        for speed in config.speeds
    ]
    for done, (model, seed, speed) in enumerate(rounds):
        context.progress(done, len(rounds), f"{model}, speed {speed:g}, seed {seed}")
        # One key for all step sizes: the same initialisation and removals are compared.
        key = jax.random.fold_in(jax.random.key(context.seed), seed)
        case = Case(model, seed, _split(config, context, model, seed), key)
        _round(config, context, case, speed, tables)
    context.progress(len(rounds), len(rounds), "judged")
    for name, names in COLUMNS.items():
        context.table(name, columns(names, tables[name]))
    # -1 for a run whose scores all failed.
    smooth = [row[4] for row in tables["scores"] if row[1] == config.speeds[0]]
    return {"largest_lds": float(np.nanmax([-1.0, *smooth]))}


COLUMNS = {
    "scores": "model speed seed method lds lds_error seconds",
    "training": "model speed seed loss metasmoothness removal_error trusted seconds",
    "curves": "model seed method removed rise predicted",
    "recall": "model seed method checked recall",
    "removals": "model speed query predicted true",
}


def _split(config: Config, context: Context, model: Name, seed: int) -> Split:
    sizes, seeds = (config.train, config.queries), (context.seed, seed)
    if model == "transformer":
        return paragraphs(context.data, config.vocabulary, sizes, config.planted, seeds)
    return images(config.dataset, context.data, sizes, config.planted, seeds)


def training_of(config: Config, case: Case, speed: float) -> Training:
    """Return how a model is trained at a step size."""
    examples = case.split.examples
    batch = None if case.name == "linear" else config.batch
    if case.name == "transformer":
        model = transformer(config.vocabulary, config.width, config.steps)
    else:
        side = examples[0].shape[-1]
        model = linear(side) if case.name == "linear" else network(side, config.steps)
    return train(model, examples, speed, config.steps, batch, case.seed)


def _round(
    config: Config, context: Context, case: Case, speed: float, tables: Mapping[str, list[Any]]
) -> None:
    training = training_of(config, case, speed)
    place, smooth = (case.name, speed, case.seed), speed == config.speeds[0]
    # The checks of the exact scores come from here: nothing has been left out yet.
    begin = perf_counter()
    exact = attribute(training, config.train, case.split.queries, key=case.key)
    found = {"exact": (np.asarray(exact.scores, np.float64), perf_counter() - begin)}
    found |= other_scores(training, case.split.queries, config.window, case.key)

    begin = perf_counter()
    # Not the key of the training itself, which draws the initialisation.
    draws = jax.random.fold_in(case.key, 1)
    subsets = random_removals(config.train, config.share, config.subsets, draws)
    removals = retrain(context, case, training, subsets, f"{case.name}-{case.seed}-{speed:g}")
    seconds = (perf_counter() - begin) / config.subsets
    for method, (scores, took) in found.items():
        tables["scores"].append((*place, method, *lds(scores, removals), took))
    tables["training"].append((
        *place, np.mean(exact.values), exact.metasmoothness, exact.removal_error,
        int(exact.trustworthy), seconds,
    ))  # fmt: skip
    if case.seed == 0:
        predicted = removals.predicted(exact.scores)
        tables["removals"].extend(
            (case.name, speed, query, *pair)
            for query in range(min(SHOWN, config.queries))
            for pair in zip(predicted[:, query], removals.changes[:, query], strict=True)
        )
    if smooth:
        sums = {method: scores.sum(axis=0) for method, (scores, _) in found.items()}
        tables["recall"].extend(recall_rows(case, sums))
        tables["curves"].extend(curve_rows(context, case, training, sums, config.removed))


QUICK = Config(
    models=("linear", "network"),
    dataset="digits",
    train=300,
    queries=20,
    steps=60,
    batch=100,
    speeds=(1.0, 4.0, 20.0),
    subsets=50,
    removed=(0.05, 0.2),
    window=6,
)
REDUCED = Config(
    train=500,
    queries=30,
    steps=100,
    speeds=(1.0, 4.0, 20.0),
    subsets=50,
    window=10,
    width=16,
    vocabulary=200,
)

EXPERIMENT = Experiment(
    listing("data-attribution"),
    config=Config,
    presets={"quick": QUICK, "reduced": REDUCED, "full": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"exact-linear", "exact-network", "warned"}),
    answer=answer,
)
