"""PAC-Bayes bounds are tighter when the posterior is diagonal in the Hessian's eigenbasis.

A network is trained to tell digits apart, or those below 5 from the others. A Gaussian posterior
around it is optimized for its PAC-Bayes bound. The methods, with the same number of steps, are
independent weights (base), eigenvectors of the layer-wise Hessians computed once (appr), repeatedly
(iter), more and more rarely (iter-d, ITER(D)), and repeatedly with the output Hessian approximated
from the weights (iter-m). Bounds here are for one confidence, 0.965, and include the Monte Carlo
correction.

Tables (one row per observation):

- `bounds`: labels (true | random), seed, method, bound, uncorrected (as if the measured training
  error were exact), kl, train_error and test_error (of the stochastic network), log_prior_scale
  (1/2 log lambda), j, network_train_error and network_test_error (of the trained network, without
  noise), holds (1 where the certificate passes its check).
- `history`: labels, seed, method, epoch, loss (the mean surrogate), penalty (sqrt(B_RE / 2)), kl.
- `variances`: labels, method, index (from 1, of at most 200 groups of the first layer's directions
  by falling eigenvalue of E[M] (x) E[x x^T]; for base of its weights in their order), log_variance
  (of the posterior, mean over the group); first seed.
- `thesis`: Table C.8: network, method, printed, kl, error, log_prior_scale, j, ceiling (1 where the
  prior variance is at its ceiling), recomputed (from the other columns, j from 1), difference.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
from annotated_types import Ge, MinLen

from metastep import pac_bayes
from metastep.pac_bayes.certify import write_certificate
from metastep_lab.catalog import listing
from metastep_lab.configuration import ONCE, Count, Fraction, Positive, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn, kept, no_rows, write_tables
from metastep_lab.wu2022.pac_bayes.claims import CLAIMS, FEWEST_SEEDS, answer
from metastep_lab.wu2022.pac_bayes.figures import figures
from metastep_lab.wu2022.pac_bayes.problem import (
    BATCH,
    Descent,
    Examples,
    as_risk,
    error,
    initialize,
    load,
    train,
)
from metastep_lab.wu2022.pac_bayes.thesis import table_c8
from metastep_lab.wu2022.pac_bayes.variances import log_variances

METHODS: Mapping[str, pac_bayes.Rotation] = {
    "base": pac_bayes.BASE,
    "appr": pac_bayes.APPR,
    "iter": pac_bayes.ITER,
    "iter-d": pac_bayes.ITER,
    "iter-m": pac_bayes.ITER_M,
}
TABLES = {
    "bounds": "labels seed method bound uncorrected kl train_error test_error log_prior_scale j "
    "network_train_error network_test_error holds",
    "history": "labels seed method epoch loss penalty kl",
    "variances": "labels method index log_variance",
}


@configuration
class Config:
    """The configuration.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn) or mnist (what is there of it).
        classes: 10, or 2 for digits below 5 and from 5.
        labels: of the images, or drawn at random.
        methods: the bases.
        hidden: units of each hidden layer.
        train: training examples; none for all that the data set has for training (60,000 of
            MNIST, five sixths of the others).
        initial_scale: standard deviation of the initial weights, the prior's mean.
        training_epochs: of the network.
        training_step_size: of the network.
        training_momentum: of the network.
        training_batch: examples in each of its steps.
        surrogate: of the error in the posterior's objective: the cross-entropy in bits, or
            relative to that of a guess; equal for two classes.
        epochs: of the posterior.
        batch: examples in each of its steps.
        optimizer: of the posterior.
        step_size: of the posterior.
        decay_every: epochs after which the posterior's step size is divided by ten, each time;
            none for a constant one. iter-d multiplies its interval by ten at the same epochs.
        interval: epochs between two computations of the basis in iter, iter-d and iter-m.
        draws: pairs of weights and an example that measure an error.
        seeds: repetitions, each with its own initialization and order.
    """

    dataset: Literal["digits", "mnist"] = "mnist"
    classes: Literal[2, 10] = 2
    labels: Annotated[tuple[Literal["true", "random"], ...], *ONCE] = ("true", "random")
    methods: Annotated[tuple[Literal["base", "appr", "iter", "iter-d", "iter-m"], ...], *ONCE] = (
        "base",
        "appr",
        "iter",
        "iter-m",
    )
    hidden: Annotated[tuple[Count, ...], MinLen(1), "integers from 1, at least one"] = (100,)
    train: Annotated[int, Ge(BATCH)] | None = 8000
    initial_scale: Positive = 0.04
    training_epochs: Count = 20
    training_step_size: Positive = 0.01
    training_momentum: Fraction = 0.9
    training_batch: Count = BATCH
    surrogate: Literal["bits", "relative"] = "bits"
    epochs: Count = 60
    batch: Count = BATCH
    optimizer: Literal["adam", "rmsprop"] = "adam"
    step_size: Positive = 0.005
    decay_every: Count | None = None
    interval: Count = 5
    draws: Count = 150_000
    seeds: Count = FEWEST_SEEDS

    def __post_init__(self):
        """Refuse ITER(D) without the schedule that it follows."""
        if "iter-d" in self.methods and self.decay_every is None:
            raise ValueError(
                "decay_every is None; allowed are integers from 1 where methods has iter-d, which "
                "multiplies its interval by ten whenever the step size is divided by ten"
            )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Bound every network by every method; finished cells survive an interruption."""
    training, _ = _load(config, context, False)
    for name in ("batch", "training_batch"):
        if getattr(config, name) > len(training.labels):
            raise ValueError(
                f"{name} is {getattr(config, name)}; allowed are integers from 1 to the number of "
                f"training examples, {len(training.labels)}"
            )
    context.table("thesis", table_c8())
    # One object for all cells, which then share their compiled programs.
    optimizer = _optimizer(config, len(training.labels))
    cells = list(product(config.labels, range(config.seeds), config.methods))
    rows = no_rows(TABLES)
    for cell in in_turn(context, cells, "{0[0]} labels, seed {0[1]}, {0[2]}".format):
        compute = partial(_cell, config, context, *cell, optimizer)
        found = kept(context, "{}-{}-{}".format(*cell), compute)[1]
        rows["bounds"].append((*cell, *found["bound"]))
        rows["history"] += [(*cell, i, *row) for i, row in enumerate(found["history"], start=1)]
        labels, _, method = cell
        variances = enumerate(found["variances"], start=1)
        rows["variances"] += [(labels, method, *pair) for pair in variances]
    write_tables(context, TABLES, rows)
    return {}


