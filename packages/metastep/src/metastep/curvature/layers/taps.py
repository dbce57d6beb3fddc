"""Layers that the model marks, for weights that its traced program does not identify."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PyTree

from metastep.types import RandomKey

# Taps are names of `checkpoint_name`, an identity that `jit`, `vmap` and derivatives keep.
PREFIX = "metastep.tap"
CONVOLUTIONS = (eqx.nn.Conv, eqx.nn.ConvTranspose)
KINDS = (eqx.nn.Linear, eqx.nn.WeightNorm, *CONVOLUTIONS)


def tap(
    name: str,
    outputs: Float[Array, "*positions out"],
    inputs: Float[Array, "*positions in"] | None = None,
) -> Float[Array, "*positions out"]:
    """Mark the output of a layer, for a layer that the traced program does not identify.

    The library finds weights that enter one matrix product or convolution unchanged. This function
    marks all other layers: those whose weight is first normalized, masked or quantized, is shared,
    or has a custom derivative. The name of a tap is valid wherever layers are named. The layer's
    matrix W is then not a parameter but the factor of the inputs: its Hessian is taken with respect
    to V in `outputs + inputs @ V.T` at V = 0.

    Args:
        name: different from every other tap and every path of a parameter.
        outputs: z, of one example; the last axis is the layer's, the others are positions.
        inputs: x, with the same positions; None for the constant 1. The layer's Hessian is then
            taken with respect to a vector added to `outputs`.

    Returns:
        `outputs`, with unchanged values. The model must use this result.

    Raises:
        ValueError: for an empty name, or inputs whose positions differ from those of the outputs.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from metastep.curvature import EmpiricalRisk, find_layers, tap
        >>> mask = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        >>> model = lambda params, x: tap("masked", (mask * params["W"]) @ x, x)
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> params = {"W": jnp.zeros((2, 3))}
        >>> risk = EmpiricalRisk(model, loss, params, jnp.ones((4, 3)), jnp.array([0, 1, 0, 1]))
        >>> find_layers(risk, ["masked"])["masked"].shape()
        (2, 3)
    """
    if not name:
        raise ValueError(f"name is {name!r}; allowed are names that are not empty.")
    if inputs is None:
        inputs = jnp.ones((*outputs.shape[:-1], 1), outputs.dtype)
    if inputs.shape[:-1] != outputs.shape[:-1] or not outputs.ndim:
        raise ValueError(
            f"tap {name} has outputs of shape {list(outputs.shape)} and inputs of shape "
            f"{list(inputs.shape)}; allowed are shapes that agree in all axes but the last."
        )
    # One array, so that `vmap` maps both parts, with the mapped axes in front.
    dtype, width = jnp.promote_types(outputs.dtype, inputs.dtype), outputs.shape[-1]
    both = jnp.concatenate([outputs.astype(dtype), inputs.astype(dtype)], axis=-1)
    return checkpoint_name(both, f"{PREFIX}:{width}:{name}")[..., :width].astype(outputs.dtype)


def read_mark(mark: str) -> tuple[str, int] | None:
    """Return the name and the number of outputs of a tap; None for any other mark."""
    prefix, _, rest = mark.partition(":")
    width, _, name = rest.partition(":")
    return (name, int(width)) if prefix == PREFIX else None


def tap_modules(model: PyTree, kinds: tuple[type, ...] = KINDS) -> PyTree:
    """Mark the layers of an equinox model with `tap`, by the paths of their modules.

    For modules that compute their weight, such as `equinox.nn.WeightNorm`. Other libraries have
    their own means for this purpose, such as `flax.linen.intercept_methods`.

    Args:
        model: any pytree of modules.
        kinds: classes of modules that are layers. Each is called with one array whose last axis is
            the input, or is a convolution. A layer inside a layer is not marked separately.

    Returns:
        The model with each layer wrapped in a module that taps it. The name of the tap is the path
        of the original module, such as `layers.0`; paths of its parameters then contain `.module`.

    Raises:
        ValueError: for a model without such a module, or a grouped convolution.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, optax
        >>> from metastep.curvature import EmpiricalRisk, find_layers
        >>> from metastep.curvature import tap_modules
        >>> model = tap_modules(eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)))
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> data = jnp.ones((4, 3)), jnp.array([0, 1, 0, 1])
        >>> risk = EmpiricalRisk(lambda model, x: model(x), loss, model, *data)
        >>> find_layers(risk, ["layers.0"])["layers.0"].shape(bias=True)
        (4, 4)
    """
    is_layer = lambda node: isinstance(node, kinds)
    found, treedef = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_layer)
    if not any(is_layer(node) for _, node in found):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"model has no module of the kinds {names}; name those that are layers.")
    nodes = [
        _Tapped(node, jax.tree_util.keystr(path, simple=True, separator=".") or "model")
        if is_layer(node)
        else node
        for path, node in found
    ]
    return jax.tree.unflatten(treedef, nodes)


class _Tapped(eqx.Module):
    """A module that taps its output and its input; for a convolution the input is patches."""

    module: Any
    name: str = eqx.field(static=True)

    def __check_init__(self):
        if isinstance(layer := self._layer(), CONVOLUTIONS) and layer.groups != 1:
            raise ValueError(
                f"model has the convolution {self.name} with {layer.groups} groups; allowed are "
                "ungrouped ones, whose outputs have all inputs in common."
            )

    def __call__(self, x: Array, *, key: RandomKey | None = None) -> Array:
        # Layers of other kinds than equinox's need not accept a key.
        outputs = self.module(x) if key is None else self.module(x, key=key)
        if not isinstance(layer := self._layer(), CONVOLUTIONS):
            return tap(self.name, outputs, x)
        columns = outputs.reshape(len(outputs), -1).T
        patches = _patches(layer, x)
        return tap(self.name, columns, patches).T.reshape(outputs.shape)

    def _layer(self) -> Any:
        return self.module.layer if isinstance(self.module, eqx.nn.WeightNorm) else self.module


def _patches(layer: Any, x: Array) -> Float[Array, "positions in"]:
    """Return the patches that a convolution multiplies by its kernel."""
    shape = layer.weight.shape[1:]
    size = jnp.size(layer.weight[0])
    # The convolution itself, with every unit kernel: stride, padding and dilation are its own.
    kernel = jnp.eye(size, dtype=x.dtype).reshape(size, *shape)
    bias = None if layer.bias is None else jnp.zeros((size, *layer.bias.shape[1:]), x.dtype)
    parts = lambda layer: (layer.weight, layer.bias)
    unit = eqx.tree_at(parts, layer, (kernel, bias), is_leaf=lambda leaf: leaf is None)
    return unit(x).reshape(size, -1).T
