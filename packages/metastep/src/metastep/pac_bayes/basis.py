"""The bases in which a posterior is diagonal, and the times of their computation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.layers.capture import find_layers
from metastep.curvature.layers.kronecker import kronecker_hessian
from metastep.curvature.operators.risk import EmpiricalRisk, batched
from metastep.pac_bayes.posterior import Basis, Layout

BATCH = 500


def standard_basis(risk: EmpiricalRisk, layout: Layout) -> Basis:
    """Return identity matrices: independent weights."""
    layers = find_layers(risk, layout.names, layout.bias)
    matrices = {name: one.to_matrix(risk.params, layout.bias) for name, one in layers.items()}
    identity = lambda axis: {
        name: jnp.eye(matrix.shape[axis], dtype=matrix.dtype) for name, matrix in matrices.items()
    }
    return identity(0), identity(1)


def kronecker_basis(risk: EmpiricalRisk, layout: Layout) -> Basis:
    """Return the eigenvectors of E[M] and E[x x^T], by descending eigenvalue.

    Reference:
        (C.272) and (C.273) of the thesis; `KroneckerHessian`.
    """
    if not layout.names:
        return {}, {}
    return kronecker_hessian(risk, layers=layout.names, bias=layout.bias).eigenbasis()


def chain_basis(risk: EmpiricalRisk, layout: Layout) -> Basis:
    """Return eigenvectors of S^T E[A] S instead of E[M], with S the product of the weights above.

    A is the Hessian of the loss with respect to the output. The factor 1/4 for each layer of
    rectified units (C.265) does not change the eigenvectors.

    Raises:
        ValueError: unless the layers are fully connected and form a chain in the order of the
            parameters.
    """
    layers = find_layers(risk, layout.names, layout.bias)
    chain = list(layers.values())
    if any(layer.positions != 1 for layer in chain) or any(
        below.outputs != above.inputs for below, above in pairwise(chain)
    ):
        shapes = {layer.name: layer.shape() for layer in chain}
        raise ValueError(
            f"the layers are {shapes}; the approximate output Hessian allows a chain of fully "
            "connected layers in the order of the parameters. Use kronecker_basis."
        )
    middle, left = output_curvature(risk), {}
    for layer in reversed(chain):
        left[layer.name] = jnp.linalg.eigh(middle)[1][:, ::-1]
        weight = layer.to_matrix(risk.params)
        # Without the bias: only W passes on what comes from below.
        middle = weight.T @ middle @ weight
    return {name: left[name] for name in layers}, kronecker_basis(risk, layout)[1]


@compiled
def output_curvature(risk: EmpiricalRisk) -> Float[Array, "classes classes"]:
    """Return E[A], the mean Hessian of the loss with respect to the model's output."""

    def hessian(example: tuple[Array, Array]) -> Array:
        output = risk.model(risk.params, example[0])
        return jax.hessian(lambda output: risk.loss(output, example[1]))(output)

    mean = lambda data: jnp.mean(jax.vmap(hessian)(data), axis=0)
    return batched(mean, risk.data, risk.examples, BATCH)


@dataclass(frozen=True)
class Rotation:
    """The choice of the posterior's basis, and how often it is computed.

    Attributes:
        basis: `(risk, layout) -> (left, right)`, orthogonal matrices for each layer.
        every: epochs between two computations, at the posterior's mean; None for once, at the
            start.
        slowed: epochs after which `every` is multiplied by ten, each time; None for never.
    """

    basis: Callable[[EmpiricalRisk, Layout], Basis]
    every: int | None = None
    slowed: int | None = None

    def __post_init__(self):
        require_count("every", self.every, none="once")
        require_count("slowed", self.slowed, none="never")

    def is_due(self, epoch: int) -> bool:
        """Return whether the basis is computed at the start of this epoch."""
        if self.every is None:
            return epoch == 0
        times = 0 if self.slowed is None else epoch // self.slowed
        return epoch % (self.every * 10**times) == 0

    def repeated(self, every: int, slowed: int | None = None) -> "Rotation":
        """Return the same basis, computed again after every `every` epochs.

        With `slowed` this is ITER(D) of the thesis, if the step size is divided by ten at the same
        epochs.
        """
        return replace(self, every=every, slowed=slowed)


BASE = Rotation(standard_basis)
"""Independent weights: Dziugaite and Roy (2017)."""

APPR = Rotation(kronecker_basis)
"""Eigenvectors of the layer-wise Hessians at the start."""

ITER = Rotation(kronecker_basis, every=10)
"""Eigenvectors of the layer-wise Hessians, every ten epochs."""

ITER_M = Rotation(chain_basis, every=10)
"""As `ITER`, with the output Hessian approximated from the weights."""
