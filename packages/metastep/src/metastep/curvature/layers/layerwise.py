"""The Hessian of one layer, exact from stored factors, and its two Kronecker factors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from metastep.compilation import compiled
from metastep.curvature.layers.capture import (
    LayerFactors,
    batch_factors,
    example_factors,
    find_layers,
)
from metastep.curvature.layers.kronecker import kronecker_hessian, output_mean
from metastep.curvature.operators.base import AbstractOperator, SymmetricMatrix
from metastep.curvature.operators.risk import EmpiricalRisk, batched, require_batch_size

CACHED = 2**21  # the number of intermediate values between two products that the cache holds


class LayerHessian(AbstractOperator):
    """The Hessian of one layer's matrix W, or [W b], from inputs X and output Jacobians G.

    It acts on matrices `[out, in]`: V maps to the mean over examples of (G^T A G (X V^T))^T X. This
    takes four matrix products, and no pass through the network. Made by `layer_hessian`.

    Attributes:
        factors: X and G of every example.
        curvature: A, the Hessian of each example's loss at the model's output.
        groups: of the layer's outputs, each with inputs of its own; see `Layer`.
    """

    factors: LayerFactors
    curvature: Float[Array, "examples classes classes"]
    groups: int = eqx.field(static=True, default=1)

    def structure(self) -> jax.ShapeDtypeStruct:
        """Return the shape of the layer's matrix."""
        x, g = self.factors.inputs, self.factors.jacobian
        return jax.ShapeDtypeStruct((g.shape[-1], x.shape[-1] // self.groups), g.dtype)

    def mv(self, vector: Float[Array, "out in"]) -> Float[Array, "out in"]:
        """Return the product with a matrix like the layer's."""
        return self._products(vector[None])[0]

    def flat_mm(self, rows: Float[Array, "vectors size"]) -> Float[Array, "vectors size"]:
        """Return the products with several matrices, each one array, in larger multiplications."""
        return self._products(rows.reshape(-1, *self.structure().shape)).reshape(rows.shape)

    def _products(self, matrices: Float[Array, "vectors out in"]) -> Float[Array, "vectors out in"]:
        """Multiply a few examples at a time, so that intermediate values stay in the cache."""
        x, g = self.factors.inputs, self.factors.jacobian
        examples, positions, size = x.shape
        vectors, out, _ = matrices.shape

        def mean(batch: tuple[Array, Array, Array]) -> Array:
            x, g, a = batch
            x, shape = x.reshape(-1, size), (len(x), positions, vectors, out)
            moved = self._applied(matrices, x).reshape(shape).swapaxes(1, 2)
            logits = jnp.einsum("ivm,icm->ivc", moved.reshape(len(g), vectors, -1), g)
            pulled = jnp.einsum("icd,ivd->ivc", a, logits) / len(g)
            moved = jnp.einsum("ivc,icm->ivm", pulled, g).reshape(moved.shape).swapaxes(1, 2)
            return self._gathered(moved.reshape(len(x), vectors, out), x)

        # With a separate axis for positions, XLA's layout would copy X and G for each product.
        data = x.reshape(examples, -1), g.reshape(*g.shape[:2], -1), self.curvature
        # Batches of about equal size, each with intermediate values of at most `CACHED` numbers.
        batches = -(-examples * positions * vectors * out // CACHED)
        return batched(mean, data, examples, -(-examples // batches))

    def _applied(self, matrices: Array, rows: Array) -> Float[Array, "rows _"]:
        """Return V x for every row x, `[vectors, out]` in one axis."""
        if self.groups == 1:
            return rows @ matrices.reshape(-1, matrices.shape[-1]).T
        apart = matrices.reshape(len(matrices), self.groups, -1, matrices.shape[-1])
        inputs = rows.reshape(len(rows), self.groups, -1)
        return jnp.einsum("vgon,rgn->rvgo", apart, inputs).reshape(len(rows), -1)

    def _gathered(self, outputs: Array, rows: Array) -> Float[Array, "vectors out in"]:
        """Return the sum over rows of z x^T, the transpose of `_applied`."""
        _, vectors, out = outputs.shape
        if self.groups == 1:
            return (outputs.reshape(len(rows), -1).T @ rows).reshape(vectors, out, -1)
        apart = outputs.reshape(len(rows), vectors, self.groups, -1)
        inputs = rows.reshape(len(rows), self.groups, -1)
        return jnp.einsum("rvgo,rgn->vgon", apart, inputs).reshape(vectors, out, -1)


def layer_hessian(
    risk: EmpiricalRisk,
    layer: str,
    *,
    bias: bool = False,
    second_order: bool = False,
    batch_size: int | None = 500,
) -> LayerHessian:
    """Capture one layer's inputs and output Jacobians, and return its Hessian.

    Memory: examples * positions * (in + classes * out) numbers. `Hessian(risk, where=...)` needs
    less memory and more time per product.

    Args:
        risk: model, loss, parameters and data.
        layer: path of the weight, as `find_layers` lists it.
        bias: include the bias in the layer's matrix.
        second_order: exact for every network; `classes` is then positions * out. Without it the
            operator is exact for piecewise-linear networks (ReLU, max-pooling, fixed batch
            normalization), and the Gauss-Newton part for others.
        batch_size: examples at a time during the capture; None for all at once.

    Returns:
        The operator, on matrices `[out, in]`.

    Raises:
        ValueError: as `find_layers`.

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Proposition 4.1.
    """
    require_batch_size(batch_size)
    ((name, found),) = find_layers(risk, [layer], bias).items()
    return LayerHessian(*_stored(risk, name, bias, second_order, batch_size), found.groups)


@compiled
def _stored(
    risk: EmpiricalRisk, name: str, bias: bool, second_order: bool, batch_size: int | None
) -> tuple[LayerFactors, Array]:
    def one(example: tuple[PyTree, PyTree]) -> tuple[LayerFactors, Array]:
        layers, curvature = example_factors(risk, (name,), bias, example, second_order)
        return layers[name], curvature[name]

    # The results are kept for all examples; only intermediate values are bounded by the batch.
    return jax.lax.map(one, risk.data, batch_size=batch_size or risk.examples)


def output_hessian(
    risk: EmpiricalRisk,
    layer: str,
    *,
    second_order: bool = False,
    batch_size: int | None = 500,
) -> SymmetricMatrix:
    """Return E[M], the mean Hessian of the loss with respect to one layer's output.

    For several positions (a convolution), the mean over positions of the diagonal blocks. The
    arguments are those of `layer_hessian`.
    """
    require_batch_size(batch_size)
    (name,) = find_layers(risk, [layer])
    return SymmetricMatrix(_output_hessian(risk, name, second_order, batch_size))


@compiled
def _output_hessian(
    risk: EmpiricalRisk, name: str, second_order: bool, batch_size: int | None
) -> Float[Array, "out out"]:
    factors = batch_factors(risk, (name,), False, second_order)

    def mean(data: tuple[Array, Array]) -> Array:
        layers, curvature = factors(data)
        return output_mean(layers[name].jacobian, curvature[name])

    return batched(mean, risk.data, risk.examples, batch_size)


def input_autocorrelation(
    risk: EmpiricalRisk, layer: str, *, bias: bool = False, batch_size: int | None = 500
) -> SymmetricMatrix:
    """Return E[x x^T] of one layer's input, or of (x, 1) with the bias, summed over positions.

    The arguments are those of `layer_hessian`.
    """
    hessian = kronecker_hessian(risk, layers=[layer], bias=bias, batch_size=batch_size)
    return SymmetricMatrix(hessian.input[layer])
