"""The gradient inside a step, and how reverse mode differentiates through it.

A step of training contains g(w, x) = d_w L(w, x), where x is everything else that the inner loss L
uses: hyperparameters, examples and captured values. Reverse mode over reverse mode stores the
activations of L for the backward pass of g. Mixed mode stores w and x alone. For a cotangent v of
g, one forward derivative of one backward pass returns both products:

    d/de grad_{(w, x)} L(w + e v, x)  at e = 0   =   (d_ww L v, d_xw L v).

Reference:
    Kemaev et al. (2025), Scalable meta-learning via mixed-mode differentiation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import PyTree

from metastep.checks import require
from metastep.problems.base import AbstractProblem
from metastep.problems.linear_map import linear_map
from metastep.trees import is_key
from metastep.types import Scalar

# Below this size plain reverse mode is as fast or faster (`benchmarks/mixed_mode.py`).
ROOM = 2**26
"""Size of the stored activations in bytes above which mixed mode is chosen automatically."""


class InnerGradient(eqx.Module):
    """The gradient of an inner loss; an estimator may choose how it is differentiated again.

    A problem offers mixed mode if it keeps an `InnerGradient` as a field and calls it in `step`:
    `Reverse` and `TruncatedReverse` replace it according to their option `mixed`. The numbers are
    the same to rounding, in both modes of differentiation and in every order.

    Example:
        >>> import jax.numpy as jnp
        >>> from metastep.problems import InnerGradient
        >>> value, gradient = InnerGradient()(lambda w: jnp.sum(w**2), jnp.array([1.0, 2.0]))
        >>> float(value), gradient.tolist()
        (5.0, [2.0, 4.0])

    Attributes:
        mixed: whether reverse mode stores the parameters and recomputes the activations; None
            decides by sizes, as `Reverse` says. A problem leaves it False. If the loss contains
            complex numbers, activations are always stored.
        stored_steps: the number of steps whose activations would be stored at the same time.
    """

    mixed: bool | None = eqx.field(static=True, default=False)
    stored_steps: int = eqx.field(static=True, default=1)

    def __call__(self, loss: Callable[[Any], Scalar], params: PyTree) -> tuple[Scalar, PyTree]:
        """Return the value and the gradient of `loss`, which may close over traced values."""
        if self.mixed is False:
            return jax.value_and_grad(loss)(params)
        # Captured values may be traced and differentiated, so they become arguments. A lambda has a
        # closure: equinox leaves a function without one as it is, with the arrays of global
        # variables inside.
        pure = eqx.filter_closure_convert(lambda params: loss(params), params)
        captured, static = eqx.partition(pure, eqx.is_array)
        if any(map(jnp.iscomplexobj, jax.tree.leaves((params, captured)))):
            return jax.value_and_grad(loss)(params)  # products with complex numbers are not linear
        if self.mixed is None:
            value, pull_back = jax.vjp(pure, params)
            # What the closure of the backward pass holds is what reverse mode would store.
            activations = _bytes(pull_back, beside=(params, captured))
            # Mixed mode stores the parameters in their place, so it saves nothing if these are
            # larger.
            if activations <= max(_bytes(params), ROOM / self.stored_steps):
                return value, pull_back(jnp.ones_like(value))[0]
        at = lambda params, captured: eqx.combine(captured, static)(params)
        return _mixed(at, params, captured)


def choose_mixed(
    problem: AbstractProblem, mixed: bool | None, stored_steps: int
) -> AbstractProblem:
    """Return the problem with the given options in every `InnerGradient` that it contains.

    A `ValueError` refuses other values of `mixed` than True, False and None, and True for a problem
    without an `InnerGradient`.
    """
    allowed = "True, False and None (by sizes)"
    require(mixed is None or isinstance(mixed, bool), "mixed", mixed, allowed)
    is_gradient = lambda node: isinstance(node, InnerGradient)
    if mixed and not any(map(is_gradient, jax.tree.leaves(problem, is_leaf=is_gradient))):
        raise ValueError(
            f"mixed is True, and {type(problem).__name__} has no gradient that could be "
            "differentiated so: allowed are None and False. A problem that keeps an "
            "`InnerGradient` as a field and calls it in `step` has one."
        )
    chosen = InnerGradient(mixed, stored_steps)
    choose = lambda node: chosen if is_gradient(node) else node
    return jax.tree.map(choose, problem, is_leaf=is_gradient)


def _bytes(tree: PyTree, beside: PyTree = ()) -> int:
    """Return the size of the arrays of a tree, without those that `beside` also holds."""
    # By identity: a residual that is an input itself needs no memory of its own.
    held = {id(x) for x in jax.tree.leaves(beside)}
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return sum(x.nbytes for x in arrays if id(x) not in held)


def _mixed(
    at: Callable[[PyTree, PyTree], Scalar], params: PyTree, captured: PyTree
) -> tuple[Scalar, PyTree]:
    """Return value and gradient of `at` by its first argument, with a mixed-mode derivative."""

    @jax.custom_jvp
    def value_and_gradient(params: PyTree, captured: PyTree) -> tuple[Scalar, PyTree]:
        return _batched_with((params, captured), jax.value_and_grad(at)(params, captured))

    @partial(value_and_gradient.defjvp, symbolic_zeros=True)
    def _(primals: tuple[PyTree, PyTree], tangents: tuple[PyTree, PyTree]) -> tuple:
        # The function with this rule is called, so that derivatives of higher order find it again.
        value, gradient = value_and_gradient(*primals)
        # A derivative along zeros would cost as much as any other.
        moves = jax.tree.map(lambda x: not _is_zero(x), tangents, is_leaf=_is_zero)
        directions = eqx.filter(tangents, moves)

        def along(function: Callable, primals: tuple, directions: tuple) -> PyTree:
            moving, fixed = eqx.partition(primals, moves)
            of_moving = lambda moving: function(*eqx.combine(moving, fixed))
            return jax.jvp(of_moving, (moving,), (directions,))[1]

        def from_value(primals: tuple, cotangent: Scalar) -> PyTree:
            moving, fixed = eqx.partition(primals, moves)
            _, pull_back = jax.vjp(lambda moving: at(*eqx.combine(moving, fixed)), moving)
            return pull_back(cotangent)[0]

        def from_gradient(primals: tuple, cotangent: PyTree) -> PyTree:
            params, captured = primals
            slopes = lambda params: from_value((params, captured), jnp.ones_like(value))
            return jax.jvp(slopes, (params,), (cotangent,))[1]

        # d_ww L is symmetric, and d_wx L is the transpose of d_xw L: one forward derivative of one
        # backward pass transposes the map.
        along_gradient = partial(along, jax.grad(at))
        # Each tangent is a linear map with a known transpose: reverse mode stores the primals only.
        changes = (
            linear_map(partial(along, at), from_value, primals, directions, value),
            linear_map(along_gradient, from_gradient, primals, directions, gradient),
        )
        return (value, gradient), changes

    return value_and_gradient(params, captured)


def _batched_with(inputs: PyTree, outputs: PyTree) -> PyTree:
    """Add zero to every output, so that under `vmap` it is batched if any input is.

    A sum over a named axis is not batched, but its tangent is, and JAX would treat that tangent as
    shared by all rows. Inputs that vary over the devices of a `shard_map` are left out, since
    outputs must not become varying.
    """
    nothing = jnp.zeros((), jnp.float16)
    for x in jax.tree.leaves(inputs):
        if not jax.typeof(x).manual_axis_type.varying:
            # The sum of no entries is 0 even where the input is NaN, and reads nothing.
            numbers = jax.random.key_data(x) if is_key(x) else x
            nothing += jnp.sum(jnp.ravel(numbers)[:0].real).astype(nothing.dtype)
    return jax.tree.map(lambda x: x + nothing.astype(x.dtype), outputs)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)
