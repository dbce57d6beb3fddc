"""A training problem whose objective is also estimated on batches."""

from collections.abc import Callable
from typing import Any, SupportsIndex

import equinox as eqx
import optax
from jaxtyping import PyTree

from metastep.checks import scalar
from metastep.problems.base import AbstractProblem
from metastep.problems.training import TrainingProblem
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex

Batches = Callable[[StepIndex, RandomKey], Any]
Loss = Callable[[PyTree, Outer, Any], Scalar]


class BilevelProblem(AbstractProblem):
    """Minimize f(z*(outer), outer), where z*(outer) minimizes g(z, outer); both seen in batches.

    g is `loss`, f is `objective`. Without outer batches this is `TrainingProblem`, which bilevel
    solvers also accept. Estimators that unroll accept this problem, too; they judge a training run
    on one outer batch.

    Example:
        One weight per training example: the batches carry the indices of their examples.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> from metastep.bilevel import SOBA, BilevelProblem
        >>> targets, clean = jnp.array([1.0, 1.2, 9.0]), jnp.array([0.9, 1.1])
        >>> draw = lambda size: lambda t, key: jax.random.randint(key, (2,), 0, size)
        >>> problem = BilevelProblem(
        ...     loss=lambda z, outer, i: jnp.mean(jax.nn.sigmoid(outer[i]) * (z - targets[i]) ** 2),
        ...     objective=lambda z, outer, i: jnp.mean((z - clean[i]) ** 2),
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(0.1),
        ...     inner_batch=draw(3),
        ...     outer_batch=draw(2),
        ... )
        >>> run = ms.minimize(
        ...     problem,
        ...     jnp.zeros(3),
        ...     SOBA(linear_optimizer=optax.sgd(0.1)),
        ...     optimizer=optax.adam(0.05),
        ...     steps=200,
        ...     key=jax.random.key(0),
        ... )
        >>> bool(run.outer[2] < -1) and bool(run.outer[0] > 0)
        True

    Attributes:
        training: the inner problem, as unrolling estimators use it.

    Args:
        loss: `loss(params, outer, batch) -> scalar`, g. It must be strongly convex in `params`
            near its minimum; otherwise z* is not a differentiable function of `outer`.
        objective: `objective(params, outer, batch) -> scalar`, f.
        init_params: a pytree, or a function `(outer, key) -> pytree`.
        optimizer: an optax transformation that descends the inner loss. A function
            `outer -> transformation` is for unrolling estimators: bilevel solvers refuse it.
        horizon: the inner steps T of an unrolled training run, at least 1. Bilevel solvers do not
            use it.
        inner_batch: None for full batches, or a function `(t, key) -> batch` with t = 0, 1, 2, ...
            over all batches drawn, for whatever purpose.
        outer_batch: the same for the batches of `objective`. Unrolling estimators draw one batch
            per run, with t = 0 and the key of the run.

    Raises:
        ValueError: on construction, for a horizon below 1.
    """

    training: TrainingProblem
    outer_loss: Loss
    outer_batch: Batches | None
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        loss: Loss,
        objective: Loss,
        init_params: PyTree | Callable[[Outer, RandomKey], PyTree],
        optimizer: optax.GradientTransformation | Callable[[Outer], optax.GradientTransformation],
        horizon: SupportsIndex = 1,
        inner_batch: Batches | None = None,
        outer_batch: Batches | None = None,
    ):
        # `TrainingProblem` asks for this function, and nothing calls it: bilevel solvers use
        # `outer_loss`, and unrolling estimators the `objective` below.
        on_all = lambda params, outer: objective(params, outer, None)
        self.training = TrainingProblem(loss, on_all, init_params, optimizer, horizon, inner_batch)
        self.outer_loss = objective
        self.outer_batch = outer_batch
        self.horizon = self.training.horizon

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the initial `TrainingState`."""
        return self.training.init(outer, key)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Apply one update of the inner optimizer."""
        return self.training.step(inner, outer, t, key)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the outer loss of the trained parameters on one outer batch."""
        batch = None if self.outer_batch is None else self.outer_batch(0, key)
        return scalar("objective", self.outer_loss(inner.params, outer, batch))
