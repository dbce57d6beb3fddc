"""Eigenpairs of a layer's Hessian from the Gram matrix of its rows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.eigen.lanczos import Lanczos
from metastep.curvature.eigen.method import AbstractEigenMethod, Found
from metastep.curvature.layers.layerwise import LayerHessian
from metastep.curvature.operators.base import AbstractOperator, SymmetricMatrix

BLOCK = 8  # vectors that are multiplied at a time


class Dual(AbstractEigenMethod):
    """Eigenpairs of a `LayerHessian` from the Gram matrix of its rows; the loss must be convex.

    The Hessian is F F^T. F has one column for each example and class, which is an outer product, so
    F^T F needs no vector of the layer's size. Exact if all columns are kept. Otherwise those of
    largest norm are kept, and the residuals measure the error. For layers with one position only
    (no convolutions).

    Attributes:
        tolerance: relative residual at which a pair has converged.
        rows: the largest number of columns of F; the Gram matrix has rows^2 entries.
    """

    tolerance: float = 1e-3
    rows: int = 5_000

    def starts(self, k: int) -> int:
        """Return the number of start vectors that Lanczos needs for the Gram matrix."""
        return Lanczos().starts(k)

    def find(self, operator: AbstractOperator, k: int, start: Array) -> Found:
        """Return k pairs with their residuals, at one product each, in whole blocks."""
        if not (
            isinstance(operator, LayerHessian)
            and operator.factors.inputs.shape[1] == operator.groups == 1
        ):
            raise ValueError(
                f"method is Dual() and the operator a {type(operator).__name__}; allowed is a "
                "LayerHessian of a fully connected layer. Use Lanczos()."
            )
        gram, left, right = _gram(operator, self.rows)
        require_count("k", k, most=len(gram))
        # Lifting multiplies residuals, so the pairs of the Gram matrix must be more accurate.
        solver = Lanczos(tolerance=self.tolerance / 10)
        inner = solver.find(SymmetricMatrix(gram), k, _lowered(start, left, right))
        return _lifted(operator, inner, left, right)


@compiled
def _gram(operator: LayerHessian, rows: int) -> tuple[Array, Array, Array]:
    """Return F^T F and the two factors of the columns of F with the largest norm."""
    x, g = operator.factors.inputs[:, 0], operator.factors.jacobian[:, :, 0]
    # A = R^T R with R = sqrt(values) vectors^T, so that F has a column R G (x) x for each class.
    values, vectors = jnp.linalg.eigh(operator.curvature)
    # Rounding may leave a small negative eigenvalue of a convex loss.
    roots = jnp.sqrt(jnp.maximum(values, 0))[:, :, None] * vectors.transpose(0, 2, 1)
    left = jnp.einsum("icd,idm->icm", roots, g).reshape(-1, g.shape[-1]) / jnp.sqrt(len(x))
    example = jnp.arange(len(left)) // g.shape[1]
    sizes = jnp.sum(left**2, axis=1) * jnp.sum(x**2, axis=1)[example]
    _, chosen = jax.lax.top_k(sizes, min(rows, len(left)))
    left, right = left[chosen], x[example[chosen]]
    # The inner product of two outer products is the product of the factors' inner products.
    return (left @ left.T) * (right @ right.T), left, right


@compiled
def _lowered(vectors: Array, left: Array, right: Array) -> Array:
    """Return F^T v for every v; it maps eigenvectors of F F^T to those of F^T F."""
    shape = left.shape[1], right.shape[1]
    lower = lambda vector: jnp.sum((right @ vector.reshape(shape).T) * left, axis=1)
    return jax.lax.map(lower, vectors)


@compiled
def _lifted(operator: LayerHessian, inner: Found, left: Array, right: Array) -> Found:
    """Return the eigenvectors of F F^T from those of F^T F, largest eigenvalue first."""

    def lift(weights: Array) -> tuple[Array, Array, Array]:
        raised = jax.lax.map(lambda row: jnp.ravel((left * row[:, None]).T @ right), weights)
        raised = raised / jnp.linalg.norm(raised, axis=1, keepdims=True)
        moved = operator.flat_mm(raised)
        value = jnp.sum(raised * moved, axis=1)
        return value, raised, jnp.linalg.norm(moved - value[:, None] * raised, axis=1)

    k, rows = inner.vectors.shape
    block = min(k, BLOCK)
    # Filled up to whole blocks with copies, so that one program serves any k.
    weights = jnp.pad(inner.vectors, ((0, -k % block), (0, 0)), mode="edge")
    # In blocks, as each lifted vector has the layer's size beside its intermediate products.
    found = jax.lax.map(lift, weights.reshape(-1, block, rows))
    values, vectors, residuals = (x.reshape(-1, *x.shape[2:])[:k] for x in found)
    # Rayleigh quotients may change places if columns were left out; NaN (no vector) is last.
    order = jnp.argsort(-values)
    return Found(values[order], vectors[order], residuals[order], jnp.array(len(weights)))
