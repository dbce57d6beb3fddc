"""A program for `test_sharding.py`: eight devices, or one of two processes with one device each.

The number of devices of a process is fixed when JAX starts, so none of this can run in the tests'
own process. `python -m tests.sharded PRECISION NAME...` prints the relative differences of
the named estimators on eight devices as JSON; without names all, and on four devices too.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import metastep as ms
from metastep.compilation import compiled
from metastep.minimize.loop import Loop

TASKS = 8
HORIZON = 6


def ridge(key):
    """Linear regression on random examples; the step size and the decay are tuned."""
    inputs = jax.random.normal(key, (5, 3), jnp.result_type(float))
    targets = inputs @ jnp.array([1.0, -0.5, 0.3])
    decay = lambda w, outer: jnp.exp(outer["decay"]) * jnp.sum(w**2)
    return ms.TrainingProblem(
        loss=lambda w, outer, batch: jnp.mean((inputs @ w - targets) ** 2) + decay(w, outer),
        objective=lambda w, outer: jnp.sum((w - targets[:3]) ** 2) + 1.0,
        init_params=jnp.full(3, 0.1),
        optimizer=lambda outer: optax.sgd(outer["step_size"]),
        horizon=HORIZON,
    )


def homogeneous(key):
    """A random quadratic around 0: what `LogDomain` asks for."""
    scales = 0.5 + jax.random.uniform(key, (3,), jnp.result_type(float))
    return ms.TrainingProblem(
        loss=lambda w, outer, batch: jnp.sum(scales * w**2) / 2,
        objective=lambda w, outer: jnp.sum(scales * w**2) / 2,
        init_params=jnp.ones(3),
        optimizer=lambda outer: optax.sgd(outer["step_size"]),
        horizon=HORIZON,
    )


STEP_SIZE = {"step_size": 0.1}
BOTH = {"step_size": 0.1, "decay": -3.0}
ESTIMATORS = {
    "reverse": (ridge, BOTH, lambda: ms.Reverse()),
    "sqrt": (ridge, BOTH, lambda: ms.Reverse("sqrt")),
    "binomial": (ridge, BOTH, lambda: ms.Reverse(ms.Binomial(2))),
    "mixed": (ridge, BOTH, lambda: ms.Reverse(mixed=True)),
    "truncated": (ridge, BOTH, lambda: ms.TruncatedReverse(3)),
    "forward": (ridge, BOTH, lambda: ms.Forward()),
    "implicit": (ridge, BOTH, lambda: ms.Implicit()),
    "neumann": (ridge, BOTH, lambda: ms.Implicit(ms.Neumann(4))),
    "evolution": (ridge, BOTH, lambda: ms.EvolutionStrategies(sigma=0.01, pairs=3)),
    "directions": (ridge, BOTH, lambda: ms.RandomDirections(directions=2)),
    "differences": (ridge, BOTH, lambda: ms.CentralDifferences()),
    "log-domain": (homogeneous, STEP_SIZE, lambda: ms.LogDomain(ms.Reverse())),
}


def hypergradient(name, mesh):
    """Return the value and the hypergradient of one outer step over a meta-batch."""
    sampler, outer, estimator = ESTIMATORS[name]
    run = ms.minimize(
        sampler,
        outer,
        estimator(),
        optimizer=optax.sgd(0.0),
        steps=1,
        key=jax.random.key(3),
        meta_batch=TASKS,
        mesh=mesh,
        record=lambda step, outer, estimate: (estimate.value, estimate.grad, estimate.result),
    )
    *numbers, _ = run.history.recorded
    return np.array([float(x[0]) for x in jax.tree.leaves(numbers)])


def difference(found, expected):
    # `Implicit` answers NaN about a step size, on every device.
    assert np.array_equal(np.isnan(found), np.isnan(expected)) and np.isfinite(expected).any()
    return float(np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)))


def inner_batches():
    """Return the difference when the examples of the inner loss lie on eight devices."""
    inputs = np.random.default_rng(0).normal(size=(16, 3))
    targets = inputs @ np.array([1.0, -0.5, 0.3])

    def problem(inputs, targets):
        return ms.TrainingProblem(
            loss=lambda w, outer, batch: jnp.mean((inputs @ w - targets) ** 2),
            objective=lambda w, outer: jnp.sum(w**2),
            init_params=jnp.full(3, 0.1),
            optimizer=lambda outer: optax.sgd(outer["step_size"]),
            horizon=HORIZON,
        )

    @compiled
    def gradient(inputs, targets):
        inner, key = problem(inputs, targets), jax.random.key(0)
        return ms.hypergradient(inner, STEP_SIZE, ms.Reverse(), key=key).grad["step_size"]

    sharding = NamedSharding(Mesh(jax.devices(), ("examples",)), PartitionSpec("examples"))
    spread = [jax.device_put(x, sharding) for x in (inputs, targets)]
    expected = gradient(jnp.asarray(inputs), jnp.asarray(targets))
    return abs(float(gradient(*spread) / expected) - 1)


def memory():
    """Return the temporary memory of one device for one and for eight devices, in bytes."""
    rng = jax.random.key(0)

    def sampler(key):
        start = jax.random.normal(key, (1000,))
        return ms.TrainingProblem(
            loss=lambda w, outer, batch: jnp.sum(w**2) / 2,
            objective=lambda w, outer: jnp.sum(jnp.sin(w)),
            init_params=start,
            optimizer=lambda outer: optax.sgd(outer["step_size"]),
            horizon=50,
        )

    def size(mesh):
        loop = Loop(
            sampler, ms.Reverse(), optax.sgd(0.1), rng, TASKS, TASKS, mesh, None, None, False
        )
        step = lambda outer, t: loop.estimate(outer, (), t)[0].grad
        lowered = jax.jit(step).lower({"step_size": jnp.array(0.1)}, jnp.array(0))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    return [size(None), size(Mesh(jax.devices(), ("tasks",)))]


def refusals():
    """Return the messages for a meta-batch that cannot be shared out, and for none."""
    mesh, found = jax.make_mesh((8,), ("tasks",)), []
    arguments = {"optimizer": optax.sgd(0.1), "steps": 1, "key": jax.random.key(0), "mesh": mesh}
    for problem, meta_batch in ((ridge, 12), (ridge(jax.random.key(0)), None)):
        try:
            ms.minimize(problem, BOTH, ms.Reverse(), meta_batch=meta_batch, **arguments)
        except ValueError as error:
            found.append(str(error))
    return found


def on_devices(names, counts):
    found = {"inner batches": inner_batches(), "memory": memory(), "refused": refusals()}
    for name in names:
        expected = hypergradient(name, None)
        for devices in counts:
            mesh = jax.make_mesh((devices,), ("tasks",), devices=jax.devices()[:devices])
            found[f"{name} {devices}"] = difference(hypergradient(name, mesh), expected)
    return found


def one_of_two(rank, port, path):
    """Train in two processes, saving every second outer step; go on with what is there."""
    address = f"localhost:{port}"
    jax.distributed.initialize(address, num_processes=2, process_id=rank)
    checkpoint = ms.Checkpoint(path, every=2, resume=True)
    return train(jax.make_mesh((2,), ("tasks",)), checkpoint, every=2)


def train(mesh, checkpoint=None, every=1):
    run = ms.minimize(
        ridge,
        BOTH,
        ms.Reverse(),
        optimizer=optax.adam(0.01),
        steps=6,
        key=jax.random.key(1),
        meta_batch=4,
        mesh=mesh,
        checkpoint=checkpoint,
        every=every,
    )
    return {name: float(value) for name, value in run.outer.items()}


def main(kind, *arguments):
    jax.config.update("jax_enable_x64", kind != "float32")
    if kind == "process":
        rank, port, path = arguments
        found = one_of_two(int(rank), int(port), Path(path))
    else:
        jax.config.update("jax_num_cpu_devices", 8)
        found = on_devices(arguments or ESTIMATORS, (8,) if arguments else (4, 8))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
