"""Self-adjoint linear operators on pytrees of arrays, defined by their products."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from metastep.compilation import compiled


class AbstractOperator(eqx.Module):
    """A real self-adjoint linear operator, the common type of all curvature.

    A subclass defines the trees it acts on (`structure`) and the product (`mv`). Conversions to
    matrices, SciPy and lineax are inherited. Operators are pytrees: pass them to compiled
    functions as arguments instead of closing over them.
    """

    @abstractmethod
    def structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of the vectors that the operator acts on."""

    @abstractmethod
    def mv(self, vector: PyTree) -> PyTree:
        """Return the product with a vector, a tree like `structure()`."""

    def prepare(self) -> "AbstractOperator":
        """Return an operator with the same products that is cheaper for many of them.

        Called inside compiled functions, so that its preparations are computed once.
        """
        return self

    @property
    def size(self) -> int:
        """The dimension: the number of entries of a vector."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.structure()))

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of a vector as one array."""
        return jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(self.structure())))

    def ravel(self, vector: PyTree) -> Float[Array, " size"]:
        """Return a tree like `structure()` as one array."""
        return ravel_pytree(vector)[0]

    def unravel(self, flat: Float[Array, " size"]) -> PyTree:
        """Return one array as a tree like `structure()`; the inverse of `ravel`."""
        # NumPy's zeros: they only give the structure, and JAX would put them on the device.
        zeros = lambda leaf: np.zeros(leaf.shape, leaf.dtype)
        return ravel_pytree(jax.tree.map(zeros, self.structure()))[1](flat)

    def flat_mv(self, flat: Float[Array, " size"]) -> Float[Array, " size"]:
        """Return the product with a vector that is one array."""
        return self.ravel(self.mv(self.unravel(flat)))

    def flat_mm(self, rows: Float[Array, "vectors size"]) -> Float[Array, "vectors size"]:
        """Return the products with several vectors, each one array."""
        if len(rows) == 1:  # a batch of one would transpose the data in every product
            return self.flat_mv(rows[0])[None]
        return jax.vmap(self.flat_mv)(rows)

    def as_matrix(self, batch_size: int = 64) -> Float[Array, "size size"]:
        """Return the dense symmetric matrix: `size` products, `batch_size` of them at a time."""
        return _columns(self, batch_size)

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """Return a `scipy.sparse.linalg.LinearOperator` on NumPy arrays."""
        # SciPy passes on columns `[size, 1]` as well.
        product = lambda x: np.asarray(_product(self, jnp.asarray(x.reshape(-1), self.dtype)))
        shape, dtype = (self.size, self.size), np.dtype(self.dtype)
        # It is made by `__new__`, whose arguments the type checker does not know.
        make: Any = scipy.sparse.linalg.LinearOperator
        return make(shape, product, rmatvec=product, dtype=dtype)

    def to_lineax(self, positive: bool = False) -> lx.FunctionLinearOperator:
        """Return a symmetric `lineax.FunctionLinearOperator` on trees.

        `positive` asserts that the operator is positive semidefinite, as `lineax.CG` requires.
        """
        tags = {lx.symmetric_tag} | ({lx.positive_semidefinite_tag} if positive else set())
        return lx.FunctionLinearOperator(self.mv, self.structure(), frozenset(tags))


@compiled
def _columns(operator: AbstractOperator, batch_size: int) -> Float[Array, "size size"]:
    prepared = operator.prepare()
    identity = jnp.eye(operator.size, dtype=operator.dtype)
    return jax.lax.map(prepared.flat_mv, identity, batch_size=batch_size).T


@compiled
def _product(operator: AbstractOperator, flat: Float[Array, " size"]) -> Float[Array, " size"]:
    return operator.flat_mv(flat)


class SymmetricMatrix(AbstractOperator):
    """A symmetric matrix as an operator.

    Attributes:
        matrix: the entries.
    """

    matrix: Float[Array, "dim dim"]

    def structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape of a column."""
        return jax.ShapeDtypeStruct(self.matrix.shape[:1], self.matrix.dtype)

    def mv(self, vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """Return the product with a vector."""
        return self.matrix @ vector
