"""Computation of a certificate for a trained model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.operators.risk import EmpiricalRisk
from metastep.pac_bayes.basis import ITER, Rotation
from metastep.pac_bayes.bound import (
    PRIOR_CEILING,
    PRIOR_PRECISION,
    bound,
    require_probability,
)
from metastep.pac_bayes.certificate import Certificate, gaussian_kl, prior_variance
from metastep.pac_bayes.errors import Error, draw_errors, misclassified
from metastep.pac_bayes.examples import Data, digest, require_data, trivial_error
from metastep.pac_bayes.learned_prior import LearnedPrior, begin_with
from metastep.pac_bayes.optimize import Optimized, checked_prior, optimize
from metastep.pac_bayes.posterior import initial_posterior, isotropic_posterior
from metastep.types import RandomKey


@dataclass(frozen=True)
class Settings:
    """The options of a certificate.

    Attributes:
        rotation: the basis of the posterior.
        epochs: passes over the training data; more give a tighter bound.
        batch_size: examples in each step.
        optimizer: any optax transformation; None for Adam with a step size of 0.005.
        draws: pairs of weights and an example for measuring the error, on each data set.
        delta: probability that the PAC-Bayes theorem fails.
        draw_delta: probability that the limit for the training error fails.
    """

    rotation: Rotation = ITER
    epochs: int = 200
    batch_size: int = 100
    optimizer: optax.GradientTransformation | None = None
    draws: int = 150_000
    delta: float = 0.025
    draw_delta: float = 0.01

    def __post_init__(self):
        require_probability("delta", self.delta)
        require_probability("draw_delta", self.draw_delta)
        require_probability("delta + draw_delta", self.delta + self.draw_delta)
        for name in ("epochs", "batch_size", "draws"):
            require_count(name, getattr(self, name))


class Certified(NamedTuple):
    """A certificate, and the stochastic model that it describes.

    Attributes:
        certificate: the bound with its constants.
        optimized: the posterior; `pac_bayes.draw` draws models from it.
    """

    certificate: Certificate
    optimized: Optimized


def cross_entropy_bits(scores: Array, label: Array) -> Array:
    """Return the cross-entropy of a softmax in bits, which is at least the 0-1 error."""
    return optax.softmax_cross_entropy_with_integer_labels(scores, label) / jnp.log(2.0)


def relative_cross_entropy(scores: Array, label: Array) -> Array:
    """Return the cross-entropy of a softmax over log(classes), that of a guess; bits for two."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, label)
    return entropy / jnp.log(jnp.asarray(scores.shape[-1], entropy.dtype))


def mean_risk(
    model: Callable[..., Any], loss: Callable[..., Any], params: PyTree, data: Data
) -> EmpiricalRisk:
    """Return the mean loss over a pair of inputs and targets, as a function of the parameters."""
    # The checker takes the abstract `data` for an argument, which is a property here.
    return EmpiricalRisk(model, loss, params, *data)  # pyright: ignore[reportCallIssue]


def certify(
    model: Callable[..., Any],
    data: Data,
    *,
    prior: PyTree | LearnedPrior,
    params: PyTree | None = None,
    test: Data | None = None,
    key: RandomKey,
    settings: Settings | None = None,
    loss: Callable[..., Any] = relative_cross_entropy,
    error: Error = misclassified,
) -> Certified:
    """Bound the error of a (stochastic) model on new examples.

    A Gaussian posterior around the trained parameters is optimized for its PAC-Bayes bound, and
    its error is measured by independent draws. `examples/certify_digits.py` shows this for a
    network of 64-50-2 units. The bound is exact in the sense of its theorem. Cost: that of
    `optimize`, plus about `draws` evaluations of the model for each data set.

    Args:
        model: `(params, input) -> class scores`, for one input.
        data: `(inputs, targets)` that the model was trained on, examples first.
        prior: parameters chosen without `data`, best the ones that training began with; or a
            `LearnedPrior`, which takes a part of `data` for the prior and leaves the rest for the
            bound: tighter in most cases.
        params: the trained parameters; None for the mean of a `LearnedPrior`.
        test: `(inputs, targets)` held out, or None. They do not enter the bound; `check` holds the
            bound against the error on them.
        key: a random key.
        settings: how; None for the defaults.
        loss: `(output, target) -> scalar`, a differentiable surrogate of `error`, from 0. The bound
            holds with any. A smaller multiple of it keeps the posterior nearer to the prior.
        error: `(output, target) -> number in [0, 1]`; the bound is for its mean.

    Returns:
        The certificate and the posterior that it describes. `Certificate.vacuous` says whether the
        bound is at or above the error of a trivial classifier.

    Raises:
        ValueError: for data without examples, parameters or data that are not finite, a prior that
            does not fit, equals `params`, or has seen examples of its own bound, a loss that is no
            finite scalar for one example, an error outside [0, 1], or a model whose layers cannot
            be captured.

    Reference:
        Dziugaite and Roy (2017), Computing nonvacuous generalization bounds for deep (stochastic)
        neural networks; Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Section 6.
    """
    settings = Settings() if settings is None else settings
    require_data("data", data)
    if test is not None:
        require_data("test", test)
    begin, ceiling = initial_posterior, PRIOR_CEILING
    if isinstance(prior, LearnedPrior):
        begin = partial(isotropic_posterior, log_scale=math.log(prior.scale))
        ceiling = prior.ceiling
    data, params, prior, origin = begin_with(data, params, prior, key)
    risk = mean_risk(model, loss, params, data)
    checked = checked_prior(prior, risk)
    _require_finite_loss(risk)
    optimize_key, train_key, test_key = jax.random.split(key, 3)
    optimized = optimize(
        risk,
        prior,
        settings.rotation,
        key=optimize_key,
        epochs=settings.epochs,
        # A learned prior may leave fewer examples than a batch has.
        batch_size=min(settings.batch_size, risk.examples),
        optimizer=settings.optimizer,
        delta=settings.delta,
        begin=begin,
        ceiling=ceiling,
    )
    errors = draw_errors(risk, optimized, settings.draws, train_key, error)
    test_errors, held_out = np.zeros(0), None
    if test is not None:
        held_out = mean_risk(model, loss, params, test)
        test_errors = draw_errors(held_out, optimized, settings.draws, test_key, error)
    certificate = write_certificate(
        optimized, checked, settings, risk, errors, test_errors, held_out, ceiling
    )
    certificate = replace(certificate, trivial_error=trivial_error(data[1], error), **origin)
    return Certified(certificate, optimized)


