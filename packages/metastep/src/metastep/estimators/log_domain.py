"""Value and gradient of (1/T) log objective, finite for every horizon, by rescaling the state.

Let `step` be positively homogeneous of degree one in the state and the objective homogeneous of
degree p. Dividing the state by constants n_k then changes the logarithm by a known sum:
(1/T) log f(w_T) = (1/T) (p sum_k log n_k + log f(w~_T)). With n_k a power of two near the size of
the state, no number overflows or underflows, and the division is exact.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from metastep.estimators.base import (
    AbstractEstimator,
    Estimate,
    common_stats,
    require_estimator,
)
from metastep.estimators.reverse import Reverse
from metastep.problems.base import (
    AbstractProblem,
    Keys,
    Trajectory,
    advance,
    initial,
    split_keys,
    start,
)
from metastep.results import RESULTS
from metastep.trees import differentiable, is_key, largest, times_power
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex

PROBE = 3
"""A state of about its true size is compared with one 2^3 times as large."""


class LogDomain(AbstractEstimator):
    """The gradient of (1/T) log f(w_T), T the horizon, for dynamics that scale with their state.

    Exact where the premise holds; elsewhere NaN, with a result that says so. The premise: `step` is
    positively homogeneous of degree one in the inner state, and the objective is positive and
    homogeneous of some degree. It holds for anything linear, for the residuals of least squares,
    and for gradient descent (with momentum, preconditioned or scheduled) on a quadratic whose
    minimiser is 0. The premise is checked at every step, on the state at its true size as far as
    the precision can represent it (within 2^24 in float32, 2^200 in float64). The check tolerates
    errors of the size of rounding.

    Time: that of `estimator`, plus two forward runs for the check. Memory: that of `estimator`;
    with `Forward()` independent of the horizon. Neither the step nor the objective may overflow on
    a state of size one.

    Adds to `stats`: `homogeneity_error`, the largest relative difference found between a step of
    the scaled state and the scaled step; `degree`, that of the objective; `degree_error`.

    Example:
        After 5000 steps at twice the largest stable step size, f is about 10^4771.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> loss = lambda w, outer, batch: jnp.sum(jnp.array([1.0, 0.1]) * w**2) / 2
        >>> problem = ms.TrainingProblem(
        ...     loss=loss,
        ...     objective=lambda w, outer: loss(w, outer, None),
        ...     init_params=jnp.ones(2),
        ...     optimizer=lambda outer: optax.sgd(outer["step_size"]),
        ...     horizon=5000,
        ... )
        >>> key = jax.random.key(0)
        >>> estimate = ms.hypergradient(problem, {"step_size": 4.0}, ms.LogDomain(), key=key)
        >>> round(float(estimate.value), 4), round(float(estimate.grad["step_size"]), 4)
        (2.1971, 0.6667)

    Reference:
        Wang, Yuan, Wu and Ge (2021), section 3: Eq. 2 divides by the largest factor in the
        eigenbasis; here without an eigenbasis and for any hyperparameters.

    Attributes:
        estimator: how the rescaled trajectory is differentiated: `Reverse(...)` for many
            hyperparameters, `Forward(...)` for few and long horizons.
    """

    estimator: AbstractEstimator = Reverse()

    def __check_init__(self):
        require_estimator(self.estimator)

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> Any:
        """Return the state of the wrapped estimator."""
        # The degree is not measured yet: what an estimator carries does not depend on it.
        return self.estimator.init(_Rescaled(problem, jnp.zeros(())), outer, key)

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate (1/T) log f(w_T), and check the premise."""
        # The check is no part of what is differentiated, also not if somebody differentiates twice.
        premise = _check(problem, jax.lax.stop_gradient(outer), split_keys(key))
        rescaled = _Rescaled(problem, premise.degree)
        found, state = self.estimator.estimate(rescaled, outer, state, key)
        where = RESULTS.where
        result = where(premise.homogeneous, found.result, RESULTS.not_homogeneous)
        result = where(premise.positive, result, RESULTS.not_positive)
        result = where(premise.first_nonfinite < 0, result, RESULTS.nonfinite_inner)
        covered = premise.homogeneous & premise.positive
        hide = lambda x: jnp.where(covered, x, jnp.nan)
        grad = jax.tree.map(hide, found.grad)
        measured = {
            "homogeneity_error": premise.step_error,
            "degree": premise.degree,
            "degree_error": premise.degree_error,
        }
        # The norm is taken again: it is NaN where the gradient is hidden.
        stats = dict(found.stats) | common_stats(grad, premise.first_nonfinite) | measured
        return Estimate(hide(found.value), grad, result, stats), state


