"""Pytree algebra on the floating-point leaves; every other leaf is left unchanged."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from metastep.types import Scalar


def differentiable(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Split `tree` into its floating-point leaves and the rest (indices, keys, counters)."""
    return eqx.partition(tree, eqx.is_inexact_array)


def as_arrays(tree: PyTree) -> PyTree:
    """Return `tree` with NumPy arrays and scalars as JAX arrays; everything else is unchanged."""
    # Arrays of text or of Python objects, such as names in a state, have no dtype in JAX.
    numeric = lambda x: (
        isinstance(x, np.ndarray | np.generic)
        and (jnp.issubdtype(x.dtype, jnp.number) or jnp.issubdtype(x.dtype, jnp.bool_))
    )
    return jax.tree.map(lambda x: jnp.asarray(x) if numeric(x) else x, tree)


def is_key(x: Any) -> bool:
    """Whether an array holds random keys, whose bits are no numbers."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def real_variables(tree: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Return the floating-point leaves as real arrays, and the function that restores the tree.

    A complex leaf becomes an array with its real and its imaginary parts along a new last axis.
    Every step is then a differentiable map between real vector spaces, even where it is not
    holomorphic, and eigenvalues, transposes and linear systems are well defined. Real leaves are
    unchanged.
    """
    floats, rest = differentiable(tree)
    # These are Python booleans, since the real arrays that `restore` gets do not tell which of them
    # are pairs.
    is_complex = jax.tree.map(jnp.iscomplexobj, floats)
    join = lambda x, pair: jax.lax.complex(x[..., 0], x[..., 1]) if pair else x

    def restore(variables: PyTree) -> PyTree:
        return eqx.combine(jax.tree.map(join, variables, is_complex), rest)

    as_real = lambda x: jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x
    return jax.tree.map(as_real, floats), restore


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
        lambda a, b: jnp.sum((a.conj() * b).real), _widened(first), _widened(second)
    )
    # The narrowest dtype of a sum, which therefore widens none; without leaves it is the result.
    return sum(jax.tree.leaves(products), start=jnp.zeros((), jnp.float32))


