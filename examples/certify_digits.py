"""Certify a network that tells handwritten digits 0 to 4 from 5 to 9.

    python examples/certify_digits.py --out runs/certify_digits

A network of 64-50-2 units is trained on 1,400 digits. From the same 1,400, without any held-out
ones, `certify` computes a bound on how often its stochastic version errs on new digits, once with
independent weights and once in the eigenbasis of the layer-wise Hessians. The certificate is saved,
read back and checked. Under a minute on two cores.
"""

import argparse
from functools import partial
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metastep import pac_bayes
from metastep.compilation import compiled
from metastep_lab import data

UNITS, CLASSES, TRAIN = 50, 2, 1400
EPOCHS, BATCH = 40, 100


def network(params: dict, x: jax.Array) -> jax.Array:
    """Return the scores of the two classes for one image."""
    hidden = jax.nn.relu(params["W1"] @ x + params["b1"])
    return params["W2"] @ hidden + params["b2"]


def initialize(key: jax.Array, inputs: int) -> dict:
    """Return random parameters: the prior's mean, chosen before any data are seen."""
    first, second = jax.random.split(key)
    return {
        "W1": 0.1 * jax.random.normal(first, (UNITS, inputs)),
        "b1": jnp.zeros(UNITS),
        "W2": 0.1 * jax.random.normal(second, (CLASSES, UNITS)),
        "b2": jnp.zeros(CLASSES),
    }


def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean cross-entropy."""
    scores = jax.vmap(partial(network, params))(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, y))


@compiled
def train(params: dict, x: jax.Array, y: jax.Array, key: jax.Array) -> dict:
    """Train by stochastic gradient descent, as anyone would."""
    optimizer = optax.sgd(0.01, momentum=0.9)

    def step(carry: tuple, rows: jax.Array) -> tuple:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, x[rows], y[rows]), state)
        return (optax.apply_updates(params, updates), state), None

    shuffle = lambda key: jax.random.permutation(key, len(x)).reshape(-1, BATCH)
    order = jax.vmap(shuffle)(jax.random.split(key, EPOCHS)).reshape(-1, BATCH)
    return jax.lax.scan(step, (params, optimizer.init(params)), order)[0][0]


def main(folder: Path) -> None:
    """Train, certify twice, save and check."""
    digits = data.digits()
    order = np.random.default_rng(0).permutation(len(digits.arrays["labels"]))
    x = jnp.asarray(digits.arrays["images"].reshape(len(order), -1)[order] / 16, jnp.float32)
    y = jnp.asarray(digits.arrays["labels"][order] >= 5, int)
    prior = initialize(jax.random.key(0), x.shape[1])
    params = train(prior, x[:TRAIN], y[:TRAIN], jax.random.key(1))

    for name, rotation in {"independent": pac_bayes.BASE, "eigenbasis": pac_bayes.ITER}.items():
        begin = perf_counter()
        certificate, _ = pac_bayes.certify(
            network,
            (x[:TRAIN], y[:TRAIN]),
            params=params,
            prior=prior,
            test=(x[TRAIN:], y[TRAIN:]),
            key=jax.random.key(2),
            settings=pac_bayes.Settings(rotation=rotation),
        )
        path = folder / f"{name}.json"
        certificate.save(path)
        verdict = pac_bayes.Certificate.load(path).check()
        print(
            f"{name}: error below {certificate.bound:.3f} with confidence "
            f"{certificate.confidence:.3f} (held out: {certificate.test_error:.3f}); "
            f"{'holds up' if verdict.holds else verdict.reasons}; "
            f"{perf_counter() - begin:.0f} s; {path}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/certify_digits"))
    main(parser.parse_args().out)
