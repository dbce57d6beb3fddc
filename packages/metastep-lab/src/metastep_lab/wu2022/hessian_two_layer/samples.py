"""Curvature of the first layer of a wide random two-layer network, estimated from samples.

For an example x the output Hessian is M_x = N^T N with N = Q W2 D: D marks the active units, and
A = Q^T Q is the Hessian of the cross-entropy with respect to the scores.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.sparse.linalg import eigsh
from scipy.stats import norm

from metastep.compilation import compiled
from metastep.curvature import subspace_overlap
from metastep.types import RandomKey

BATCH = 200
# The theorem has n^(1 + alpha) inputs for any alpha > 0; 0.2 is our choice.
GROWTH = 1.2
# E Phi(a s)^2 = 1/4 + asin(a^2 / (1 + a^2)) / (2 pi) for a normal s, here with a^2 = 1 / (pi - 1).
PREDICTED = 0.25 / (0.25 + math.asin(1 / math.pi) / (2 * math.pi))
"""Limit of the overlap with the row span: (E p)^2 / E p^2, p = Phi(s / sqrt(pi - 1)), s normal."""
MEAN_SHARE = (
    math.sqrt(1 - 1 / math.pi**2) + (math.pi - math.acos(1 / math.pi)) / math.pi
) / math.pi
"""Limit of |E z|^2 / E |z|^2 for the scores z, given the weights.

