"""The top eigenpairs of the whole Hessian from layer outputs and mean inputs alone."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.layers.capture import batch_factors, find_layers
from metastep.curvature.layers.kronecker import require_one_group
from metastep.curvature.operators.risk import EmpiricalRisk, batched, require_batch_size

Means = dict[str, Float[Array, " in"]]


class LayeredEigenpairs(eqx.Module):
    """Approximate eigenpairs of the Hessian with respect to all layers.

    Attributes:
        values: approximate eigenvalues, descending.
        vectors: orthonormal vectors, `{name: [k, out, in]}`.
    """

    values: Float[Array, " k"]
    vectors: dict[str, Float[Array, "k out in"]]


def full_hessian_eigenpairs(
    risk: EmpiricalRisk,
    k: int,
    *,
    layers: Sequence[str] | None = None,
    bias: bool = False,
    weighted: bool = False,
    batch_size: int | None = 500,
) -> LayeredEigenpairs:
    """Approximate the top eigenpairs of the Hessian over all fully connected layers.

    With the outputs of all layers stacked, let (s_i, u_i) be the eigenpairs of M_full = E[G^T A G].
    The eigenvectors are w_i = stack_p(u_i^(p) (x) E[x^(p)]), normalized, sorted by s_i |w_i|^2 and
    orthogonalized in this order. `weighted` takes the eigenvectors of S M_full S instead, where S
    holds the norms of the mean inputs; these are orthonormal without Gram-Schmidt. Biased: only the
    means of the inputs are used. Accurate for up to about as many pairs as classes less one.

    Args:
        risk: model, loss, parameters and data.
        k: the number of pairs, up to the sum of the layers' outputs.
        layers: paths of the weights; None for all layers.
        bias: include the bias in the layers' matrices.
        weighted: the variant without Gram-Schmidt.
        batch_size: examples at a time; None for all at once.

    Raises:
        ValueError: as `find_layers`; for a `k` that is not allowed; for a layer with several
            positions (a convolution).

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Appendix C.3, Equations C.254-C.256.
    """
    require_batch_size(batch_size)
    found = find_layers(risk, layers, bias)
    outputs = sum(layer.outputs for layer in found.values())
    require_count("k", k, most=outputs)
    require_one_group(found)
    spread = [layer.name for layer in found.values() if layer.positions > 1]
    if spread:
        raise ValueError(
            f"layers has {spread[0]} with {found[spread[0]].positions} positions; allowed are "
            "fully connected layers. Name them."
        )
    return _approximate(risk, tuple(found), bias, k, weighted, batch_size)


@compiled
def _approximate(
    risk: EmpiricalRisk,
    names: tuple[str, ...],
    bias: bool,
    k: int,
    weighted: bool,
    batch_size: int | None,
) -> LayeredEigenpairs:
    factors = batch_factors(risk, names, bias)

    def means(data: tuple[Array, Array]) -> tuple[Array, Means]:
        layers, curvature = factors(data)
        stacked = jnp.concatenate([layers[name].jacobian[:, :, 0] for name in names], axis=2)
        bent = jnp.einsum("icd,idm->icm", curvature[names[0]], stacked)
        full = jnp.einsum("icm,ick->mk", stacked, bent) / len(stacked)
        return full, {name: jnp.mean(layers[name].inputs[:, 0], axis=0) for name in names}

    full, inputs = batched(means, risk.data, risk.examples, batch_size)
    layers = find_layers(risk, names, bias)
    sizes = [layers[name].outputs for name in names]
    lengths = jnp.array([jnp.linalg.norm(inputs[name]) for name in names])
    # |u (x) E[x]| = |u| |E[x]|, so that one length for each output is all that is needed.
    scale = jnp.repeat(lengths, jnp.array(sizes), total_repeat_length=len(full))
    matrix = scale[:, None] * full * scale if weighted else full
    values, vectors = jnp.linalg.eigh(matrix)
    if not weighted:
        values = values * jnp.sum((scale[:, None] * vectors) ** 2, axis=0)
        vectors = scale[:, None] * vectors
    order = jnp.argsort(-values)[:k]
    # All vectors lie in the span of the unit vectors E[x] / |E[x]|, one for each output, so it is
    # enough to orthonormalise the coordinates. QR is Gram-Schmidt in the sorted order.
    chosen = vectors[:, order] if weighted else jnp.linalg.qr(vectors[:, order])[0]
    parts = jnp.split(chosen.T, [sum(sizes[:i]) for i in range(1, len(sizes))], axis=1)
    # Above a layer without active units all inputs are 0, and so are the coordinates.
    safe = jnp.where(lengths > 0, lengths, 1)
    directions = {name: inputs[name] / length for name, length in zip(names, safe, strict=True)}
    matrices = {
        name: part[:, :, None] * directions[name] for name, part in zip(names, parts, strict=True)
    }
    return LayeredEigenpairs(values[order], matrices)
