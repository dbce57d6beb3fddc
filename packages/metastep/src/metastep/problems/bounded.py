"""Inner runs that count as diverged once their parameters leave a ball."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, PyTree

from metastep.checks import require
from metastep.problems.base import AbstractProblem
from metastep.trees import differentiable, norm
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


def _params(inner: Inner) -> PyTree:
    return inner.params


def _constant(tree: PyTree) -> PyTree:
    floats, rest = differentiable(tree)
    return eqx.combine(jax.lax.stop_gradient(floats), rest)


class BoundedState(eqx.Module):
    """The state of a run that may have been stopped.

    Attributes:
        inner: the state of the wrapped problem, from before the step that left the ball.
        stopped: whether the run has left the ball.
    """

    inner: Inner
    stopped: Bool[Array, ""]


class Bounded(AbstractProblem):
    """A problem that stops at the first step after which its parameters are too long.

    A run with |params| >= radius after some step is set, for the rest of the horizon, to
    radius * u, where the unit vector u has equal entries. A step size that is too large then has a
    high, finite loss. A step that returns NaN or infinity counts as leaving the ball. The loss of
    a stopped run does not depend on the hyperparameters, so its gradient is zero: start a search
    by gradients where runs do not stop.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> loss = lambda w, outer, batch: jnp.sum(w**2) / 2
        >>> problem = ms.TrainingProblem(
        ...     loss, lambda w, outer: loss(w, outer, None), jnp.ones(4), optax.sgd, 50
        ... )
        >>> bounded = ms.Bounded(problem, radius=40.0)
        >>> [float(ms.unroll(bounded, s, jax.random.key(0)).stopped) for s in (1.9, 2.1, 9.0)]
        [0.0, 1.0, 1.0]

    Attributes:
        problem: the problem to run.
        radius: the norm at which a run counts as diverged, above 0; the paper uses 40 times the
            noise level.
        params: `params(inner) -> pytree`, the part of the inner state that is measured and
            replaced; by default the field `params` of a `TrainingProblem`'s state.

    Raises:
        ValueError: on construction, for a radius that is not positive.

    Reference:
        Wang et al. (2021), footnote 3.
    """

    problem: AbstractProblem
    radius: float | Array
    params: Callable[[Inner], PyTree]
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        problem: AbstractProblem,
        radius: float | Array,
        params: Callable[[Inner], PyTree] = _params,
    ):
        positive = isinstance(radius, Tracer) or np.all(np.asarray(radius) > 0)
        require(positive, "radius", radius, "positive numbers")
        self.problem = problem
        self.radius = radius
        self.params = params
        self.horizon = problem.horizon

    def init(self, outer: Outer, key: RandomKey) -> BoundedState:
        """Return the initial state of the wrapped problem, which counts as inside the ball."""
        return BoundedState(self.problem.init(outer, key), jnp.array(False))

    def step(self, inner: BoundedState, outer: Outer, t: StepIndex, key: RandomKey) -> BoundedState:
        """Take a step; a step that leaves the ball is undone, and the run stays stopped."""
        stepped = lambda inner, outer: self.problem.step(inner, outer, t, key)
        # NaN compares as False, so a step that is not finite leaves the ball too. Without
        # derivatives: the compiler merges this step with the one below.
        judged = stepped(*map(_constant, (inner.inner, outer)))
        inside = norm(self.params(judged)) < self.radius
        stopped = inner.stopped | ~inside
        # A step that is not finite has derivatives that are not either, and 0 * inf is NaN: reverse
        # mode must not reach it.
        cut = lambda x, constant: jnp.where(stopped, constant, x) if eqx.is_inexact_array(x) else x
        given = inner.inner, outer
        after = stepped(*jax.tree.map(cut, given, tuple(map(_constant, given))))
        keep = lambda old, new: jnp.where(stopped, old, new) if eqx.is_array(new) else new
        return BoundedState(jax.tree.map(keep, inner.inner, after), stopped)

    def objective(self, inner: BoundedState, outer: Outer, key: RandomKey) -> Scalar:
        """Return the objective of the final state, or of radius * u if the run was stopped."""
        params = self.params(inner.inner)
        floats, rest = differentiable(params)
        entries = sum(x.size for x in jax.tree.leaves(floats))
        # radius times u: the n equal entries of a unit vector are 1 / sqrt(n).
        far = lambda x: jnp.where(inner.stopped, self.radius / jnp.sqrt(entries), x).astype(x.dtype)
        judged = eqx.combine(jax.tree.map(far, floats), rest)
        state = eqx.tree_at(self.params, inner.inner, judged)
        return self.problem.objective(state, outer, key)
