"""Training of the networks of the thesis, and their loss as a function of the parameters."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, Lt
from jaxtyping import Array, Float, Int
from scipy.special import logsumexp

from metastep.compilation import compiled
from metastep.curvature import EmpiricalRisk
from metastep.pac_bayes.certify import mean_risk
from metastep.types import RandomKey
from metastep_lab.wu2022.networks.digit_networks import DigitNetwork, Params
from metastep_lab.wu2022.networks.images import BATCH, Examples
from metastep_lab.wu2022.networks.names import Network

STATISTICS_RATE = 0.1  # PyTorch's momentum of running statistics
SNAPSHOTS = (0, 1, 3, 10, 30, 100, 300)
SCORED = 500  # examples at a time through an image network

Momentum = Annotated[float, Ge(0), Lt(1), "numbers from 0, below 1"]


class Descent(NamedTuple):
    """Stochastic gradient descent as in PyTorch: v <- momentum v + g + weight_decay w, w -= a v."""

    step_size: float
    momentum: float = 0.0
    weight_decay: float = 0.0


class State(NamedTuple):
    """Parameters, and running statistics of batch normalization."""

    params: Params
    statistics: Params


def in_order(layers: Iterable[str]) -> list[str]:
    """Sort names of layers: convolutions, those on shortcuts, fully connected ones; by number."""
    kinds = {"conv": 0, "sc-conv": 1, "fc": 2}

    def place(layer: str) -> tuple[int, int]:
        kind = layer.rstrip("0123456789")
        return kinds[kind], int(layer.removeprefix(kind))

    return sorted(layers, key=place)


def as_risk(network: Network, state: State, examples: Examples) -> EmpiricalRisk:
    """Return the mean cross-entropy with the statistics of batch normalization fixed."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    variables: dict[str, Any] = {**state.params, "statistics": state.statistics}
    return mean_risk(network, loss, variables, (examples.images, examples.labels))


def trained(
    network: Network, examples: Examples, key: RandomKey, epochs: int, descent: Descent
) -> Iterator[tuple[int, State]]:
    """Train by stochastic gradient descent, batches of 128.

    Yields:
        The epoch and the state: at first, at the epochs of `SNAPSHOTS` before the last, and last.
    """
    first, order = jax.random.split(key)
    params = network.init(first, examples.images.shape[1:])
    state = State(params, network.initial_statistics())
    moving = state, jax.tree.map(jnp.zeros_like, params)
    # As an array: other rates run the same compiled program.
    rates = jnp.asarray(descent, jnp.float32)
    for epoch, one in enumerate(jax.random.split(order, epochs)):
        if epoch in SNAPSHOTS:
            yield epoch, moving[0]
        moving = _epoch(network, moving, examples, one, rates)
    yield epochs, moving[0]


_Moving = tuple[State, Params]  # a state and the velocity of its parameters


def _epoch(
    network: Network, moving: _Moving, examples: Examples, key: RandomKey, rates: Array
) -> _Moving:
    if isinstance(network, DigitNetwork) and not network.channels:
        return _scanned(network, moving, examples, key, rates)
    # On processors, XLA takes six times as long for the convolutions within a loop.
    for rows in _order(key, len(examples.labels)):
        moving = _stepped(network, moving, examples, rows, rates)
    return moving


@compiled
def _scanned(
    network: Network, moving: _Moving, examples: Examples, key: RandomKey, rates: Array
) -> _Moving:
    step = lambda moving, rows: (_step(network, moving, examples, rows, rates), None)
    return jax.lax.scan(step, moving, _order(key, len(examples.labels)))[0]


def _order(key: RandomKey, count: int) -> Int[Array, "batches batch"]:
    # Without the last, smaller batch: another shape would be another program, and cannot be
    # scanned.
    return jax.random.permutation(key, count)[: count // BATCH * BATCH].reshape(-1, BATCH)


def _step(
    network: Network, moving: _Moving, examples: Examples, rows: Array, rates: Array
) -> _Moving:
    def loss(params: Params) -> tuple[Array, Params]:
        scores, used = network.scores(params, examples.images[rows])
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, examples.labels[rows])
        return jnp.mean(losses), used

    state, velocity = moving
    step_size, momentum, decay = rates
    gradient, used = jax.grad(loss, has_aux=True)(state.params)
    faster = lambda speed, slope, value: momentum * speed + (slope + decay * value)
    velocity = jax.tree.map(faster, velocity, gradient, state.params)
    down = lambda value, speed: value - step_size * speed
    follow = lambda old, new: (1 - STATISTICS_RATE) * old + STATISTICS_RATE * new
    params = jax.tree.map(down, state.params, velocity)
    return State(params, jax.tree.map(follow, state.statistics, used)), velocity


_stepped = compiled(_step)


def fit(
    scores: Float[Array, "examples classes"], labels: Int[Array, " examples"]
) -> tuple[float, float]:
    """Return the mean cross-entropy, and the fraction of examples that is classified correctly."""
    # In float64: where the loss is 1e-3, logsumexp and score agree in most digits of float32.
    values, right = np.asarray(scores, float), np.asarray(labels)
    losses = logsumexp(values, axis=1) - values[np.arange(len(right)), right]
    return float(np.mean(losses)), float(np.mean(np.argmax(values, axis=1) == right))


def predictions(
    network: Network, state: State, images: Float[Array, "examples *colors rows columns"]
) -> Float[Array, "examples classes"]:
    """Return the scores of all images, for image networks in parts that fit into memory."""
    size = len(images) if isinstance(network, DigitNetwork) else SCORED
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    return jnp.concatenate([_scores(network, state, part) for part in parts])


@compiled
def _scores(network: Network, state: State, images: Array) -> Array:
    return network.scores(state.params, images, state.statistics)[0]
