"""Ordinary optimizers with learned hyperparameters: SGD, Adam, and a step size schedule.

The weights are logarithms of positive hyperparameters and logits of decay rates, so every real
value is allowed.
"""

from collections.abc import Callable
from itertools import pairwise
from math import log
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from metastep.checks import integer, require, require_count
from metastep.learned.learned import AbstractLearnedOptimizer, check_params
from metastep.optimizers import scale_by_adam
from metastep.types import RandomKey

Transform = Callable[[dict[str, Array]], optax.GradientTransformation]


class LearnedSGD(AbstractLearnedOptimizer):
    """Gradient descent with learned step size and momentum, global or per tensor.

    Attributes:
        step_size: the initial step size, positive.
        momentum: the initial momentum, at least 0 and below 1; with 0 no momentum is learned.
        layers: None for one step size and momentum; or the number of arrays in the parameters, in
            the order of `jax.tree.leaves`, for one pair each.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.learned import LearnedSGD
        >>> family = LearnedSGD(step_size=0.5)
        >>> optimizer = family(family.initial_weights(jax.random.key(0)))
        >>> params = jnp.ones(2)
        >>> optimizer.update(params, optimizer.init(params))[0].round(3).tolist()
        [-0.5, -0.5]
    """

    state_depends_on_weights: ClassVar[bool] = True  # the trace decays by a learned momentum
    step_size: float = eqx.field(static=True, default=0.1)
    momentum: float = eqx.field(static=True, default=0.0)
    layers: int | None = eqx.field(static=True, default=None, converter=integer)

    def __check_init__(self):
        require(self.step_size > 0, "step_size", self.step_size, "positive numbers")
        require_count("layers", self.layers, none="one for all")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "numbers from 0 below 1")

    def initial_weights(self, key: RandomKey) -> dict[str, Any]:
        """Return the logarithm of the step size and the logit of the momentum; `key` is unused."""
        del key
        weights = {"log step size": log(self.step_size)}
        # 0 has no logit.
        if self.momentum:
            weights["momentum logit"] = _logit(self.momentum)
        return _repeat(weights, self.layers)

    def __call__(self, weights: PyTree) -> optax.GradientTransformation:
        """Return the transformation."""

        def transform(weights: dict[str, Array]) -> optax.GradientTransformation:
            scale = optax.scale(-jnp.exp(weights["log step size"]))
            if "momentum logit" not in weights:
                return scale
            return optax.chain(optax.trace(jax.nn.sigmoid(weights["momentum logit"])), scale)

        return _transformation(transform, weights, self.layers)


class LearnedAdam(AbstractLearnedOptimizer):
    """Adam with learned step size, decay rates and epsilon, global or per tensor.

    Attributes:
        step_size: the initial step size, positive.
        b1: initial decay rate of the first moment, between 0 and 1.
        b2: of the second moment.
        eps: initial value of the number added to the root of the second moment, positive.
        layers: as for `LearnedSGD`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.learned import LearnedAdam
        >>> family = LearnedAdam(step_size=0.01, layers=2)
        >>> optimizer = family(family.initial_weights(jax.random.key(0)))
        >>> params = [jnp.ones(2), jnp.ones(1)]
        >>> [step.shape for step in optimizer.update(params, optimizer.init(params))[0]]
        [(2,), (1,)]
    """

    state_depends_on_weights: ClassVar[bool] = True  # the moments decay at learned rates
    step_size: float = eqx.field(static=True, default=0.001)
    b1: float = eqx.field(static=True, default=0.9)
    b2: float = eqx.field(static=True, default=0.999)
    eps: float = eqx.field(static=True, default=1e-8)
    layers: int | None = eqx.field(static=True, default=None, converter=integer)

    def __check_init__(self):
        require(self.step_size > 0, "step_size", self.step_size, "positive numbers")
        require(self.eps > 0, "eps", self.eps, "positive numbers")
        require_count("layers", self.layers, none="one for all")
        for name, value in (("b1", self.b1), ("b2", self.b2)):
            require(0 < value < 1, name, value, "numbers between 0 and 1")

    def initial_weights(self, key: RandomKey) -> dict[str, Any]:
        """Return logarithms of step size and epsilon, logits of both decays; `key` is unused."""
        del key
        weights = {
            "log step size": log(self.step_size),
            "b1 logit": _logit(self.b1),
            "b2 logit": _logit(self.b2),
            "log eps": log(self.eps),
        }
        return _repeat(weights, self.layers)

    def __call__(self, weights: PyTree) -> optax.GradientTransformation:
        """Return the transformation, whose derivatives are finite (see `scale_by_adam`)."""

        def transform(weights: dict[str, Array]) -> optax.GradientTransformation:
            decays = (jax.nn.sigmoid(weights[name]) for name in ("b1 logit", "b2 logit"))
            moments = scale_by_adam(*decays, eps=jnp.exp(weights["log eps"]))
            return optax.chain(moments, optax.scale(-jnp.exp(weights["log step size"])))

        return _transformation(transform, weights, self.layers)


