"""PAC-Bayes bounds are tighter when the posterior is diagonal in the Hessian's eigenbasis.

A network is trained to separate digits 0 to 4 from 5 to 9. A Gaussian posterior around it is
optimized for its PAC-Bayes bound. The methods, with the same number of steps, are independent
weights (base), eigenvectors of the layer-wise Hessians computed once (appr) or repeatedly (iter),
and those with the output Hessian approximated from the weights (iter-m). Bounds here are for one
confidence, 0.965, and include the Monte Carlo correction.

Tables (one row per observation):

- `bounds`: labels (true | random), seed, method, bound, uncorrected (as if the measured training
  error were exact), kl, train_error and test_error (of the stochastic network), log_prior_scale
  (1/2 log lambda), j, network_train_error and network_test_error (of the trained network, without
  noise), holds (1 where the certificate passes its check).
- `history`: labels, seed, method, epoch, loss (mean cross-entropy in bits), penalty
  (sqrt(B_RE / 2)), kl.
- `variances`: labels, method, index (of the input eigenvector of the first layer, from 1, by
  falling eigenvalue at the end), log_variance (of the posterior, mean over outputs); first seed.
- `thesis`: Table C.8: network, method, printed, kl, error, log_prior_scale, j, ceiling (1 where the
  prior variance is at its ceiling), recomputed (from the other columns, j from 1), difference.
"""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
from annotated_types import Ge, MinLen

from metastep import pac_bayes
from metastep import saving as checkpoint
from metastep.pac_bayes.certify import write_certificate
from metastep_lab.catalog import listing
from metastep_lab.configuration import ONCE, Count, Positive, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.wu2022.pac_bayes.claims import CLAIMS, answer
from metastep_lab.wu2022.pac_bayes.figures import figures
from metastep_lab.wu2022.pac_bayes.problem import (
    BATCH,
    CLASSES,
    Examples,
    Params,
    as_risk,
    error,
    initialize,
    load,
    train,
)
from metastep_lab.wu2022.pac_bayes.thesis import table_c8

METHODS: Mapping[str, pac_bayes.Rotation] = {
    "base": pac_bayes.BASE,
    "appr": pac_bayes.APPR,
    "iter": pac_bayes.ITER,
    "iter-m": pac_bayes.ITER_M,
}
BOUND_COLUMNS = (
    "labels seed method bound uncorrected kl train_error test_error log_prior_scale j "
    "network_train_error network_test_error holds"
)


@configuration
class Config:
    """The configuration.

    Attributes:
        dataset: digits (8 x 8, ships with scikit-learn) or mnist (of which 10,000 are used).
        labels: of the images, or tossed coins.
        methods: the bases.
        hidden: units of each hidden layer.
        train: training examples; the rest is for testing.
        initial_scale: standard deviation of the initial weights, the prior's mean.
        training_epochs: of the network.
        training_step_size: of the network, with momentum 0.9.
        epochs: of the posterior.
        step_size: of the posterior, by Adam.
        interval: epochs between two computations of the basis in iter and iter-m.
        draws: pairs of weights and an example that measure an error.
        seeds: repetitions, each with its own initialization and order.
    """

    dataset: Literal["digits", "mnist"] = "mnist"
    labels: Annotated[tuple[Literal["true", "random"], ...], *ONCE] = ("true", "random")
    methods: Annotated[tuple[Literal["base", "appr", "iter", "iter-m"], ...], *ONCE] = (
        "base",
        "appr",
        "iter",
        "iter-m",
    )
    hidden: Annotated[tuple[Count, ...], MinLen(1), "integers from 1, at least one"] = (100,)
    train: Annotated[int, Ge(BATCH)] = 8000
    initial_scale: Positive = 0.04
    training_epochs: Count = 20
    training_step_size: Positive = 0.01
    epochs: Count = 60
    step_size: Positive = 0.005
    interval: Count = 5
    draws: Count = 150_000
    seeds: Count = 3


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Bound every network by every method; finished cells survive an interruption."""
    load(config.dataset, context.data, config.train, False, context.seed)
    context.table("thesis", table_c8())
    optimizer = optax.adam(config.step_size)
    cells = list(product(config.labels, range(config.seeds), config.methods))
    found: dict[str, list[tuple]] = {"bounds": [], "history": [], "variances": []}
    for done, (labels, seed, method) in enumerate(cells):
        context.progress(done, len(cells), f"{labels} labels, seed {seed}, {method}")
        path = context.checkpoint(f"{labels}-{seed}-{method}")
        if not (context.resume and path.exists()):
            kept = _cell(config, context, labels, seed, METHODS[method], optimizer)
            checkpoint.save(path, {}, kept)
        kept = checkpoint.load(path, {})[1]
        found["bounds"].append((labels, seed, method, *kept["bound"]))
        found["history"] += [
            (labels, seed, method, i + 1, *row) for i, row in enumerate(kept["history"])
        ]
        if seed == 0:
            found["variances"] += [
                (labels, method, i + 1, value) for i, value in enumerate(kept["variances"])
            ]
    context.progress(len(cells), len(cells), "bounded")
    context.table("bounds", columns(BOUND_COLUMNS, found["bounds"]))
    context.table("history", columns("labels seed method epoch loss penalty kl", found["history"]))
    context.table("variances", columns("labels method index log_variance", found["variances"]))
    return {}


def _cell(
    config: Config,
    context: Context,
    labels: str,
    seed: int,
    rotation: pac_bayes.Rotation,
    optimizer: optax.GradientTransformation,
) -> dict[str, Any]:
    """Train a network and bound it by one method."""
    split = load(config.dataset, context.data, config.train, labels == "random", context.seed)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(context.seed), seed), 5)
    sizes = (split[0].inputs.shape[1], *config.hidden, CLASSES)
    prior = initialize(keys[0], sizes, config.initial_scale)
    params = train(
        as_risk(prior, split[0]), keys[1], config.training_epochs, config.training_step_size
    )
    if rotation.every is not None:
        rotation = rotation.repeated(config.interval)
    risk, held_out = (as_risk(params, part) for part in split)
    optimized = pac_bayes.optimize(
        risk,
        prior,
        rotation,
        key=keys[2],
        epochs=config.epochs,
        batch_size=BATCH,
        optimizer=optimizer,
    )
    errors = [
        pac_bayes.draw_errors(part, optimized, config.draws, key)
        for part, key in ((risk, keys[3]), (held_out, keys[4]))
    ]
    certificate = write_certificate(
        optimized, prior, pac_bayes.Settings(), risk, errors[0], errors[1], held_out
    )
    return {
        "bound": _bound_row(certificate, optimized, params, split),
        "history": np.asarray(optimized.history, float).tolist(),
        "variances": np.mean(2 * optimized.posterior.log_scale["fc1.weight"], axis=0).tolist(),
    }


def _bound_row(
    certificate: pac_bayes.Certificate,
    optimized: pac_bayes.Optimized,
    params: Params,
    split: tuple[Examples, Examples],
) -> list[float | None]:
    return [
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
        "paper": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"ours-below-base", "bounds-hold"}),
    answer=answer,
    finite=("bounds.bound", "history.loss"),
)
