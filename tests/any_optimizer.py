"""Optimizers for whole problems that are drawn: each of a step size and a number beside it."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from metastep import optimizers
from metastep.learned import CoordinatewiseLSTM, LearnedAdam, LearnedSGD, MLPOptimizer


@dataclass(frozen=True)
class Row:
    """An optimizer, and what can be asked of it.

    Attributes:
        make: (rate, beta) to a transformation; beta is between 0.3 and 0.7.
        complex: whether it takes complex parameters.
        single: whether it keeps the dtypes of parameters that are not float64.
        casts: whether it also does where the rate or beta is wider than a parameter.
        tuned_start: whether its first state depends on (rate, beta): no window sees that.
    """

    make: Callable
    complex: bool = True
    single: bool = True
    casts: bool = False
    tuned_start: bool = False


def before(first):
    """Return the row of descent on what a transformation makes of the gradient."""
    return lambda rate, beta: optax.chain(first(beta), optax.sgd(rate, momentum=beta))


def learned(family):
    """Scale the updates of a learned optimizer by the rate; beta moves one of its weights."""

    def make(rate, beta):
        weights = family.initial_weights(jax.random.key(3))
        leaves, treedef = jax.tree.flatten(weights)
        moved = [jnp.asarray(leaves[0]) + 0.1 * beta, *leaves[1:]]
        return optax.chain(family(jax.tree.unflatten(treedef, moved)), optax.scale(10 * rate))

    return make


def two_groups(rate, beta):
    groups = {"a": optax.sgd(rate), "b": optimizers.adam(rate, b1=beta)}
    label = lambda params: jax.tree.map(lambda x: "a" if x.ndim else "b", params)
    return optax.partition(groups, label)


ROOT = 1e-6  # optax's square roots at zero have no derivative

ROWS = {
    "sgd": Row(lambda rate, beta: optax.sgd(rate)),
    "momentum": Row(lambda rate, beta: optax.sgd(rate, momentum=beta)),
    "nesterov": Row(lambda rate, beta: optax.sgd(rate, momentum=beta, nesterov=True)),
    "our adam": Row(lambda rate, beta: optimizers.adam(rate, b1=beta), casts=True),
    "our nadam": Row(lambda rate, beta: optimizers.adam(rate, b2=beta, nesterov=True), casts=True),
    "our adamw": Row(lambda rate, beta: optimizers.adamw(rate, weight_decay=beta), casts=True),
    "adam": Row(lambda rate, beta: optax.adam(rate, b1=beta, eps_root=ROOT)),
    "nadamw": Row(lambda rate, beta: optax.nadamw(rate, eps_root=ROOT, weight_decay=beta)),
    "amsgrad": Row(lambda rate, beta: optax.amsgrad(rate, b1=beta, eps_root=ROOT)),
    "adamax": Row(lambda rate, beta: optax.adamax(rate, b1=beta)),
    "adabelief": Row(lambda rate, beta: optax.adabelief(rate, b1=beta, eps_root=1e-3)),
    "adan": Row(lambda rate, beta: optax.adan(rate, b1=beta, eps_root=ROOT), complex=False),
    "adagrad": Row(lambda rate, beta: optax.adagrad(rate, eps=1e-3)),
    "adadelta": Row(lambda rate, beta: optax.adadelta(10 * rate, rho=beta, eps=1e-3)),
    "rmsprop": Row(lambda rate, beta: optax.rmsprop(rate, decay=beta, momentum=0.5)),
    "centered": Row(lambda rate, beta: optax.rmsprop(rate, decay=beta, eps=1e-2, centered=True)),
    "yogi": Row(lambda rate, beta: optax.yogi(rate, b1=beta)),
    "radam": Row(lambda rate, beta: optax.radam(rate, b1=beta, eps_root=ROOT)),
    "lamb": Row(lambda rate, beta: optax.lamb(rate, eps_root=ROOT, weight_decay=beta)),
    "lars": Row(lambda rate, beta: optax.lars(100 * rate, momentum=beta)),
    "fromage": Row(lambda rate, beta: optax.fromage(rate)),
    "novograd": Row(lambda rate, beta: optax.novograd(rate, b1=beta)),
    # JAX gives the sign of a complex number, z / |z|, the derivative 0.
    "lion": Row(lambda rate, beta: optax.lion(rate, b1=beta, weight_decay=beta), complex=False),
    "sign": Row(lambda rate, beta: optax.sign_sgd(rate), complex=False),
    "sm3": Row(lambda rate, beta: optax.flatten(optax.sm3(rate, momentum=0.5)), complex=False),
    "optimistic": Row(lambda rate, beta: optax.optimistic_gradient_descent(rate, alpha=beta)),
    "polyak": Row(lambda rate, beta: optax.polyak_sgd(rate)),
    "noisy": Row(lambda rate, beta: optax.noisy_sgd(rate, eta=0.01, key=jax.random.key(0))),
    "adafactor": Row(
        lambda rate, beta: optax.adafactor(rate, momentum=0.5, dtype_momentum=float), complex=False
    ),
    "ademamix": Row(lambda rate, beta: contrib.ademamix(rate, b1=beta, eps_root=ROOT)),
    "adopt": Row(lambda rate, beta: contrib.adopt(rate, b1=beta), complex=False),
    "madgrad": Row(lambda rate, beta: contrib.madgrad(rate, momentum=0.5), complex=False),
    "muon": Row(lambda rate, beta: contrib.muon(rate), complex=False),
    "momo": Row(lambda rate, beta: contrib.momo(rate), complex=False, single=False),
    "schedule-free": Row(lambda rate, beta: contrib.schedule_free_sgd(rate, b1=0.7)),
    "clipped": Row(before(lambda beta: optax.clip_by_global_norm(beta))),
    "cut": Row(before(lambda beta: optax.clip(beta)), complex=False),
    "block": Row(before(lambda beta: optax.clip_by_block_rms(beta))),
    "adaptive clip": Row(before(lambda beta: optax.adaptive_grad_clip(beta))),
    "averaged": Row(before(lambda beta: optax.ema(beta))),
    "centralized": Row(before(lambda beta: optax.centralize())),
    "normalized": Row(before(lambda beta: optax.normalize_by_update_norm()), single=False),
    "decayed": Row(before(lambda beta: optax.add_decayed_weights(beta))),
    "without NaN": Row(before(lambda beta: optax.zero_nans())),
    "every second": Row(
        lambda rate, beta: optax.MultiSteps(optax.sgd(rate), 2, accumulator_dtype=jnp.float64),
        complex=False,
        single=False,
    ),
    "if finite": Row(lambda rate, beta: optax.apply_if_finite(optax.sgd(rate, beta), 3)),
    "groups": Row(two_groups),
    "in the state": Row(
        lambda rate, beta: optax.inject_hyperparams(optax.sgd)(rate, momentum=beta),
        tuned_start=True,
    ),
    "learned sgd": Row(learned(LearnedSGD(0.1, 0.5)), complex=False),
    "learned adam": Row(learned(LearnedAdam(0.1)), complex=False),
    "learned network": Row(learned(MLPOptimizer()), complex=False),
    "learned lstm": Row(learned(CoordinatewiseLSTM()), complex=False),
}
