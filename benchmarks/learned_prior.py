"""Certificates of digits with ten classes: priors that have seen no data, and learned ones.

`python benchmarks/learned_prior.py [--seeds 5] [--epochs 200] [--bits]` trains a network of
64-50-10 units for each seed and certifies it twice from the same 1,500 digits: with the
initialization as the prior, and with a prior that half of the digits trained, so that the bound is
from the other half. The remaining 297 digits check both. Means and standard errors are over the
seeds, each with its own split, initialization and draws. With `--bits` the surrogate of the error
is the cross-entropy in bits, as for two classes, in place of that relative to a guess.

A third row is the practice of Perez-Ortiz et al. (2021) on the same halves: independent weights
(diagonal Gaussians around the learned prior), their objective f_quad with the bounded
cross-entropy, minimized over all 1,500 digits for as many epochs, and their bound on the half that
has not trained the prior. For each seed the best of three prior scales counts, without a charge for
the choice. Adam stands in for their optimizer.
"""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metastep import pac_bayes
from metastep.compilation import compiled
from metastep.pac_bayes.certify import cross_entropy_bits, relative_cross_entropy
from metastep.pac_bayes.examples import select
from metastep.pac_bayes.learned_prior import read_rows
from metastep_lab import data

CLASSES, TRAIN, BATCH = 10, 1500, 50
BARS = {"initialization": 0.5, "learned": 0.3, "f_quad": 0.3}
SCALES = 0.03, 0.05, 0.1  # of the prior of f_quad, from the grid of its authors
SMALLEST = 1e-5  # probability of a class in its cross-entropy
DRAWS, DELTA, DRAW_DELTA = 150_000, 0.025, 0.01  # as in `pac_bayes.Settings`


def network(params: dict, x: jax.Array) -> jax.Array:
    """Return the scores of the classes for one image."""
    return params["W2"] @ jax.nn.relu(params["W1"] @ x + params["b1"]) + params["b2"]


def initialize(key: jax.Array, inputs: int, units: int) -> dict:
    """Return random parameters, chosen before any data are seen."""
    first, second = jax.random.split(key)
    return {
        "W1": 0.1 * jax.random.normal(first, (units, inputs)),
        "b1": jnp.zeros(units),
        "W2": 0.1 * jax.random.normal(second, (CLASSES, units)),
        "b2": jnp.zeros(CLASSES),
    }


