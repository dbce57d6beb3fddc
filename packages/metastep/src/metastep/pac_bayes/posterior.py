"""A Gaussian posterior over the weights of a model, diagonal in a basis of each layer.

A layer's matrix W (including its bias, if any, as the last column) has the random part U Z V^T with
independent entries of Z. For a layer whose input is the data, this matrix is never formed: its
effect on the output is (x V) Z^T U^T, and x V is computed once. Parameters outside layers have
independent entries.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.extend as jex
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from metastep.compilation import compiled
from metastep.curvature.layers.capture import find_layers
from metastep.curvature.layers.findings import Key, Taps
from metastep.curvature.layers.tracing import evaluate
from metastep.curvature.operators.risk import EmpiricalRisk
from metastep.pac_bayes.bound import kl_divergence
from metastep.types import RandomKey, Scalar

Matrices = dict[str, Float[Array, "_ _"]]
Basis = tuple[Matrices, Matrices]
"""`(left, right)`: for each layer orthogonal U `[out, out]` and V `[in, in]`, bias included."""

SMALLEST_SCALE = 1e-4  # of a weight that is zero, as biases may be


class Layout(NamedTuple):
    """The assignment of parameters to layers; hashable.

    Attributes:
        names: the layers, by the path of their weight.
        bias: whether the bias is part of each layer's matrix.
        first: the layers with one position whose input does not depend on the parameters.
        owned: indices of the floating-point leaves that belong to layers.
    """

    names: tuple[str, ...]
    bias: bool
    first: tuple[str, ...]
    owned: tuple[int, ...]


def find_layout(risk: EmpiricalRisk) -> Layout:
    """Find the layers of a model and whether their biases can be part of them.

    A parameter of which the model uses parts as separate matrices (a stack of layers, a grouped
    convolution) has independent entries.
    """
    leaves, paths = _leaves(risk.params)
    whole = lambda layer: (
        layer.name in paths
        and layer.groups == 1
        and layer.outputs * layer.inputs == leaves[paths.index(layer.name)].size
    )
    layers = {name: layer for name, layer in find_layers(risk).items() if whole(layer)}
    # One choice for all layers, as `kronecker_hessian` makes one.
    bias = bool(layers) and all(layer.bias is not None for layer in layers.values())
    owned = [paths.index(name) for name in layers]
    if bias:
        owned += [paths.index(str(layer.bias)) for layer in layers.values()]
    fixed = _independent_inputs(risk)
    # Other layers stay as weights: with several positions, outputs share their noise.
    first = [
        name
        for name, layer in layers.items()
        if layer.positions == 1 and (paths.index(name), 0) in fixed
    ]
    return Layout(tuple(layers), bias, tuple(first), tuple(owned))


def _leaves(params: PyTree) -> tuple[list[Array], list[str]]:
    """Return the floating-point leaves and their paths."""
    found = jax.tree_util.tree_leaves_with_path(eqx.filter(params, eqx.is_inexact_array))
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in found]
    return [leaf for _, leaf in found], paths


def _with_leaves(params: PyTree, leaves: list[Array]) -> PyTree:
    parameters, rest = eqx.partition(params, eqx.is_inexact_array)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(parameters), leaves), rest)


def _evaluate(
    risk: EmpiricalRisk, leaves: list[Array], example: PyTree, taps: Taps
) -> tuple[PyTree, Taps]:
    """Return the output with `taps` added to layers' outputs, and every layer's input rows."""
    model = lambda leaves, x: risk.model(_with_leaves(risk.params, leaves), x)
    output, findings = evaluate(model, leaves, example, taps)
    return output, findings.inputs


def _independent_inputs(risk: EmpiricalRisk) -> set[Key]:
    """Return the matrices whose layers' inputs do not depend on any parameter."""
    leaves, _ = _leaves(risk.params)
    inputs = lambda leaves, x: _evaluate(risk, leaves, x, {})[1]
    closed, shape = jax.make_jaxpr(inputs, return_shape=True)(leaves, risk.example()[0])
    # Data flow alone, by the equations: a layer's input is fixed if no parameter reaches it.
    dependent = set(closed.jaxpr.invars[: len(leaves)])
    for equation in closed.jaxpr.eqns:
        reads = [atom for atom in equation.invars if isinstance(atom, jex.core.Var)]
        if any(atom in dependent for atom in reads):
            dependent.update(equation.outvars)
    # Sorted, as JAX flattens a dictionary.
    return {
        key
        for key, atom in zip(sorted(shape), closed.jaxpr.outvars, strict=True)
        if atom not in dependent
    }


class Posterior(eqx.Module):
    """Q = N(mean, ...), diagonal in a basis of each layer, with the scale of its isotropic prior.

    Attributes:
        mean: the parameters' floating-point leaves; None elsewhere.
        log_scale: for each layer, logarithms of the standard deviations of Z in W + U Z V^T.
        other_log_scale: the same for the leaves outside layers, in their order.
        log_prior_scale: logarithm of the prior's standard deviation, 1/2 log lambda.
    """

    mean: PyTree
    log_scale: Matrices
    other_log_scale: list[Array]
    log_prior_scale: Scalar

    def kl(self, prior: PyTree) -> Scalar:
        """Return KL(Q || N(prior, lambda I)), which does not depend on the basis."""
        scales = (self.log_scale, self.other_log_scale)
        return kl_divergence(self.mean, scales, prior, self.log_prior_scale)


