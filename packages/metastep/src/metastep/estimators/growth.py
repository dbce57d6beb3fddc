"""How a small change of the inner state grows along a trajectory."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from metastep.problems.base import AbstractProblem, Keys, start
from metastep.trees import differentiable, largest, norm, real_variables
from metastep.types import Inner, Outer, Scalar


def pushed(function: Callable[[PyTree], PyTree], at: PyTree, direction: PyTree) -> PyTree:
    """Return the derivative of `function` along `direction`, on the floating-point leaves."""
    floats, rest = differentiable(at)
    on_floats = lambda floats: differentiable(function(eqx.combine(floats, rest)))[0]
    return jax.jvp(on_floats, (floats,), (direction,))[1]


def random_change(inner: Inner, keys: Keys) -> PyTree:
    """Return a small change of an inner state, of norm 1."""
    variables, restore = real_variables(inner)
    flat, unflatten = ravel_pytree(variables)
    # Any generic direction will do, so the draw is fixed and independent of the run's randomness.
    random = jax.random.normal(jax.random.fold_in(keys.init, 7), flat.shape, flat.dtype)
    return differentiable(restore(unflatten(random / norm(random))))[0]


def changed(change: PyTree, step: Callable[[Inner], Inner], inner: Inner) -> tuple[PyTree, Scalar]:
    """Push a change of `inner` through one step; return it with entries up to 1, and the factor.

    Time: one Jacobian-vector product.
    """
    after = pushed(step, inner, change)
    # Any measure of size will do: `growth_rate` adds the norm of what is left.
    factor = largest(after)
    # A change that has died out stays zero instead of becoming NaN.
    unit = jnp.where(factor > 0, factor, 1)
    return jax.tree.map(lambda x: (x / unit).astype(x.dtype), after), factor


def growth_rate(change: PyTree, factors: Float[Array, " T"]) -> Scalar:
    """Return the growth rate at which a change of norm 1 became `change` times the factors."""
    # A sum of logarithms, since the product of the factors overflows or vanishes.
    return (jnp.sum(jnp.log(factors)) + jnp.log(norm(change))) / factors.size


def lyapunov_exponent(problem: AbstractProblem, outer: Outer, keys: Keys) -> Float[Array, ""]:
    """Return the growth rate of a random tangent of the state, in nats per step.

    Time: one tangent of the forward run. Memory: a few inner states.
    """
    inner = start(problem, outer, keys).inner
    arrays, static = eqx.partition(inner, eqx.is_array)

    def body(carry: tuple[Inner, PyTree, Int[Array, ""]], _: None) -> tuple[tuple, Scalar]:
        arrays, change, t = carry
        inner = eqx.combine(arrays, static)
        step = lambda inner: problem.step(inner, outer, t, keys.step(t))
        change, factor = changed(change, step, inner)
        return (eqx.filter(step(inner), eqx.is_array), change, t + 1), factor

    carry = (arrays, random_change(inner, keys), jnp.zeros((), jnp.int32))
    (_, change, _), factors = jax.lax.scan(body, carry, None, length=problem.horizon)
    return growth_rate(change, factors)
