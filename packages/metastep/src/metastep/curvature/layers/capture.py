"""The layers of a model, and their inputs and output Jacobians for each example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from metastep.curvature.layers.findings import Findings, Key, Taps, parts_of, require_capture
from metastep.curvature.layers.tracing import evaluate
from metastep.curvature.operators.risk import EmpiricalRisk


# Compared by identity: its arrays have no single truth value.
@dataclass(frozen=True, eq=False)
class Layer:
    """One use of a weight matrix: z[p, i] = sum_j W[i, j] X[p, j] + b[i] at each position p.

    A fully connected layer has one position. A convolution has one for every output pixel, and the
    rows of X are the patches, input channels first. `[W b]` is the layer's matrix with its bias as
    the last column. The W of a tap is not a parameter. With several groups (a grouped convolution,
    or a product with one matrix for each element of a batch), the outputs of a group, which lie
    beside each other, have inputs of their own.

    Attributes:
        name: path of the weight in `params`, such as `fc1.weight`, or the name of a `tap`. If the
            model uses parts of a parameter as separate matrices, as a scan over a stack of layers
            does, it is followed by the part's number, as in `blocks.weight[0]`.
        outputs: number of rows m of W.
        inputs: number of columns n of W, without the bias.
        positions: number of positions P.
        is_convolution: whether a convolution uses it.
        groups: number of groups.
        bias: path of the bias in `params`; None without a bias.
    """

    name: str
    outputs: int
    inputs: int
    positions: int
    is_convolution: bool
    groups: int
    bias: str | None
    _key: Key
    _entries: np.ndarray | None
    _bias: tuple[int, np.ndarray] | None

    def shape(self, bias: bool = False) -> tuple[int, int]:
        """Return the shape of W, or of [W b]."""
        return self.outputs, self.inputs + bias

    def to_matrix(self, params: PyTree, bias: bool = False) -> Float[Array, "out in"]:
        """Return W, or [W b], from a tree like the parameters (a gradient, a direction)."""
        entries = self._require_entries()
        leaves = jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array))
        columns = [leaves[self._key[0]].reshape(-1)[entries]]
        if bias:
            index, order = self._require_bias()
            columns.append(leaves[index].reshape(-1)[order][:, None])
        return jnp.concatenate(columns, axis=1)

    def to_params(self, matrix: Float[Array, "out in"], like: PyTree) -> PyTree:
        """Return `like` with this layer's W, or [W b], in place; the inverse of `to_matrix`."""
        leaves, treedef = jax.tree.flatten(like)
        # The key counts floating-point leaves alone, and `like` may hold others.
        places = [i for i, leaf in enumerate(leaves) if eqx.is_inexact_array(leaf)]
        weight = self._key[0], self._require_entries()
        parts = [(weight, matrix[:, : self.inputs])]
        if matrix.shape[1] > self.inputs:
            parts.append((self._require_bias(), matrix[:, self.inputs]))
        for (leaf, entries), values in parts:
            old = leaves[places[leaf]]
            flat = old.reshape(-1).at[entries.reshape(-1)].set(values.reshape(-1))
            leaves[places[leaf]] = flat.reshape(old.shape)
        return jax.tree.unflatten(treedef, leaves)

    def _require_entries(self) -> np.ndarray:
        if self._entries is None:
            raise ValueError(
                f"layer {self.name} is a tap, and no parameter is its matrix; allowed are layers "
                "that the model uses as they are."
            )
        return self._entries

    def _require_bias(self) -> tuple[int, np.ndarray]:
        if self._bias is None:
            raise ValueError(
                f"bias is True, and layer {self.name} has no bias of its own (one that is added "
                "right to its output, once); allowed is bias=False."
            )
        return self._bias


class LayerFactors(eqx.Module):
    """The factors of one layer's curvature, for each example.

    Attributes:
        inputs: X, `[examples, positions, groups * in]`, with a column of ones after those of each
            group if there is a bias.
        jacobian: G = d output / d z, `[examples, classes, positions, out]`.
    """

    inputs: Float[Array, "*examples positions in"]
    jacobian: Float[Array, "*examples classes positions out"]


