"""Clusters of the derivatives of a network's logits, by logit and by class."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.manifold import TSNE

from metastep.compilation import compiled
from metastep.curvature import LayerHessian
from metastep.types import RandomKey
from metastep_lab.wu2022.hessian_structure.models import CLASSES

PERPLEXITY = CLASSES - 1  # the neighbors that a point has in a cluster of its own
STEPS = 500
DERIVATIVES = ("output", "weight")


def _rows(operator: LayerHessian, scores: Array) -> Float[Array, "examples classes out"]:
    """Return N = diag(sqrt(p)) (I - 1 p^T) G of each example, M = N^T N."""
    p = jax.nn.softmax(scores)
    root = jnp.sqrt(p)[:, :, None] * (jnp.eye(CLASSES) - p[:, None, :])
    return jnp.einsum("icd,idm->icm", root, operator.factors.jacobian[:, :, 0])


def _captured(operator: LayerHessian, *values: Array) -> tuple[Array, ...]:
    """Return the entries of the operator's examples, which are the first ones."""
    return tuple(value[: len(operator.factors.inputs)] for value in values)


def _averaging(labels: Array) -> Float[Array, "examples classes"]:
    """Return weights of the examples whose sums are means over each class."""
    members = jax.nn.one_hot(labels, CLASSES)
    return members / jnp.maximum(jnp.sum(members, axis=0), 1)


@compiled
def shares(
    operator: LayerHessian,
    scores: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
) -> Float[Array, "2"]:
    """Return which share of sum_ij |Gamma_ij|^2 is that of the means over i, and over j.

    Gamma_ij (C.263) is the mean over class i of row j of N, where M = N^T N. `scores` and `labels`
    are those of the operator's examples, and maybe more.
    """
    scores, labels = _captured(operator, scores, labels)
    centers = jnp.einsum("iy,icm->ycm", _averaging(labels), _rows(operator, scores))
    found = [CLASSES * jnp.sum(jnp.mean(centers, axis) ** 2) for axis in (0, 1)]
    return jnp.stack(found) / jnp.sum(centers**2)


@compiled
def _grams(operator: LayerHessian, scores: Array, labels: Array) -> Float[Array, "2 _ _"]:
    """Return the inner products of all Gamma_ij, and of all Delta_ij, in the order of i, j."""
    scores, labels = _captured(operator, scores, labels)
    rows, weights = _rows(operator, scores), _averaging(labels)
    by_output = jnp.einsum("iy,icm->ycm", weights, rows).reshape(CLASSES**2, -1)
    inputs = operator.factors.inputs[:, 0]
    mean = lambda weight: jnp.einsum("icm,in->cmn", rows, weight[:, None] * inputs)
    by_weight = jax.lax.map(mean, weights.T).reshape(CLASSES**2, -1)
    return jnp.stack([by_output @ by_output.T, by_weight @ by_weight.T])


def embedded(
    operator: LayerHessian,
    scores: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
    key: RandomKey,
) -> Iterator[tuple[str, int, int, float, float]]:
    """Embed the mean derivatives of each logit over each class into the plane, by t-SNE.

    Yields:
        by (the layer's output for Gamma_ij (C.263), its weight for Delta_ij (C.262)), class i,
        logit j, and two coordinates.
    """
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    for name, gram in zip(DERIVATIVES, np.asarray(_grams(operator, scores, labels)), strict=True):
        squares = np.diagonal(gram)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0))
        # The exact method has no threads; their order of summation would change the picture.
        method = TSNE(
            perplexity=PERPLEXITY,
            max_iter=STEPS,
            metric="precomputed",
            init="random",
            random_state=seed,
            method="exact",
        )
        places = method.fit_transform(distances).tolist()
        yield from ((name, *divmod(i, CLASSES), *place) for i, place in enumerate(places))
