"""The memory of a hypergradient, computed before it runs.

The residuals of a step follow from the traced program, without compilation. The memory that a
program needs beyond them is the compiler's figure. A program that is compiled for this figure alone
is compiled without optimisation, which is faster and leaves the figure unchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from metastep.diagnosis.bias_curve import stacked_bytes
from metastep.diagnosis.compare import compile_with
from metastep.estimators.base import USE_IT, AbstractEstimator, require_influence
from metastep.problems.base import AbstractProblem, advance, evaluate, split_keys, start
from metastep.problems.mixed import ROOM, choose_mixed
from metastep.types import Outer, RandomKey


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes of the parts of a hypergradient's memory.

    Attributes:
        state: the inner state: parameters, optimizer state, counters and keys.
        variables: the number of its floating-point numbers; a complex one counts twice.
        outer: the hyperparameters.
        residual: the residuals of reverse mode for one inner step.
        constant: the values that reverse mode stores once for all steps.
        mixed_residual: the residuals for one inner step in mixed mode.
        mixed_from: the number of steps stored at the same time from which estimators choose it.
    """

    state: int
    variables: int
    outer: int
    residual: float
    constant: int
    mixed_residual: float
    mixed_from: float

    def stored(self, steps: int) -> float:
        """Return the residuals of a step where those of `steps` are stored at the same time."""
        return self.mixed_residual if steps >= self.mixed_from else self.residual

    def reverse(self, steps: int, workspace: float | int) -> float:
        """Return the memory of reverse mode over `steps` steps, with all residuals stored."""
        return steps * self.stored(steps) + workspace

    def segments(self, horizon: int, workspace: float | int) -> float:
        """Return the memory of `Reverse("sqrt")`.

        A remainder is a segment with its own array of residuals, needed at another time than the
        workspace.
        """
        remainder = horizon % isqrt(horizon)
        return self.segment(horizon) + max(remainder * self.stored(isqrt(horizon)), workspace)

    def segment(self, horizon: int) -> float:
        """Return the states that `Reverse("sqrt")` stores, and the residuals of one segment."""
        length = isqrt(horizon)
        states = horizon // length * self.state
        return states + length * self.stored(length) + self.constant

    def binomial(self, states: int, workspace: float | int) -> float:
        """Return the memory of a binomial schedule."""
        # One more state: the slot for what is not to be stored.
        return (states + 1) * self.state + max(self.stored(1) + self.constant, workspace)


def sizes(problem: AbstractProblem, outer: Outer, key: RandomKey) -> Sizes:
    """Trace a problem for the sizes of its state, residuals and constants."""
    keys, horizon = split_keys(key), problem.horizon

    def run(problem: AbstractProblem, outer: Outer) -> PyTree:
        end = advance(problem, outer, start(problem, outer, keys), keys, horizon)
        return eqx.filter(end.inner, eqx.is_inexact_array)

    def residuals(problem: AbstractProblem) -> tuple[float, int]:
        # What the closure of the backward pass holds is what reverse mode stores.
        stored = shapes(lambda: jax.vjp(partial(run, problem), outer)[1])
        steps = stacked_bytes(stored, horizon)
        return steps / horizon, total(stored) - steps

    require_influence(lambda outer: evaluate(problem, outer, keys)[0], outer, USE_IT)
    state = shapes(lambda: start(problem, outer, keys).inner)
    floats = [x for x in state if jnp.issubdtype(x.dtype, jnp.inexact)]
    residual, constant = residuals(problem)
    mixed, least = residual, inf
    # Below it the estimators do not choose mixed mode, and a second trace is not needed.
    if horizon * residual > ROOM:
        mixed, _ = residuals(choose_mixed(problem, None, horizon))
        # Mixed mode stores everything but the activations, from whose size the estimators choose.
        least = ROOM / (residual - mixed) if mixed < residual else inf
    return Sizes(
        state=total(state),
        variables=sum(x.size * (1 + jnp.iscomplexobj(x)) for x in floats),
        outer=total(shapes(lambda: outer)),
        residual=residual,
        constant=constant,
        mixed_residual=mixed,
        mixed_from=least,
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