def find_layers(
    risk: EmpiricalRisk, names: Sequence[str] | None = None, bias: bool = False
) -> dict[str, Layer]:
    """Find the weight matrices of a model and how they are used.

    Args:
        risk: model, loss, parameters and data.
        names: the layers wanted, by the path of their weight or the name of their tap; None for
            all weights.
        bias: whether each layer must have a bias. For a tap it is a vector added to its output.

    Returns:
        The layers by name, in the order of the parameters.

    Raises:
        ValueError: for a name that does not exist (the message lists the names that do); a weight
            that is used more than once (in every step of a loop, for instance), or by an operation
            that is neither a matrix product nor a convolution; a tap that is not unique; or a
            missing bias.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from metastep.curvature import EmpiricalRisk, find_layers
        >>> model = lambda params, x: params["W"] @ x + params["b"]
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> params = {"W": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
        >>> risk = EmpiricalRisk(model, loss, params, jnp.ones((4, 3)), jnp.array([0, 1, 0, 1]))
        >>> layer = find_layers(risk)["W"]
        >>> layer.shape(), layer.bias
        ((2, 3), 'b')
    """
    parameters = eqx.filter(risk.params, eqx.is_inexact_array)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    findings = _findings(risk)
    # Of a stack that a scan goes along, each step has a slice.
    dimensions = [
        leaf.ndim - (i in findings.scanned) for i, leaf in enumerate(jax.tree.leaves(parameters))
    ]
    used = {leaf for leaf, _ in findings.uses}
    biases = {leaf for leaf, _ in findings.bias_uses if leaf not in used}
    # Matrices without a known use are wanted as well: refused with the reason, not left out unseen.
    usual = [i for i, size in enumerate(dimensions) if size > 1 and i not in biases]
    keys: dict[str, Key] = {}
    for i in sorted({*usual, *used}):
        if i < len(paths):
            keys |= parts_of(i, paths[i], findings)
    weights = [*keys]
    # Anything else may be named, and is then refused with its own reason.
    keys = {path: (i, 0) for i, path in enumerate(paths) if i not in used} | keys
    keys |= {name: (index, 0) for name, index in findings.tapped.items()}
    wanted = weights if names is None else list(names)
    unknown = [name for name in wanted if name not in keys]
    if unknown:
        known = ", ".join([*weights, *findings.tapped]) or "none"
        raise ValueError(f"layers names {unknown}; allowed are {known}.")
    twice = [name for name in wanted if name in paths and name in findings.tapped]
    if twice:
        raise ValueError(
            f"layers names {twice}, which are paths of parameters and names of taps; allowed are "
            "taps with other names."
        )
    found = {name: _layer(name, keys[name], paths, findings) for name in wanted}
    for layer in found.values() if bias else ():
        # A tap needs none: its bias is a vector that is added to its output.
        if layer._entries is not None:
            layer._require_bias()
    return found


