"""The estimators of `estimator-costs` with the exponents of their costs, and their problem."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import lineax as lx
import optax
from jax import Array

import metastep as ms


class Stated(NamedTuple):
    """An estimator, and the exponents of its cost.

    Attributes:
        make: window to estimator.
        memory: exponents by what is varied.
        time: the same; empty where it is not measured.
        source: `table` for Table 1, else `ours`, from the documentation of the estimator.
        trains: whether an estimate runs the whole training, which is then taken off its time.
    """

    make: Callable[[int], ms.AbstractEstimator]
    memory: Mapping[str, float]
    time: Mapping[str, float]
    source: str
    trains: bool = True


ESTIMATORS: Mapping[str, Stated] = {
    "FMD": Stated(lambda k: ms.Forward(), {"T": 0, "N": 1}, {"T": 1, "N": 1}, "table"),
    # Table 1 is about plain reverse mode. By default the estimator decides by size whether it
    # stores activations, and an exponent across such a decision would mean nothing.
    "RMD": Stated(lambda k: ms.Reverse(mixed=False), {"T": 1, "N": 0}, {"T": 1, "N": 0}, "table"),
    "checkpointing": Stated(
        lambda k: ms.Reverse("sqrt", mixed=False), {"T": 0.5, "N": 0}, {"T": 1, "N": 0}, "table"
    ),
    "K-RMD": Stated(
        lambda k: ms.TruncatedReverse(k, mixed=False),
        {"T": 0, "K": 1, "N": 0},
        {"T": 0, "K": 1, "N": 0},
        "table",
    ),
    # With 64 states, no step up to T = 2,145 = C(66, 2) runs more than three times.
    "binomial checkpoints": Stated(
        lambda k: ms.Reverse(ms.Binomial(64), mixed=False),
        {"T": 0, "N": 0},
        {"T": 1, "N": 0},
        "ours",
    ),
    "Neumann series": Stated(
        lambda k: ms.Implicit(ms.Neumann(k)),
        {"T": 0, "K": 0, "N": 0},
        {"T": 0, "K": 1, "N": 0},
        "ours",
    ),
    # Its time is one product per iteration, inside a primitive that cannot be counted.
    "conjugate gradients": Stated(
        lambda k: ms.Implicit(lx.CG(rtol=1e-6, atol=0, max_steps=k)),
        {"T": 0, "K": 0, "N": 0},
        {},
        "ours",
    ),
    "random directions": Stated(
        lambda k: ms.RandomDirections(), {"T": 0, "N": 0}, {"T": 1, "N": 0}, "ours"
    ),
    "central differences": Stated(
        # More directions than any N: the coordinates themselves, whose matrix grows as N^2.
        lambda k: ms.CentralDifferences(10**6),
        {"T": 0},
        {"T": 1, "N": 1},
        "ours",
    ),
    "evolution strategies": Stated(
        lambda k: ms.EvolutionStrategies(0.1), {"T": 0, "N": 0}, {"T": 1, "N": 0}, "ours"
    ),
    "persistent evolution strategies": Stated(
        lambda k: ms.PersistentEvolutionStrategies(k, 0.1),
        {"T": 0, "K": 0, "N": 0},
        {"T": 0, "K": 1, "N": 0},
        "ours",
        trains=False,
    ),
    "persistent reverse": Stated(
        lambda k: ms.PersistentReverse(k, mixed=False),
        {"T": 0, "K": 1, "N": 0},
        {"T": 0, "K": 1, "N": 0},
        "ours",
        trains=False,
    ),
}


def problem_of(parameters: int, hyperparameters: int, horizon: int) -> ms.TrainingProblem:
    """Return a training whose loss is a polynomial of each parameter, weighted by `outer`."""

    def loss(w: Array, outer: Array, batch: None) -> Array:
        del batch
        weights = jnp.repeat(outer, parameters // hyperparameters)
        # With the square alone A_t (Eq. 5) would be the same at every w_t, unlike that of a
        # network.
        return jnp.sum(weights * ((w - 1) ** 2 + (w - 1) ** 4)) / 2

    return ms.TrainingProblem(
        loss, lambda w, outer: jnp.sum(w**2), jnp.zeros(parameters), optax.sgd(0.1), horizon
    )