def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean cross-entropy."""
    scores = jax.vmap(partial(network, params))(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y))


@compiled
def train(params: dict, x: jax.Array, y: jax.Array, key: jax.Array, epochs: int) -> dict:
    """Train by stochastic gradient descent with momentum 0.9 and a step size of 0.01."""
    optimizer = optax.sgd(0.01, momentum=0.9)

    def step(carry: tuple, rows: jax.Array) -> tuple:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, x[rows], y[rows]), state)
        return (optax.apply_updates(params, updates), state), None

    shuffle = lambda key: jax.random.permutation(key, len(x)).reshape(-1, BATCH)
    order = jax.vmap(shuffle)(jax.random.split(key, epochs)).reshape(-1, BATCH)
    return jax.lax.scan(step, (params, optimizer.init(params)), order)[0][0]


def perturbed(mean: dict, log_scale: dict, key: jax.Array) -> dict:
    """Draw weights from the posterior."""
    keys = dict(zip(mean, jax.random.split(key, len(mean)), strict=True))
    return {
        name: mean[name]
        + jnp.exp(log_scale[name]) * jax.random.normal(keys[name], mean[name].shape)
        for name in mean
    }


@compiled
def f_quad(prior: dict, x: jax.Array, y: jax.Array, key: jax.Array, scale: Any, steps: int) -> Any:
    """Minimize (sqrt(L + B) + sqrt(B))^2 with B = (KL + log(2 sqrt(n) / delta)) / 2 n."""
    start = prior, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.log(scale)), prior)
    optimizer = optax.adam(0.001)

    def objective(posterior: tuple, rows: jax.Array, key: jax.Array) -> jax.Array:
        scores = jax.vmap(partial(network, perturbed(*posterior, key)))(x[rows])
        chances = jnp.take_along_axis(jax.nn.log_softmax(scores), y[rows][:, None], axis=1)
        bounded = jnp.mean(jnp.maximum(chances, jnp.log(SMALLEST))) / jnp.log(SMALLEST)
        kl = pac_bayes.kl_divergence(*posterior, prior, jnp.log(scale))
        complexity = (kl + jnp.log(2 * jnp.sqrt(len(x)) / DELTA)) / (2 * len(x))
        return (jnp.sqrt(bounded + complexity) + jnp.sqrt(complexity)) ** 2

    def step(carry: tuple, key: jax.Array) -> tuple:
        posterior, state = carry
        row_key, key = jax.random.split(key)
        rows = jax.random.randint(row_key, (BATCH,), 0, len(x))
        updates, state = optimizer.update(jax.grad(objective)(posterior, rows, key), state)
        return (optax.apply_updates(posterior, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, steps))[0][0]


@compiled
def drawn_error(posterior: tuple, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
    """Return the mean error of independent pairs of weights and an example."""

    def pair(key: jax.Array) -> jax.Array:
        row_key, key = jax.random.split(key)
        row = jax.random.randint(row_key, (), 0, len(x))
        return jnp.argmax(network(perturbed(*posterior, key), x[row])) != y[row]

    return jnp.mean(jax.lax.map(pair, jax.random.split(key, DRAWS), batch_size=500))


def published(prior: dict, whole: tuple, rest: tuple, test: tuple, key: jax.Array, steps: int):
    """Return the smallest bound of their practice over the scales, and its error held out."""
    found = []
    for scale in map(jnp.asarray, SCALES):
        posterior, examples = f_quad(prior, *whole, key, scale, steps), len(rest[0])
        kl = float(pac_bayes.kl_divergence(*posterior, prior, jnp.log(scale)))
        error = drawn_error(posterior, *rest, jax.random.fold_in(key, 1))
        limit = pac_bayes.kl_inverse(error, np.log(2 / DRAW_DELTA) / DRAWS)
        complexity = (kl + np.log(2 * np.sqrt(examples) / DELTA)) / examples
        bound = float(pac_bayes.kl_inverse(limit, complexity))
        found.append((bound, float(drawn_error(posterior, *test, key)), kl, float(scale)))
    return min(found)


def bounds(seed: int, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Return the bound and the error on held-out digits for each way to certify."""
    digits = data.digits()
    order = np.random.default_rng(seed).permutation(len(digits.arrays["labels"]))
    x = jnp.asarray(digits.arrays["images"].reshape(len(order), -1)[order] / 16, jnp.float32)
    y = jnp.asarray(digits.arrays["labels"][order], int)
    whole, test = (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])
    keys = jax.random.split(jax.random.key(seed), 4)
    first = initialize(keys[0], x.shape[1], arguments.units)
    learn = lambda x, y: train(first, x, y, keys[1], arguments.prior_epochs)
    certify = partial(
        pac_bayes.certify,
        network,
        whole,
        test=test,
        key=keys[2],
        settings=pac_bayes.Settings(
            epochs=arguments.epochs, batch_size=BATCH, delta=DELTA, draw_delta=DRAW_DELTA
        ),
        loss=cross_entropy_bits if arguments.bits else relative_cross_entropy,
    )
    plain = certify(prior=first, params=learn(*whole)).certificate
    learned = certify(prior=pac_bayes.LearnedPrior(learn)).certificate
    if not (plain.check(whole).holds and learned.check(whole).holds):
        raise RuntimeError(f"A certificate does not hold: {plain.check()}, {learned.check()}")
    rows = read_rows(learned.prior_rows, learned.prior_examples, learned.examples)
    prior, rest = learn(*select(whole, rows)), select(whole, ~rows)
    steps = arguments.epochs * TRAIN // BATCH
    *peer, kl, scale = published(prior, whole, rest, test, keys[3], steps)
    found = {
        "initialization": (plain.bound, plain.test_error),
        "learned": (learned.bound, learned.test_error),
        "f_quad": tuple(peer),
    }
    text = ", ".join(f"{name} {a:.3f} (held out {b:.3f})" for name, (a, b) in found.items())
    numbers = f"KL {plain.kl:.0f}, {learned.kl:.1f}, {kl:.1f}; scale of f_quad {scale:.2f}"
    print(f"seed {seed}: {text}; {numbers}", flush=True)
    return found


def main(arguments: argparse.Namespace) -> None:
    """Certify all seeds, and print means with standard errors beside the bars."""
    found = [bounds(seed, arguments) for seed in range(arguments.seeds)]
    for name, bar in BARS.items():
        columns = np.array([one[name] for one in found])
        mean = columns.mean(axis=0)
        error = columns.std(axis=0, ddof=1) / np.sqrt(len(found))
        print(
            f"{name}: bound {mean[0]:.4f} +- {error[0]:.4f}, largest {columns[:, 0].max():.4f}, "
            f"held out {mean[1]:.4f} +- {error[1]:.4f}; below {bar}: "
            f"{np.sum(columns[:, 0] < bar)} of {len(found)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--units", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--prior-epochs", type=int, default=40)
    parser.add_argument("--bits", action="store_true", help="the surrogate in bits")
    main(parser.parse_args())
