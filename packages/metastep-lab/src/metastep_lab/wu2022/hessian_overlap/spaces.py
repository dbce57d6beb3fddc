"""Top eigenspaces of layer-wise Hessians, kept so that those of two networks can be compared.

The Hessian of a layer is a sum of s s^T, one row s for each example and class: the outer product of
a vector l of the layer's output space and its input x. A Hessian of few entries is formed. For
others the rows of largest norm are kept. The Gram matrix of the rows, (L L^T) * (X X^T) entry by
entry, has the same eigenvalues, and no eigenvector of the layer's size is ever formed: those of two
networks have inner products that follow from products of rows. NumPy in float64, since overlaps of
small eigenvectors divide by small eigenvalues.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import eigh

from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk, LayerHessian, find_layers
from metastep.curvature.layers.kronecker import input_mean
from metastep_lab.wu2022.networks.capturing import in_parts, numbers

AT_ONCE = 2**24  # numbers that are captured at a time
RANK = 1e-12  # eigenvalues below it, relative to the largest, are rounding


class Space(NamedTuple):
    """Eigenvectors h_j, the sum over r of weights[r, j] times the outer product of left_r, right_r.

    Attributes:
        left: factors in the layer's output space; one column of ones where `right` has whole rows.
        right: factors in its input space.
        weights: coefficients of each eigenvector, the largest eigenvalue first.
    """

    left: Float[np.ndarray, "rows out"]
    right: Float[np.ndarray, "rows in"]
    weights: Float[np.ndarray, "rows k"]


class LayerSpectrum(NamedTuple):
    """The Hessian of one layer and its Kronecker factors.

    Attributes:
        space: its top eigenvectors.
        values: their eigenvalues.
        output: E[M].
        input: E[x x^T].
        kept: the share of the Hessian's trace in the rows that were kept.
        positions: of a convolution, else 1.
    """

    space: Space
    values: Float[np.ndarray, " k"]
    output: Float[np.ndarray, "out out"]
    input: Float[np.ndarray, "in in"]
    kept: float
    positions: int


def layer_spectrum(risk: EmpiricalRisk, name: str, rows: int) -> LayerSpectrum:
    """Return the top 2 m eigenpairs of the Hessian of a layer with m outputs, and its factors.

    The layer is given by the path of its weight. Exact for a Hessian with at most as many rows as
    `rows`, at least 2 m, else the better the nearer `kept` is to 1. Exact Kronecker factors. Cost:
    one capture, and the eigenvalues of a matrix of `rows` rows.
    """
    (layer,) = find_layers(risk, [name]).values()
    size, captured = layer.inputs * layer.outputs, numbers(risk, name)
    # Where outer products are formed (a small Hessian, or a convolution, whose rows are sums over
    # positions), every class of an example adds a row of the layer's size.
    whole = size <= rows or layer.positions > 1
    each = captured.all + whole * captured.classes * size
    parts = in_parts(risk, name, max(1, AT_ONCE // each))
    k = min(2 * layer.outputs, size)
    if size <= rows:
        return _formed(parts, k, layer.positions)
    return _selected(parts, k, layer.positions, rows)


class _Sums(NamedTuple):
    """Sums of the Kronecker factors over groups of examples, and the number of groups."""

    output: np.ndarray | float = 0.0
    input: np.ndarray | float = 0.0
    groups: int = 0

    def added(self, output: Array, input: Array) -> "_Sums":
        """Return the sums with one more group."""
        more = np.asarray(output, float), np.asarray(input, float)
        return _Sums(self.output + more[0], self.input + more[1], self.groups + 1)


def _formed(parts: Iterable[LayerHessian], k: int, positions: int) -> LayerSpectrum:
    """Return the spectrum of a Hessian with few entries, by forming it."""
    sums, hessian = _Sums(), 0.0
    for part in parts:
        left, inputs, *factors = _factors(part)
        every = np.asarray(_outer(left, inputs), float)
        hessian = hessian + every.T @ every
        sums = sums.added(*factors)
    values, vectors = _top(np.asarray(hessian) / sums.groups, k)
    # Formed eigenvectors are rows of their own, so that `overlaps` compares both kinds of spaces.
    space = Space(np.ones((k, 1)), vectors.T, np.eye(k))
    return LayerSpectrum(space, values, *_means(sums), 1.0, positions)


def _selected(parts: Iterable[LayerHessian], k: int, positions: int, rows: int) -> LayerSpectrum:
    """Return the spectrum from the rows of largest norm."""
    sums, total = _Sums(), 0.0
    kept: tuple[np.ndarray, ...] = ()
    for part in parts:
        left, inputs, *factors = _factors(part)
        found = _as_rows(left, inputs)
        total += float(np.sum(found[2]))
        if kept:
            found = tuple(np.concatenate(pair) for pair in zip(kept, found, strict=True))
        kept = found
        if len(kept[2]) > rows:
            # After each group, so that never more than `rows` and a group are in memory.
            # Sorted: the order of argpartition depends on the processor's instructions, and the
            # last digits of the sums over rows on the order.
            chosen = np.sort(np.argpartition(-kept[2], rows - 1)[:rows])
            kept = tuple(one[chosen] for one in kept)
        sums = sums.added(*factors)
    left, right, squares = (_padded(one, rows) for one in kept)
    values, vectors = _top((left @ left.T) * (right @ right.T), k)
    # The unit eigenvector of F F^T is F a / sqrt(lambda), for the eigenvector a of F^T F. There is
    # none where lambda is zero.
    scale = np.where(values > RANK * values[0], np.sqrt(np.maximum(values, 0)), np.inf)
    share = float(np.sum(squares) / total)
    spectrum = values / sums.groups, *_means(sums), share, positions
    return LayerSpectrum(Space(left, right, vectors / scale), *spectrum)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Return rows with zeros after them, so that their number does not depend on the examples."""
    return np.pad(rows, ((0, count - len(rows)), *((0, 0),) * (rows.ndim - 1)))