def _load(config: Config, context: Context, random: bool) -> tuple[Examples, Examples]:
    given = config.dataset, context.data, config.classes, config.train
    return load(*given, random, context.seed)


def _optimizer(config: Config, examples: int) -> optax.GradientTransformation:
    step_size = config.step_size
    if config.decay_every is not None:
        # Schedules of optax count steps, not epochs.
        steps = config.decay_every * (examples // config.batch)
        step_size = optax.exponential_decay(step_size, steps, 0.1, staircase=True)
    return {"adam": optax.adam, "rmsprop": optax.rmsprop}[config.optimizer](step_size)


def _cell(
    config: Config,
    context: Context,
    labels: str,
    seed: int,
    method: str,
    optimizer: optax.GradientTransformation,
) -> tuple[dict, dict[str, Any]]:
    """Train a network and bound it by one method; return no arrays, and the numbers."""
    split = _load(config, context, labels == "random")
    # Not of the method: all methods of a seed bound the same network, which makes them pairs.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(context.seed), seed), 5)
    sizes = (split[0].inputs.shape[1], *config.hidden, config.classes)
    prior = initialize(keys[0], sizes, config.initial_scale)
    descent = Descent(
        config.training_epochs,
        config.training_step_size,
        config.training_momentum,
        config.training_batch,
    )
    params = train(prior, split[0], descent, keys[1])
    rotation = METHODS[method]
    if rotation.every is not None:
        slowed = config.decay_every if method == "iter-d" else None
        rotation = rotation.repeated(config.interval, slowed)
    risk, held_out = (as_risk(params, part, config.surrogate) for part in split)
    optimized = pac_bayes.optimize(
        risk,
        prior,
        rotation,
        key=keys[2],
        epochs=config.epochs,
        batch_size=config.batch,
        optimizer=optimizer,
    )
    errors = [
        pac_bayes.draw_errors(part, optimized, config.draws, key)
        for part, key in ((risk, keys[3]), (held_out, keys[4]))
    ]
    certificate = write_certificate(
        optimized, prior, pac_bayes.Settings(), risk, errors[0], errors[1], held_out
    )
    bound = [
        certificate.bound,
        certificate.uncorrected,
        certificate.kl,
        certificate.error_sum / certificate.draws,
        certificate.test_error,
        float(optimized.posterior.log_prior_scale),
        certificate.j,
        *(error(params, part) for part in split),
        int(certificate.check().holds),
    ]
    return {}, {
        "bound": bound,
        "history": np.asarray(optimized.history, float).tolist(),
        "variances": log_variances(risk, optimized, method != "base") if seed == 0 else [],
    }


# Appendix C.8. For APPR it prints eta = 1, one page after "eta = T"; APPR is one basis, computed
# once.
_THESIS = Config(
    train=None,
    training_epochs=1000,
    training_momentum=0.0,
    training_batch=128,
    epochs=2000,
    optimizer="rmsprop",
    step_size=0.001,
    decay_every=400,
    interval=10,
    draws=50_000,
)
EXPERIMENT = Experiment(
    listing("pac-bayes"),
    config=Config,
    presets={
        "quick": Config(
            dataset="digits",
            labels=("true",),
            hidden=(50,),
            train=1400,
            initial_scale=0.1,
            training_epochs=40,
            epochs=100,
            draws=50_000,
        ),
        "ten-classes": Config(
            dataset="digits",
            classes=10,
            labels=("true",),
            hidden=(50,),
            train=None,
            initial_scale=0.1,
            training_epochs=40,
            surrogate="relative",
            epochs=200,
            batch=50,
            interval=10,
        ),
        "reduced": Config(),
        "paper": replace(
            _THESIS,
            classes=10,
            labels=("true",),
            methods=("base", "appr", "iter", "iter-d", "iter-m"),
            hidden=(200, 200),
        ),
        # R-600 of Table C.8, which has no ITER.
        "paper-random": replace(
            _THESIS, labels=("random",), methods=("base", "appr", "iter-d", "iter-m"), hidden=(600,)
        ),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"iter-below-base", "bounds-hold"}),
    answer=answer,
    finite=("bounds.bound", "history.loss"),
)
