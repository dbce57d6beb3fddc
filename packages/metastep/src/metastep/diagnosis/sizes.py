"""How much memory a hypergradient takes, before it runs.

What reverse mode stores for every step is read off the traced program, which costs no compilation.
What a program needs beside is the compiler's own figure; where a program is compiled for this
figure alone, the compiler is told not to optimise, which leaves the figure and saves the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from metastep.diagnosis.compare import compile_with
from metastep.estimators.base import USE_IT, AbstractEstimator, require_influence
from metastep.problems.base import AbstractProblem, advance, split_keys, start
from metastep.types import Outer, RandomKey


@dataclass(frozen=True)
class Sizes:
    """Bytes of what a hypergradient holds.

    Attributes:
        state: the inner state: parameters, optimizer state, counters and keys.
        variables: how many floating-point numbers it has; a complex one counts twice.
        floating: their bytes.
        outer: the hyperparameters.
        residual: what reverse mode stores for one inner step.
        constant: what it stores once for all steps.
    """

    state: int
    variables: int
    floating: int
    outer: int
    residual: float
    constant: int

    def reverse(self, steps: int, workspace: float | int) -> float:
        """Return the memory of reverse mode over so many steps, with all residuals stored."""
        return steps * self.residual + workspace

    def segments(self, horizon: int, workspace: float | int) -> float:
        """Return the memory of `Reverse("sqrt")`: a remainder is a segment of its own."""
        length = max(1, isqrt(horizon))
        count, remainder = divmod(horizon, length)
        segments = (length + remainder) * self.residual + self.constant
        return count * self.state + max(segments, workspace)

    def binomial(self, states: int, workspace: float | int) -> float:
        """Return the memory of a binomial schedule."""
        return (states + 1) * self.state + max(self.residual + self.constant, workspace)


def sizes(problem: AbstractProblem, outer: Outer, key: RandomKey) -> Sizes:
    """Trace a problem for the sizes of what its differentiation stores.

    Raises:
        ValueError: wrong use, as `hypergradient` does.
    """
    keys, horizon = split_keys(key), problem.horizon

    def run(outer: Outer) -> PyTree:
        end = advance(problem, outer, start(problem, outer, keys), keys, horizon)
        return eqx.filter(end.inner, eqx.is_inexact_array)

    def ending(outer: Outer) -> PyTree:
        end = advance(problem, outer, start(problem, outer, keys), keys, horizon)
        return problem.objective(end.inner, outer, keys.objective)

    require_influence(ending, outer, USE_IT)
    state = shapes(lambda: start(problem, outer, keys).inner)
    floats = [x for x in state if jnp.issubdtype(x.dtype, jnp.inexact)]
    stored = shapes(lambda: jax.vjp(run, outer)[1])
    steps = [x for x in stored if x.shape[:1] == (horizon,)]
    return Sizes(
        state=total(state),
        variables=sum(x.size * (1 + jnp.iscomplexobj(x)) for x in floats),
        floating=total(floats),
        outer=total(shapes(lambda: outer)),
        residual=total(steps) / horizon,
        constant=total(stored) - total(steps),
    )


def shapes(function: Callable[[], PyTree]) -> list[jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the arrays that a function returns, without running it."""
    leaves = jax.tree.leaves(eqx.filter_eval_shape(function))
    return [leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]


def total(arrays: list[jax.ShapeDtypeStruct]) -> int:
    """Return the bytes of some arrays."""
    return sum(x.size * x.dtype.itemsize for x in arrays)


def compiled_bytes(
    estimator: AbstractEstimator, problem: AbstractProblem, outer: Outer, key: RandomKey
) -> int | None:
    """Return the compiler's figure for the memory of an estimate, beside inputs and outputs.

    The program is compiled without optimising its machine code, in a third of the time.
    """
    run = lambda problem, outer, key: estimator.estimate(problem, outer, None, key)[0]
    try:
        return compile_with(run, problem, outer, key, optimised=False).temporary_bytes
    except jax.errors.JaxRuntimeError:
        return None
