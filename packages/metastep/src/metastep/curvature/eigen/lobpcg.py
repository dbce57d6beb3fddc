"""Locally optimal block preconditioned conjugate gradients, a wrapper of JAX's implementation."""

import jax.numpy as jnp
from jax.experimental.sparse.linalg import lobpcg_standard
from jaxtyping import Array

from metastep.compilation import compiled
from metastep.curvature.eigen.method import AbstractEigenMethod, Found
from metastep.curvature.operators.base import AbstractOperator

MARGIN = 21  # slightly above the 20 n of JAX's test, for residuals that are just below it


class LOBPCG(AbstractEigenMethod):
    """Locally optimal block preconditioned conjugate gradients, of `jax.experimental.sparse`.

    Needs 5 k < size. Memory: about 10 k vectors.

    Attributes:
        tolerance: relative residual at which a pair has converged.
        iterations: the largest number of iterations; each takes 4 k products.

    Reference:
        Knyazev (2001), Toward the optimal preconditioned eigensolver.
    """

    tolerance: float = 1e-3
    iterations: int = 100

    def starts(self, k: int) -> int:
        """Return k."""
        return k

    def find(self, operator: AbstractOperator, k: int, start: Array) -> Found:
        """Return k pairs with their residuals, which take k more products."""
        if 5 * k >= operator.size:
            raise ValueError(
                f"k is {k} of dimension {operator.size}; LOBPCG allows k below a fifth of the "
                "dimension. Use Lanczos()."
            )
        return _lobpcg(operator, start[:k], self.iterations, self.tolerance)


@compiled
def _lobpcg(operator: AbstractOperator, start: Array, iterations: int, tolerance: float) -> Found:
    prepared = operator.prepare()
    product = lambda columns: prepared.flat_mm(columns.T).T
    # JAX stops at a residual below 10 n tol (|H v| + lambda), which is about 20 n tol lambda. Its
    # default, the precision, would end the search in a large float32 problem after a few steps.
    stop = tolerance / (MARGIN * operator.size)
    values, vectors, used = lobpcg_standard(product, start.T, iterations, stop)
    # Measured: JAX's implementation tells neither residuals nor whether it has converged.
    residuals = jnp.linalg.norm(product(vectors) - values * vectors, axis=0)
    # Before the first iteration k, in each the 3 k search directions and the k vectors, here k.
    return Found(values, vectors.T, residuals, len(start) * (4 * used + 2))
