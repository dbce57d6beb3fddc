"""Clusters of the derivatives of a network's logits, by logit and by class."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.manifold import TSNE

from metastep.compilation import compiled
from metastep.curvature import LayerHessian
from metastep.types import RandomKey
from metastep_lab.wu2022.networks.digit_networks import Params
from metastep_lab.wu2022.networks.training import in_order

STEPS = 500
DERIVATIVES = ("output", "weight")


def _roots(scores: Array) -> Float[Array, "examples classes classes"]:
    """Return Q = diag(sqrt(p)) (I - 1 p^T) of each example."""
    p = jax.nn.softmax(scores)
    return jnp.sqrt(p)[:, :, None] * (jnp.eye(p.shape[1]) - p[:, None, :])


def _rows(operator: LayerHessian, scores: Array) -> Float[Array, "examples classes out"]:
    """Return N = Q G of each example, M = N^T N."""
    return jnp.einsum("icd,idm->icm", _roots(scores), operator.factors.jacobian[:, :, 0])


def _captured(operator: LayerHessian, *values: Array) -> tuple[Array, ...]:
    """Return the entries of the operator's examples, which are the first ones."""
    return tuple(value[: len(operator.factors.inputs)] for value in values)


def _averaging(labels: Array, classes: int) -> Float[Array, "examples classes"]:
    """Return weights of the examples whose sums are means over each class."""
    members = jax.nn.one_hot(labels, classes)
    # Among the few examples that are captured a class may have none.
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
    classes = scores.shape[1]
    centers = jnp.einsum("iy,icm->ycm", _averaging(labels, classes), _rows(operator, scores))
    # Each of the c centers stands for c of the c^2 means Gamma_ij.
    found = [classes * jnp.sum(jnp.mean(centers, axis) ** 2) for axis in (0, 1)]
    return jnp.stack(found) / jnp.sum(centers**2)


def later_weights(params: Params) -> Float[Array, "classes out"]:
    """Return S / 2^(L - 1) of (C.265) for fc1: the product of the later weights, halved by each.

    Every ReLU passes half of its inputs at the beginning, by the thesis.
    """
    first, *later = (params[name]["weight"] for name in in_order(params))
    found = jnp.eye(len(first))
    for weight in later:
        found = weight @ found / 2
    return found


@compiled
def grams(
    operator: LayerHessian,
    scores: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
    later: Float[Array, "classes out"],
) -> Float[Array, "2 _ _"]:
    """Return the inner products of mean derivatives, by the layer's output and by its weight.

    They are those of all Gamma_ij (C.263) in the order of i, j, then their approximations E[Q] S
    (C.266) by logit j, with S of `later_weights`; and the same for Delta_ij (C.262), whose
    approximations are these times E[x]^T. Scores and labels are of the operator's examples, and
    maybe more.
    """
    scores, labels = _captured(operator, scores, labels)
    classes = scores.shape[1]
    rows, weights = _rows(operator, scores), _averaging(labels, classes)
    near = jnp.mean(_roots(scores), axis=0) @ later
    by_output = jnp.einsum("iy,icm->ycm", weights, rows).reshape(classes**2, -1)
    inputs = operator.factors.inputs[:, 0]
    mean = lambda weight: jnp.einsum("icm,in->cmn", rows, weight[:, None] * inputs)
    # One class after another: all at once would be a copy of the weighted inputs for each.
    by_weight = jax.lax.map(mean, weights.T).reshape(classes**2, -1)
    near_weight = jnp.einsum("cm,n->cmn", near, jnp.mean(inputs, axis=0)).reshape(classes, -1)
    parts = jnp.concatenate([by_output, near]), jnp.concatenate([by_weight, near_weight])
    # Cosines and t-SNE need inner products alone; the derivatives by the weight are c^2 matrices.
    return jnp.stack([part @ part.T for part in parts])


def agreement(gram: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, " classes"]:
    """Return the squared cosine of each logit center, the mean over classes, with (C.266)."""
    classes = _class_count(gram)
    # Rows are in the order of class i, logit j: this is the mean over i of each j.
    averaging = np.tile(np.eye(classes), classes) / classes
    centers = averaging @ gram[: classes**2, : classes**2] @ averaging.T
    near = gram[classes**2 :, classes**2 :]
    products = np.diagonal(averaging @ gram[: classes**2, classes**2 :])
    return products**2 / np.maximum(np.diagonal(centers) * np.diagonal(near), 1e-30)


def _class_count(gram: np.ndarray) -> int:
    return (math.isqrt(4 * len(gram) + 1) - 1) // 2  # c^2 + c rows


def embedded(
    found: Float[np.ndarray, "2 _ _"], key: RandomKey
) -> Iterator[tuple[str, int, int, float, float]]:
    """Embed the mean derivatives of each logit over each class into the plane, by t-SNE.

    They are given by the inner products of `grams`; the key is that of the first places.

    Yields:
        by (the layer's output for Gamma_ij (C.263), its weight for Delta_ij (C.262)), class i, -1
        for the approximation (C.266), logit j, and two coordinates.
    """
    # scikit-learn takes no key, and integers below 2^32 only.
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    for name, gram in zip(DERIVATIVES, found, strict=True):
        classes, squares = _class_count(gram), np.diagonal(gram)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0))
        # The exact method has no threads; their order of summation would change the picture.
        method = TSNE(
            perplexity=classes - 1,  # the neighbors that a point has in a cluster of its own
            max_iter=STEPS,
            metric="precomputed",
            # Its default, principal components, is refused for given distances.
            init="random",
            random_state=seed,
            method="exact",
        )
        for i, place in enumerate(method.fit_transform(distances).tolist()):
            group, logit = divmod(i, classes)
            yield name, group if group < classes else -1, logit, *place
