"""Adam and AdamW with the values of optax, and a finite derivative wherever Adam has one."""

from collections.abc import Callable
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, DTypeLike, Int, PyTree

from metastep.types import Number


def scale_by_adam(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Rescale gradients as `optax.scale_by_adam` does, with finite derivatives.

    If a second moment is exactly zero (a dead unit, an unused row of an embedding, a parameter that
    starts at a stationary point), the square root in Adam's denominator has an infinite derivative,
    which is multiplied by zero: reverse mode through `optax.adam` gives NaN. The usual remedy,
    `eps_root > 0`, changes every step. Here the square root is not evaluated at zero: the update is
    first moment / eps, with the value and the derivative of Adam's formula in the limit. This
    derivative may be as large as 1 / eps.

    Values agree with optax to rounding. In float32 they are closer to Adam's formula: 1 - b2^t is
    computed without cancellation, which costs optax three of seven digits in the first steps.
    Values differ for parameters in float16, where squares of gradients below 0.008 and `eps=1e-8`
    are zero, and optax divides by them. Here the moments of float16 are kept in float32, and `eps`
    is at least 6.1e-5, the smallest normal number of float16, so that a derivative of 1 / eps can
    also be represented in float16.

    Args:
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: added to the root of the second moment; must be positive.
        eps_root: added to the second moment under the root.
        mu_dtype: dtype of the first moment; None for that of the parameters (float32 for float16).
        nesterov: whether the first moment looks one step ahead (NAdam).

    All numbers may be traced, so they can be tuned.

    Returns:
        A transformation whose state is `optax.ScaleByAdamState`.

    Reference:
        Kingma and Ba (2015), Adam: a method for stochastic optimization; Dozat (2016),
        Incorporating Nesterov momentum into Adam.
    """

    def init(params: PyTree) -> optax.OptState:
        return optax.scale_by_adam(mu_dtype=mu_dtype).init(_widened(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        del params
        count = jnp.asarray(optax.safe_increment(state.count))
        wide = _widened(updates)
        mean = optax.tree.update_moment(wide, state.mu, b1, 1)
        square = optax.tree.update_moment_per_elem_norm(wide, state.nu, b2, 2)
        if nesterov:
            # Dozat (2016): the moment is corrected as in the next step, the gradient as in this
            # one.
            ahead = _corrected(mean, b1, jnp.asarray(optax.safe_increment(count)))
            now = _corrected(wide, b1, count)
            mean_hat = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, ahead, now)
        else:
            mean_hat = _corrected(mean, b1, count)
        square_hat = _corrected(square, b2, count)

        def rescale(given: Array, m: Array, v: Array) -> Array:
            shifted = v + eps_root
            positive = shifted > 0
            # The inner `where` is for the derivative: the outer one alone would multiply infinity
            # by zero.
            root = jnp.where(positive, jnp.sqrt(jnp.where(positive, shifted, 1.0)), 0.0)
            if given.dtype != jnp.float16:
                return m / (root + eps)
            return (m / (root + jnp.maximum(eps, jnp.finfo(jnp.float16).tiny))).astype(given.dtype)

        rescaled = jax.tree.map(rescale, updates, mean_hat, square_hat)
        # Traced decay rates may be more precise than the state, which keeps its dtypes.
        mean = optax.tree.cast_like(mean, state.mu)
        square = optax.tree.cast_like(square, state.nu)
        return rescaled, optax.ScaleByAdamState(count=count, mu=mean, nu=square)

    return optax.GradientTransformation(init, update)


def _corrected(moment: PyTree, decay: Number, count: Int[Array, ""]) -> PyTree:
    """Divide a moment by 1 - decay^count, computed without cancellation; 0 <= decay < 1."""
    if not isinstance(decay, jax.Array):
        # The logarithm of a Python number is computed in float64, whatever precision JAX uses.
        taken = -jnp.expm1(count * log(decay)) if decay > 0 else 1 - decay**count
    else:
        positive = decay > 0
        # 0.5 in place of 0: the derivative of log 0 would turn into NaN.
        logarithm = jnp.log1p(jnp.where(positive, decay, 0.5) - 1)
        taken = jnp.where(positive, -jnp.expm1(count * logarithm), 1 - decay**count)
    return jax.tree.map(lambda x: x / taken.astype(x.dtype), moment)


def adam(
    learning_rate: optax.ScalarOrSchedule | Array,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Return a replacement for `optax.adam` in problems that are differentiated through.

    `learning_rate` is a number, a traced scalar or an optax schedule; the other arguments are those
    of `scale_by_adam`.

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
    return optax.chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule | Array,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule | Array = 1e-4,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Return a replacement for `optax.adamw` in problems that are differentiated through.

    The arguments are those of `adam` and, as in optax, `weight_decay`, a number or a schedule that
    `learning_rate` scales, and `mask`, the leaves to decay: a pytree of booleans, or a function
    from parameters to one.

    Reference:
        Loshchilov and Hutter (2019), Decoupled weight decay regularization.
    """
    return optax.chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _widened(tree: PyTree) -> PyTree:
    """Return the tree with float32 for float16."""
    widen = lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x
    return jax.tree.map(widen, tree)
