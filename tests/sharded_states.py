"""A program for `test_sharding.py`: one model whose state and batches are spread over 8 devices.

`python -m tests.sharded_states PRECISION NAME...` prints as JSON the relative distances of the
named hypergradients to those of one device, and messages; without names of all, and memory figures.
"""

import json
import sys
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import metastep as ms
from metastep.driven.driven import placed
from metastep.driven.feeding import Feed
from metastep.driven.passes import Run, back, judge
from metastep.problems.base import split_keys

WIDTH, ROWS, HORIZON = 64, 32, 9
SEED = 0
ESTIMATORS = {
    "reverse": ms.Reverse(mixed=False),
    "mixed": ms.Reverse(mixed=True),
    "segments": ms.Reverse(4),
    "truncated": ms.TruncatedReverse(4),
}
DRIVEN = {
    "driven": (ms.Reverse("binomial", mixed=True), {}),
    "driven-truncated": (ms.TruncatedReverse(5, checkpoint=2), {}),
    "driven-on-disk": (ms.Reverse(ms.Binomial(3)), {"save_every": 0.0}),
}


class Rows(eqx.Module):
    """The same examples at every step."""

    x: jax.Array
    y: jax.Array

    def __call__(self, t, key):
        return self.x, self.y


def predict(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"] + params["bias"]


def loss(params, outer, batch):
    x, y = batch
    errors = jnp.mean((predict(params, x) - y) ** 2, axis=1)
    decay = jnp.exp(outer["decay"]) * jnp.sum(params["in"] ** 2)
    return jnp.mean(jax.nn.sigmoid(outer["weights"]) * errors) + decay


def problem(params, batch):
    return ms.TrainingProblem(
        loss=loss,
        objective=lambda params, outer: jnp.mean(predict(params, jnp.eye(WIDTH)) ** 2),
        init_params=params,
        optimizer=lambda outer: optax.adam(jnp.exp(outer["step_size"]), eps_root=1e-8),
        horizon=HORIZON,
        batch=batch,
    )


def parts():
    """Return parameters, examples and hyperparameters as arrays of NumPy."""
    normal = np.random.default_rng(0).normal
    params = {
        "in": normal(size=(WIDTH, WIDTH)) / 8,
        "out": normal(size=(WIDTH, WIDTH)) / 8,
        "bias": np.zeros(WIDTH),
    }
    rows = (normal(size=(ROWS, WIDTH)), normal(size=(ROWS, WIDTH)))
    outer = {"decay": -5.0, "step_size": -4.0, "weights": np.linspace(-1.0, 1.0, ROWS)}
    return params, rows, outer


def spread(mesh):
    """Return the same with matrices by columns and rows, examples by rows."""
    put = lambda x, *axes: jax.device_put(jnp.asarray(x), NamedSharding(mesh, PartitionSpec(*axes)))
    params, rows, outer = parts()
    params = {
        "in": put(params["in"], None, "devices"),
        "out": put(params["out"], "devices"),
        "bias": put(params["bias"]),
    }
    rows = tuple(put(x, "devices") for x in rows)
    return params, rows, outer | {"weights": put(outer["weights"], "devices")}


def distance(found, expected):
    found, expected = (np.asarray(ravel_pytree(jax.device_get(x))[0]) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def hypergradient(name, params, rows, outer):
    if name in ESTIMATORS:
        one = problem(params, Rows(*map(jnp.asarray, rows)))
        return ms.hypergradient(one, outer, ESTIMATORS[name], key=jax.random.key(SEED)).grad
    estimator, options = DRIVEN[name]
    one = problem(params, ms.Batches(lambda t: rows))
    with tempfile.TemporaryDirectory() as folder:
        place = {"directory": folder} if options else {}
        return ms.driven_hypergradient(
            one, outer, estimator, key=jax.random.key(SEED), **place, **options
        ).grad


def temporaries(params, rows, outer):
    """Return the temporary memory of one device for reverse mode in one program, in bytes."""
    one = problem(params, Rows(*map(jnp.asarray, rows)))
    arrays, static = eqx.partition(one, eqx.is_array)
    gradient = lambda arrays, outer: ms.Reverse(mixed=True).estimate(
        eqx.combine(arrays, static), outer, None, jax.random.key(SEED)
    )
    lowered = jax.jit(lambda *both: gradient(*both)[0].grad).lower(arrays, outer)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def segment(params, rows, outer):
    """Return what one device holds for a state of a driven run, and to go back over a segment."""
    outer = jax.tree.map(jnp.asarray, outer)
    batches = ms.Batches(lambda t: rows)
    feed = Feed(batches, HORIZON)
    run = Run(problem(params, batches), outer, split_keys(jax.random.key(SEED)))
    run, point = placed(run, feed, 1)
    arrays = jax.tree.leaves(eqx.filter(point, eqx.is_array))
    state = sum(x.addressable_shards[0].data.nbytes for x in arrays)
    given = (run, point, feed.load(0, 1), 1, judge(run, point))
    arrays, static = eqx.partition(given, eqx.is_array)
    call = lambda arrays: eqx.filter(back(*eqx.combine(arrays, static)), eqx.is_array)
    return state, jax.jit(call).lower(arrays).compile().memory_analysis().temp_size_in_bytes


def refusals():
    """Return the messages for a mesh with explicit axes, and for batches on other devices."""
    found, inside = [], Mesh(jax.devices(), ("devices",))
    params, _, outer = spread(inside)
    other = spread(Mesh(jax.devices()[:4], ("devices",)))[1]
    explicit = spread(jax.make_mesh((8,), ("devices",)))
    for params_, rows_, outer_ in (explicit, (params, other, outer)):
        try:
            hypergradient("mixed", params_, rows_, outer_)
        except ValueError as error:
            found.append(str(error))
    return found


def main(precision, *names):
    jax.config.update("jax_enable_x64", precision == "float64")
    jax.config.update("jax_num_cpu_devices", 8)
    on_one, on_eight = parts(), spread(Mesh(jax.devices(), ("devices",)))
    key, expected, found = jax.random.key(SEED), {}, {}
    for name in names or (*ESTIMATORS, *DRIVEN):
        window = "4" if name == "truncated" else "5" if "truncated" in name else ""
        if window not in expected:
            estimator = ms.TruncatedReverse(int(window)) if window else ms.Reverse()
            one = problem(on_one[0], Rows(*map(jnp.asarray, on_one[1])))
            expected[window] = ms.hypergradient(one, on_one[2], estimator, key=key).grad
        found[name] = distance(hypergradient(name, *on_eight), expected[window])
    if not names:
        found["temporaries"] = [temporaries(*on_one), temporaries(*on_eight)]
        found["segment"] = [segment(*on_one), segment(*on_eight)]
    found["refused"] = refusals()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
