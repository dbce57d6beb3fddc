"""A digest that identifies a run by what determines its numbers."""

import hashlib
from collections.abc import Iterator
from enum import Enum
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from metastep.driven.feeding import digest
from metastep.driven.passes import Run
from metastep.problems.base import Keys, Trajectory, start
from metastep.problems.batches import with_batch
from metastep.types import Outer


def identity(run: Run, point: Trajectory, batch: Any, segment: int, first: int) -> str:
    """Return a digest of a run: of its program, its data outside of batches, and its arguments.

    The values of `batch` do not matter. `segment` is the number of steps of a segment, and `first`
    the step at which the backward pass ends. The digest changes with the loss, optimizer,
    constants, key, start and hyperparameters, but not with what a printed program contains beside
    its operations (addresses, names).
    """
    arrays, static = eqx.partition(point, eqx.is_array)

    # All by arguments: what is computed from a constant would be one, whatever its derivative is.
    def program(outer: Outer, keys: Keys, arrays: Any, batch: Any) -> list[Any]:
        point = eqx.combine(arrays, static)
        problem = with_batch(run.problem, batch)
        after = problem.step(point.inner, outer, point.steps, keys.step(point.steps))
        value = problem.objective(point.inner, outer, keys.objective)
        results = start(problem, outer, keys), after, value
        return jax.tree.leaves(eqx.filter(results, eqx.is_array))

    # The program, not its source: what a closure captures shows up as constants.
    traced = jax.make_jaxpr(program)(run.outer, run.keys, arrays, batch)
    found = hashlib.blake2b(digest_size=16)
    for line in _sketch(traced):
        found.update(line.encode())
    found.update(digest((run.outer, run.keys, arrays)).tobytes())
    # Other segments would be another program, which may round differently.
    found.update(f"{run.problem.horizon} {segment} {first} {run.truncated}".encode())
    return found.hexdigest()


def _sketch(program: Any) -> Iterator[str]:
    """Yield the constants, and each operation's name, arguments, options and result types."""
    # A function that was compiled by itself keeps its own constants.
    constants = [jnp.asarray(x) for x in getattr(program, "consts", ()) if hasattr(x, "dtype")]
    yield f"{digest(constants).tobytes().hex()}\n"
    jaxpr = getattr(program, "jaxpr", program)
    numbers: dict[Any, int] = {}
    # By the order in which they appear: a printed name depends on what was traced before.
    number = lambda variable: numbers.setdefault(variable, len(numbers))
    read = lambda x: str(x.val) if isinstance(x, jax.extend.core.Literal) else number(x)
    yield f"{list(map(number, (*jaxpr.constvars, *jaxpr.invars)))}\n"
    for equation in jaxpr.eqns:
        inputs = list(map(read, equation.invars))
        outputs = [(number(x), str(x.aval)) for x in equation.outvars]
        options = {name: str(x) for name, x in equation.params.items() if _is_plain(x)}
        options.pop("name", None)  # of a function: its own program follows
        yield f"{equation.primitive.name} {inputs} {outputs} {sorted(options.items())}\n"
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(parameter):
                yield from _sketch(parameter)
    yield f"{list(map(read, jaxpr.outvars))}\n"


def _is_plain(x: Any) -> bool:
    """Whether the text of an option is the same in every process: it holds no address."""
    if isinstance(x, tuple | list):
        return all(map(_is_plain, x))
    return x is None or isinstance(x, int | float | str | Enum | np.dtype)


def _is_program(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")