class _Scaled(eqx.Module):
    """A state divided by 2^exponent, so that its largest entry lies in [1/2, 1)."""

    inner: Inner
    exponent: Int[Array, ""]


def _shift(inner: Inner, exponent: Int[Array, ""]) -> Inner:
    """Multiply the floating-point leaves by 2^exponent."""
    floats, rest = differentiable(inner)
    return eqx.combine(jax.tree.map(lambda x: times_power(x, exponent), floats), rest)


def _largest(inner: Inner) -> Float[Array, ""]:
    return largest(jax.lax.stop_gradient(differentiable(inner)[0]))


def _rescale(inner: Inner, exponent: Int[Array, ""]) -> _Scaled:
    # By the largest entry of all leaves: one factor for the whole state, as homogeneity asks.
    magnitude = _largest(inner)
    _, size = jnp.frexp(magnitude)
    size = jnp.where((magnitude > 0) & jnp.isfinite(magnitude), size, 0).astype(jnp.int32)
    return _Scaled(_shift(inner, -size), exponent + size)


class _Rescaled(AbstractProblem):
    """The problem whose state is rescaled after every step, and whose objective is (1/T) log f.

    The exponents are integers and carry no derivative. The gradient stays exact, because it does
    not depend on the constants by which the state is divided.
    """

    problem: AbstractProblem
    degree: Float[Array, ""]
    horizon: int = eqx.field(static=True)

    def __init__(self, problem: AbstractProblem, degree: Float[Array, ""]):
        self.problem = problem
        self.degree = degree
        self.horizon = problem.horizon

    def init(self, outer: Outer, key: RandomKey) -> _Scaled:
        return _rescale(initial(self.problem, outer, key), jnp.zeros((), jnp.int32))

    def step(self, inner: _Scaled, outer: Outer, t: StepIndex, key: RandomKey) -> _Scaled:
        return _rescale(self.problem.step(inner.inner, outer, t, key), inner.exponent)

    def objective(self, inner: _Scaled, outer: Outer, key: RandomKey) -> Scalar:
        value = self.problem.objective(inner.inner, outer, key)
        # (1/T) (p sum_k log n_k + log f), with the n_k powers of two: the sum is the exponent.
        scale = self.degree * inner.exponent * jnp.log(2.0)
        return (scale.astype(value.dtype) + jnp.log(value)) / self.horizon


class _Premise(eqx.Module):
    homogeneous: Bool[Array, ""]
    positive: Bool[Array, ""]
    step_error: Float[Array, ""]
    degree: Float[Array, ""]
    degree_error: Float[Array, ""]
    first_nonfinite: Int[Array, ""]


class _Probed(AbstractProblem):
    """The rescaled problem, which also measures its deviation from homogeneity at every step."""

    rescaled: _Rescaled
    horizon: int = eqx.field(static=True)

    def init(self, outer: Outer, key: RandomKey) -> tuple[_Scaled, Float[Array, ""]]:
        begin = self.rescaled.init(outer, key)
        return begin, jnp.zeros((), _largest(begin.inner).dtype)

    def step(
        self, inner: tuple[_Scaled, Float[Array, ""]], outer: Outer, t: StepIndex, key: RandomKey
    ) -> tuple[_Scaled, Float[Array, ""]]:
        scaled, worst = inner
        shifts = jnp.stack([jnp.zeros((), jnp.int32), _probe(scaled)])
        # One compiled body for both calls, so that a linear step agrees in every bit.
        arrays, static = eqx.partition(scaled.inner, eqx.is_array)

        def stepped(shift: Int[Array, ""]) -> PyTree:
            after = self.rescaled.problem.step(
                _shift(eqx.combine(arrays, static), shift), outer, t, key
            )
            return eqx.filter(_shift(after, -shift), eqx.is_array)

        both = jax.lax.map(stepped, shifts)
        after, other = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
        worst = jnp.maximum(worst, _difference(after, other))
        return _rescale(eqx.combine(after, static), scaled.exponent), worst

    def objective(self, inner: Any, outer: Outer, key: RandomKey) -> Scalar:
        return self.rescaled.objective(inner[0], outer, key)


