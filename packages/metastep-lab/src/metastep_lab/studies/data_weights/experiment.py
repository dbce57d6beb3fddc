"""Learn a network that rates training data, and use its ratings for other models.

A rating network gives each example of a batch a rating; the softmax of the ratings weights their
losses. It is tuned by `PersistentReverse` on clean validation data, over a population of training
runs of all ages. Then fresh models of the same width and of twice that width are trained on every
example, without a random part of them, without the lowest rated part, and without the corrupted
ones; all for the same number of steps of the same batch size.

Tables (one row per observation):

- `training`: seed, width, method (all | random | rated | clean), test_loss (nats), test_loss_before
  (of the untrained model).
- `ratings`: seed, roc_auc (of "rated low" against "corrupted"), kept_corrupted (the corrupted part
  of what the ratings keep), seconds (of tuning).
- `history`: seed, step, validation_loss (mean over the population, before the update).

Arrays: `ratings` and `corrupted`, both (seeds, train).
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, Lt
from jaxtyping import Array
from sklearn.metrics import roc_auc_score

import metastep as ms
from metastep.compilation import compiled
from metastep.optimizers import adam
from metastep.types import RandomKey, StepIndex
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Positive, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import repetition_seeds
from metastep_lab.studies.data_weights.claims import CLAIMS, METHODS, answer
from metastep_lab.studies.data_weights.figures import figures
from metastep_lab.studies.data_weights.sources import Examples, Source, digits, text
from metastep_lab.tables import columns

SOURCES = {"digits": digits, "wikitext2": text}
Part = Annotated[float, Ge(0), Lt(1), "numbers from 0 to below 1"]


@configuration
class Config:
    """The configuration.

    Attributes:
        dataset: digits (ships with scikit-learn) or wikitext2.
        train: training examples.
        validation: clean validation examples; as many or the rest are for testing.
        corruption: the probability that a training example is corrupted.
        drop: the part of the training examples that is left out.
        width: hidden units of the model that the ratings are tuned with.
        rater_width: hidden units of the rating network.
        batch: examples of an inner step.
        horizon: inner steps of a training run.
        step_size: of Adam in the inner runs.
        window: inner steps that are differentiated.
        runs: training runs in the population.
        outer_steps: updates of the rating network.
        outer_step_size: of Adam.
        seeds: repetitions, each with its own data, corruption and initialisations.
    """

    dataset: Literal["digits", "wikitext2"] = "wikitext2"
    train: Count = 4000
    validation: Count = 300
    corruption: Part = 0.4
    drop: Part = 0.4
    width: Count = 128
    rater_width: Count = 64
    batch: Count = 32
    horizon: Count = 400
    step_size: Positive = 0.003
    window: Count = 4
    runs: Count = 8
    outer_steps: Count = 400
    outer_step_size: Positive = 0.001
    seeds: Count = 3

    def __post_init__(self):
        """Check the values of the fields."""
        if self.horizon % self.window:
            raise ValueError(
                f"window is {self.window}; allowed are the divisors of horizon, {self.horizon}"
            )


class Batches(eqx.Module):
    """Draw the rows of a batch at random."""

    examples: Examples
    size: int

    def __call__(self, t: StepIndex, key: RandomKey) -> Examples:
        """Return batch `t`, which depends on the key alone."""
        del t
        rows = jax.random.randint(key, (self.size,), 0, len(self.examples.inputs))
        return self.examples.take(rows)


class MeanLoss(eqx.Module):
    """The mean loss of a model over some examples, as an objective."""

    examples: Examples

    def __call__(self, model, outer) -> Array:
        """Return the loss in nats."""
        del outer
        return jnp.mean(model(self.examples))


def rated_loss(model, rater, batch: Examples) -> Array:
    """Return the losses of a batch, weighted by the softmax of their ratings."""
    # The softmax, so that ratings cannot change the step size by growing together.
    return jnp.sum(jax.nn.softmax(rater(batch)) * model(batch))


def plain_loss(model, outer, batch: Examples) -> Array:
    """Return the mean loss of a batch."""
    del outer
    return jnp.mean(model(batch))


def make_problem(source: Source, config: Config, loss, examples: Examples, judge: Examples, width):
    """Return the problem of training a model on some examples, with others for the objective."""
    return ms.TrainingProblem(
        loss=loss,
        objective=MeanLoss(judge),
        init_params=lambda outer, key: source.model(width, key),
        optimizer=adam(config.step_size),
        horizon=config.horizon,
        batch=Batches(examples, config.batch),
    )


def tune(source: Source, config: Config, context: Context, seed: int) -> tuple[ms.Run, eqx.Module]:
    """Tune the rating network; return the run and the rater."""
    key = jax.random.key(seed)
    # `minimize` tunes arrays; the activation functions are not among them.
    weights, fixed = eqx.partition(source.rater(jax.random.fold_in(key, 1)), eqx.is_array)
    loss = lambda model, outer, batch: rated_loss(model, eqx.combine(outer, fixed), batch)
    problem = make_problem(source, config, loss, source.train, source.validation, config.width)
    run = ms.minimize(
        problem,
        weights,
        ms.PersistentReverse(config.window, config.runs),
        optimizer=optax.adam(config.outer_step_size),
        steps=config.outer_steps,
        key=key,
        every=min(50, config.outer_steps),
        checkpoint=ms.Checkpoint(context.checkpoint(f"rater-{seed}"), 100, context.resume),
    )
    return run, eqx.combine(run.outer, fixed)


def held_out_loss(
    source: Source, config: Config, rows: np.ndarray, width: int, seed: int
) -> tuple[float, float]:
    """Train afresh on some of the examples; return the test loss before and after."""
    # As many steps of the same batch size for every method: equal compute.
    examples = source.train.take(jnp.asarray(rows))
    problem = make_problem(source, config, plain_loss, examples, source.test, width)
    # Another key than that of tuning: the ratings meet a model that they have not seen.
    key = jax.random.fold_in(jax.random.key(seed), 2)
    judged = lambda state: float(problem.objective(state, (), key))
    return judged(problem.init((), key)), judged(compiled(ms.unroll)(problem, (), key))


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Tune the ratings of each seed's data, then train with and without them."""
    training, rated, history, ratings, corrupted = [], [], [], [], []
    for number, seed in enumerate(repetition_seeds(context.seed, config.seeds)):
        make = SOURCES[config.dataset]
        sizes = (config.train, config.validation, config.corruption, config.rater_width)
        source = make(context.data, *sizes, seed)
        context.log(f"seed {seed}: tuning the ratings")
        begin = perf_counter()
        result, rater = tune(source, config, context, seed)
        seconds = perf_counter() - begin
        rating = np.asarray(compiled(lambda rater, examples: rater(examples))(rater, source.train))
        kept = _kept(source, config, rating, seed)
        auc = roc_auc_score(source.corrupted, -rating)
        rated.append((seed, auc, source.corrupted[kept["rated"]].mean(), seconds))
        values = np.asarray(result.history.value)
        history.extend((seed, step, value) for step, value in enumerate(values))
        for width in (config.width, 2 * config.width):
            for method in METHODS:
                losses = held_out_loss(source, config, kept[method], width, seed)
                training.append((seed, width, method, *losses))
        ratings.append(rating)
        corrupted.append(source.corrupted)
        context.progress(number + 1, config.seeds, "seeds")
    names = "seed width method test_loss_before test_loss"
    context.table("training", columns(names, training))
    context.table("ratings", columns("seed roc_auc kept_corrupted seconds", rated))
    context.table("history", columns("seed step validation_loss", history))
    context.arrays({"ratings": np.stack(ratings), "corrupted": np.stack(corrupted)})
    return {"roc_auc": float(np.mean([row[1] for row in rated]))}


def _kept(source: Source, config: Config, rating: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return which training examples each method keeps."""
    count = round((1 - config.drop) * config.train)
    return {
        "all": np.arange(config.train),
        # (seed, 1) has drawn the corruption.
        "random": np.random.default_rng((seed, 2)).permutation(config.train)[:count],
        "rated": np.argsort(-rating, kind="stable")[:count],
        "clean": np.flatnonzero(~source.corrupted),
    }


QUICK = Config(
    dataset="digits",
    train=1000,
    validation=300,
    width=64,
    batch=64,
    horizon=200,
    outer_steps=400,
    seeds=3,
)

EXPERIMENT = Experiment(
    listing("data-weights"),
    config=Config,
    presets={"quick": QUICK, "full": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"lower-loss"}),
    answer=answer,
    finite=("training.test_loss", "history.validation_loss"),
)
