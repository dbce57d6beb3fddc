"""The interface of an estimator, and the checks that all estimators share.

An estimator computes the derivative of `objective(w_T(outer), outer)` with respect to `outer`. For
the same key all estimators differentiate the same trajectory.
"""

import abc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree

from metastep.checks import require, require_key
from metastep.compilation import compiled
from metastep.explained import sharded
from metastep.problems.base import AbstractProblem, require_problem
from metastep.results import RESULTS
from metastep.trees import all_finite, as_hyperparameters, leaf_names, norm
from metastep.types import Outer, RandomKey, Scalar

OfLeaf = Callable[[Array], list[Array]]

USE_IT = (
    "Use it in `init`, `step` or `objective`, undo the stop_gradient, rounding or sign (as in "
    "optax.lion) in its way, or take it out of `outer`."
)
"""Advice for a leaf that has no influence on the end of the whole trajectory."""


class Estimate(eqx.Module):
    """A hypergradient, its objective value and the evidence for its quality.

    Attributes:
        value: scalar, the objective at the end of the horizon.
        grad: the (estimated) derivative of `value`; the structure, shapes and dtypes of `outer`.
        result: an item of `RESULTS`; `RESULTS[result]` is the message.
        stats: named measurements. Always `gradient_norm` (Euclidean, over all leaves) and
            `first_nonfinite_step` (int32; -1 if the inner state stayed finite); each estimator
            documents what it adds.
    """

    value: Scalar
    grad: Outer
    result: RESULTS
    stats: Mapping[str, PyTree[Array]]


