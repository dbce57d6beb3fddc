"""MAML and its relatives: tune the parameters from which adaptation to a new task starts.

An argument or the choice of the estimator selects the method:

    MAML           MAMLProblem(..., rate=0.01)                 rate of any sign, any horizon
    first-order    MAMLProblem(..., first_order=True)
    ANIL           MAMLProblem(..., where=lambda params: params["head"])
    Meta-SGD       MAMLProblem(..., rate=None), with outer = MetaSGD(params, rate)
    iMAML          MAMLProblem(..., proximal=2.0) with the estimator Implicit()
    truncated      the estimator TruncatedReverse(window)
    Reptile        Reptile(MAMLProblem(...)), a baseline that follows no gradient

The inner state is the displacement of the adapted leaves from `outer`. Each step therefore uses
`outer` directly, and estimators that cut the trajectory, or use its end alone, keep the derivative
with respect to the initialization.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from metastep.checks import integer, require, require_count, scalar
from metastep.compilation import compiled
from metastep.problems.base import AbstractProblem, unroll
from metastep.problems.mixed import InnerGradient
from metastep.trees import as_hyperparameters, inner_product, subtract
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex

Rate = PyTree[Array | float]


class MetaSGD(eqx.Module):
    """The hyperparameters of Meta-SGD: an initialization and the inner rates.

    Attributes:
        params: the initialization, any pytree of floating-point arrays.
        rate: the inner rates, in one of the forms that `MAMLProblem.rate` has.

    Reference:
        Li et al. (2017), Meta-SGD: learning to learn quickly for few-shot learning.
    """

    params: PyTree
    rate: Rate


class MAMLProblem(AbstractProblem):
    """Adapt parameters to one task by a few gradient steps, and judge them on its other examples.

    theta_0 = omega, theta_{t+1} = theta_t - rate * d loss(theta_t, training) / d theta, objective
    loss(theta_T, validation). The hyperparameter `outer` is omega itself. A distribution of tasks
    is a function `key -> MAMLProblem`; `minimize` draws a meta-batch from it and vmaps over it.

    `Reverse` and `Forward` are exact. `TruncatedReverse(K)` keeps the last K of the factors
    I - rate * Hessian, between the first-order gradient and the exact one. `Implicit` needs a
    horizon that reaches the minimum, and `proximal` above 0: without it the minimum does not
    depend on omega. `LogDomain` does not apply, since these dynamics are not homogeneous. For
    another inner optimizer use `TrainingProblem` with `init_params=lambda outer, key: outer`.

    Example:
        Lines through the origin with slopes around 2: where should one step start?

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> def loss(slope, outer, batch):
        ...     return jnp.mean((slope * batch[0] - batch[1]) ** 2)
        >>> def task(key):
        ...     x, slope = jnp.linspace(-1, 1, 5), 2 + jax.random.normal(key)
        ...     return ms.MAMLProblem(loss, (x, slope * x), (x, slope * x), horizon=1, rate=0.5)
        >>> run = ms.minimize(
        ...     task,
        ...     jnp.array(0.0),
        ...     ms.Reverse(),
        ...     optimizer=optax.sgd(1.0),
        ...     steps=100,
        ...     meta_batch=200,
        ...     every=100,
        ...     key=jax.random.key(0),
        ... )
        >>> round(float(run.outer), 1)
        2.0

    Attributes:
        loss: `loss(params, outer, batch) -> scalar`, called with the training and the validation
            examples. To leave static parts of a model out, tune the first half of
            `equinox.partition(model, equinox.is_inexact_array)` and combine in the loss. Every
            number in `outer` is tuned, Python floats included.
        training: the examples that adaptation sees (support set), any pytree.
        validation: the examples on which the adapted parameters are judged (query set), any pytree.
        horizon: the number T of inner steps, at least 1.
        rate: the inner rate, of any sign: a number, or a tree like the adapted leaves of numbers
            or arrays that broadcast to them. None takes it from `outer`, a `MetaSGD`.
        where: `where(params)` returns the leaves or subtrees that are adapted, as for
            `equinox.tree_at` (ANIL). The others are tuned and constant in the inner loop. None
            adapts all.
        first_order: treat every inner gradient as a constant. The gradient by `omega` is then
            d loss(theta_T, validation) / d theta: biased by O(rate), at the cost of T + 1 ordinary
            gradients. The value is unchanged.
        proximal: lambda, from 0, of lambda / 2 |theta - omega|^2 in the inner loss.

    Raises:
        ValueError: on construction, for a horizon below 1, a rate that is not finite, a negative
            proximal; when used, for a rate that does not fit the adapted leaves, a `where` that
            selects nothing, or leaves of `outer` that are not floating-point.

    Reference:
        Finn, Abbeel and Levine (2017), Model-agnostic meta-learning for fast adaptation of deep
        networks; Raghu et al. (2020), Rapid learning or feature reuse?, for ANIL; Rajeswaran et
        al. (2019), Meta-learning with implicit gradients, Eq. 3; Bernacchia (2021), Meta-learning
        with negative learning rates.
    """

    loss: Callable[[PyTree, Outer, Any], Scalar]
    training: PyTree
    validation: PyTree
    horizon: int = eqx.field(static=True, converter=integer, kw_only=True)
    # The rates are arrays, since a Python number is static, and each would be a program of its own.
    rate: Rate | None = eqx.field(converter=partial(jax.tree.map, jnp.asarray), kw_only=True)
    where: Callable[[PyTree], PyTree] | None = eqx.field(default=None, kw_only=True)
    first_order: bool = eqx.field(default=False, static=True, kw_only=True)
    proximal: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.0, kw_only=True)
    gradient: InnerGradient = eqx.field(default_factory=InnerGradient, init=False)

    def __check_init__(self):
        require_count("horizon", self.horizon)
        allowed = "functions (params, outer, batch) -> scalar"
        require(callable(self.loss), "loss", self.loss, allowed)
        for rate in jax.tree.leaves(self.rate):
            finite = isinstance(rate, Tracer) or np.all(np.isfinite(rate))
            require(finite, "rate", rate, "finite numbers of any sign")
        usable = isinstance(self.proximal, Tracer) or 0 <= float(self.proximal) < np.inf
        require(usable, "proximal", self.proximal, "finite numbers from 0")

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return zeros, the displacement of the adapted leaves."""
        del key
        start = _initialization(as_hyperparameters(outer))
        adapted = self._adapted(start)
        # Leaves are compared by identity: `eqx.tree_at` cannot replace numbers that `where`
        # computes.
        leaves, known = jax.tree.leaves(adapted), {id(leaf) for leaf in jax.tree.leaves(start)}
        if not leaves or not all(id(leaf) in known for leaf in leaves):
            raise ValueError(
                f"where selects {adapted!r}; allowed are leaves and subtrees of the parameters, at "
                "least one."
            )
        # The state is the displacement: d state / d outer is then zero at the start, and `Implicit`
        # and the truncations see the initialization in `step` and `objective`.
        return jax.tree.map(jnp.zeros_like, adapted)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of gradient descent on the training examples."""
        del t, key
        rates = self._rates(inner, outer)
        # Only the slope is a constant: the step keeps its derivatives by the state and the rates.
        seen = jax.lax.stop_gradient((inner, outer)) if self.first_order else (inner, outer)
        slope = self._slope(*seen)
        # The state keeps its precision, whatever that of the rates.
        return jax.tree.map(lambda x, rate, g: x - (rate * g).astype(x.dtype), inner, rates, slope)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the loss of the adapted parameters on the validation examples."""
        del key
        return scalar("loss", self.loss(self.params_at(inner, outer), outer, self.validation))

    def params_at(self, inner: Inner, outer: Outer) -> PyTree:
        """Return the initialization plus the displacement in an inner state."""
        start = _initialization(outer)
        moved = jax.tree.map(jnp.add, self._adapted(start), inner)
        return moved if self.where is None else eqx.tree_at(self.where, start, moved)

    def adapt(self, outer: Outer) -> PyTree:
        """Return the parameters after the inner steps.

        At test time another rate or number of steps is often better:
        `dataclasses.replace(problem, rate=0.02, horizon=10).adapt(outer)`. A given rate replaces
        the learned ones of a `MetaSGD`. Differentiable, and compiled on the first call.
        """
        return _adapt(self, as_hyperparameters(outer))

    def _adapted(self, params: PyTree) -> PyTree:
        return params if self.where is None else self.where(params)

    def _slope(self, inner: Inner, outer: Outer) -> Inner:
        """Return the gradient of the inner loss and its proximal term."""

        def loss(inner: Inner) -> Scalar:
            params = self.params_at(inner, outer)
            return scalar("loss", self.loss(params, outer, self.training))

        # The state x is theta - omega, so this is the gradient of lambda / 2 |theta - omega|^2.
        pull = lambda g, x: g + (self.proximal * x).astype(x.dtype)
        return jax.tree.map(pull, self.gradient(loss, inner)[1], inner)

    def _rates(self, inner: Inner, outer: Outer) -> PyTree[Array]:
        """Return one rate for every adapted leaf."""
        rate = self.rate
        if rate is None:
            if not isinstance(outer, MetaSGD):
                raise ValueError(
                    f"outer is a {type(outer).__name__}; with rate=None it must be "
                    "MetaSGD(params, rate). Give a rate, or tune one."
                )
            rate = outer.rate
        if isinstance(rate, Array | float) and jnp.ndim(rate) == 0:
            return jax.tree.map(lambda _: rate, inner)
        expected, actual = jax.tree.structure(inner), jax.tree.structure(rate)
        if actual != expected:
            raise ValueError(
                f"rate has the structure {actual}; allowed are one number and the structure of "
                f"what is adapted, {expected}."
            )
        jax.tree_util.tree_map_with_path(_check_rate, rate, inner)
        return rate