def example_factors(
    risk: EmpiricalRisk,
    names: tuple[str, ...],
    bias: bool,
    example: tuple[PyTree, PyTree],
    second_order: bool = False,
) -> tuple[dict[str, LayerFactors], dict[str, Float[Array, "classes classes"]]]:
    """Return, for one example, the factors of the named layers and the curvature A of the loss.

    The Hessian of the loss with respect to a layer's output z is G^T A G, exact for piecewise
    linear networks. With `second_order` it is exact for every network: G is then the identity and
    A the Hessian with respect to z, which has (positions * out)^2 entries.
    """
    layers = find_layers(risk, names, bias)
    leaves = jax.tree.leaves(eqx.filter(risk.params, eqx.is_inexact_array))
    dtype = lambda layer: (
        jnp.result_type(*leaves) if layer._entries is None else leaves[layer._key[0]].dtype
    )
    taps = {
        name: jnp.zeros((layer.positions, layer.outputs), dtype(layer))
        for name, layer in layers.items()
    }

    def outputs(taps: dict[str, Array]) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        by_key = {layers[name]._key: tap for name, tap in taps.items()}
        output, findings = _run(risk, example[0], by_key)
        rows = {name: findings.inputs[layers[name]._key] for name in taps}
        flat, unravel = ravel_pytree(output)
        # What `vjp` hands through beside the output must be a pytree.
        return flat, (jax.tree_util.Partial(unravel), rows)

    # Gradients by zeros that are added to the layers' outputs, so the model stays as it is.
    flat, pull, (unravel, rows) = jax.vjp(outputs, taps, has_aux=True)
    # Reverse mode: one pass for each output of the model gives the rows of G for all layers.
    (jacobian,) = jax.vmap(pull)(jnp.eye(flat.size, dtype=flat.dtype))
    loss = lambda flat: risk.loss(unravel(flat), example[1])
    bent = jax.hessian(loss)(flat)
    curvature = {name: bent for name in names}
    if second_order:
        for name in names:
            at = lambda tap, name=name: loss(
                outputs(taps | {name: tap.reshape(taps[name].shape)})[0]
            )
            zeros = taps[name].reshape(-1)
            curvature[name] = jax.hessian(at)(zeros)
            jacobian[name] = jnp.eye(zeros.size, dtype=zeros.dtype).reshape(-1, *taps[name].shape)

    def with_ones(name: str) -> Array:
        x = rows[name].reshape(len(rows[name]), layers[name].groups, -1)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, int(bias))), constant_values=1)
        return x.reshape(len(x), -1)

    return {name: LayerFactors(with_ones(name), jacobian[name]) for name in names}, curvature


def _run(risk: EmpiricalRisk, example: PyTree, taps: Taps) -> tuple[PyTree, Findings]:
    parameters, rest = eqx.partition(risk.params, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(parameters)
    rebuild = lambda leaves: eqx.combine(jax.tree.unflatten(treedef, leaves), rest)
    return evaluate(lambda leaves, x: risk.model(rebuild(leaves), x), leaves, example, taps)


def _findings(risk: EmpiricalRisk) -> Findings:
    """Return what the model's program shows, without computing numbers."""
    # Kept by a side effect: the result of an abstract evaluation could hold nothing but arrays.
    kept: list[Findings] = []

    def run(risk: EmpiricalRisk) -> Array:
        kept.append(_run(risk, risk.example()[0], {})[1])
        return jnp.zeros(())

    eqx.filter_eval_shape(run, risk)
    return kept[0]


def _layer(name: str, key: Key, paths: list[str], findings: Findings) -> Layer:
    require_capture(name, key, findings)
    (use,) = findings.uses[key]
    used = {leaf for leaf, _ in findings.uses}
    # A bias counts as the layer's own if it is added to this output and used nowhere else.
    own = [
        (bias, order)
        for bias, order in findings.biases.get(key, [])
        if findings.bias_uses[bias] == 1
        and bias[0] not in findings.obstacles
        and bias[0] not in used
        and findings.output_uses[key] == 1
        and use.entries is not None
    ]
    bias = (own[0][0][0], own[0][1]) if own else None
    return Layer(
        name=name,
        outputs=use.shape[0],
        inputs=use.shape[1],
        positions=use.positions,
        is_convolution=use.is_convolution,
        groups=use.groups,
        bias=None if bias is None else paths[bias[0]],
        _key=key,
        _entries=use.entries,
        _bias=bias,
    )


def batch_factors(
    risk: EmpiricalRisk, names: tuple[str, ...], bias: bool, second_order: bool = False
) -> Callable[[tuple[PyTree, PyTree]], tuple[dict[str, LayerFactors], dict[str, Array]]]:
    """Return `example_factors` for a batch of examples, as a function of the batch."""
    return jax.vmap(lambda example: example_factors(risk, names, bias, example, second_order))