class AbstractEstimator(eqx.Module):
    """A way to compute or estimate a hypergradient.

    An estimator holds its own options only: no key, no verbosity, no device. It is pure, works
    under `jit` and `vmap`, and uses a problem through its interface alone.
    """

    @abc.abstractmethod
    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> Any:
        """Return the estimator's state before the first outer step: None for most."""

    @abc.abstractmethod
    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Estimate the hypergradient at `outer`.

        Args:
            problem: the inner dynamics and the objective.
            outer: hyperparameters; every leaf a floating-point array.
            state: what `init` or the previous call returned.
            key: determines the trajectory.

        Returns:
            The estimate and the next state.

        Raises:
            ValueError: at trace time, if the problem breaks its interface, an option of the
                estimator does not fit the problem, or a leaf of `outer` cannot influence what this
                estimator differentiates.
        """


def outcome(value: Scalar, grad: Outer, first_nonfinite: Array, result: RESULTS) -> RESULTS:
    """Return `result`; if a number is infinite or NaN, return the earliest cause instead.

    The order of causes is inner state, objective, gradient.
    """
    where = RESULTS.where
    # Each line overrides those before it.
    result = where(all_finite(grad), result, RESULTS.nonfinite_gradient)
    result = where(jnp.isfinite(value), result, RESULTS.nonfinite_value)
    return where(first_nonfinite < 0, result, RESULTS.nonfinite_inner)


def finish(
    value: Scalar, grad: Outer, first_nonfinite: Array, stats: Mapping[str, PyTree[Array]]
) -> Estimate:
    """Assemble an estimate; its result is `successful` if every number is finite."""
    result = outcome(value, grad, first_nonfinite, RESULTS.successful)
    return Estimate(value, grad, result, common_stats(grad, first_nonfinite) | dict(stats))


def common_stats(grad: Outer, first_nonfinite: Array) -> dict[str, PyTree[Array]]:
    """Return the measurements that every estimate carries."""
    return {"gradient_norm": norm(grad), "first_nonfinite_step": first_nonfinite}


def influences(function: Callable[[Outer], PyTree], outer: Outer) -> list[bool]:
    """Return for every leaf of `outer` whether a derivative can flow from it to `function(outer)`.

    The answer is structural: the function is traced once, and JAX propagates a symbolic tangent
    from each leaf in turn. A leaf that is unused, cut off by `stop_gradient`, or only compared or
    rounded has no influence. A leaf whose derivative happens to be zero has influence. Costs one
    trace and no computation.
    """
    return _by_leaf(_influences, function, outer)


def dependencies(function: Callable[[Outer], PyTree], outer: Outer) -> list[bool]:
    """Return for every leaf of `outer` whether data flow from it to `function(outer)`.

    Dependence is weaker than influence: rounding, comparisons and `stop_gradient` pass data but no
    derivative. JAX propagates a batch axis from each leaf in turn. Costs one trace.
    """
    return _by_leaf(_depends, function, outer)


def _by_leaf(
    reaches: Callable[[OfLeaf, Array], bool], function: Callable[[Outer], PyTree], outer: Outer
) -> list[bool]:
    leaves, treedef = jax.tree.flatten(outer)
    flat_function = lambda *flat: jax.tree.leaves(function(jax.tree.unflatten(treedef, flat)))
    # Traced once and read again for each leaf, since a user's function may be slow to trace.
    traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(flat_function)(*leaves))
    of_leaf = lambda i: lambda leaf: traced(*leaves[:i], leaf, *leaves[i + 1 :])
    return [reaches(of_leaf(i), leaf) for i, leaf in enumerate(leaves)]


def _influences(of_leaf: OfLeaf, leaf: Array) -> bool:
    reached = []

    @jax.custom_jvp
    def probe(x: Array) -> Array:
        return x

    # With symbolic zeros JAX says whether a tangent arrived, without computing it.
    @partial(probe.defjvp, symbolic_zeros=True)
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        reached.append(not isinstance(tangents[0], SymbolicZero))
        return primals[0], tangents[0]

    def probed(leaf: Array) -> list[Array]:
        return [probe(x) for x in of_leaf(leaf) if jnp.issubdtype(x.dtype, jnp.inexact)]

    # `eval_shape`: the rule above runs while tracing, and nothing is compiled.
    jax.eval_shape(lambda leaf: jax.jvp(probed, (leaf,), (leaf,)), leaf)
    return any(reached)


def _depends(of_leaf: OfLeaf, leaf: Array) -> bool:
    reached = []

    @jax.custom_batching.custom_vmap
    def probe(x: Array) -> Array:
        return x

    @probe.def_vmap
    def _(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
        del axis_size
        reached.append(in_batched[0])
        return x, in_batched[0]

    # The rule runs for what is batched only, and nothing is computed.
    jax.eval_shape(jax.vmap(lambda leaf: [probe(x) for x in of_leaf(leaf)]), leaf[None])
    return any(reached)


def require_influence(function: Callable[[Outer], PyTree], outer: Outer, advice: str) -> None:
    """Refuse hyperparameters whose derivative would be a silent zero.

    `function` is what the estimator differentiates; `advice` says why it may see no influence of a
    leaf, and what to do. A `ValueError` names every leaf without influence.
    """
    _refuse_lost(influences(function, outer), outer, "what is differentiated", advice)


def require_dependence(function: Callable[[Outer], PyTree], outer: Outer) -> None:
    """Refuse hyperparameters that `function` does not use: sampling would return noise only."""
    advice = "Use it in `init`, `step` or `objective`, or take it out of `outer`."
    _refuse_lost(dependencies(function, outer), outer, "the objective", advice)


def _refuse_lost(reached: list[bool], outer: Outer, what: str, advice: str) -> None:
    names = zip(leaf_names(outer), reached, strict=True)
    if lost := ["outer" + name for name, good in names if not good]:
        raise ValueError(
            f"{', '.join(lost)} cannot influence {what}, and its gradient would be zero for a "
            f"reason that has nothing to do with training. {advice}"
        )


def require_estimator(estimator: object) -> None:
    """Refuse anything but an instance of an estimator; an estimator class is a common mistake."""
    allowed = "instances of estimators, such as metastep.Reverse()"
    require(isinstance(estimator, AbstractEstimator), "estimator", estimator, allowed)


@compiled
def _estimate(
    problem: AbstractProblem, outer: Outer, estimator: AbstractEstimator, key: RandomKey
) -> Estimate:
    state = estimator.init(problem, outer, key)
    return estimator.estimate(problem, outer, state, key)[0]


def hypergradient(
    problem: AbstractProblem, outer: Outer, estimator: AbstractEstimator, *, key: RandomKey
) -> Estimate:
    """Compute the derivative of the objective after training with respect to the hyperparameters.

    The first call for a problem, an estimator and shapes compiles. Later calls reuse the program
    as long as the problem holds the same functions.

    Example:
        Three steps of gradient descent on w^2 / 2 from w = 1 end at (1 - s)^3.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: w**2 / 2,
        ...     objective=lambda w, outer: w,
        ...     init_params=jnp.array(1.0),
        ...     optimizer=lambda outer: optax.sgd(outer["step_size"]),
        ...     horizon=3,
        ... )
        >>> key = jax.random.key(0)
        >>> estimate = ms.hypergradient(problem, {"step_size": 0.5}, ms.Reverse(), key=key)
        >>> float(estimate.value), float(estimate.grad["step_size"])
        (0.125, -0.75)

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, a pytree of floating-point arrays or floats.
        estimator: how to differentiate; see each estimator for exactness, bias and cost.
        key: a random key; for the same key all estimators differentiate the same trajectory.

    Returns:
        The estimate. Check `result`: numerical failures are values, not exceptions.

    Raises:
        ValueError: wrong use, naming what is wrong and what is allowed (see
            `AbstractEstimator.estimate` and `trees.as_hyperparameters`).
    """
    require_key(key)
    require_problem(problem)
    require_estimator(estimator)
    with sharded():
        return _estimate(problem, as_hyperparameters(outer), estimator, key)
