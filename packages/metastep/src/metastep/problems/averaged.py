"""Several problems with the same hyperparameters, averaged into one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt32

from metastep.problems.base import AbstractProblem, initial
from metastep.problems.batches import is_given
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


class Averaged(AbstractProblem):
    """Run a stack of problems side by side; the objective is the mean of theirs.

    Use it for a fixed set of tasks, all of them used at every outer step. For tasks that are drawn
    at random, or do not fit into memory together, give `minimize` a function `key -> problem`.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, metastep as ms
        >>> loss = lambda w, outer, batch: (w - batch) ** 2
        >>> task = lambda target: ms.MAMLProblem(loss, target, target, horizon=1, rate=0.25)
        >>> problem = ms.Averaged(eqx.filter_vmap(task)(jnp.array([1.0, 3.0])))
        >>> key = jax.random.key(0)
        >>> float(ms.hypergradient(problem, jnp.array(0.0), ms.Reverse(), key=key).value)
        1.25

    Attributes:
        problems: one problem whose arrays have a leading axis, such as `equinox.filter_vmap` of a
            function that returns a problem makes.

    Raises:
        ValueError: on construction, if the arrays have no leading axis or its lengths differ.
    """

    problems: AbstractProblem
    horizon: int = eqx.field(static=True)

    def __init__(self, problems: AbstractProblem):
        shapes = [leaf.shape for leaf in jax.tree.leaves(eqx.filter(problems, eqx.is_array))]
        if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
            raise ValueError(
                f"problems has arrays of shapes {shapes}; allowed are arrays with one and the same "
                "leading axis. Make them with equinox.filter_vmap."
            )
        self.problems = problems
        self.horizon = problems.horizon

    def _keys(self, key: RandomKey) -> Key[Array, "problems"] | UInt32[Array, "problems 2"]:
        # A batch that was loaded from outside has an axis of examples, not of problems.
        leaves = jax.tree.leaves(self.problems, is_leaf=is_given)
        return jax.random.split(key, next(x.shape[0] for x in leaves if eqx.is_array(x)))

    def _each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Map a function of a problem and more; all problems share a batch that was loaded."""
        axis = lambda node: None if is_given(node) else eqx.if_array(0)
        axes = jax.tree.map(axis, self.problems, is_leaf=is_given)
        return lambda *rest: eqx.filter_vmap(
            function, in_axes=(axes, *(eqx.if_array(0) for _ in rest))
        )(self.problems, *rest)

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the stacked initial states."""
        init = lambda problem, key: initial(problem, outer, key)
        return self._each(init)(self._keys(key))

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of every problem."""
        step = lambda problem, inner, key: problem.step(inner, outer, t, key)
        return self._each(step)(inner, self._keys(key))

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the mean of the problems' objectives."""
        objective = lambda problem, inner, key: problem.objective(inner, outer, key)
        return jnp.mean(self._each(objective)(inner, self._keys(key)))
