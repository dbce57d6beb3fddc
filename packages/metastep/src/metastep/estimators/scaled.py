"""Hypergradients as sign and log magnitude, which floats could not represent.

Tangents obey a linear recursion, so they may be divided by powers of two at any step, whatever the
inner dynamics. In float32 a derivative of 1e300 can then be represented; it need not be meaningful.
To measure the effect of rounding errors, the derivative is computed again along trajectories whose
states are rounded differently, as in `diagnose`, and along one whose smallest numbers are smaller.
"""

from math import log10
from typing import SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from metastep.checks import integer, require_count, require_key
from metastep.compilation import compiled
from metastep.estimators.base import USE_IT, require_influence
from metastep.estimators.growth import lyapunov_exponent, pushed
from metastep.problems.base import (
    AbstractProblem,
    Keys,
    advance,
    evaluate,
    require_problem,
    split_keys,
    start,
)
from metastep.results import RESULTS
from metastep.rounding import rounded
from metastep.trees import as_hyperparameters, differentiable, largest, times_power
from metastep.types import Inner, Outer, RandomKey, Scalar

DRAWS = 2
"""The number of trajectories whose states are rounded differently."""

SMALL = 0.8
"""Numbers below the least normal one to this power are about to underflow: 5e-31 in float32."""

# Half of the least int32: exponents are added to it, and must not wrap around.
NOTHING = -(2**30)
"""The exponent of a tangent that is zero."""


class ScaledEstimate(eqx.Module):
    """A hypergradient as sign and log magnitude, with its loss of precision.

    Attributes:
        value: scalar, the objective at the end of the horizon.
        sign: -1, 0 or 1; the structure and shapes of `outer`.
        log_magnitude: natural logarithm of the magnitude; -inf where the sign is 0.
        lyapunov_exponent: scalar, nats per inner step: the growth rate of a random tangent of the
            inner state over the horizon. For explanation only, since it depends on the units.
        digits_lost: scalar, from 0: decimal digits of the derivative along a random direction of
            `outer` that rounding costs, or an inner state near the end of its range. At most the
            digits of the precision: 7 in float32, 16 in float64.
        result: if fewer than one digit is left, `underflowed` if the range costs most of them, else
            `chaotic`; `nonfinite_inner` or `nonfinite_value` if the run itself failed.
            `RESULTS[result]` is the message.
    """

    value: Scalar
    sign: Outer
    log_magnitude: Outer
    lyapunov_exponent: Scalar
    digits_lost: Scalar
    result: RESULTS


class _Tangent(eqx.Module):
    """The tangent `direction * 2^exponent` of an inner state; entries of `direction` below 1."""

    direction: PyTree
    exponent: Int[Array, ""]


def scaled_hypergradient(
    problem: AbstractProblem, outer: Outer, *, key: RandomKey, chunk: SupportsIndex | None = None
) -> ScaledEstimate:
    """Compute sign and log magnitude of every derivative by rescaled forward-mode tangents.

    Exact to rounding where `digits_lost` is small. Rescaling prevents overflow and underflow of
    tangents only. It does not help against an inner state that overflows or underflows (use
    `LogDomain` if the dynamics are homogeneous), rounding of an objective near its minimum, or
    chaos.

    Example:
        Gradient descent with one step size: 100 steps of w <- w - s w. Its derivative is
        -100 (1 - s)^99 / 2.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: w**2 / 2,
        ...     objective=lambda w, outer: w,
        ...     init_params=jnp.array(0.5),
        ...     optimizer=lambda outer: optax.sgd(outer),
        ...     horizon=100,
        ... )
        >>> found = ms.scaled_hypergradient(problem, 0.49, key=jax.random.key(0))
        >>> float(found.sign), round(float(found.log_magnitude), 2), bool(found.digits_lost < 3)
        (-1.0, -62.75, True)

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, N numbers in all.
        key: determines the trajectory.
        chunk: how many of the N are run at the same time; None runs all of them.

    Returns:
        The estimate. Time: N + 5 tangents of the forward run. Memory: O(M chunk) for an inner state
        of size M, independent of the horizon.

    Raises:
        ValueError: as `hypergradient`; for a chunk below 1.
    """
    require_count("chunk", chunk, none="all coordinates at once")
    require_key(key)
    require_problem(problem)
    return _estimate(problem, as_hyperparameters(outer), key, integer(chunk))


