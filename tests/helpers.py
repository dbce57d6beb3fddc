"""Trees, derivatives by an independent slow method, and what XLA compiles."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.compilation import compiled


def relative_distance(actual, expected):
    """Return |actual - expected| / |expected| over all leaves."""
    actual, expected = ravel_pytree(actual)[0], ravel_pytree(expected)[0]
    return float(jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected))


def value_at(problem, outer, key):
    """Return the objective at the end of the horizon, by a plain Python loop over the steps."""
    from metastep.problems.base import split_keys

    keys = split_keys(key)
    inner, step = problem.init(outer, keys.init), compiled(problem.step)
    for t in range(problem.horizon):
        inner = step(inner, outer, jnp.asarray(t), keys.step(t))
    return problem.objective(inner, outer, keys.objective)


def central_differences(problem, outer, key, width=1e-5):
    """Return the hypergradient by central differences; error about width^2 in float64."""
    flat, unflatten = ravel_pytree(outer)
    value = lambda flat: compiled_value(problem, unflatten(flat), key)
    slope = [(value(flat + e) - value(flat - e)) / (2 * width) for e in width * np.eye(flat.size)]
    return unflatten(jnp.stack(slope))


def problem_value(problem, outer, key):
    from metastep.problems.base import split_keys

    return problem.objective(ms.unroll(problem, outer, key), outer, split_keys(key).objective)


# One program for problems that differ in their arrays only.
compiled_value = compiled(problem_value)


@contextmanager
def compilations():
    """Yield a list whose only entry counts what XLA compiles meanwhile."""
    count = [0]

    def listen(event, seconds, **more):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        jax.monitoring.clear_event_listeners()
