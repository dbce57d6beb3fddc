"""Pytree algebra on the floating-point leaves; every other leaf is left unchanged."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree


def differentiable(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Split `tree` into its floating-point leaves and the rest (indices, keys, counters)."""
    return eqx.partition(tree, eqx.is_inexact_array)


def as_arrays(tree: PyTree) -> PyTree:
    """Return `tree` with NumPy arrays and scalars as JAX arrays; everything else is unchanged."""
    numeric = lambda x: (
        isinstance(x, np.ndarray | np.generic)
        and (jnp.issubdtype(x.dtype, jnp.number) or jnp.issubdtype(x.dtype, jnp.bool_))
    )
    return jax.tree.map(lambda x: jnp.asarray(x) if numeric(x) else x, tree)


def real_variables(tree: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Return the floating-point leaves as real arrays, and the function that restores the tree.

    A complex leaf becomes an array with its real and its imaginary parts along a new last axis.
    Every step is then a differentiable map between real vector spaces, even where it is not
    holomorphic, and eigenvalues, transposes and linear systems are well defined. Real leaves are
    unchanged.
    """
    floats, rest = differentiable(tree)
    is_complex = jax.tree.map(jnp.iscomplexobj, floats)
    join = lambda x, pair: jax.lax.complex(x[..., 0], x[..., 1]) if pair else x

    def restore(variables: PyTree) -> PyTree:
        return eqx.combine(jax.tree.map(join, variables, is_complex), rest)

    return jax.tree.map(_as_real, floats), restore


def _as_real(x: Array) -> Array:
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def ascent(gradients: PyTree) -> PyTree:
    """Return the direction of steepest ascent: gradients as optimizers expect them.

    For complex arguments JAX's gradient of a real function is the conjugate of that direction.
    Real leaves are unchanged.
    """
    return jax.tree.map(jnp.conj, gradients)


def inner_product(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """Return the real inner product of two trees, over all floating-point leaves."""
    # The real part: complex numbers count as pairs of real ones, as everywhere in this library.
    products = jax.tree.map(
        lambda a, b: jnp.sum(a.conj() * b).real,
        eqx.filter(first, eqx.is_inexact_array),
        eqx.filter(second, eqx.is_inexact_array),
    )
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def norm(tree: PyTree) -> Float[Array, ""]:
    """Return the Euclidean norm of all floating-point leaves, safe from overflow.

    The leaves are divided by their largest magnitude before they are squared: in float32 the norm
    of a gradient of size 1e30 is finite.
    """
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    if not leaves:
        return jnp.zeros(())
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in leaves]))
    # 1 for zero and for infinity, so that the norm is 0 and inf instead of NaN.
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(sum(jnp.sum(_squared(x / scale)) for x in leaves))


def _squared(x: Array) -> Array:
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def cosine(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """Return the cosine of the angle between two trees; NaN if one of them is zero."""
    first_norm, second_norm = norm(first), norm(second)
    unit = lambda tree, length: jax.tree.map(lambda x: x / length, tree)
    return inner_product(unit(first, first_norm), unit(second, second_norm))


def subtract(first: PyTree, second: PyTree) -> PyTree:
    """Return `first - second` on trees of floating-point leaves."""
    return jax.tree.map(jnp.subtract, first, second)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Return whether every floating-point leaf is finite everywhere."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves] or [jnp.array(True)]))


def leaf_names(tree: PyTree) -> list[str]:
    """Return the path of every leaf, such as `['step_size']` for a dictionary entry."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def as_hyperparameters(outer: PyTree) -> PyTree:
    """Return a pytree with every leaf, an array or a Python float, as a floating-point array.

    Raises:
        ValueError: if there is no leaf, or a leaf is not a real floating-point number.
    """
    if not jax.tree.leaves(outer):
        raise ValueError(
            f"outer has no leaves (it is {outer!r}); put at least one hyperparameter into it."
        )

    def convert(path: Any, leaf: Any) -> Array:
        name = "outer" + jax.tree_util.keystr(path)
        if not isinstance(leaf, float | complex | int | np.ndarray | np.generic | jax.Array):
            raise ValueError(
                f"{name} is a {type(leaf).__name__}; allowed are floating-point arrays and floats."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{name} has dtype {jnp.result_type(leaf)}; a hyperparameter that is tuned by "
                "gradient needs a real floating-point dtype. Write 1.0 for 1, or keep the value "
                "out of outer and close over it."
            )
        return jnp.asarray(leaf)

    return jax.tree_util.tree_map_with_path(convert, outer)


def same_structure(name: str, expected: PyTree, actual: PyTree) -> None:
    """Check that two trees agree in structure, shapes and dtypes; `name` is what produced `actual`.

    Raises:
        ValueError: naming the first leaf that differs, and both shapes and dtypes.
    """
    expected_leaves, expected_treedef = jax.tree_util.tree_flatten_with_path(expected)
    actual_leaves, actual_treedef = jax.tree_util.tree_flatten_with_path(actual)
    if expected_treedef != actual_treedef:
        raise ValueError(
            f"{name} returned another pytree structure than it was given: {actual_treedef}, "
            f"expected {expected_treedef}."
        )
    for (path, before), (_, after) in zip(expected_leaves, actual_leaves, strict=True):
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            raise ValueError(
                f"{name} changed the leaf {jax.tree_util.keystr(path) or 'itself'} from "
                f"{before.dtype}{list(before.shape)} to {after.dtype}{list(after.shape)}; "
                "every step must keep shapes and dtypes."
            )