@compiled
def _estimate(
    problem: AbstractProblem, outer: Outer, key: RandomKey, chunk: int | None
) -> ScaledEstimate:
    keys = split_keys(key)
    flat, unflatten = ravel_pytree(outer)
    # Leaves of one dtype: results are then restored in their own precision, not in that of `outer`.
    _, restore = ravel_pytree(jax.tree.map(lambda x: x.astype(flat.dtype), outer))

    require_influence(lambda outer: evaluate(problem, outer, keys)[0], outer, USE_IT)
    begin = start(problem, outer, keys)
    end = advance(problem, outer, begin, keys, problem.horizon)
    value = problem.objective(end.inner, outer, keys.objective)

    def derivative(coordinate: Int[Array, ""]) -> tuple[Scalar, Scalar]:
        # Made here: the whole basis would take N^2 numbers.
        line = unflatten(jnp.zeros_like(flat).at[coordinate].set(1))
        return _sign_and_magnitude(_derivative(problem, outer, line, keys))

    chunk = min(chunk or flat.size, flat.size)
    signs, magnitudes = jax.lax.map(derivative, jnp.arange(flat.size), batch_size=chunk)
    exponent = lyapunov_exponent(problem, outer, keys)
    (by_rounding, by_range), digits = _digits_lost(problem, outer, keys)
    lost = jnp.maximum(by_rounding, by_range)
    where = RESULTS.where
    reason = where(by_range > by_rounding, RESULTS.underflowed, RESULTS.chaotic)
    result = where(lost <= digits - 1, RESULTS.successful, reason)
    result = where(jnp.isfinite(value), result, RESULTS.nonfinite_value)
    result = where(end.first_nonfinite < 0, result, RESULTS.nonfinite_inner)
    return ScaledEstimate(value, restore(signs), restore(magnitudes), exponent, lost, result)


def _normalised(direction: PyTree, exponent: Int[Array, ""]) -> _Tangent:
    """Normalise a direction by moving its size into the exponent."""
    magnitude = largest(direction)
    # magnitude = m 2^size with m from 1/2 to 1: the division by 2^size is exact.
    _, size = jnp.frexp(magnitude)
    usable = (magnitude > 0) & jnp.isfinite(magnitude)
    size = jnp.where(usable, size, 0).astype(jnp.int32)
    # Zero gets the least exponent, so that it never determines that of a sum.
    exponent = jnp.where(magnitude > 0, exponent + size, NOTHING)
    return _Tangent(jax.tree.map(lambda x: times_power(x, -size), direction), exponent)


def _sum(first: _Tangent, second: _Tangent) -> _Tangent:
    """Add two tangents; the smaller one is shifted down and may vanish, as in any addition."""
    exponent = jnp.maximum(first.exponent, second.exponent)
    add = lambda a, b: (
        times_power(a, first.exponent - exponent) + times_power(b, second.exponent - exponent)
    )
    return _normalised(jax.tree.map(add, first.direction, second.direction), exponent)


