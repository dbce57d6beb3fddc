"""Layer-wise curvature in a Kronecker eigenbasis, where it is diagonal: K-FAC and EK-FAC."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metastep.checks import require, require_count
from metastep.compilation import compiled
from metastep.curvature.layers.capture import batch_factors
from metastep.curvature.layers.kronecker import KroneckerHessian, Matrices, kronecker_hessian
from metastep.curvature.operators.base import AbstractOperator
from metastep.curvature.operators.risk import EmpiricalRisk, batched


class RotatedDiagonal(AbstractOperator):
    """The operator that maps V to left (values * (left^T V right)) right^T for each layer.

    Attributes:
        left: an orthogonal matrix for each layer, `[out, out]`.
        right: an orthogonal matrix for each layer, `[in, in]`.
        values: the eigenvalues of each layer, `[out, in]`.
    """

    left: Matrices
    right: Matrices
    values: Matrices

    def structure(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape of each layer's matrix."""
        return {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in self.values.items()}

    def mv(self, vector: dict[str, Array]) -> dict[str, Array]:
        """Scale each layer's matrix in its eigenbasis."""
        return {name: self._scale(name, matrix) for name, matrix in vector.items()}

    def inverse(self, damping: float) -> "RotatedDiagonal":
        """Return the inverse of this operator plus `damping` times the identity, exactly.

        `damping` is positive; negative eigenvalues (from rounding) count as zero.
        """
        require(damping > 0, "damping", damping, "positive numbers")
        invert = lambda values: 1 / (jnp.maximum(values, 0) + damping)
        return RotatedDiagonal(self.left, self.right, jax.tree.map(invert, self.values))

    def log_determinant(self, damping: float) -> Float[Array, ""]:
        """Return log det of this operator plus `damping` times the identity, exactly."""
        require(damping > 0, "damping", damping, "positive numbers")
        logs = [jnp.sum(jnp.log(jnp.maximum(v, 0) + damping)) for v in self.values.values()]
        return jnp.sum(jnp.stack(logs))

    def _scale(self, name: str, matrix: Array) -> Array:
        left, right = self.left[name], self.right[name]
        return left @ (self.values[name] * (left.T @ matrix @ right)) @ right.T


class KroneckerEigenpairs(eqx.Module):
    """The leading eigenpairs of a Kronecker product; eigenvector j is left_j right_j^T.

    Attributes:
        values: eigenvalues, descending.
        left: eigenvectors of the first factor, in rows.
        right: eigenvectors of the second factor, in rows.
        ranks: the indices of the factors' eigenvectors, from 0.
    """

    values: Float[Array, " k"]
    left: Float[Array, "k out"]
    right: Float[Array, "k in"]
    ranks: Int[Array, "k 2"]

    def matrices(self) -> Float[Array, "k out in"]:
        """Return the eigenvectors as matrices: k * out * in numbers."""
        return self.left[:, :, None] * self.right[:, None, :]


def kronecker_eigenpairs(
    left: Float[Array, "out out"], right: Float[Array, "in in"], k: int
) -> KroneckerEigenpairs:
    """Return the top k eigenpairs of left (x) right, without forming the product.

    Args:
        left: symmetric and positive semidefinite, such as E[M].
        right: symmetric and positive semidefinite, such as E[x x^T].
        k: the number of pairs, up to out * in.

    Returns:
        Eigenvalues and the two factors of each eigenvector. Exact; the cost is two small
        eigendecompositions and k (out + in) numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from metastep.curvature import kronecker_eigenpairs
        >>> kronecker_eigenpairs(jnp.diag(jnp.array([3.0, 1.0])), jnp.eye(2), 3).values.tolist()
        [3.0, 3.0, 1.0]
    """
    require_count("k", k, most=len(left) * len(right))
    return _eigenpairs(left, right, k)


@compiled
def _eigenpairs(left: Array, right: Array, k: int) -> KroneckerEigenpairs:
    outs, left_vectors = jnp.linalg.eigh(left)
    ins, right_vectors = jnp.linalg.eigh(right)
    # All products of eigenvalues are out * in numbers; their eigenvectors are never formed.
    values, flat = jax.lax.top_k(jnp.outer(outs[::-1], ins[::-1]).reshape(-1), k)
    rows, columns = flat // len(ins), flat % len(ins)
    basis = left_vectors.T[::-1][rows], right_vectors.T[::-1][columns]
    return KroneckerEigenpairs(values, *basis, jnp.stack([rows, columns], axis=1))