def _initialization(outer: Outer) -> PyTree:
    return outer.params if isinstance(outer, MetaSGD) else outer


def _check_rate(path: Any, rate: Array, leaf: Array) -> None:
    """Refuse a rate that does not broadcast to its leaf."""
    wanted, shape = jnp.shape(leaf), jnp.shape(rate)
    # Axes are compared from the last; a rate may have fewer than its leaf.
    trailing = zip(shape[::-1], wanted[::-1], strict=False)
    if len(shape) > len(wanted) or any(a not in (1, b) for a, b in trailing):
        raise ValueError(
            f"rate{jax.tree_util.keystr(path)} has shape {shape}; allowed are shapes that "
            f"broadcast to that of its leaf, {wanted}."
        )


@compiled
def _adapt(problem: MAMLProblem, outer: Outer) -> PyTree:
    # Adaptation draws nothing: any key will do.
    return problem.params_at(unroll(problem, outer, jax.random.key(0)), outer)


class Reptile(AbstractProblem):
    """Reptile as a baseline: its update in place of a gradient.

    Reptile moves omega by (theta_T - omega) times the outer optimizer's rate. This update is not
    the gradient of an objective by which training could be judged: the value of this problem is
    |omega - theta_T|^2 / 2, and its "gradient" treats theta_T as a constant. Compare with other
    methods by the loss after adaptation, not by the value. Cost: T ordinary gradients. The
    validation examples are not used; Reptile is usually given all examples for training.

    Example:
        >>> import jax, jax.numpy as jnp, metastep as ms
        >>> loss = lambda w, outer, batch: (w - batch) ** 2 / 2
        >>> problem = ms.Reptile(ms.MAMLProblem(loss, 1.0, 1.0, horizon=2, rate=0.5))
        >>> key = jax.random.key(0)
        >>> float(ms.hypergradient(problem, jnp.array(0.0), ms.Reverse(), key=key).grad)
        -0.75

    Attributes:
        problem: the adaptation, with a given rate and every leaf adapted.

    Raises:
        ValueError: on construction, for a problem that adapts some leaves only or has no rate,
            since the other leaves or rates would not move.

    Reference:
        Nichol, Achiam and Schulman (2018), On first-order meta-learning algorithms, Algorithm 2.
    """

    problem: MAMLProblem
    horizon: int = eqx.field(static=True)

    def __init__(self, problem: MAMLProblem):
        if problem.where is not None or problem.rate is None:
            raise ValueError(
                f"problem has where={problem.where} and rate={problem.rate}; Reptile moves what is "
                "adapted and nothing else: allowed are where=None and a given rate."
            )
        self.problem = problem
        self.horizon = problem.horizon

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return zeros, the displacement of the parameters."""
        return self.problem.init(outer, key)

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of the wrapped problem without derivatives."""
        return self.problem.step(inner, jax.lax.stop_gradient(outer), t, key)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return |omega - theta_T|^2 / 2, whose derivative by omega alone is Reptile's update."""
        del key
        end = jax.lax.stop_gradient(self.problem.params_at(inner, outer))
        away = subtract(_initialization(outer), end)
        return inner_product(away, away) / 2