def _derivative(
    problem: AbstractProblem,
    outer: Outer,
    direction: Outer,
    keys: Keys,
    rounding: tuple[Int[Array, ""], Bool[Array, ""]] | None = None,
) -> _Tangent:
    """Return the derivative of the objective along one direction.

    `rounding` is a seed and a flag. If the seed is not 0, states are rounded differently. If the
    flag is set, their small numbers are halved at every step.
    """
    zero = jnp.zeros((), jnp.int32)
    inner = start(problem, outer, keys).inner
    # `init` may depend on the hyperparameters: the tangent need not start at zero.
    first = pushed(lambda outer: start(problem, outer, keys).inner, outer, direction)
    arrays, static = eqx.partition(inner, eqx.is_array)

    def body(
        carry: tuple[Inner, _Tangent, Int[Array, ""]], _: None
    ) -> tuple[tuple[Inner, _Tangent, Int[Array, ""]], None]:
        arrays, tangent, t = carry
        inner = eqx.combine(arrays, static)
        step = lambda inner, outer: problem.step(inner, outer, t, keys.step(t))
        # Forward mode: the next tangent is A tangent + B direction.
        by_state = pushed(lambda inner: step(inner, outer), inner, tangent.direction)
        by_outer = pushed(lambda outer: step(inner, outer), outer, direction)
        # Only the part through the state has been rescaled before; both get exponents of their own.
        tangent = _sum(_normalised(by_state, tangent.exponent), _normalised(by_outer, zero))
        after = step(inner, outer)
        if rounding is not None:
            floats, rest = differentiable(after)
            seed, fade = rounding
            floats = rounded(floats, differentiable(inner)[0], seed, t)
            after = eqx.combine(jax.tree.map(lambda x: _faded(x, fade), floats), rest)
        return (eqx.filter(after, eqx.is_array), tangent, t + 1), None

    carry = (arrays, _normalised(first, zero), zero)
    (arrays, tangent, _), _ = jax.lax.scan(body, carry, None, length=problem.horizon)
    inner = eqx.combine(arrays, static)
    judge = lambda inner, outer: problem.objective(inner, outer, keys.objective)
    by_state = pushed(lambda inner: judge(inner, outer), inner, tangent.direction)
    by_outer = pushed(lambda outer: judge(inner, outer), outer, direction)
    return _sum(_normalised(by_state, tangent.exponent), _normalised(by_outer, zero))


def _faded(x: Array, fade: Bool[Array, ""]) -> Array:
    """Halve the numbers that are about to underflow.

    Below the range of its precision a number stops or becomes zero, at a size that the compiler
    decides. Halving, in place of zero, meets no derivative of a square root at zero.
    """
    small = jnp.abs(x) < float(jnp.finfo(x.dtype).smallest_normal) ** SMALL
    return jnp.where(fade & small, x / 2, x)


def _sign_and_magnitude(total: _Tangent) -> tuple[Scalar, Scalar]:
    """Return the sign of a number and the logarithm of its magnitude."""
    size = jnp.abs(total.direction)
    magnitude = jnp.log(size) + total.exponent * jnp.log(2.0).astype(size.dtype)
    nothing = total.direction == 0
    return jnp.sign(total.direction), jnp.where(nothing, -jnp.inf, magnitude)


def _digits_lost(
    problem: AbstractProblem, outer: Outer, keys: Keys
) -> tuple[tuple[Scalar, Scalar], float]:
    """Return the digits of a random directional derivative that are lost, and all digits.

    Lost are those to rounding and those to the range of the precision.
    """
    flat, unflatten = ravel_pytree(outer)
    line = unflatten(jax.random.normal(jax.random.fold_in(keys.init, 5), flat.shape, flat.dtype))
    inner = eqx.filter_eval_shape(lambda: start(problem, outer, keys).inner)
    kinds = [x.dtype for x in jax.tree.leaves(differentiable(inner)[0])]
    eps = max((float(jnp.finfo(kind).eps) for kind in kinds), default=float(jnp.finfo(flat).eps))
    along = lambda rounding: _derivative(problem, outer, line, keys, rounding)
    # These are the run itself, `DRAWS` with states rounded differently, and one whose small numbers
    # are halved. One loop body runs them all, so that they differ in nothing but the rounding.
    seeds = jnp.array([0, *range(1, 1 + DRAWS), 0])
    found = jax.lax.map(along, (seeds, jnp.arange(len(seeds)) > DRAWS))
    # Logarithms would add a rounding error relative to themselves.
    shared = jnp.maximum(found.exponent[0], found.exponent[1:])
    first = times_power(found.direction[0], found.exponent[0] - shared)
    others = times_power(found.direction[1:], found.exponent[1:] - shared)
    # By the larger of the two: an error of a factor of a thousand either way counts as 1.
    errors = jnp.abs(others - first) / jnp.maximum(jnp.abs(first), jnp.abs(others))
    # Two derivatives that are both zero agree.
    errors = jnp.where((first == 0) & (others == 0), 0, jnp.where(jnp.isfinite(errors), errors, 1))
    # The roughest dtype of the state decides how many digits there are to lose.
    digits = -log10(eps)
    lost = lambda errors: jnp.clip(jnp.log10(jnp.sqrt(jnp.mean(errors**2))) + digits, 0, digits)
    return (lost(errors[:DRAWS]), lost(errors[DRAWS:])), digits
