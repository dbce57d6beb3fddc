"""A constant matrix with fast products in both directions, also in every derivative."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

LANES = 16  # the number of float32 values in a vector register of 512 bits


class StoredTwice(eqx.Module):
    """A constant matrix A in both memory orders, so that A @ x and A.T @ y both read it in order.

    Full-batch training of a linear model takes one product with the examples A and one with their
    transpose per step, and two more in the backward pass. On a CPU row-major `A.T @ y` is two to
    four times as slow as `A @ x`, because of a strided read or a copy of A in every step. Storing
    the transpose avoids this, for twice the memory. When JAX differentiates `A @ x`, it derives
    `A.T @ y` itself; only a primitive can direct it to the stored transpose.

    Attributes:
        rows: A, shape (rows, columns).
        columns: A.T, laid out row by row, shape (columns, rows).
    """

    rows: Float[Array, "rows columns"]
    columns: Float[Array, "columns rows"]

    def __init__(self, matrix: Float[Array, "rows columns"]):
        self.rows = jnp.asarray(matrix)
        self.columns = jnp.array(self.rows.T)

    def __matmul__(self, right: Float[Array, "columns k"]) -> Float[Array, "rows k"]:
        """Return A @ right, shape (rows, k).

        Exact, and differentiable in `right` in both modes and to any order.

        Raises:
            ValueError: if A itself is differentiated.
        """
        return _product.bind(right, self.rows, self.columns)


def _multiply(right: Array, matrix: Array, transposed_matrix: Array) -> Array:
    """Return matrix @ right, with `right` padded to full vector registers."""
    del transposed_matrix
    # For ten classes the product of a multiple of 16 columns is faster than that of ten.
    width = right.shape[1]
    padding = -width % LANES if width > LANES // 2 else 0
    return (matrix @ jnp.pad(right, ((0, 0), (0, padding))))[:, :width]


def _abstract(right: Any, matrix: Any, transposed_matrix: Any) -> jax.core.ShapedArray:
    del transposed_matrix
    return jax.core.ShapedArray((matrix.shape[0], right.shape[1]), right.dtype)


def _differentiate(primals: Any, tangents: Any) -> tuple[Any, Any]:
    if not all(isinstance(tangent, ad.Zero) for tangent in tangents[1:]):
        raise ValueError(
            "A StoredTwice matrix is a constant and cannot be differentiated; pass the plain array "
            "where a derivative with respect to it is wanted."
        )
    product = _product.bind(*primals)
    # Symbolic zeros are no arrays, and the primitive is not bound to them.
    if isinstance(tangents[0], ad.Zero):
        return product, jnp.zeros_like(product)
    return product, _product.bind(tangents[0], *primals[1:])


def _transpose(cotangent: Any, right: Any, matrix: Any, transposed_matrix: Any) -> tuple:
    if isinstance(cotangent, ad.Zero):
        return ad.Zero(right.aval), None, None
    return _product.bind(cotangent, transposed_matrix, matrix), None, None


def _batch(arguments: Any, axes: Any) -> tuple[Any, int]:
    right, matrix, transposed_matrix = arguments
    if axes[1] is not None or axes[2] is not None:  # a matrix per row: no stored transpose to use
        return jax.vmap(jnp.matmul, (axes[1], axes[0]))(matrix, right), 0
    # One product with more columns: the matrix is read once for the whole batch.
    right = jnp.moveaxis(right, axes[0], 1)
    flat = _product.bind(right.reshape(right.shape[0], -1), matrix, transposed_matrix)
    return flat.reshape(flat.shape[0], *right.shape[1:]), 1


_product = Primitive("stored_product")
# Outside `jit` a primitive needs an implementation; inside the lowering below.
_product.def_impl(jax.jit(_multiply))
_product.def_abstract_eval(_abstract)
mlir.register_lowering(_product, mlir.lower_fun(_multiply, multiple_results=False))
ad.primitive_jvps[_product] = _differentiate
ad.primitive_transposes[_product] = _transpose
batching.primitive_batchers[_product] = _batch
