"""Count the arithmetic of a program: a measure of its time that is the same on every machine.

The traced program is evaluated operation by operation inside one compiled function, and every loop
carries the count. So loops are counted whose length only the run decides.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax import Array

from metastep.curvature.layers.tracing import scan_places

MOVES = frozenset(
    "broadcast_in_dim concatenate convert_element_type copy dynamic_slice dynamic_update_slice "
    "gather iota reshape scatter select_n slice split squeeze stack transpose".split()
)
"""Primitives that compute nothing."""

Counted = tuple[list[Any], Array]


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Run a function and return how many numbers it computes.

    An element-wise operation counts each number of its result, a reduction each of its arguments.
    Choices and movements of data count as nothing.

    Args:
        function: of arrays.
        *arguments: its arguments.

    Returns:
        The count, summed in 32 bits: the same wherever it runs.
    """
    traced = jax.make_jaxpr(function)(*arguments)
    leaves = jax.tree.leaves(arguments)
    return float(jax.jit(lambda leaves: _run(traced, leaves)[1])(leaves))


def _run(program: Any, values: list[Any]) -> Counted:
    """Evaluate a traced program: its results, and the count."""
    jaxpr = getattr(program, "jaxpr", program)
    known = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))
    known |= dict(zip(jaxpr.invars, values, strict=True))
    read = lambda atom: atom.val if isinstance(atom, jex.core.Literal) else known[atom]
    # Not an integer: central differences at the largest sizes pass 2^31.
    count = jnp.zeros(())
    for equation in jaxpr.eqns:
        results, more = _apply(equation, [read(atom) for atom in equation.invars])
        known |= dict(zip(equation.outvars, results, strict=True))
        count += more
    return [read(atom) for atom in jaxpr.outvars], count


def _apply(equation: Any, values: list[Any]) -> Counted:
    name, parameters = equation.primitive.name, equation.params
    if name in LOOPS:
        return LOOPS[name](equation, values)
    if inner := list(jex.core.jaxprs_in_params(parameters)):
        # The program that runs; the others of a custom rule are functions, not yet traced.
        return _run(parameters.get("jaxpr", parameters.get("call_jaxpr", inner[0])), values)
    bound = equation.primitive.get_bind_params(parameters)
    results = equation.primitive.bind(*values, **bound)
    results = list(results) if equation.primitive.multiple_results else [results]
    sizes = [x.aval.size for x in (*equation.invars, *equation.outvars)]
    # Right for element-wise operations, reductions and inner products, which are all that there is
    # here; a product of matrices would be counted as one of its factors.
    return results, jnp.asarray(0.0 if name in MOVES else float(max(sizes)))


def _scan(equation: Any, values: list[Any]) -> Counted:
    parameters, (first, last) = equation.params, scan_places(equation)
    carried = last - first

    def body(carry: Counted, along: list[Any]) -> tuple[Counted, list[Any]]:
        results, more = _run(parameters["jaxpr"], [*values[:first], *carry[0], *along])
        return (results[:carried], carry[1] + more), results[carried:]

    (state, count), stacked = jax.lax.scan(
        body,
        (values[first:last], jnp.zeros(())),
        values[last:],
        parameters["length"],
        parameters["reverse"],
    )
    return [*state, *stacked], count


def _while(equation: Any, values: list[Any]) -> Counted:
    """Count the body; the condition of a loop costs next to nothing."""
    parameters = equation.params
    first = parameters["cond_nconsts"]
    last = first + parameters["body_nconsts"]

    def body(carry: Counted) -> Counted:
        results, more = _run(parameters["body_jaxpr"], [*values[first:last], *carry[0]])
        return results, carry[1] + more

    goes_on = lambda carry: _run(parameters["cond_jaxpr"], [*values[:first], *carry[0]])[0][0]
    return jax.lax.while_loop(goes_on, body, (values[last:], jnp.zeros(())))


def _cond(equation: Any, values: list[Any]) -> Counted:
    branch = lambda program: lambda operands: _run(program, operands)
    return jax.lax.switch(values[0], list(map(branch, equation.params["branches"])), values[1:])


LOOPS = {"scan": _scan, "while": _while, "cond": _cond}
