"""Comparison of the eigenspaces of two operators."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def subspace_overlap(
    first: Float[Array, "k *shape"], second: Float[Array, "k *shape"]
) -> Float[Array, " k"]:
    """Return |U_j^T V_j|_F^2 / j for the spans of the first j vectors, j = 1, ..., k.

    Args:
        first: orthonormal vectors along the first axis, such as `EigenPairs.vectors` of an operator
            on one array.
        second: the same number of orthonormal vectors of the same shape.

    Returns:
        The whole curve: 1 for equal subspaces, 0 for orthogonal ones.

    Raises:
        ValueError: if the shapes differ.

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Definition 5.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from metastep.curvature import subspace_overlap
        >>> subspace_overlap(jnp.eye(3)[:2], jnp.eye(3)[jnp.array([1, 0])]).tolist()
        [0.0, 1.0]
    """
    if first.shape != second.shape:
        raise ValueError(
            f"second has shape {list(second.shape)}; allowed is that of first, {list(first.shape)}."
        )
    cosines = first.reshape(len(first), -1) @ second.reshape(len(second), -1).T
    # Sums over all leading squares at once: entry (j, j) is |U_j^T V_j|^2.
    within = jnp.cumsum(jnp.cumsum(cosines**2, axis=0), axis=1)
    return jnp.diag(within) / jnp.arange(1, len(first) + 1)


def matricize(
    vectors: Float[Array, "k size"], outputs: int, inputs: int
) -> Float[Array, "k outputs inputs"]:
    """Return Mat(h) for vectors h in rows: entry W_ij of a layer is entry (i - 1) inputs + j of h.

    A ValueError refuses vectors whose size is not `outputs * inputs`.
    """
    if vectors.shape[1] != outputs * inputs:
        raise ValueError(
            f"vectors have size {vectors.shape[1]}; allowed is outputs * inputs = "
            f"{outputs} * {inputs} = {outputs * inputs}."
        )
    return vectors.reshape(-1, outputs, inputs)


def correspondence(
    matrices: Float[Array, "k out in"],
    *,
    left: Float[Array, "out a"] | None = None,
    right: Float[Array, "in b"] | None = None,
) -> Float[Array, "basis k"]:
    """Return each eigenvector's squared component along each vector of a layer's basis.

    |Mat(h_j)^T u_i|^2 for `left` vectors u_i of the layer's output space, |Mat(h_j) v_i|^2 for
    `right` vectors v_i of its input space, in columns. Over a full basis each column sums to 1.

    Args:
        matrices: unit eigenvectors h_j as matrices.
        left: orthonormal columns u_i; give either this or `right`.
        right: orthonormal columns v_i.

    Returns:
        `[i, j]`, between 0 and 1.

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Appendix C.7.
    """
    if (left is None) == (right is None):
        raise ValueError("left and right are both given or both None; allowed is exactly one.")
    # The squared length of the projection, not a single cosine: a left vector u spans all u v^T.
    if left is not None:
        return jnp.sum(jnp.einsum("jmn,mi->ijn", matrices, left) ** 2, axis=2)
    return jnp.sum(jnp.einsum("jmn,ni->ijm", matrices, right) ** 2, axis=2)