def initial_posterior(
    risk: EmpiricalRisk, layout: Layout, log_prior_scale: float = -3.0
) -> Posterior:
    """Return the start of Algorithm 4: mean w, standard deviations |w|."""
    leaves, _ = _leaves(risk.params)
    layers = find_layers(risk, layout.names, layout.bias)
    # A weight of zero would have the scale 0, whose logarithm never moves again.
    log = lambda leaf: jnp.log(jnp.maximum(jnp.abs(leaf), SMALLEST_SCALE))
    return Posterior(
        mean=eqx.filter(risk.params, eqx.is_inexact_array),
        log_scale={
            name: log(layer.to_matrix(risk.params, layout.bias)) for name, layer in layers.items()
        },
        other_log_scale=[log(leaf) for i, leaf in enumerate(leaves) if i not in layout.owned],
        log_prior_scale=jnp.asarray(log_prior_scale, leaves[0].dtype),
    )


def isotropic_posterior(risk: EmpiricalRisk, layout: Layout, log_scale: float = -3.0) -> Posterior:
    """Return mean w and the scales of the prior: KL is 0 where w is the prior's mean."""
    begin = initial_posterior(risk, layout, log_scale)
    scales = lambda posterior: (posterior.log_scale, posterior.other_log_scale)
    alike = lambda leaf: jnp.full_like(leaf, begin.log_prior_scale)
    return eqx.tree_at(scales, begin, jax.tree.map(alike, scales(begin)))


@compiled
def first_inputs(risk: EmpiricalRisk, layout: Layout) -> Matrices:
    """Return, for each first layer, the inputs of all examples, with ones for the bias."""
    leaves, paths = _leaves(risk.params)

    def rows(example: PyTree) -> dict[str, Array]:
        inputs = _evaluate(risk, leaves, example, {})[1]
        return {name: inputs[paths.index(name), 0][0] for name in layout.first}

    found = jax.vmap(rows)(risk.inputs)
    if not layout.bias:
        return found
    # The bias is the last column of the matrix.
    one = lambda rows: jnp.ones_like(rows[:, :1])
    return {name: jnp.concatenate([rows, one(rows)], axis=1) for name, rows in found.items()}


@compiled
def rotate(inputs: Matrices, right: Matrices) -> Matrices:
    """Return x V for each first layer and all examples."""
    return {name: rows @ right[name] for name, rows in inputs.items()}


def draw(risk: EmpiricalRisk, layout: Layout, posterior: Posterior, basis: Basis, key: RandomKey):
    """Draw parameters, a pytree like `risk.params`, from a posterior whose scales refer to `basis`.

    One draw gives the predictions of the stochastic model; the bound requires a new draw for each
    prediction.
    """
    noise, other = draw_noise(posterior, key)
    return perturb(risk, layout, posterior, basis, noise, other, layout.names)


def draw_noise(posterior: Posterior, key: RandomKey) -> tuple[Matrices, list[Array]]:
    """Return xi exp(log_scale) with independent standard normal xi."""
    tree = (posterior.log_scale, posterior.other_log_scale)
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [
        jax.random.normal(key, leaf.shape, leaf.dtype) * jnp.exp(leaf)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, noise)


def perturb(
    risk: EmpiricalRisk,
    layout: Layout,
    posterior: Posterior,
    basis: Basis,
    noise: Matrices,
    other: list[Array],
    names: tuple[str, ...],
) -> PyTree:
    """Return the mean with the noise of the named layers and of the other leaves added."""
    leaves, _ = _leaves(posterior.mean)
    free = [i for i in range(len(leaves)) if i not in layout.owned]
    for i, values in zip(free, other, strict=True):
        leaves[i] = leaves[i] + values
    params = _with_leaves(risk.params, leaves)
    layers = find_layers(risk, layout.names, layout.bias)
    for name, change in to_standard(basis, {name: noise[name] for name in names}).items():
        matrix = layers[name].to_matrix(params, layout.bias) + change
        params = layers[name].to_params(matrix, params)
    return params


def to_standard(basis: Basis, vector: Matrices) -> Matrices:
    """Return U Z V^T for each layer of `vector` (C.273), the inverse of `to_eigenbasis`."""
    left, right = basis
    return {name: left[name] @ matrix @ right[name].T for name, matrix in vector.items()}


def to_eigenbasis(basis: Basis, vector: Matrices) -> Matrices:
    """Return U^T W V for each layer of `vector` (C.272)."""
    left, right = basis
    return {name: left[name].T @ matrix @ right[name] for name, matrix in vector.items()}


def noisy_outputs(
    risk: EmpiricalRisk,
    layout: Layout,
    params: PyTree,
    examples: PyTree,
    shifts: Matrices,
) -> PyTree:
    """Return the model's outputs with `shifts` `[examples, out]` added after the first layers."""
    leaves, paths = _leaves(params)
    place = {name: (paths.index(name), 0) for name in layout.first}

    def output(example: PyTree, shifts: dict[str, Array]) -> PyTree:
        taps = {place[name]: shift[None] for name, shift in shifts.items()}
        return _evaluate(risk, leaves, example, taps)[0]

    return jax.vmap(output)(examples, shifts)
