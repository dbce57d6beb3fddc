"""What rounding costs a hypergradient, against the same run in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.compilation import compiled
from metastep.diagnosis.bias_curve import bias_curve
from metastep.optimizers import adam
from metastep.problems.base import split_keys
from metastep.rounding import rounded

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


# In optax 1 - 0.999^t loses four digits in float32: a comparison with float64 would see another
# optimizer. These decay rates are the same in both. Our own Adam needs no such care.
EXACT = {"b1": 1 - 2.0**-3, "b2": 1 - 2.0**-10}
OPTIMIZERS = {
    "sgd": rate(optax.sgd, 0.1),
    "momentum": rate(lambda r: optax.sgd(r, momentum=0.9), 0.1),
    "adam": rate(adam),
    "adam-root": rate(lambda r: optax.adam(r, **EXACT, eps_root=1e-8)),
    "adamw": rate(lambda r: optax.adamw(r, **EXACT, eps_root=1e-8, weight_decay=1e-2)),
    "rmsprop": rate(lambda r: optax.rmsprop(r, initial_scale=1e-4)),
    "adafactor": rate(lambda r: optax.adafactor(r, min_dim_size_to_factor=4)),
    "lion": lambda outer: rate(lambda r: optax.lion(r, weight_decay=jnp.exp(outer["decay"])), 1e-3)(
        outer
    ),
    "muon": rate(optax.contrib.muon),
    "schedule-free": lambda outer: optax.contrib.schedule_free_sgd(
        0.1 * jnp.exp(outer["step_size"])
    ),
    "clipped": rate(lambda r: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(r)), 0.3),
    "edge": rate(lambda r: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(r)), 1.0),
    "chaotic": rate(lambda r: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(r)), 8.0),
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


def gradients(problem, outer, key, rounding):
    """Return the gradients at neighbouring hyperparameters, a row each."""
    keys = split_keys(key)

    def one(shift):
        there = jax.tree.map(lambda x: x + shift, outer)
        curve = bias_curve(problem, there, keys, (1,), stored=True, rounding=rounding)
        return ravel_pytree(curve.exact)[0]

    shifts = jnp.asarray(SHIFTS, outer["step_size"].dtype)
    return jax.lax.map(one, shifts)


SHIFTS = (0.0, 0.125, 0.25, 0.375)
"""Exact in both precisions. The error of one gradient is one draw: it may be small by chance."""


def digits(rows, others):
    """Decimal digits of float32 by which gradients differ, root mean square over the rows."""
    sizes = np.maximum(np.linalg.norm(rows, axis=1), np.linalg.norm(others, axis=1))
    errors = np.linalg.norm(rows - others, axis=1) / sizes
    return float(np.clip(np.log10(np.sqrt(np.mean(errors**2)) / np.finfo(np.float32).eps), 0, 7))


# A known fault, of unknown cause: six simulated draws say 1.0 to 1.4 digits too many under Muon on
# one kind of processor, and less than one on another. Too few would be the harmful side.
OVERSTATED = {"muon": 1.5}


def test_numbers_move_relative_to_themselves_and_to_their_update():
    """Seed 0 moves nothing; small integers stay; large and small numbers move alike."""
    before = [jnp.float32([1.5e-9, 1.5, 1.5e9, 0.0, 1.0, 7.0])]
    after = [before[0] * jnp.float32([1.001, 1.001, 1.001, 1.0, 1.0, 1.0])]
    at = lambda seed: rounded(after, before, jnp.int32(seed), jnp.int32(3))[0]
    assert np.array_equal(at(0), after[0])
    draws = np.stack([at(seed) / np.where(after[0] == 0, 1, after[0]) for seed in range(1, 200)])
    assert np.array_equal(draws[:, 3:], np.broadcast_to([0.0, 1.0, 1.0], (199, 3)))
    moves = np.abs(draws[:, :3] - 1) / np.finfo(np.float32).eps
    # At most the unit in the last place, which is up to eps of the number.
    assert moves.max() <= 1 and np.all((0.1 < moves.mean(0)) & (moves.mean(0) < 0.5))


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float16, 1500.0), (jnp.bfloat16, 200.0)])
def test_integers_of_half_precision_are_rounded_numbers(dtype, size):
    """Above 1024 and 128 float16 and bfloat16 have integers only; counters are smaller."""
    state = [jnp.array([size, 3.0], dtype)]
    draws = [rounded(state, state, jnp.int32(seed), jnp.int32(0))[0] for seed in range(1, 60)]
    moved = np.stack(draws) != np.asarray(state[0])
    assert moved[:, 0].any() and not moved[:, 1].any()


@pytest.mark.parametrize(("optimizer", "predict"), ROWS)
def test_digits_lost_are_those_lost_against_float64(optimizer, predict, key):
    problem, outer = problem_of(optimizer, predict, jnp.float32)
    compute = compiled(gradients)
    at = lambda rounding: np.asarray(compute(problem, outer, key, jnp.int32(rounding)), np.float64)
    plain = at(False)
    found = digits(plain, at(True))
    with jax.enable_x64(True):
        fine, outer = problem_of(optimizer, predict, jnp.float64)
        exact = np.asarray(compute(fine, outer, key, jnp.int32(0)))
    true = digits(plain, exact)
    assert -1 <= found - true <= OVERSTATED.get(optimizer, 1)
    assert (found > 6) == (optimizer == "chaotic")
