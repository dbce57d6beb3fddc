"""The measurements of `hessian-structure`: a layer, a whole network, an epoch of training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metastep.compilation import compiled
from metastep.curvature import (
    EmpiricalRisk,
    Hessian,
    LayerHessian,
    correspondence,
    full_hessian_eigenpairs,
    kronecker_eigenpairs,
    subspace_overlap,
    top_eigenpairs,
)
from metastep.curvature.layers.kronecker import input_mean, output_mean
from metastep.types import RandomKey
from metastep_lab.wu2022.hessian_structure.clusters import shares
from metastep_lab.wu2022.networks.capturing import captured, layer_names

SHOWN = 50  # eigenvectors whose correspondence is shown
WATCHED = 20  # eigenvalues during training
FIRST, SINGULAR = 4, 10
LAYER_COLUMNS = (
    "outputs inputs positions examples alignment ratio ratio_bound output_gap hessian_gap "
    "output_outliers output_share trace_ratio residual"
)
SPECTRUM_COLUMNS = (
    "index true kronecker output input kronecker_output kronecker_input overlap rank_one "
    "input_correspondence output_correspondence inside"
)


class Moments(NamedTuple):
    """E[M], E[x x^T], E[X] with positions in rows, and the trace of the Hessian."""

    output: Float[Array, "out out"]
    input: Float[Array, "in in"]
    mean: Float[Array, "positions in"]
    trace: Float[Array, ""]


class Measured(NamedTuple):
    """One layer of one network.

    Attributes:
        numbers: a row of `LAYER_COLUMNS`.
        spectrum: rows of `SPECTRUM_COLUMNS`.
        correspondence: `[2, 50, 50]`, of eigenvectors of E[x x^T] and of E[M] with those of H;
            NaN where there are fewer.
        singular: the ten largest singular values of the first four eigenvectors of H as matrices.
    """

    numbers: list[float]
    spectrum: list[list[float]]
    correspondence: Float[np.ndarray, "2 _ _"]
    singular: list[list[float]]


@compiled
def _moments(operator: LayerHessian) -> Moments:
    inputs, jacobian = operator.factors.inputs, operator.factors.jacobian
    # The Hessian of an example is M (x) x x^T at one position, with the trace tr M |x|^2.
    bent = jnp.einsum("icpm,icd,idpm->ip", jacobian, operator.curvature, jacobian)
    trace = jnp.mean(jnp.sum(bent * jnp.sum(inputs**2, axis=2), axis=1))
    single = inputs.shape[1] == 1  # positions of a convolution have terms in common
    return Moments(
        output_mean(jacobian, operator.curvature),
        input_mean(inputs),
        jnp.mean(inputs, axis=0),
        trace if single else jnp.full_like(trace, jnp.nan),
    )


def measure(operator: LayerHessian, top: int, key: RandomKey) -> Measured:
    """Compare the Hessian of a layer with its Kronecker factors, by up to `top` eigenpairs."""
    moments = _moments(operator)
    shape = operator.structure().shape
    k, gap = min(top, operator.size), operator.curvature.shape[-1] - 1
    factored = kronecker_eigenpairs(moments.output, moments.input, k)
    start = factored.matrices()
    # The product's eigenvectors are near enough to save iterations; residuals are measured anyway.
    pairs = top_eigenpairs(operator, k, key=key, start=start)
    outputs, left = _descending(moments.output)
    inputs, right = _descending(moments.input)
    curves = _curves(pairs.vectors, start, jnp.asarray(left), jnp.asarray(right), gap)
    numbers = [
        *shape,
        *operator.factors.inputs.shape[1::-1],
        *_input_numbers(moments, inputs, right[:, 0]),
        _gap(outputs, gap),
        _gap(np.asarray(pairs.values, float), gap),
        _outliers(outputs, 2 * gap + 2),
        float(outputs[:gap].sum() / outputs.sum()),
        float(outputs.sum() * inputs.sum() / moments.trace),
        float(jnp.max(pairs.residuals / pairs.values)),
    ]
    missing = lambda values: np.full(max(0, k - len(values)), np.nan)
    filled = lambda values: np.append(values[:k], missing(values))
    spectrum = np.stack(
        [
            np.arange(1, k + 1),
            pairs.values,
            factored.values,
            filled(outputs),
            filled(inputs),
            *(np.asarray(factored.ranks.T) + 1),
            *curves.lines,
        ],
        axis=1,
    )
    return Measured(
        numbers,
        np.asarray(spectrum, float).tolist(),
        np.asarray(curves.correspondence, float),
        np.linalg.svd(pairs.vectors[:FIRST], compute_uv=False)[:, :SINGULAR].tolist(),
    )


def _descending(matrix: Array) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(np.asarray(matrix, float))
    return np.maximum(values[::-1], 0), vectors[:, ::-1]


def _gap(values: np.ndarray, place: int) -> float:
    """Return lambda_(c-1) / lambda_c; NaN without a c-th, at most a million (float32)."""
    if len(values) <= place:
        return float("nan")
    return float(values[place - 1] / max(values[place], 1e-6 * values[0]))


def _outliers(values: np.ndarray, most: int) -> int:
    """Return after how many eigenvalues, from 2 to 2 c, the largest ratio of neighbors follows."""
    values = np.maximum(values[: most + 1], 1e-6 * values[0])
    return int(np.argmax(values[1:-1] / values[2:])) + 2


def _input_numbers(moments: Moments, values: np.ndarray, first: np.ndarray) -> list[float]:
    """Return (v_1 . E[x])^2, lambda_1 / lambda_2, and the bound (C.257) for one position."""
    mean = np.asarray(moments.mean, float)
    # Of a convolution the first singular vector of E[X], positions in rows, stands for E[x]
    # (C.6.1).
    direction = np.linalg.svd(mean, full_matrices=False)[2][0]
    bound = float("nan")
    if len(mean) == 1:
        covariance = np.asarray(moments.input, float) - mean.T @ mean
        bound = float(np.sum(mean**2) / np.linalg.norm(covariance, 2)) - 1
    return [float(first @ direction) ** 2, float(values[0] / values[1]), bound]


class _Curves(NamedTuple):
    """Five values for each eigenvector, and the correspondence of the first ones."""

    lines: Float[Array, "5 k"]
    correspondence: Float[Array, "2 _ _"]


@compiled
def _curves(vectors: Array, factored: Array, left: Array, right: Array, gap: int) -> _Curves:
    left, right = left.astype(vectors.dtype), right.astype(vectors.dtype)
    k = len(vectors)
    # The first singular value by the smaller of the two Gram matrices.
    wide = vectors.shape[1] <= vectors.shape[2]
    gram = vectors @ vectors.mT if wide else vectors.mT @ vectors
    rank_one = jnp.sqrt(jnp.linalg.eigvalsh(gram)[:, -1])
    # `own` needs u_1 to u_k, what is shown the first 50.
    by_output = correspondence(vectors, left=left[:, : max(k, SHOWN)])
    by_input = correspondence(vectors, right=right[:, :SHOWN])
    own = jnp.pad(jnp.diagonal(by_output), (0, max(0, k - len(by_output))), constant_values=jnp.nan)
    shown = [
        # One shape for all layers, whatever their sizes: the table has a row for each entry.
        jnp.full((SHOWN, SHOWN), jnp.nan)
        .at[: min(len(part), SHOWN), : min(k, SHOWN)]
        .set(part[:SHOWN, :SHOWN])
        for part in (by_input, by_output)
    ]
    lines = [
        subspace_overlap(factored, vectors),
        rank_one,
        by_input[0],
        own[:k],
        jnp.sum(by_output[:gap], axis=0),
    ]
    return _Curves(jnp.stack(lines), jnp.stack(shown))


class Moment(NamedTuple):
    """A network at one epoch: `[layers]` of two spectra, and the shares of two clusterings."""

    outputs: list[list[float]]
    inputs: list[list[float]]
    logit_share: float
    class_share: float


def watch(risk: EmpiricalRisk, scores: Float[Array, "examples classes"]) -> Moment:
    """Return up to 20 eigenvalues of both factors of each layer, and the clusters of fc1."""
    found = Moment([], [], 0.0, 0.0)
    for name in layer_names(risk):
        operator = captured(risk, name)
        moments = _moments(operator)
        found.outputs.append(_descending(moments.output)[0][:WATCHED].tolist())
        found.inputs.append(_descending(moments.input)[0][:WATCHED].tolist())
        if name == "fc1.weight":
            logits, classes = shares(operator, scores, risk.targets).tolist()
            found = found._replace(logit_share=logits, class_share=classes)
    return found


def whole(risk: EmpiricalRisk, top: int, key: RandomKey) -> list[list[float]]:
    """Compare the Hessian of all layers with its approximation, plain and weighted.

    Returns:
        Rows of index, true, approximate, weighted, overlap, weighted_overlap.
    """
    names = layer_names(risk)
    layers = [name.removesuffix(".weight") for name in names]
    # The approximation of C.3 has one eigenvector for each output of each layer.
    top = min(top, sum(len(risk.params[name]["bias"]) for name in layers))
    operator = Hessian(risk, where=lambda variables: [variables[name] for name in layers])
    pairs = top_eigenpairs(operator, top, key=key)
    # As the approximation of C.3 has them: a bias is the weight of an input of 1.
    true = _flat([_with_bias(layer) for layer in pairs.vectors])
    columns = [np.arange(1, top + 1), pairs.values]
    overlaps = []
    for weighted in (False, True):
        found = full_hessian_eigenpairs(risk, top, layers=names, bias=True, weighted=weighted)
        vectors = _flat([found.vectors[name] for name in names])
        columns.append(found.values)
        overlaps.append(subspace_overlap(vectors, true))
    return np.stack([np.asarray(one, float) for one in (*columns, *overlaps)], axis=1).tolist()


def _with_bias(layer: Mapping[str, Array]) -> Float[Array, "k out in"]:
    return jnp.concatenate([layer["weight"], layer["bias"][:, :, None]], axis=2)


def _flat(layers: Sequence[Float[Array, "k out in"]]) -> Float[Array, "k size"]:
    return jnp.concatenate([layer.reshape(len(layer), -1) for layer in layers], axis=1)