def _probe(scaled: _Scaled) -> Int[Array, ""]:
    """Return the exponent of the state to compare with: its true size, or slightly larger."""
    # An objective of degree 5 is still representable there: 2^120 in float32, 2^1000 in float64.
    limit = 200 if _largest(scaled.inner).dtype == jnp.float64 else 24
    true = jnp.clip(scaled.exponent, -limit, limit)
    return jnp.where(jnp.abs(true) < PROBE, PROBE, true)


def _difference(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """Return the largest difference relative to the largest entry; 1 if it is not finite.

    Also 1 if a count or a flag differs, since the state was then clipped or stopped at one size
    only.
    """
    floats, rest = differentiable(first)
    other_floats, other_rest = differentiable(second)
    magnitude = _largest(first)
    apart = _largest(jax.tree.map(jnp.subtract, floats, other_floats))
    numbers = lambda tree: [x for x in jax.tree.leaves(tree) if not is_key(x)]
    pairs = zip(numbers(rest), numbers(other_rest), strict=True)
    same = jnp.all(jnp.array([jnp.all(a == b) for a, b in pairs] or [True]))
    relative = jnp.where(apart == 0, 0, apart / jnp.where(magnitude > 0, magnitude, apart))
    return jnp.where(same & (relative <= 1), relative, 1)


def _check(problem: AbstractProblem, outer: Outer, keys: Keys) -> _Premise:
    """Run forward once with every step taken twice, and measure how well the premise holds."""
    begin = start(problem, outer, keys)
    probed = _Probed(rescaled=_Rescaled(problem, jnp.zeros(())), horizon=problem.horizon)
    scaled = probed.init(outer, keys.init)
    nothing = jnp.zeros((), jnp.int32)
    floats = jax.tree.leaves(eqx.filter(scaled, eqx.is_inexact_array))
    # All leaves are watched, since a state with an infinite entry cannot be rescaled.
    watched = tuple(jnp.array(True) for _ in floats)
    point = Trajectory(scaled, nothing, begin.first_nonfinite, watched)
    end = advance(probed, outer, point, keys, problem.horizon)
    scaled, step_error = end.inner
    shifts = jnp.stack([nothing, nothing + PROBE, nothing - PROBE, _probe(scaled)])
    value_at = lambda shift: problem.objective(_shift(scaled.inner, shift), outer, keys.objective)
    values = jax.lax.map(value_at, shifts)
    # Base 2, so that the quotient by the shift is the degree.
    logs = jnp.log2(values / values[0])
    degree = logs[1] / PROBE
    nearest = jnp.round(degree)
    eps = jnp.finfo(values.dtype).eps
    # Rounded to an integer if it is one up to rounding: the degree is multiplied by the exponent.
    degree = jnp.where(jnp.abs(degree - nearest) < 512 * eps, nearest, degree)
    # The sizes lie on both sides of 1: a polynomial that is not homogeneous may look so on one
    # side.
    degree_error = jnp.max(jnp.abs(logs - degree * shifts) / jnp.maximum(1, jnp.abs(shifts)))
    return _Premise(
        homogeneous=(step_error <= 64 * jnp.finfo(step_error.dtype).eps)
        & (degree_error <= 512 * eps),
        positive=values[0] > 0,
        step_error=step_error,
        degree=degree,
        degree_error=degree_error,
        first_nonfinite=end.first_nonfinite,
    )
