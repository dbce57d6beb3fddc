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
    """A network, and the layers to hold against its Hessian, the first with its bias."""

    make: object
    layers: tuple
    piecewise_linear: bool = True


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


CASES = {
    "fully connected": Case(make_fully_connected, ("fc1.weight", "fc2.weight")),
    "smooth": Case(lambda key: make_fully_connected(key, smooth), ("fc1.weight",), False),
    "batch normalization": Case(make_normalized, ("fc1.weight",)),
    "convolution": Case(make_convolutional, ("conv.kernel",)),
    "equinox convolution": Case(make_equinox, ("layers.1.weight",)),
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