def write_certificate(
    optimized: Optimized,
    prior: PyTree,
    settings: Settings,
    risk: EmpiricalRisk,
    errors: np.ndarray,
    test_errors: np.ndarray,
    held_out: EmpiricalRisk | None,
    ceiling: float = PRIOR_CEILING,
) -> Certificate:
    """Assemble a certificate from a posterior and the errors of its draws, in float64.

    `prior` is the prior's mean, floating-point leaves only; `test_errors` is empty without held-out
    data; `ceiling` is c of `optimize`. Of the two prior variances next to the optimized one, the
    better is used.
    """
    # NumPy in float64: sums of float32 over all weights could round the divergence down.
    posterior = optimized.posterior
    flat = lambda tree: np.concatenate(
        [np.asarray(leaf, float).reshape(-1) for leaf in jax.tree.leaves(tree)]
    )
    scales = flat((posterior.log_scale, posterior.other_log_scale))
    moments = {
        "distance_squared": float(np.sum((flat(posterior.mean) - flat(prior)) ** 2)),
        "variance_sum": float(np.sum(np.exp(2 * scales))),
        "log_variance_sum": float(np.sum(2 * scales)),
        "parameters": scales.size,
    }
    error_sum = float(np.sum(errors))

    def at(j: int) -> tuple[Any, float]:
        kl = gaussian_kl(**moments, variance=prior_variance(j, ceiling))
        confidence = {"delta": settings.delta, "draw_delta": settings.draw_delta}
        found = bound(
            error_sum / errors.size, kl, risk.examples, j=j, draws=errors.size, **confidence
        )
        return found, kl

    # The optimized variance lies between two that the union bound counts; the bound is for one.
    place = PRIOR_PRECISION * (math.log(ceiling) - 2 * float(posterior.log_prior_scale))
    candidates = {max(1, math.floor(place)), max(1, math.ceil(place))}
    # Allowed after seeing the data, as the union bound holds for every j at once.
    j = min(candidates, key=lambda j: at(j)[0].value)
    found, kl = at(j)
    return Certificate(
        bound=found.value,
        uncorrected=found.uncorrected,
        confidence=found.confidence,
        delta=settings.delta,
        draw_delta=settings.draw_delta,
        examples=risk.examples,
        draws=errors.size,
        error_sum=error_sum,
        kl=kl,
        **moments,
        j=j,
        prior_ceiling=ceiling,
        prior_precision=PRIOR_PRECISION,
        test_examples=0 if held_out is None else held_out.examples,
        test_draws=test_errors.size,
        test_error=float(np.mean(test_errors)) if test_errors.size else None,
        data_digest=digest(risk.data),
    )


def _require_finite_loss(risk: EmpiricalRisk) -> None:
    losses = np.asarray(_losses(risk))
    if not (np.all(np.isfinite(losses)) and np.all(losses >= 0)):
        raise ValueError(
            f"loss has values from {losses.min()} to {losses.max()} on the training data; allowed "
            "is a finite surrogate of the error, from 0. Labels run from 0 to classes - 1."
        )


@compiled
def _losses(risk: EmpiricalRisk) -> Array:
    one = lambda example: risk.example_loss(risk.params, example)
    return jax.lax.map(one, risk.data, batch_size=500)
