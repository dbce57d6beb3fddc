"""Small networks of every kind, with float64 Hessians by dense automatic differentiation."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from metastep.curvature import EmpiricalRisk

CLASSES = 3
EXAMPLES = 7


def fully_connected(params, x):
    hidden = jax.nn.relu(params["fc1"]["weight"] @ x + params["fc1"]["bias"])
    return hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]


def smooth(params, x):
    hidden = jnp.tanh(params["fc1"]["weight"] @ x + params["fc1"]["bias"])
    return hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]


def normalized(params, x):
    """Batch normalization with fixed statistics: an affine map of each output."""
    z = params["fc1"]["weight"] @ x + params["fc1"]["bias"]
    mean, variance = jnp.linspace(-1, 1, z.size), jnp.linspace(0.5, 2, z.size)
    hidden = jax.nn.relu(params["scale"] * (z - mean) / jnp.sqrt(variance + 1e-5) + 0.1)
    return hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]


def convolutional(params, x):
    """Kernel layout of flax: height, width, in, out; stride 2 and padding."""
    numbers = ("NHWC", "HWIO", "NHWC")
    image = x.reshape(1, 4, 4, 2)
    z = jax.lax.conv_general_dilated(
        image, params["conv"]["kernel"], (2, 2), "SAME", dimension_numbers=numbers
    )
    hidden = jax.nn.relu(z + params["conv"]["bias"]).reshape(-1)
    return hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]


def scanned(params, x):
    """Three layers in a scan over their stack."""
    step = lambda hidden, one: (jax.nn.relu(one["weight"] @ hidden + one["bias"]), None)
    hidden, _ = jax.lax.scan(step, x, params["stack"])
    return hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]


def grouped(params, x):
    """Two groups of two channels each; kernel layout of PyTorch and equinox."""
    z = jax.lax.conv_general_dilated(
        x.reshape(1, 4, 5), params["conv"]["kernel"], (2,), "SAME", feature_group_count=2
    )
    hidden = jax.nn.relu(z + params["conv"]["bias"][:, None]).reshape(-1)
    return hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]


def attention_by_heads(params, x):
    """Query, key and value in one array, and an output matrix for each head."""
    rows = x.reshape(3, 4)
    query, key, value = (jnp.einsum("td,hdk->htk", rows, one) for one in params["qkv"])
    weights = jax.nn.softmax(jnp.einsum("htk,hsk->hts", query, key), axis=-1)
    mixed = jnp.einsum("hts,hsk->htk", weights, value)
    return jnp.mean(jnp.sum(jnp.einsum("htk,hkc->htc", mixed, params["out"]), axis=0), axis=0)


def equinox_attention(key):
    make = lambda key: eqx.nn.MultiheadAttention(
        2, 4, use_query_bias=True, output_size=CLASSES, key=key
    )
    model = lambda attention, x: jnp.mean(attention(*[x.reshape(3, 4)] * 3), axis=0)
    return _risk(model, make(key), 12, key)


def equinox_params(key):
    first, second = jax.random.split(key)
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x.reshape(2, 4, 4)),
            eqx.nn.Conv2d(2, 2, 3, key=first),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 1),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(2, CLASSES, key=second),
        ]
    )


def random_params(key, shapes):
    flat = jax.random.normal(key, (sum(jax.tree.leaves(jax.tree.map(jnp.size, shapes))),))
    return ravel_pytree(shapes)[1](flat)


def dense(inputs, hidden):
    return {
        "fc1": {"weight": jnp.zeros((hidden, inputs)), "bias": jnp.zeros(hidden)},
        "fc2": {"weight": jnp.zeros((hidden, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


def convolution():
    return {
        "conv": {"kernel": jnp.zeros((3, 3, 2, 2)), "bias": jnp.zeros(2)},
        "fc2": {"weight": jnp.zeros((8, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


@dataclass(frozen=True)
class Case:
    """A network, and the layers to hold against its Hessian, the first with its bias, if any."""

    make: object
    layers: tuple
    piecewise_linear: bool = True
    bias: bool = True


def _risk(model, params, inputs, key):
    x = jax.random.normal(key, (EXAMPLES, inputs))
    y = jnp.arange(EXAMPLES) % CLASSES
    loss = optax.softmax_cross_entropy_with_integer_labels
    return EmpiricalRisk(model, loss, params, x, y)


def make_fully_connected(key, model=fully_connected):
    return _risk(model, random_params(key, dense(5, 4)), 5, key)


def make_normalized(key):
    params = random_params(key, dense(5, 4) | {"scale": jnp.zeros(4)})
    return _risk(normalized, params, 5, key)


def make_convolutional(key):
    return _risk(convolutional, random_params(key, convolution()), 32, key)


def make_equinox(key):
    return _risk(lambda model, x: model(x), equinox_params(key), 32, key)


def make_scanned(key):
    stack = {"weight": jnp.zeros((3, 4, 4)), "bias": jnp.zeros((3, 4))}
    shapes = {"stack": stack, "fc2": dense(4, 4)["fc2"]}
    return _risk(scanned, random_params(key, shapes), 4, key)


def make_grouped(key):
    conv = {"kernel": jnp.zeros((4, 2, 3)), "bias": jnp.zeros(4)}
    shapes = {"conv": conv, "fc2": dense(4, 12)["fc2"]}
    return _risk(grouped, random_params(key, shapes), 20, key)


def make_attention(key):
    shapes = {"qkv": jnp.zeros((3, 2, 4, 2)), "out": jnp.zeros((2, 2, CLASSES))}
    return _risk(attention_by_heads, random_params(key, shapes), 12, key)


HEADS = ("qkv[0]", "qkv[1]", "qkv[2]", "out")
PROJECTIONS = tuple(f"{name}_proj.weight" for name in ("query", "key", "value", "output"))

CASES = {
    "fully connected": Case(make_fully_connected, ("fc1.weight", "fc2.weight")),
    "smooth": Case(lambda key: make_fully_connected(key, smooth), ("fc1.weight",), False),
    "batch normalization": Case(make_normalized, ("fc1.weight",)),
    "convolution": Case(make_convolutional, ("conv.kernel",)),
    "equinox convolution": Case(make_equinox, ("layers.1.weight",)),
    "scan": Case(make_scanned, ("stack.weight[0]", "stack.weight[2]")),
    "grouped convolution": Case(make_grouped, ("conv.kernel",)),
    "equinox attention": Case(equinox_attention, PROJECTIONS, False),
    "attention by heads": Case(make_attention, HEADS, False, False),
}


def loss_of(risk):
    """Return all parameters as one array, how to go back, and the loss as a function of it."""
    parameters, rest = eqx.partition(risk.params, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(parameters)
    back = lambda flat: eqx.combine(unravel(flat), rest)
    return flat, back, lambda flat: risk.mean(back(flat), risk.data)


def dense_hessian(risk):
    flat, _, loss = loss_of(risk)
    return jax.jit(jax.hessian(loss))(flat)
