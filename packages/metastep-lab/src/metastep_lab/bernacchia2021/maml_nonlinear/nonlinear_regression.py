"""Quadratic regression with a wide network: MAML with one inner step, trained by descent.

Every task is y = (<w, x> + b)^2 + z with its own w and b. The network has two hidden layers of
rectified linear units. One inner step adds to each layer a matrix whose rank is the number of
examples; the network after the step is therefore evaluated from the activations and signals of
those examples, without a copy of the weights for every task. That is the same function of the
weights, two to three times as fast to differentiate at a width of 400.

The loss is (1/2) mean squared error throughout. Without the 1/2, the train rate, the test rate, the
step size and all losses are twice as large and nothing else changes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from metastep.types import RandomKey, Scalar
from metastep_lab.bernacchia2021.mixed_regression import (
    MixedRegression,
    RegressionTasks,
    draw_tasks,
)


class Layer(NamedTuple):
    """An affine map.

    Attributes:
        weights: shape (inputs, outputs).
        bias: shape (outputs,).
    """

    weights: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]


Network = tuple[Layer, ...]
"""Affine maps with rectified linear units between them, the last with one output."""


class Trace(NamedTuple):
    """The outputs of a network on examples, and the factors of their gradients, layer by layer.

    The gradient of the output by the weights of a layer is the outer product of the example's
    activation and signal, and by the bias the signal.

    Attributes:
        outputs: shape (*batch, samples).
        activations: the inputs of each layer, shape (*batch, samples, inputs).
        signals: derivatives of the output by the outputs of each layer's affine map, shape
            (*batch, samples, outputs).
    """

    outputs: Array
    activations: tuple[Array, ...]
    signals: tuple[Array, ...]


def draw_quadratic_tasks(
    key: RandomKey,
    *,
    dim: int,
    variability: float,
    noise: float,
    tasks: int,
    train_samples: int,
    validation_samples: int,
) -> RegressionTasks:
    """Draw tasks y = (<w, x> + b)^2 + z, float32.

    w ~ N(0, variability^2 / dim), x ~ N(0, I), b ~ N(0, 1), z ~ N(0, noise^2). The train samples
    are for the inner step, the validation samples for the outer loss.

    Example:
        >>> import jax
        >>> from metastep_lab.bernacchia2021.maml_nonlinear import nonlinear_regression
        >>> sizes = dict(dim=60, tasks=3, train_samples=30, validation_samples=2)
        >>> draw = nonlinear_regression.draw_quadratic_tasks
        >>> tasks = draw(jax.random.key(0), variability=0.5, noise=1.0, **sizes)
        >>> tasks.train_inputs.shape, tasks.validation_targets.shape
        ((3, 30, 60), (3, 2))

    Raises:
        ValueError: for a count below 1, or negative noise.

    Reference:
        Bernacchia (2021), section 5.4.
    """
    if not noise >= 0:
        raise ValueError(f"noise is {noise!r}; allowed are numbers from 0.")
    linear_key, bias_key, *noise_keys = jax.random.split(key, 4)
    linear = MixedRegression(
        center=jnp.zeros(dim, jnp.float32), noise=0.0, task_covariance=variability**2 / dim
    )
    drawn = draw_tasks(
        linear_key,
        linear,
        tasks=tasks,
        train_samples=train_samples,
        validation_samples=validation_samples,
    )
    bias = jax.random.normal(bias_key, (tasks, 1), jnp.float32)

    def square(key: RandomKey, values: Array) -> Array:
        return (values + bias) ** 2 + noise * jax.random.normal(key, values.shape, values.dtype)

    return drawn._replace(
        train_targets=square(noise_keys[0], drawn.train_targets),
        validation_targets=square(noise_keys[1], drawn.validation_targets),
    )


def initial_network(
    key: RandomKey, *, dim: int, width: int, bias_scale: float = 0.0, hidden_layers: int = 2
) -> Network:
    """Draw a float32 network: weights N(0, 1 / inputs), biases with scaled deviation."""
    sizes = (dim, *(width,) * hidden_layers, 1)
    keys = jax.random.split(key, (hidden_layers + 1, 2))

    def layer(keys: Array, inputs: int, outputs: int) -> Layer:
        normal = lambda key, *shape: jax.random.normal(key, shape, jnp.float32) / inputs**0.5
        return Layer(normal(keys[0], inputs, outputs), bias_scale * normal(keys[1], outputs))

    return tuple(map(layer, keys, sizes[:-1], sizes[1:]))


def trace(network: Network, inputs: Float[Array, "*batch samples dim"]) -> Trace:
    """Evaluate a network and the gradients of its outputs. Differentiable."""

    def shifted(shifts: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        activations, values = [], inputs
        for index, (layer, shift) in enumerate(zip(network, shifts, strict=True)):
            values = jax.nn.relu(values) if index else values
            activations.append(values)
            values = values @ layer.weights + layer.bias + shift
        return values[..., 0], tuple(activations)

    shape = inputs.shape[:-1]
    zeros = tuple(jnp.zeros((*shape, layer.bias.size), inputs.dtype) for layer in network)
    # The derivative by a shift of an affine map's outputs is the signal of that layer.
    outputs, pullback, activations = jax.vjp(shifted, zeros, has_aux=True)
    (signals,) = pullback(jnp.ones_like(outputs))
    return Trace(outputs, activations, signals)


def adapted_outputs(
    network: Network,
    inputs: Float[Array, "*batch samples dim"],
    targets: Float[Array, "*batch samples"],
    queries: Float[Array, "*batch queries dim"],
    rate: Scalar | float,
) -> Float[Array, "*batch queries"]:
    """Return the outputs on queries after one step of descent on (1/2) mean squared error.

    The batch shares the parameters before the step, whose size is `rate`, of any sign. Exact;
    linear in memory in the number of examples.
    """
    seen = trace(network, inputs)
    step = rate / targets.shape[-1] * (targets - seen.outputs)[..., None]
    values = queries
    for index, layer in enumerate(network):
        values = jax.nn.relu(values) if index else values
        # The step adds sum_i step_i h_i d_i^T to the weights and sum_i step_i d_i to the bias:
        # applied to values v that is sum_i (v.h_i + 1) step_i d_i.
        overlap = values @ jnp.swapaxes(seen.activations[index], -1, -2) + 1
        values = values @ layer.weights + layer.bias + overlap @ (step * seen.signals[index])
    return values[..., 0]


def meta_loss(network: Network, tasks: RegressionTasks, train_rate: Scalar | float) -> Scalar:
    """Return MAML's outer loss: (1/2) mean squared error on the validation examples of all tasks.

    Differentiable through the inner step, whose size is the train rate alpha_t.
    """
    outputs = adapted_outputs(
        network, tasks.train_inputs, tasks.train_targets, tasks.validation_inputs, train_rate
    )
    return jnp.mean((outputs - tasks.validation_targets) ** 2) / 2


def meta_train(
    networks: Network,
    tasks: RegressionTasks,
    train_rates: Float[Array, " train_rates"],
    *,
    step_size: Scalar | float,
    epochs: Int[Array, ""] | int,
    order: RandomKey | None = None,
    done: Int[Array, ""] | int = 0,
) -> tuple[Network, Float[Array, " train_rates"]]:
    """Descend on the outer loss for every train rate: on all tasks together, or one by one.

    Args:
        networks: one for each train rate, stacked along a first axis.
        tasks: the training tasks, shared by the rates.
        train_rates: alpha_t.
        step_size: of the outer descent.
        epochs: passes over the tasks; may be traced. Memory does not grow with them.
        order: of stochastic descent: each epoch has one step for each task, in an order that
            follows from this key and is the same for all train rates. None takes one step in an
            epoch, on all tasks.
        done: epochs before these; they have other orders.

    Returns:
        The networks, and the outer loss of all tasks after the last step.
    """
    loss = jax.vmap(jax.value_and_grad(meta_loss), in_axes=(0, None, 0))

    number = tasks.train_inputs.shape[0]

    def step(networks: Network, some: RegressionTasks) -> Network:
        gradients = loss(networks, some, train_rates)[1]
        return jax.tree.map(lambda w, g: w - step_size * g, networks, gradients)

    def epoch(index: Array, networks: Network) -> Network:
        if order is None:
            return step(networks, tasks)
        # Of the epoch's number: stretches of epochs, with a measurement between, go on in the same
        # orders.
        places = jax.random.permutation(jax.random.fold_in(order, done + index), number)
        one = lambda place: jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, places[place], 1), tasks
        )
        return jax.lax.fori_loop(0, number, lambda i, found: step(found, one(i)), networks)

    networks = jax.lax.fori_loop(0, epochs, epoch, networks)
    return networks, loss(networks, tasks, train_rates)[0]


TASKS_AT_ONCE = 50


def new_task_losses(
    network: Network, tasks: RegressionTasks, test_rates: Float[Array, " test_rates"]
) -> Float[Array, " test_rates"]:
    """Return the mean loss on new tasks after one inner step on each, for every test rate.

    The train examples of a new task are the target examples of the inner step, its validation
    examples measure (1/2) mean squared error. Memory is bounded whatever the number of tasks.
    """

    def one(task: RegressionTasks) -> Array:
        loss = lambda rate: meta_loss(network, task, rate)
        return jax.vmap(loss)(test_rates)

    number = tasks.train_inputs.shape[0]
    return jnp.mean(jax.lax.map(one, tasks, batch_size=min(TASKS_AT_ONCE, number)), axis=0)
