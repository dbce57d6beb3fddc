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
from metastep.problems.base import Trajectory
from metastep.problems.batches import with_batch


def identity(run: Run, point: Trajectory, batch: Any, segment: int) -> str:
    """Return a digest of a run: of its program, its data outside of batches, and its arguments.

    The values of `batch` do not matter, and `segment` is the number of steps of a segment. The
    digest changes with the loss, optimizer, constants, key, start and hyperparameters, but not with
    what a printed program contains beside its operations (addresses, names).
    """
    arrays, static = eqx.partition(point, eqx.is_array)

    def program(arrays: Any, batch: Any) -> list[Any]:
        point = eqx.combine(arrays, static)
        problem = with_batch(run.problem, batch)
        key = run.keys.step(point.steps)
        after = problem.step(point.inner, run.outer, point.steps, key)
        value = problem.objective(point.inner, run.outer, run.keys.objective)
        return jax.tree.leaves(eqx.filter((after, value), eqx.is_array))

    # The program of one step, not its source: what a closure captures shows up as constants.
    traced = jax.make_jaxpr(program)(arrays, batch)
    found = hashlib.blake2b(digest_size=16)
    for line in _sketch(traced.jaxpr):
        found.update(line.encode())
    constants = [jnp.asarray(x) for x in traced.consts if hasattr(x, "dtype")]
    found.update(digest((constants, run.outer, run.keys, arrays)).tobytes())
    found.update(f"{run.problem.horizon} {segment} {run.truncated}".encode())
    return found.hexdigest()


def _sketch(jaxpr: Any) -> Iterator[str]:
    """Yield the name, the arguments, the options and the result types of each operation."""
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
                yield from _sketch(getattr(parameter, "jaxpr", parameter))
    yield f"{list(map(read, jaxpr.outvars))}\n"


def _is_plain(x: Any) -> bool:
    """Whether the text of an option is the same in every process: it holds no address."""
    if isinstance(x, tuple | list):
        return all(map(_is_plain, x))
    return x is None or isinstance(x, int | float | str | Enum | np.dtype)


def _is_program(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")
