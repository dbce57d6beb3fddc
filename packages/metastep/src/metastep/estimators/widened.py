"""Hyperparameters in half precision, whose derivatives are added up in float32.

Reverse mode adds one contribution of every step to the derivative of a hyperparameter, in the dtype
of that hyperparameter. In bfloat16 a sum of equal terms stops growing after 256 of them.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from metastep.problems.base import AbstractProblem
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


class Narrowed(AbstractProblem):
    """A problem that is given hyperparameters in float32 and uses them in their own dtypes."""

    problem: AbstractProblem
    dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the initial state of the problem."""
        return self.problem.init(_cast(outer, self.dtypes), key)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step; the conversion is a part of it, so that its derivative is wide."""
        return self.problem.step(inner, _cast(outer, self.dtypes), t, key)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the objective of the problem."""
        return self.problem.objective(inner, _cast(outer, self.dtypes), key)


def widened(
    problem: AbstractProblem, outer: Outer
) -> tuple[AbstractProblem, Outer, Callable[[Outer], Outer]]:
    """Return the problem of hyperparameters in float32 at least, these, and their way back.

    All numbers are the same. Without half precision everything is returned as it is.
    """
    dtypes = tuple(x.dtype for x in jax.tree.leaves(outer))
    wide = tuple(jnp.promote_types(dtype, jnp.float32) for dtype in dtypes)
    if wide == dtypes:
        return problem, outer, lambda grad: grad
    narrowed = Narrowed(problem=problem, dtypes=dtypes, horizon=problem.horizon)
    return narrowed, _cast(outer, wide), lambda grad: _cast(grad, dtypes)


def _cast(tree: Outer, dtypes: tuple[jnp.dtype, ...]) -> Outer:
    leaves, treedef = jax.tree.flatten(tree)
    pairs = zip(leaves, dtypes, strict=True)
    return jax.tree.unflatten(treedef, [x.astype(dtype) for x, dtype in pairs])
