"""Trained optimizers in files: what comes back, what is refused, and the horizon."""

import io
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep.learned import (
    CoordinatewiseLSTM,
    HorizonWarning,
    LearnedAdam,
    LearnedSchedule,
    LearnedSGD,
    MLPOptimizer,
    OptimizerFileError,
    TrainedOptimizer,
    load,
    pretrained,
    read,
    save,
)

FAMILIES = [
    MLPOptimizer(5, True),
    CoordinatewiseLSTM(np.int64(3), 1),
    LearnedSGD(layers=np.int64(2)),
    LearnedAdam(),
    LearnedSchedule((0, 5), 0.2),
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_comes_back(family, key, tmp_path):
    trained = TrainedOptimizer(family, family.initial_weights(key), 70, "for a test")
    save(tmp_path / "one.npz", trained)
    found = read(tmp_path / "one.npz")
    assert (found.optimizer, found.horizon, found.description) == (family, 70, "for a test")
    assert jax.tree.structure(found.weights) == jax.tree.structure(trained.weights)
    pairs = zip(jax.tree.leaves(found.weights), jax.tree.leaves(trained.weights), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_come_back_in_their_precision(dtype, key, tmp_path, x64):
    weights = MLPOptimizer(3).initial_weights(key)
    weights = jax.tree.map(lambda leaf: (leaf + 1 / 3).astype(dtype), weights)
    save(tmp_path / "one.npz", TrainedOptimizer(MLPOptimizer(3), weights, 9))
    found = jax.tree.leaves(read(tmp_path / "one.npz").weights)
    for one, other in zip(found, jax.tree.leaves(weights), strict=True):
        assert one.dtype == other.dtype == jnp.dtype(dtype)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def content_of(change):
    """Return a file in which `change(header, arrays)` has changed something."""
    family = MLPOptimizer(2)
    weights = family.initial_weights(jax.random.key(0))
    arrays = {
        f"{layer}/{name}": np.array(leaf)
        for layer, both in weights.items()
        for name, leaf in both.items()
    }
    header = {
        "schema": "metastep learned optimizer 1",
        "optimizer": "MLPOptimizer",
        "settings": {"hidden": 2, "standardize": False, "fan_in": True},
        "horizon": 9,
        "description": "",
    }
    change(header, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array(json.dumps(header)), **arrays)
    return buffer.getvalue()


WHOLE = content_of(lambda header, arrays: None)
DAMAGED = {
    "truncated": (WHOLE[: len(WHOLE) // 2], "damaged"),
    "one byte": (WHOLE[:600] + bytes([WHOLE[600] ^ 1]) + WHOLE[601:], "damaged"),
    "empty": (b"", "damaged"),
    "text": (b"weights", "damaged"),
    "other schema": (content_of(lambda h, a: h.update(schema="2")), "no learned optimizer of the"),
    "not an optimizer": (content_of(lambda h, a: h.update(optimizer="SGD")), "describes no"),
    "no horizon": (content_of(lambda h, a: h.pop("horizon")), "describes no"),
    "settings": (content_of(lambda h, a: h["settings"].update(units=3)), "describes no"),
    "shapes": (content_of(lambda h, a: h["settings"].update(hidden=3)), "this optimizer needs"),
    "missing": (content_of(lambda h, a: a.pop("hidden/bias")), "this optimizer needs"),
    "nan": (content_of(lambda h, a: a["output/bias"].fill(np.nan)), "not of finite floats"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(content, message, tmp_path):
    path = tmp_path / "one.npz"
    path.write_bytes(content)
    with pytest.raises(OptimizerFileError, match=message):
        load(path)


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "one.npz", header=np.array([{"a": 1}], object))
    with pytest.raises(OptimizerFileError, match="damaged"):
        load(tmp_path / "one.npz")


class OwnSGD(LearnedSGD):
    """A family that is not the library's."""


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (LearnedSchedule((0, 1), direction=optax.trace(0.9)), "direction is a function"),
        (OwnSGD(), "optimizer is a OwnSGD; allowed are MLPOptimizer"),
    ],
)
def test_what_cannot_be_saved(family, message, tmp_path, key):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "one.npz", TrainedOptimizer(family, family.initial_weights(key), 1))
    assert not list(tmp_path.iterdir())


def test_steps_beyond_the_horizon(tmp_path):
    path = tmp_path / "one.npz"
    path.write_bytes(WHOLE)
    with pytest.raises(ValueError, match="steps is 10; allowed are 1 to 9"):
        load(path, steps=10)

    def run(optimizer, steps):
        params = jnp.ones(3)

        def step(carry, _):
            updates, state = optimizer.update(2 * carry[0], carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        carry = (params, optimizer.init(params))
        return jax.block_until_ready(jax.lax.scan(step, carry, length=steps)[0][0])

    run(load(path), 9)  # no warning: they are errors in these tests
    with pytest.warns(HorizonWarning, match="at most 9 steps"):
        beyond = run(load(path), 12)
        jax.effects_barrier()
    assert np.all(np.isfinite(beyond))
    # The longest horizon that a file may have: one more step has no number in 32 bits.
    longest = replace(read(path), horizon=2**31 - 1)
    assert np.all(np.isfinite(run(longest.transformation(), 2)))
    assert np.array_equal(run(load(path), 9), run(load(path, steps=9), 9))


def test_the_pretrained_optimizer_beats_plain_descent(key):
    trained = pretrained()
    assert trained.horizon >= 400 and "metastep run mlp-optimizer" in trained.description
    inputs = jax.random.normal(key, (200, 20))
    labels = jnp.argmax(inputs[:, :5] + jnp.roll(inputs[:, 5:10], 1, axis=1), axis=1)
    params = {
        "hidden": 0.2 * jax.random.normal(key, (20, 30)),
        "output": 0.2 * jax.random.normal(key, (30, 5)),
    }

    def loss(params):
        scores = jax.nn.relu(inputs @ params["hidden"]) @ params["output"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))

    def train(optimizer):
        def step(carry, _):
            updates, state = optimizer.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return loss(jax.lax.scan(step, (params, optimizer.init(params)), length=300)[0][0])

    # A problem of another kind. Plain descent at step size 0.1 ends near 0.6.
    assert train(trained.transformation(300)) < train(optax.sgd(0.1))
