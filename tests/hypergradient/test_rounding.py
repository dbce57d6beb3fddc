"""What rounding costs a hypergradient, against the same run in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.compilation import compiled
from metastep.hypergradient.bias_curve import bias_curve
from metastep.optimizers import adam
from metastep.problems.base import split_keys

RANDOM = np.random.default_rng(0)
INPUTS, STEPS = RANDOM.normal(size=(32, 4)), 80
TARGETS = np.sin(INPUTS @ np.array([1.0, -2.0, 0.5, 1.5]))
START = {"in": RANDOM.normal(size=(4, 8)) / 2, "out": RANDOM.normal(size=(8, 1)) / 3}
RECURRENT = {"in": RANDOM.normal(size=8), "mix": RANDOM.normal(size=(8, 8)) / 3}


def layers(params, outer, rows):
    hidden = jnp.tanh(jnp.asarray(INPUTS, params["in"].dtype)[rows] @ params["in"])
    return (hidden @ params["out"])[:, 0]


def recurrent(params, outer, rows):
    """Read a row number by number, and carry a hidden state on."""
    read = lambda state, x: jnp.tanh(x * params["in"] + params["mix"] @ state)
    inputs = jnp.asarray(INPUTS, params["in"].dtype)[rows]

    def predict(row):
        state, _ = jax.lax.scan(lambda s, x: (read(s, x), None), jnp.zeros_like(params["in"]), row)
        return jnp.sum(state)

    return jax.vmap(predict)(inputs)


def normalised(params, outer, rows):
    """Hidden units have mean 0 and variance 1 over the batch."""
    hidden = jnp.asarray(INPUTS, params["in"].dtype)[rows] @ params["in"]
    hidden = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 1e-5)
    return (jnp.tanh(hidden) @ params["out"])[:, 0]


def rate(make, base=1e-2):
    """A warm-up and a cosine around the step size that is tuned."""
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, STEPS // 10, STEPS)
    return lambda outer: make(lambda t: base * jnp.exp(outer["step_size"]) * shape(t))


matrices = lambda params: jax.tree.map(lambda x: x.ndim == 2, params)
OPTIMIZERS = {
    "sgd": rate(optax.sgd, 0.1),
    "momentum": rate(lambda r: optax.sgd(r, momentum=0.9), 0.1),
    "adam": rate(adam),
    "adam-root": rate(lambda r: optax.adam(r, eps_root=1e-8)),
    "adamw": rate(lambda r: optax.adamw(r, eps_root=1e-8, weight_decay=1e-2)),
    "rmsprop": rate(lambda r: optax.rmsprop(r, initial_scale=1e-4)),
    "adafactor": rate(lambda r: optax.adafactor(r, min_dim_size_to_factor=4)),
    "lion": rate(optax.lion, 1e-3),
    "muon": rate(optax.contrib.muon),
    "schedule-free": lambda outer: optax.contrib.schedule_free_sgd(0.1 * jnp.exp(outer["step_size"])),
    "clipped": rate(lambda r: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(r)), 0.3),
    "edge": rate(lambda r: optax.sgd(r, momentum=0.9), 1.0),
    "chaotic": rate(lambda r: optax.sgd(r), 12.0),
}
MODELS = {"recurrent": recurrent, "normalised": normalised}
ROWS = [*((name, layers) for name in OPTIMIZERS), *(("adam", m) for m in MODELS.values())]


def problem_of(optimizer, predict, dtype):
    """Train on random batches of 16; the numbers are float32 numbers in either precision."""
    start = RECURRENT if predict is recurrent else START
    start = jax.tree.map(lambda x: jnp.asarray(np.float32(x), dtype), start)
    targets = jnp.asarray(np.float32(TARGETS), dtype)

    def error(params, outer, rows):
        return jnp.mean((predict(params, outer, rows) - targets[rows]) ** 2)

    def loss(params, outer, rows):
        squares = sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        return error(params, outer, rows) + 1e-3 * jnp.exp(outer["decay"]) * squares

    def batch(t, key):
        # The same rows in both precisions.
        return jnp.asarray(ORDER)[t]

    judge = lambda params, outer: error(params, outer, jnp.arange(16, 32))
    problem = ms.TrainingProblem(loss, judge, start, OPTIMIZERS[optimizer], STEPS, batch)
    return problem, {"step_size": jnp.zeros((), dtype), "decay": jnp.zeros((), dtype)}


ORDER = RANDOM.integers(0, 16, (STEPS, 8))


@compiled
def gradient(problem, outer, key, rounding, rounding_key):
    curve = bias_curve(
        problem,
        outer,
        split_keys(key),
        (1,),
        stored=True,
        rounding=rounding,
        rounding_key=rounding_key,
    )
    return ravel_pytree(curve.exact)[0]


def digits(error):
    """Decimal digits that a relative error costs in float32."""
    return float(np.clip(np.log10(error / np.finfo(np.float32).eps), 0, 7))


@pytest.mark.parametrize(("optimizer", "predict"), ROWS)
def test_digits_lost_are_those_lost_against_float64(optimizer, predict, key):
    problem, outer = problem_of(optimizer, predict, jnp.float32)
    plain = np.asarray(gradient(problem, outer, key, jnp.array(False), key), np.float64)
    moved = [
        np.asarray(gradient(problem, outer, key, jnp.array(True), jax.random.key(i)), np.float64)
        for i in range(2)
    ]
    errors = [np.linalg.norm(x - plain) / max(map(np.linalg.norm, (x, plain))) for x in moved]
    found = digits(np.sqrt(np.mean(np.square(errors))))
    with jax.enable_x64(True):
        fine, outer = problem_of(optimizer, predict, jnp.float64)
        exact = compiled(lambda outer: ravel_pytree(ms.Reverse().estimate(fine, outer, None, key)[0].grad)[0])(outer)
        exact = np.asarray(exact)
    true = digits(np.linalg.norm(plain - exact) / max(map(np.linalg.norm, (plain, exact))))
    print(optimizer, predict.__name__, "found", round(found, 2), "true", round(true, 2), plain, exact)
    assert abs(found - true) <= 1