def _means(sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
    # `in_parts` makes groups of one size, over which the mean is that over the examples.
    return np.asarray(sums.output / sums.groups), np.asarray(sums.input / sums.groups)


@compiled
def _factors(operator: LayerHessian) -> tuple[Array, Array, Array, Array]:
    """Return N / sqrt(examples) with M = N^T N, the inputs, E[M] and E[x x^T] of a group."""
    inputs, jacobian = operator.factors.inputs, operator.factors.jacobian
    values, vectors = jnp.linalg.eigh(operator.curvature)
    # N = A^{1/2} G, so that M = G^T A G = N^T N, for the curvature A of any loss by the scores.
    roots = jnp.sqrt(jnp.maximum(values, 0))[:, :, None] * vectors.mT
    left = jnp.einsum("icd,idpm->icpm", roots, jacobian) / jnp.sqrt(len(inputs))
    flat = left.reshape(-1, left.shape[-1])
    # Over the positions of a convolution: a mean for E[M], a sum for E[x x^T] (C.27).
    return left, inputs, flat.T @ flat / inputs.shape[1], input_mean(inputs)


@compiled
def _outer(left: Array, inputs: Array) -> Float[Array, "rows size"]:
    every = jnp.einsum("icpm,ipn->icmn", left, inputs)
    return every.reshape(every.shape[0] * every.shape[1], -1)


def _as_rows(left: Array, inputs: Array) -> tuple[np.ndarray, ...]:
    """Return the factors of the rows of the Hessian, and their squared norms."""
    if inputs.shape[1] > 1:  # a sum of outer products, one for each position
        right = np.asarray(_outer(left, inputs), float)
        return np.ones((len(right), 1)), right, np.sum(right**2, axis=1)
    outs = np.asarray(left[:, :, 0], float).reshape(-1, left.shape[-1])
    right = np.repeat(np.asarray(inputs[:, 0], float), left.shape[1], axis=0)
    return outs, right, np.sum(outs**2, axis=1) * np.sum(right**2, axis=1)


def _top(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest eigenvalues of a matrix, in descending order, and their vectors."""
    size = len(matrix)
    values, vectors = eigh(matrix, subset_by_index=[size - k, size - 1])
    return np.maximum(values[::-1], 0), vectors[:, ::-1]


def overlaps(first: Space, second: Space) -> Float[np.ndarray, " k"]:
    """Return the overlap of the spans of the first j eigenvectors, j = 1, ..., k."""
    products = (first.left @ second.left.T) * (first.right @ second.right.T)
    return _curve(first.weights.T @ products @ second.weights)


def _curve(cosines: np.ndarray) -> np.ndarray:
    # Definition 4.2.1: |U^T V|_F^2 is the sum over a corner of the squared cosines; here every k
    # at once.
    within = np.cumsum(np.cumsum(cosines**2, axis=0), axis=1)
    return np.diag(within) / np.arange(1, len(cosines) + 1)


def along(spectrum: LayerSpectrum, direction: Float[np.ndarray, " in"]) -> np.ndarray:
    """Return |Mat(h_j) v|^2, how much of each eigenvector stands along an input direction v."""
    left, right, weights = spectrum.space
    size = len(direction)
    # Mat(h_j) v is the sum of w_rj (right_r . v) left_r; only whole rows have to be unfolded.
    if right.shape[1] == size:
        return np.sum((left.T @ (weights * (right @ direction)[:, None])) ** 2, axis=0)
    matrices = (weights.T @ right).reshape(weights.shape[1], -1, size)
    return np.sum((matrices @ direction) ** 2, axis=1)


class Factored(NamedTuple):
    """The top eigenpairs of E[M] (x) E[x x^T].

    Attributes:
        outputs: eigenvectors of E[M] in columns.
        inputs: those of E[x x^T].
        ranks: which of each the eigenvectors of the product are made of, from 0.
        taus: eigenvalues of E[M], in descending order.
        gammas: those of E[x x^T].
    """

    outputs: np.ndarray
    inputs: np.ndarray
    ranks: np.ndarray
    taus: np.ndarray
    gammas: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The eigenvalues of the product."""
        return self.taus[self.ranks[0]] * self.gammas[self.ranks[1]]

    @property
    def reach(self) -> int:
        """The number of eigenvectors of E[M] that the product takes with the first input direction.

        It is m where the condition of Theorem C.7.1, tau_m gamma_1 > tau_1 gamma_2, holds.
        """
        return int(np.sum(self.taus * self.gammas[0] > self.taus[0] * self.gammas[1]))


def factored(spectrum: LayerSpectrum) -> Factored:
    """Return as many eigenpairs of the Kronecker product as a spectrum has."""
    pairs = [np.linalg.eigh(one) for one in (spectrum.output, spectrum.input)]
    (taus, outputs), (gammas, inputs) = [
        (np.maximum(values[::-1], 0), vectors[:, ::-1]) for values, vectors in pairs
    ]
    # Stable: the units that are never active give many products that are exactly 0.
    order = np.argsort(-np.outer(taus, gammas), axis=None, kind="stable")[: len(spectrum.values)]
    ranks = np.array(np.unravel_index(order, (len(taus), len(gammas))))
    return Factored(outputs, inputs, ranks, taus, gammas)


def factored_overlaps(first: Factored, second: Factored) -> Float[np.ndarray, " k"]:
    """Return the overlaps of the top eigenspaces of two Kronecker products."""
    outputs = (first.outputs.T @ second.outputs)[np.ix_(first.ranks[0], second.ranks[0])]
    inputs = (first.inputs.T @ second.inputs)[np.ix_(first.ranks[1], second.ranks[1])]
    return _curve(outputs * inputs)