class LearnedSchedule(AbstractLearnedOptimizer):
    """A learned step size schedule: the logarithm is piecewise linear between knots.

    Attributes:
        knots: increasing step numbers from 0; the step size is constant after the last.
        step_size: the initial step size at every knot, positive.
        direction: the transformation whose output is multiplied by minus the step size, such as
            `optax.trace(0.9)` or `scale_by_adam()`; None for the gradient itself.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.learned import LearnedSchedule
        >>> family = LearnedSchedule(knots=(0, 2), step_size=1.0)
        >>> optimizer = family({"log step sizes": jnp.log(jnp.array([1.0, 4.0]))})
        >>> params, sizes = jnp.ones(()), []
        >>> state = optimizer.init(params)
        >>> for _ in range(4):
        ...     update, state = optimizer.update(params, state)
        ...     sizes.append(round(-float(update), 3))
        >>> sizes
        [1.0, 2.0, 4.0, 4.0]
    """

    state_depends_on_weights: ClassVar[bool] = True  # `direction` may use the parameters
    knots: tuple[int, ...] = eqx.field(static=True, converter=tuple)
    step_size: float = eqx.field(static=True, default=0.1)
    direction: optax.GradientTransformation | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        require(self.step_size > 0, "step_size", self.step_size, "positive numbers")
        increasing = self.knots[:1] == (0,) and all(a < b for a, b in pairwise(self.knots))
        require(increasing, "knots", self.knots, "increasing integers from 0")

    def initial_weights(self, key: RandomKey) -> dict[str, Any]:
        """Return the logarithm of the step size at each knot; `key` is unused."""
        del key
        return {"log step sizes": jnp.full(len(self.knots), log(self.step_size))}

    def __call__(self, weights: PyTree) -> optax.GradientTransformation:
        """Return the transformation."""
        schedule = lambda count: -self.step_size_at(weights, jnp.asarray(count))
        steps = optax.scale_by_schedule(schedule)
        transform = steps if self.direction is None else optax.chain(self.direction, steps)
        return _transformation(lambda _: transform, weights, None)

    def step_size_at(self, weights: PyTree, count: Int[Array, ""] | int) -> Float[Array, ""]:
        """Return the step size after `count` steps."""
        logarithms = weights["log step sizes"]
        knots = jnp.asarray(self.knots, logarithms.dtype)
        return jnp.exp(jnp.interp(jnp.asarray(count, knots.dtype), knots, logarithms))


def _transformation(
    transform: Transform, weights: PyTree, layers: int | None
) -> optax.GradientTransformation:
    """Return a transformation for all arrays, or one for each of them with its own weights."""
    own = lambda index: jax.tree.map(lambda leaf: leaf[index], weights)

    def init(params: PyTree) -> Any:
        check_params(params)
        if layers is None:
            return transform(weights).init(params)
        leaves = jax.tree.leaves(params)
        if len(leaves) != layers:
            raise ValueError(
                f"params has {len(leaves)} arrays; allowed are {layers}, the field `layers`."
            )
        return tuple(transform(own(index)).init(leaf) for index, leaf in enumerate(leaves))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        if layers is None:
            changes, after = transform(weights).update(updates, state, params)
            return _in_precision_of(updates, changes), _in_precision_of(state, after)
        leaves, structure = jax.tree.flatten(updates)
        results = [
            transform(own(index)).update(leaf, before)
            for index, (leaf, before) in enumerate(zip(leaves, state, strict=True))
        ]
        changes, states = zip(*results, strict=True)
        after = _in_precision_of(state, tuple(states))
        return _in_precision_of(updates, structure.unflatten(changes)), after

    return optax.GradientTransformation(init, update)


def _in_precision_of(before: PyTree, after: PyTree) -> PyTree:
    # Weights are float32 arrays, and would widen what belongs to parameters in half precision.
    cast = lambda like, x: x.astype(like.dtype) if eqx.is_inexact_array(x) else x
    return jax.tree.map(cast, before, after)


def _repeat(weights: dict[str, float], layers: int | None) -> dict[str, Array]:
    shape = () if layers is None else (layers,)
    return {name: jnp.full(shape, value) for name, value in weights.items()}


def _logit(probability: float) -> float:
    return log(probability) - log(1 - probability)