def largest(tree: PyTree) -> Float[Array, ""]:
    """Return the largest magnitude in the floating-point leaves; 0 if there are none."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    # Without `initial` JAX takes no maximum over an array without entries.
    sizes = [jnp.max(jnp.abs(x), initial=0.0) for x in leaves]
    return jnp.max(jnp.stack(sizes or [jnp.zeros(())]))


def norm(tree: PyTree) -> Float[Array, ""]:
    """Return the Euclidean norm of all floating-point leaves, safe from overflow.

    The leaves are divided by their largest magnitude before they are squared: in float32 the norm
    of a gradient of size 1e30 is finite.
    """
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    if not leaves:
        return jnp.zeros(())
    size = largest(leaves)
    # 1 for zero and for infinity, so that the norm is 0 and inf instead of NaN.
    scale = jnp.where((size > 0) & jnp.isfinite(size), size, 1)

    def squares(x: Array) -> Array:
        # In float32 at least: more than 65504 entries of size 1 overflow a sum in float16.
        return jnp.sum(x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2, dtype=_wide(x))

    return (scale * jnp.sqrt(sum(squares(x / scale) for x in leaves))).astype(size.dtype)


def ratio(numerator: Scalar, denominator: Scalar) -> Scalar:
    """Divide two norms, with 0 / 0 = 0."""
    return jnp.where(numerator == 0, 0.0, numerator / denominator)


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.real.dtype, jnp.float32)


def _widened(tree: PyTree) -> PyTree:
    """Return the floating-point leaves in float32 at least: 256 times itself overflows float16."""
    widen = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.tree.map(widen, eqx.filter(tree, eqx.is_inexact_array))


def times_power(x: Array, exponent: Int[Array, "..."]) -> Array:
    """Multiply by 2^exponent without rounding, in two halves, so that neither factor overflows."""
    # Callers shift further only what becomes 0 or infinity in any case, and half of this shift is
    # an exponent of float64.
    exponent = jnp.clip(exponent, -2000, 2000)
    # `ldexp`, since `exp2` is not exact at integers on every processor.
    power = lambda by: jnp.ldexp(jnp.ones((), x.real.dtype), by)
    half = exponent // 2
    return x * power(half) * power(exponent - half)


def cosine(first: PyTree, second: PyTree) -> Float[Array, ""]:
    """Return the cosine of the angle between two trees; NaN if one of them is zero."""
    # A norm has the precision of its tree, and one of many numbers overflows float16.
    first, second = _widened(first), _widened(second)
    first_norm, second_norm = norm(first), norm(second)
    # The trees are divided first, since the product of two gradients of size 1e30 overflows in
    # float32.
    unit = lambda tree, length: jax.tree.map(lambda x: x / length, tree)
    return inner_product(unit(first, first_norm), unit(second, second_norm))


def subtract(first: PyTree, second: PyTree) -> PyTree:
    """Return `first - second` on trees of floating-point leaves."""
    return jax.tree.map(jnp.subtract, first, second)


def mean_and_error(samples: Float[Array, "n *shape"]) -> tuple[Array, Array]:
    """Return the mean of independent samples and its standard error (NaN for one sample)."""
    mean = jnp.mean(samples, axis=0)
    if len(samples) == 1:
        return mean, jnp.full_like(mean, jnp.nan)
    # A Python number takes the precision of the samples; in float16 70000 would be infinite.
    return mean, jnp.std(samples, axis=0, ddof=1) / len(samples) ** 0.5


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Return whether every floating-point leaf is finite everywhere."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves] or [jnp.array(True)]))


def leaf_names(tree: PyTree) -> list[str]:
    """Return the path of every leaf, such as `['step_size']` for a dictionary entry."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def as_hyperparameters(outer: PyTree) -> PyTree:
    """Return a pytree with every leaf, an array or a Python float, as a floating-point array.

    A `ValueError` names a leaf that is not a real floating-point number.
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
        # Without the weak type of a Python number: it would compile a second program, and half
        # precision would be another training run for 0.1 than for jnp.asarray(0.1).
        return jnp.asarray(leaf, jnp.result_type(leaf))

    return jax.tree_util.tree_map_with_path(convert, outer)


def raveled(tree: PyTree) -> tuple[Float[Array, " N"], Callable[[Float[Array, " N"]], PyTree]]:
    """Return all numbers of a tree as a vector, and the function that restores the tree.

    The restored leaves have the dtypes of the tree, whatever the dtype of the vector that is given:
    derivatives of an objective in float32 become those of hyperparameters in float16.
    """
    flat, unflatten = ravel_pytree(tree)
    return flat, lambda vector: unflatten(vector.astype(flat.dtype))


def same_structure(name: str, expected: PyTree, actual: PyTree) -> None:
    """Refuse a tree that differs in structure, a shape or a dtype; `name` is what returned it."""
    expected_leaves, expected_treedef = jax.tree_util.tree_flatten_with_path(expected)
    actual_leaves, actual_treedef = jax.tree_util.tree_flatten_with_path(actual)
    if expected_treedef != actual_treedef:
        raise ValueError(
            f"{name} returned another pytree structure than it was given: {actual_treedef}, "
            f"expected {expected_treedef}."
        )
    for (path, before), (_, after) in zip(expected_leaves, actual_leaves, strict=True):
        # Weak types may differ, since `scan` promotes them by itself.
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            raise ValueError(
                f"{name} changed the leaf {jax.tree_util.keystr(path) or 'itself'} from "
                f"{before.dtype}{list(before.shape)} to {after.dtype}{list(after.shape)}; "
                "every step must keep shapes and dtypes."
            )