It is the correlation of relu(w . x) and relu(w . x') for independent inputs, whose
pre-activations have the correlation 1 / pi (Cho, Saul, 2009).
"""


class Network(NamedTuple):
    """Weights of variance 1 / fan-in."""

    first: Float[Array, "units inputs"]
    second: Float[Array, "classes units"]


class Moments(NamedTuple):
    """Means over the inputs: E[M], E[d d^T], E[A], and those of the scores z.

    The last two are of the inputs for which the first two units are active: E[d_1 d_2] and
    E[d_1 d_2 z].
    """

    output: Float[Array, "units units"]
    active: Float[Array, "units units"]
    curvature: Float[Array, "classes classes"]
    scores: Float[Array, " classes"]
    square: Float[Array, ""]
    both: Float[Array, ""]
    given: Float[Array, " classes"]


class Measured(NamedTuple):
    """Gaps lambda_c / lambda_(c-1), and overlaps of top (c - 1)-dimensional eigenspaces.

    Attributes:
        mean_share: |E z|^2 / E |z|^2 of the scores z.
        shift: |E[z | two units active] - E z|, relative to the root of E |z - E z|^2.
        least: lambda_(c-1) / lambda_1 of E[A].
    """

    gap_output: float
    gap_hessian: float
    mean_share: float
    shift: float
    least: float
    independent: float
    printed: float
    row_span: float
    weighted_row_span: float
    kronecker: float


def draw_network(key: RandomKey, units: int, classes: int) -> Network:
    """Draw a network with round(units^1.2) inputs."""
    inputs = round(units**GROWTH)
    first, second = jax.random.split(key)
    return Network(
        jax.random.normal(first, (units, inputs)) / math.sqrt(inputs),
        jax.random.normal(second, (classes, units)) / math.sqrt(units),
    )


def _factors(network: Network, x: Array) -> tuple[Array, Array, Array, Array]:
    """Return N, the active units, A and the scores of one input."""
    before = network.first @ x
    # Of the pre-activation: section 4.4 and (C.30) print that of y, which as a rectified number is
    # never below 0; Appendix C.2.2 has it right.
    active = (before >= 0).astype(x.dtype)
    scores = network.second @ jax.nn.relu(before)
    p = jax.nn.softmax(scores)
    # Q of A = Q^T Q (C.17).
    root = jnp.sqrt(p)[:, None] * (jnp.eye(p.size) - p[None, :])
    return (root @ network.second) * active, active, jnp.diag(p) - jnp.outer(p, p), scores


def _inputs(key: RandomKey, count: int, size: int) -> Array:
    return jax.nn.relu(jax.random.normal(key, (count, size)))


@compiled
def moments(network: Network, keys: Key[Array, " batches"]) -> Moments:
    """Return the means over 200 inputs for each key.

    Monte Carlo: standard errors fall with the root of the number of inputs.
    """

    def batch(total: Moments, key: RandomKey) -> tuple[Moments, None]:
        x = _inputs(key, BATCH, network.first.shape[1])
        rows, active, curvature, scores = jax.vmap(lambda x: _factors(network, x))(x)
        rows = rows.reshape(-1, rows.shape[-1])
        both = active[:, 0] * active[:, 1]
        added = Moments(
            rows.T @ rows,
            active.T @ active,
            jnp.sum(curvature, axis=0),
            jnp.sum(scores, axis=0),
            jnp.sum(scores**2),
            jnp.sum(both),
            both @ scores,
        )
        return jax.tree.map(jnp.add, total, added), None

    classes, units = network.second.shape
    shapes = (units, units), (units, units), (classes, classes), (classes,), (), (), (classes,)
    zeros = [jnp.zeros(shape) for shape in shapes]
    total, _ = jax.lax.scan(batch, Moments(*zeros), keys)
    return jax.tree.map(lambda leaf: leaf / (BATCH * len(keys)), total)


@compiled
def sample(network: Network, key: RandomKey, batches: int) -> tuple[Array, Array]:
    """Return N of each input, `[inputs, classes, units]`, and the inputs."""
    x = _inputs(key, batches * BATCH, network.first.shape[1])
    return jax.vmap(lambda x: _factors(network, x)[0])(x), x


def measure(network: Network, key: RandomKey, batches: int, hessian_batches: int) -> Measured:
    """Measure one network, by batches of 200 inputs for the output Hessian and for the Hessian."""
    classes = len(network.second)
    top = classes - 1
    output_key, hessian_key = jax.random.split(key)
    found = moments(network, jax.random.split(output_key, batches))
    values, vectors = np.linalg.eigh(np.asarray(found.output))
    space = vectors[:, -top:].T
    between = np.asarray(network.second.T @ found.curvature @ network.second)
    # (4.8) of the thesis, which assumes that every unit is active in half of the examples.
    printed = (between + np.diag(np.diag(between))) / 4
    plain = _row_span(np.asarray(network.second, float))
    # For weights of sum s and norm 1 the pre-activation is about normal over the inputs, with mean
    # s / sqrt(2 pi) and variance (1 - 1 / pi) / 2.
    share = norm.cdf(np.sum(np.asarray(network.first, float), axis=1) / math.sqrt(math.pi - 1))
    square, mean = float(found.square), np.asarray(found.scores, float)
    shift = np.linalg.norm(np.asarray(found.given) / float(found.both) - mean)
    curvatures = np.linalg.eigvalsh(np.asarray(found.curvature, float))
    gap_hessian, kronecker = _hessian(network, hessian_key, hessian_batches)
    overlap = lambda other: float(subspace_overlap(jnp.asarray(space), jnp.asarray(other))[-1])
    leading = lambda matrix: np.linalg.eigh(matrix)[1][:, -top:].T
    return Measured(
        gap_output=float(values[-classes] / values[-top]),
        gap_hessian=gap_hessian,
        mean_share=float(mean @ mean) / square,
        shift=float(shift / np.sqrt(square - mean @ mean)),
        # In ascending order; the first one is 0, along the vector of ones.
        least=float(curvatures[1] / curvatures[-1]),
        # M* = E[D' W^T A W D'] with D' independent of A: the product of the means, entry by entry.
        independent=overlap(leading(between * np.asarray(found.active))),
        printed=overlap(leading(printed)),
        row_span=overlap(plain),
        weighted_row_span=overlap(np.linalg.qr((plain * share).T)[0].T),
        kronecker=kronecker,
    )


def _row_span(second: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the row span without the direction 1^T W2."""
    rows = np.linalg.svd(second, full_matrices=False)[2]
    removed = rows @ second.sum(axis=0)
    # In the coordinates of the row span, a basis of what is orthogonal to the removed direction.
    inside = np.linalg.svd(removed[None, :])[2][1:]
    return inside @ rows


def _hessian(network: Network, key: RandomKey, batches: int) -> tuple[float, float]:
    """Return the Hessian's gap and the overlap with E[M] (x) E[x x^T], from the Gram matrix.

    The rows (N_ic (x) x_i) / sqrt(n) have the Gram matrix (N N^T)_(ic, jd) (x_i . x_j) / n, whose
    eigenvalues are those of H; the vectors of length units * inputs are never formed.
    """
    factors, x = (np.asarray(part, float) for part in sample(network, key, batches))
    count, classes, units = factors.shape
    rows = factors.reshape(-1, units)
    inner = np.kron(x @ x.T, np.ones((classes, classes)))
    # By default the starting vector is random, and the last digits with it.
    start = np.ones(len(rows))
    values, vectors = eigsh(rows @ rows.T * inner / count, k=classes, v0=start)
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    top = classes - 1
    taus, lefts = np.linalg.eigh(rows.T @ rows / count)
    _, singular, rights = np.linalg.svd(x / math.sqrt(count), full_matrices=False)
    # The c - 1 largest products are of factors among the first c - 1 of either side.
    products = np.outer(taus[::-1][: 2 * classes], singular[: 2 * classes] ** 2)
    best = np.argsort(products, axis=None)[::-1][:top]
    pairs = np.array(np.unravel_index(best, products.shape)).T
    cosines = [
        (rows @ lefts[:, -1 - a] * np.repeat(x @ rights[b], classes)) @ vectors[:, :top]
        for a, b in pairs
    ]
    # An eigenvector of H is the rows times one of their Gram matrix, over the root of its
    # eigenvalue.
    cosines = np.array(cosines) / np.sqrt(count * values[:top])
    return float(values[top] / values[top - 1]), float(np.sum(cosines**2) / top)
