"""Adam with the values of `optax.adam` and a derivative wherever Adam has one."""

from math import log
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree


def scale_by_adam(
    b1: float | Array = 0.9, b2: float | Array = 0.999, eps: float | Array = 1e-8
) -> optax.GradientTransformation:
    """Rescale gradients as `optax.scale_by_adam(b1, b2, eps)` does, safely differentiable.

    Where the second moment is exactly zero (a dead unit, an unused row of an embedding, a
    parameter that starts at a stationary point), the square root in Adam's denominator has an
    infinite derivative that meets a zero, and reverse mode through `optax.adam` is NaN. The usual
    remedy, `eps_root > 0`, changes every step. Here the square root is not taken at zero: the
    update there is first moment / eps, whose value and derivative are those of Adam's formula in
    the limit. That derivative may be as large as 1 / eps. Values agree with optax to rounding, and
    in float32 they are nearer to Adam's formula: 1 - b2^t is computed without cancellation, which
    costs optax three to four of seven digits in the first steps.

    Args:
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: added to the root of the second moment. All three may be traced, thus tuned.

    Returns:
        A transformation whose state is `optax.ScaleByAdamState`.

    Reference:
        Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        del params
        mean = optax.tree.update_moment(updates, state.mu, b1, 1)
        square = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        corrected = lambda moment, decay: jax.tree.map(
            lambda x: x / _taken(decay, count).astype(x.dtype), moment
        )
        mean_hat, square_hat = corrected(mean, b1), corrected(square, b2)

        def rescale(m: Array, v: Array) -> Array:
            positive = v > 0
            root = jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1.0)), 0.0)
            return m / (root + eps)

        updates = jax.tree.map(rescale, mean_hat, square_hat)
        return updates, optax.ScaleByAdamState(count=count, mu=mean, nu=square)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _taken(decay: float | Array, count: Int[Array, ""]) -> Array:
    """Return 1 - decay^count without cancellation, for a decay rate from 0 below 1."""
    if not isinstance(decay, jax.Array):
        # The logarithm of a Python number is taken in float64, whatever JAX computes in.
        return -jnp.expm1(count * log(decay)) if decay > 0 else 1 - decay**count
    positive = decay > 0
    logarithm = jnp.log1p(jnp.where(positive, decay, 0.5) - 1)
    return jnp.where(positive, -jnp.expm1(count * logarithm), 1 - decay**count)


def adam(
    learning_rate: optax.ScalarOrSchedule | Array,
    b1: float | Array = 0.9,
    b2: float | Array = 0.999,
    eps: float | Array = 1e-8,
) -> optax.GradientTransformation:
    """Return a drop-in for `optax.adam` inside a problem that is differentiated through.

    Args:
        learning_rate: a number, a traced scalar, or an optax schedule.
        b1: as for `scale_by_adam`.
        b2: as for `scale_by_adam`.
        eps: as for `scale_by_adam`.

    Returns:
        The transformation.

    Example:
        The gradient of the second coordinate is always zero; `optax.adam` gives NaN here.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> from metastep.optimizers import adam
        >>> def grad(optimizer):
        ...     problem = ms.TrainingProblem(
        ...         loss=lambda w, outer, batch: jnp.sum(jnp.array([1.0, 0.0]) * w**2),
        ...         objective=lambda w, outer: jnp.sum(w**2),
        ...         init_params=jnp.ones(2),
        ...         optimizer=lambda outer: optimizer(outer["rate"]),
        ...         horizon=3,
        ...     )
        ...     estimate = ms.hypergradient(
        ...         problem, {"rate": 0.1}, ms.Reverse(), key=jax.random.key(0)
        ...     )
        ...     return round(float(estimate.grad["rate"]), 4)
        >>> grad(optax.adam), grad(adam)
        (nan, -4.1547)
    """
    return optax.chain(scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))
