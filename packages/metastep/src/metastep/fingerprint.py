"""Digests that tell whether two runs compute the same numbers."""

import hashlib
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt8

from metastep.trees import is_key

DIGEST_BYTES = 16


def fingerprint(function: Callable[..., PyTree], *arguments: PyTree, more: object = "") -> str:
    """Return a digest of what a function computes for some arguments: its program and their values.

    It changes with every operation, constant and captured array, and not with what a printed
    program contains beside its operations (addresses, names). Cost: one trace of the function.

    Args:
        function: of the arguments, to any pytree.
        arguments: pytrees; of a `jax.ShapeDtypeStruct` only shape and dtype matter (see
            `shapes_of`), of arrays and numbers the values, also where the function does not use
            them.
        more: anything else that the run depends on; its text counts.
    """
    traced_leaf = lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(arguments, traced_leaf)

    # All by arguments: what is computed from a constant would be one, whatever its derivative is.
    def program(arrays: PyTree) -> list[Any]:
        return jax.tree.leaves(eqx.filter(function(*eqx.combine(arrays, static)), eqx.is_array))

    # The program, not its source: what a closure captures shows up as constants.
    traced = jax.make_jaxpr(program)(arrays)
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for line in _sketch(traced):
        found.update(line.encode())
    numbers = eqx.filter(arguments, eqx.is_array_like)
    found.update(digest(jax.tree.map(jnp.asarray, numbers)).tobytes())
    found.update(str(more).encode())
    return found.hexdigest()


def shapes_of(tree: PyTree) -> PyTree:
    """Return a tree with shapes and dtypes in place of its arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if eqx.is_array(x) else x, tree
    )


def digest(tree: PyTree[Array]) -> UInt8[np.ndarray, "16"]:
    """Return a digest of shapes, dtypes and bits of all arrays that this process holds."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for x in jax.tree.leaves(tree):
        found.update(f"{x.dtype}{x.shape}".encode())
        if is_key(x):
            x = jax.random.key_data(x)
        # With several processes, each one checks the parts that it holds.
        parts = [x] if x.is_fully_addressable else [one.data for one in x.addressable_shards]
        for part in parts:
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return np.frombuffer(found.digest(), np.uint8)


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
