"""The gradient inside a step, and how reverse mode differentiates through it.

A step of training contains g(w, x) = d_w L(w, x), where x is all else that the inner loss L uses:
hyperparameters, examples, anything that it closes over. Reverse mode over reverse mode stores what
the backward pass of g needs, the activations of L. Mixed mode stores w and x only. For a cotangent
v of g, one forward derivative of one backward pass gives what is asked for:

    d/de grad_{(w, x)} L(w + e v, x)  at e = 0   =   (d_ww L v,  d_xw L v).
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, PyTree

from metastep.problems.base import AbstractProblem
from metastep.problems.linear_map import linear_map
from metastep.types import Scalar

Loss = Callable[[PyTree, PyTree], Scalar]


class InnerGradient(eqx.Module):
    """How a problem takes the gradient of its inner loss.

    A problem keeps one as a field, so that an estimator finds it and decides how it is
    differentiated through. The number is the same, up to rounding.

    Attributes:
        mixed: see `metastep.Reverse`. False until an estimator decides.
    """

    mixed: bool | None = eqx.field(static=True, default=False)

    def __call__(self, loss: Callable[[PyTree], Scalar], params: PyTree) -> tuple[Scalar, PyTree]:
        """Return value and gradient of `loss`, a function of floating-point arrays, at `params`."""
        if self.mixed is False:
            return jax.value_and_grad(loss)(params)
        pure = eqx.filter_closure_convert(lambda params: loss(params), params)
        if self.mixed is None:
            value, pull_back = jax.vjp(pure, params)
            if _bytes(pull_back) <= 2 * _bytes(params):
                return value, pull_back(jnp.ones_like(value))[0]
        captured, static = eqx.partition(pure, eqx.is_array)
        at = lambda params, captured: eqx.combine(captured, static)(params)
        return _mixed(at, params, captured)


def _bytes(tree: PyTree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))


def _mixed(at: Loss, params: PyTree, captured: PyTree) -> tuple[Scalar, PyTree]:
    @jax.custom_jvp
    def value_and_gradient(params: PyTree, captured: PyTree) -> tuple[Scalar, PyTree]:
        return jax.value_and_grad(at)(params, captured)

    @partial(value_and_gradient.defjvp, symbolic_zeros=True)
    def _(primals: tuple, tangents: tuple) -> tuple:
        value, gradient = value_and_gradient(*primals)
        is_moving = jax.tree.map(lambda x: not _is_zero(x), tangents, is_leaf=_is_zero)
        directions = eqx.filter(tangents, is_moving)

        def along(function, primals, directions):
            moving, fixed = eqx.partition(primals, is_moving)
            return jax.jvp(lambda moving: function(*eqx.combine(moving, fixed)), (moving,), (directions,))[1]

        def slopes(primals):
            moving, fixed = eqx.partition(primals, is_moving)
            return jax.grad(lambda moving: at(*eqx.combine(moving, fixed)))(moving)

        def back_value(primals, c):
            return jax.tree.map(lambda x: c * x, slopes(primals))

        def back_gradient(primals, v):
            params, captured = primals
            return jax.jvp(lambda params: slopes((params, captured)), (params,), (v,))[1]

        changes = (
            linear_map(partial(along, at), back_value, primals, directions, value),
            linear_map(partial(along, jax.grad(at)), back_gradient, primals, directions, gradient),
        )
        return (value, gradient), changes

    return value_and_gradient(params, captured)


def _is_zero(x):
    return isinstance(x, SymbolicZero)


def choose_mixed(problem: AbstractProblem, mixed: bool | None) -> AbstractProblem:
    found = []
    def chosen(node):
        if not isinstance(node, InnerGradient):
            return node
        found.append(node)
        return InnerGradient(mixed)
    problem = jax.tree.map(chosen, problem, is_leaf=lambda node: isinstance(node, InnerGradient))
    if mixed and not found:
        raise ValueError("mixed")
    return problem