def kfac(hessian: KroneckerHessian) -> RotatedDiagonal:
    """Return a Kronecker operator in its eigenbasis, where damped inverses are exact."""
    left, right = hessian.eigenbasis()
    spread = lambda a, u, b, v: jnp.outer(jnp.diag(u.T @ a @ u), jnp.diag(v.T @ b @ v))
    values = {
        name: spread(hessian.output[name], left[name], hessian.input[name], right[name])
        for name in left
    }
    return RotatedDiagonal(left, right, values)


def factored_inverse(hessian: KroneckerHessian, damping: float) -> KroneckerHessian:
    """Return (E[M] + sqrt(d) / pi I)^-1 (x) (E[x x^T] + pi sqrt(d) I)^-1, K-FAC's heuristic.

    `damping` is d, positive; pi^2 is the ratio of the factors' mean eigenvalues (1 if one is zero).
    The result is the inverse of a matrix that differs from the exactly damped one by more than d I.

    Reference:
        Martens, Grosse (2015), Section 6.3.
    """
    require(damping > 0, "damping", damping, "positive numbers")
    left, right = {}, {}
    for name, output in hessian.output.items():
        inputs = hessian.input[name]
        left_mean, right_mean = jnp.trace(output) / len(output), jnp.trace(inputs) / len(inputs)
        # A factor of zero (a layer without active units) has no scale that pi could balance.
        usable = (left_mean > 0) & (right_mean > 0)
        pi = jnp.where(usable, jnp.sqrt(right_mean / jnp.where(usable, left_mean, 1)), 1)
        shift = jnp.sqrt(jnp.asarray(damping, output.dtype))
        shifted = lambda matrix, by: matrix + by * jnp.eye(len(matrix), dtype=matrix.dtype)
        # Inverted once, as the result is an operator that is multiplied many times.
        left[name] = jnp.linalg.inv(shifted(output, shift / pi))
        right[name] = jnp.linalg.inv(shifted(inputs, shift * pi))
    return KroneckerHessian(left, right)


def ekfac(
    risk: EmpiricalRisk,
    *,
    layers: Sequence[str] | None = None,
    bias: bool = False,
    batch_size: int | None = 500,
) -> RotatedDiagonal:
    """Return EK-FAC: the Kronecker eigenbasis with the diagonal of the layer's Gauss-Newton matrix.

    In the Frobenius norm it is the best approximation that is diagonal in this basis. The arguments
    and the space of the operator are those of `kronecker_hessian`.

    Reference:
        George, Laurent, Bouthillier, Ballas, Vincent (2018), Fast approximate natural gradient
        descent in a Kronecker-factored eigenbasis.
    """
    hessian = kronecker_hessian(risk, layers=layers, bias=bias, batch_size=batch_size)
    left, right = hessian.eigenbasis()
    return RotatedDiagonal(left, right, _diagonals(risk, left, right, bias, batch_size))


@compiled
def _diagonals(
    risk: EmpiricalRisk, left: Matrices, right: Matrices, bias: bool, batch_size: int | None
) -> Matrices:
    factors = batch_factors(risk, tuple(left), bias)

    def means(data: tuple[Array, Array]) -> Matrices:
        layers, curvature = factors(data)
        found = {}
        for name, layer in layers.items():
            # Both factors are rotated before they meet, so that no (out * in)^2 matrix appears.
            rotated = jnp.einsum("icpm,ma->icpa", layer.jacobian, left[name])
            inputs = jnp.einsum("ipn,nb->ipb", layer.inputs, right[name])
            # Summed over positions before it is squared: the gradient of W is a sum over positions.
            slopes = jnp.einsum("icpa,ipb->icab", rotated, inputs)
            bent = jnp.einsum("icd,idab->icab", curvature[name], slopes)
            found[name] = jnp.einsum("icab,icab->ab", slopes, bent) / len(slopes)
        return found

    return batched(means, risk.data, risk.examples, batch_size)
