"""Rows of the test tables: estimators and the problems that they are held against.

A new estimator or problem is one more row; every exact estimator then meets every problem.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import lineax as lx
import optax

import metastep as ms
from metastep.optimizers import adam

FEATURES = jnp.array([[1.0, 0.2, -0.4], [0.3, -1.1, 0.8], [-0.5, 0.4, 1.2], [0.9, 0.1, 0.3]])
TARGETS = jnp.array([1.0, -1.0, 0.5, 0.2])


def inner_loss(params, outer, batch):
    """Ridge regression through tanh, with weights per example and a random batch of rows."""
    rows = slice(None) if batch is None else batch
    prediction = jnp.tanh(FEATURES[rows] @ params["w"]) + params["b"]
    errors = (prediction - TARGETS[rows]) ** 2
    return jnp.mean(jax.nn.sigmoid(outer["weights"][rows]) * errors) + jnp.exp(
        outer["decay"]
    ) * jnp.sum(params["w"] ** 2)


def outer_loss(params, outer):
    return jnp.sum((params["w"] - 0.5) ** 2) + params["b"] ** 2 + 0.1 * outer["decay"] ** 2


def hyperparameters():
    return {
        "weights": jnp.array([0.1, -0.3, 0.4, 0.0]),
        "decay": jnp.array(-2.0),
        "step_size": jnp.array(0.2),
    }


def random_rows(t, key):
    return (t + jax.random.randint(key, (2,), 0, 4)) % 4


def training(optimizer, horizon=12, batch=None, init_params=None):
    """Return a maker: arrays are built inside the test, in its precision."""

    def make():
        params = {"w": jnp.array([0.3, -0.2, 0.1]), "b": jnp.array(0.05)}
        problem = ms.TrainingProblem(
            inner_loss, outer_loss, init_params or params, optimizer, horizon, batch
        )
        return problem, hyperparameters()

    return make


def waves(w, outer):
    return jnp.sum(jnp.sin(w)) + jnp.sum(outer**2)


def quadratic():
    hessian = jnp.array([[1.0, 0.3], [0.3, 0.5]])
    coupling = jnp.array([[1.0, 0.0, 0.2], [0.1, 0.4, -0.5]])
    start = jnp.array([2.0, -1.0])
    problem = ms.QuadraticProblem(hessian, coupling, start, waves, 0.1, 40)
    return problem, jnp.array([0.5, -0.2, 1.0])


def brief(init_params=None):
    """Momentum on a loss of few operations, which compiles fast: for what is not about a step."""

    def make():
        loss = lambda w, outer, batch: jnp.sum(jnp.sin(w - outer["center"]))
        objective = lambda w, outer: jnp.sum(w**3)
        start = init_params or jnp.array([0.3, -0.2])
        problem = ms.TrainingProblem(loss, objective, start, momentum, 12)
        return problem, {"center": jnp.array([0.5, 0.1]), "step_size": jnp.array(0.2)}

    return make


def drawn_start(outer, key):
    """An initialisation that is both tuned and random."""
    return {"w": outer["weights"][:3] + 0.1 * jax.random.normal(key, (3,)), "b": jnp.array(0.05)}


sgd = lambda outer: optax.sgd(outer["step_size"])
momentum = lambda outer: optax.sgd(outer["step_size"], momentum=0.9)
safe_adam = lambda outer: adam(outer["step_size"])
clipped = lambda outer: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(outer["step_size"]))

BRIEF: dict[str, Callable] = {
    "brief": brief(),
    "brief-start": brief(lambda outer, key: outer["center"] + 0.1 * jax.random.normal(key, (2,))),
}

# Problems whose initial state does not depend on `outer`: a full window is exact on them.
PROBLEMS: dict[str, Callable] = {
    "quadratic": quadratic,
    "sgd": training(sgd),
    "momentum": training(momentum),
    "optax-adam": training(lambda outer: optax.adam(outer["step_size"])),
    "safe-adam": training(safe_adam),
    "clipped": training(clipped),
    "sgd-batches": training(sgd, batch=random_rows),
    "momentum-batches": training(momentum, batch=random_rows),
    "adam-batches": training(safe_adam, batch=random_rows),
    "one-step": training(sgd, horizon=1),
}

TUNED_START: dict[str, Callable] = {
    "start": training(sgd, init_params=drawn_start),
    "start-momentum-batches": training(momentum, batch=random_rows, init_params=drawn_start),
}


@dataclass(frozen=True)
class EstimatorRow:
    """An estimator that is exact where its row says so.

    Attributes:
        make: horizon to estimator.
        rtol: relative tolerance against `Reverse()` in float64: reordered sums only.
    """

    make: Callable[[int], ms.AbstractEstimator]
    rtol: float = 1e-12


EXACT: dict[str, EstimatorRow] = {
    "segments-of-5": EstimatorRow(lambda horizon: ms.Reverse(checkpoint=5)),
    "forward": EstimatorRow(lambda horizon: ms.Forward()),
}

# The same code with other numbers: on a few problems only.
EDGE: dict[str, EstimatorRow] = {
    "sqrt": EstimatorRow(lambda horizon: ms.Reverse(checkpoint="sqrt")),
    "forward-chunks": EstimatorRow(lambda horizon: ms.Forward(chunk=2)),
    "segments-of-1": EstimatorRow(lambda horizon: ms.Reverse(checkpoint=1)),
    "segment-beyond": EstimatorRow(lambda horizon: ms.Reverse(checkpoint=1000)),
    "binomial": EstimatorRow(lambda horizon: ms.Reverse("binomial")),
    "one-state": EstimatorRow(lambda horizon: ms.Reverse(ms.Binomial(1))),
    "states-beyond": EstimatorRow(lambda horizon: ms.Reverse(ms.Binomial(1000))),
    "binomial-window": EstimatorRow(lambda horizon: ms.TruncatedReverse(horizon, ms.Binomial(3))),
    "window-in-segments": EstimatorRow(lambda horizon: ms.TruncatedReverse(horizon, checkpoint=7)),
}

FULL_WINDOW: dict[str, EstimatorRow] = {
    "window-T": EstimatorRow(lambda horizon: ms.TruncatedReverse(horizon)),
}

# Exact at a fixed point. Conjugate gradients need a symmetric system: plain descent only.
IMPLICIT: dict[str, Callable[[], ms.AbstractEstimator]] = {
    "cg": lambda: ms.Implicit(),
    "gmres": lambda: ms.Implicit(lx.GMRES(rtol=1e-12, atol=1e-12)),
    "lu": lambda: ms.Implicit(lx.LU()),
    "neumann": lambda: ms.Implicit(ms.Neumann(3000)),
}


def exact_estimators(horizon: int) -> dict[str, ms.AbstractEstimator]:
    """One estimator of each exact kind for `horizon` steps, by the name of its row."""
    rows = {**EXACT, "sqrt": EDGE["sqrt"], **FULL_WINDOW}
    return {"reverse": ms.Reverse(), **{name: row.make(horizon) for name, row in rows.items()}}


# One of each kind that follows the trajectory, exact on three steps, and one of a fixed point: for
# what every estimator refuses, reports and keeps.
EVERY_KIND = {**exact_estimators(3), "implicit": ms.Implicit()}

# An estimator on a problem whose arrays and keys get a batch axis.
BATCHED = [
    (ms.Reverse("sqrt"), "quadratic"),
    (ms.Reverse(ms.Binomial(3)), "momentum-batches"),
    (ms.TruncatedReverse(1), "momentum-batches"),
    (ms.Forward(), "quadratic"),
    (ms.Implicit(), "quadratic"),
]
