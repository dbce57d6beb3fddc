"""The top eigenpairs of an operator, each with its residual and whether it has converged."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from metastep.checks import is_count, require
from metastep.curvature.eigen.lanczos import Lanczos
from metastep.curvature.eigen.method import AbstractEigenMethod
from metastep.curvature.operators.base import AbstractOperator
from metastep.types import RandomKey


class EigenPairs(eqx.Module):
    """Eigenvalues (descending) and unit eigenvectors of an operator.

    Attributes:
        values: the k largest eigenvalues found.
        vectors: a tree like the operator's vectors, with a leading axis of k.
        residuals: |H v - lambda v|. Those of Lanczos are estimates, at least the precision times
            the largest eigenvalue, about which the products are rounded.
        converged: whether the residual is at most tolerance * |lambda|. Without it, a pair is not
            an eigenpair.
        products: the number of products with the operator.
    """

    values: Float[Array, " k"]
    vectors: PyTree
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    products: Int[Array, ""]


def top_eigenpairs(
    operator: AbstractOperator,
    k: int,
    *,
    key: RandomKey,
    method: AbstractEigenMethod | None = None,
    start: PyTree | None = None,
) -> EigenPairs:
    """Return the k largest eigenvalues of a self-adjoint operator and their eigenvectors.

    Args:
        operator: any operator of this package.
        k: the number of pairs, up to the dimension.
        key: random key of the starting vectors.
        method: `Lanczos()` (None), `Dual()` or `LOBPCG()`.
        start: vectors near the eigenvectors, such as those of the Kronecker approximation: a tree
            like the operator's vectors with a leading axis. Lanczos and Dual start from their sum
            (one sum for each vector of a block), LOBPCG from the first k; missing ones are drawn.

    Returns:
        The pairs, each marked as converged or not. If the operator returns NaN, no pair has
        converged.

    Raises:
        ValueError: for a `k` that is not from 1 to the dimension, or a method that does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.curvature import SymmetricMatrix, top_eigenpairs
        >>> operator = SymmetricMatrix(jnp.diag(jnp.arange(8.0)))
        >>> pairs = top_eigenpairs(operator, 2, key=jax.random.key(0))
        >>> [round(value) for value in pairs.values.tolist()], pairs.converged.tolist()
        ([7, 6], [True, True])
    """
    allowed = f"the integers from 1 to the dimension {operator.size}"
    require(is_count(k, most=operator.size), "k", k, allowed)
    method = Lanczos() if method is None else method
    given = jnp.zeros((0, operator.size)) if start is None else jax.vmap(operator.ravel)(start)
    # Drawn vectors fill up a block; a given start is not mixed with noise.
    missing = max(0, method.starts(k) - len(given))
    drawn = jax.random.normal(key, (missing, operator.size), operator.dtype)
    found = method.find(operator, k, jnp.concatenate([given.astype(operator.dtype), drawn]))
    return EigenPairs(
        values=found.values,
        vectors=jax.vmap(operator.unravel)(found.vectors),
        residuals=found.residuals,
        # False for NaN as well: every comparison with it is.
        converged=found.residuals <= method.tolerance * jnp.abs(found.values),
        products=found.products,
    )
