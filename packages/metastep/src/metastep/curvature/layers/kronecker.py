"""The Hessian of each layer as a Kronecker product E[M] (x) E[x x^T]."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.compilation import compiled
from metastep.curvature.layers.capture import Layer, batch_factors, find_layers
from metastep.curvature.operators.base import AbstractOperator
from metastep.curvature.operators.risk import EmpiricalRisk, batched, require_batch_size

Matrices = dict[str, Float[Array, "_ _"]]


class KroneckerHessian(AbstractOperator):
    """The block-diagonal operator E[M] (x) E[x x^T], one block for each layer.

    It acts on `{name: matrix [out, in]}`; the block of a layer maps V to E[M] V E[x x^T]. This is
    the Hessian of the layer if M, the Hessian with respect to its output, and its input x are
    independent (the decoupling conjecture). It is the version of K-FAC with exact gradients
    instead of sampled ones. For a convolution with P positions, M is the mean over positions of
    the diagonal blocks, and x x^T the sum over patches.

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Section 4; Martens, Grosse (2015), K-FAC;
        Grosse, Martens (2016), KFC for convolutions.

    Attributes:
        output: E[M] of each layer, `[out, out]`.
        input: E[x x^T] of each layer, `[in, in]`, or of (x, 1) if the bias is included.
    """

    output: Matrices
    input: Matrices

    def structure(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape of each layer's matrix."""
        return {
            name: jax.ShapeDtypeStruct((len(left), len(self.input[name])), left.dtype)
            for name, left in self.output.items()
        }

    def mv(self, vector: dict[str, Array]) -> dict[str, Array]:
        """Return E[M] V E[x x^T] for each layer."""
        return {name: left @ vector[name] @ self.input[name] for name, left in self.output.items()}

    def eigenbasis(self) -> tuple[Matrices, Matrices]:
        """Return the orthogonal eigenvectors of E[M] and of E[x x^T], by descending eigenvalue.

        Returns:
            `(left, right)` by name, eigenvectors in columns. In the basis a layer's matrix V is
            V' = left^T V right, and conversely V = left V' right^T.
        """
        # `eigh` gives ascending eigenvalues, and leading ones come first everywhere here.
        vectors = lambda matrix: jnp.linalg.eigh(matrix)[1][:, ::-1]
        return jax.tree.map(vectors, (self.output, self.input))


def kronecker_hessian(
    risk: EmpiricalRisk,
    *,
    layers: Sequence[str] | None = None,
    bias: bool = False,
    batch_size: int | None = 500,
) -> KroneckerHessian:
    """Compute E[M] and E[x x^T] for the layers of a model.

    Exact for the Kronecker factors of piecewise-linear networks; for smooth activations M is its
    Gauss-Newton part. Cost: one forward pass and `classes` backward passes for each example, and
    memory for `batch_size` examples.

    Args:
        risk: model, loss, parameters and data.
        layers: paths of the weights; None for all layers.
        bias: include the bias in the layer's matrix, as [W b] and (x, 1).
        batch_size: examples at a time; None for all at once.

    Returns:
        The operator; its `output` and `input` hold the factors.

    Raises:
        ValueError: as `find_layers`; for a layer whose outputs are in groups.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from metastep.curvature import EmpiricalRisk, kronecker_hessian
        >>> model = lambda params, x: params["W"] @ x + params["b"]
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> params = {"W": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
        >>> risk = EmpiricalRisk(model, loss, params, jnp.ones((4, 3)), jnp.array([0, 1, 0, 1]))
        >>> hessian = kronecker_hessian(risk, bias=True)
        >>> hessian.output["W"].tolist(), hessian.input["W"].shape
        ([[0.25, -0.25], [-0.25, 0.25]], (4, 4))
    """
    require_batch_size(batch_size)
    found = find_layers(risk, layers, bias)
    require_one_group(found)
    names = tuple(found)
    return KroneckerHessian(*_kronecker_factors(risk, names, bias, batch_size))


def require_one_group(layers: Mapping[str, Layer]) -> None:
    """Raise a `ValueError` for a layer whose outputs do not have all inputs in common."""
    for layer in layers.values():
        if layer.groups > 1:
            raise ValueError(
                f"layers has {layer.name} with {layer.groups} groups, whose Hessian is no single "
                "Kronecker product; allowed are layers of one group. Name them, or use "
                "layer_hessian, which is exact for groups."
            )


@compiled
def _kronecker_factors(
    risk: EmpiricalRisk, names: tuple[str, ...], bias: bool, batch_size: int | None
) -> tuple[Matrices, Matrices]:
    factors = batch_factors(risk, names, bias)

    def means(data: tuple[Array, Array]) -> tuple[Matrices, Matrices]:
        layers, curvature = factors(data)
        left = {
            name: output_mean(layer.jacobian, curvature[name]) for name, layer in layers.items()
        }
        return left, {name: input_mean(layer.inputs) for name, layer in layers.items()}

    return batched(means, risk.data, risk.examples, batch_size)


def output_mean(
    jacobian: Float[Array, "examples classes positions out"],
    curvature: Float[Array, "examples classes classes"],
) -> Float[Array, "out out"]:
    """Return the mean over examples and positions of G^T A G."""
    # A G first, as large as G: no product holds an [out, out] matrix for each example.
    weighted = jnp.einsum("icd,idpm->icpm", curvature, jacobian)
    total = jnp.einsum("icpm,icpk->mk", jacobian, weighted)
    return total / (jacobian.shape[0] * jacobian.shape[2])


def input_mean(inputs: Float[Array, "examples positions in"]) -> Float[Array, "in in"]:
    """Return the mean over examples of the sum over positions of x x^T."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    return rows.T @ rows / inputs.shape[0]
