"""Certificates of digits with ten classes: priors that have seen no data, and learned ones.

`python benchmarks/learned_prior.py [--seeds 5] [--epochs 200] [--bits]` trains a network of
64-50-10 units for each seed and certifies it twice from the same 1,500 digits: with the
initialization as the prior, and with a prior that half of the digits trained, so that the bound is
from the other half. The remaining 297 digits check both. Means and standard errors are over the
seeds, each with its own split, initialization and draws. With `--bits` the surrogate of the error
is the cross-entropy in bits, as for two classes, in place of that relative to a guess.
"""

import argparse
from functools import partial
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metastep import pac_bayes
from metastep.compilation import compiled
from metastep.pac_bayes.certify import cross_entropy_bits, relative_cross_entropy
from metastep_lab import data

CLASSES, TRAIN, BATCH = 10, 1500, 50
BARS = {"initialization": 0.5, "learned": 0.3}


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


def certificates(seed: int, arguments: argparse.Namespace) -> dict[str, pac_bayes.Certificate]:
    """Return the certificate of each kind of prior."""
    digits = data.digits()
    order = np.random.default_rng(seed).permutation(len(digits.arrays["labels"]))
    x = jnp.asarray(digits.arrays["images"].reshape(len(order), -1)[order] / 16, jnp.float32)
    y = jnp.asarray(digits.arrays["labels"][order], int)
    keys = jax.random.split(jax.random.key(seed), 4)
    first = initialize(keys[0], x.shape[1], arguments.units)
    learned = lambda x, y: train(first, x, y, keys[1], arguments.prior_epochs)
    certify = partial(
        pac_bayes.certify,
        network,
        (x[:TRAIN], y[:TRAIN]),
        test=(x[TRAIN:], y[TRAIN:]),
        key=keys[2],
        settings=pac_bayes.Settings(epochs=arguments.epochs, batch_size=BATCH),
        loss=cross_entropy_bits if arguments.bits else relative_cross_entropy,
    )
    params = train(first, x[:TRAIN], y[:TRAIN], keys[1], arguments.prior_epochs)
    starts = {"initialization": (first, params), "learned": (pac_bayes.LearnedPrior(learned), None)}
    found = {}
    for name, (prior, start) in starts.items():
        begin = perf_counter()
        certificate = found[name] = certify(params=start, prior=prior).certificate
        print(
            f"seed {seed}, {name}: error below {certificate.bound:.3f}, held out "
            f"{certificate.test_error:.3f}, KL {certificate.kl:.0f}, examples "
            f"{certificate.examples}, holds up: {certificate.check().holds}, "
            f"{perf_counter() - begin:.0f} s",
            flush=True,
        )
    return found


def main(arguments: argparse.Namespace) -> None:
    """Certify all seeds, and print means with standard errors beside the bars."""
    found = [certificates(seed, arguments) for seed in range(arguments.seeds)]
    for name, bar in BARS.items():
        bounds = np.array([one[name].bound for one in found])
        tests = np.array([one[name].test_error for one in found])
        error = lambda values: np.std(values, ddof=1) / np.sqrt(len(values))
        print(
            f"{name}: bound {bounds.mean():.4f} +- {error(bounds):.4f}, largest "
            f"{bounds.max():.4f}, held out {tests.mean():.4f} +- {error(tests):.4f}; below {bar}: "
            f"{np.sum(bounds < bar)} of {len(bounds)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--units", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--prior-epochs", type=int, default=40)
    parser.add_argument("--bits", action="store_true", help="the surrogate in bits")
    main(parser.parse_args())
