"""Quadratics, hypercleaning, a small network and linear regressions: gradients of known kinds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes

from metastep.problems import AbstractProblem, QuadraticProblem, TrainingProblem
from metastep.types import Outer, RandomKey, Scalar, StepIndex
from metastep_lab import data


class LogisticMap(AbstractProblem):
    """x <- outer x (1 - x) from 0.3: chaotic at outer = 3.9."""

    horizon: int = 200

    def init(self, outer: Outer, key: RandomKey) -> Scalar:
        """Return 0.3."""
        return jnp.array(0.3)

    def step(self, inner: Scalar, outer: Outer, t: StepIndex, key: RandomKey) -> Scalar:
        """Return the next value."""
        return outer * inner * (1 - inner)

    def objective(self, inner: Scalar, outer: Outer, key: RandomKey) -> Scalar:
        """Return the last value."""
        return inner


def toy(horizon: int) -> tuple[AbstractProblem, Outer]:
    """Section 4.1 of Shaban et al. (2019), from lambda = (1, 1)."""
    hessian = jnp.diag(jnp.array([1.0, 0.5]))
    judge = lambda w, outer: jnp.sum(w**2) + 10 * jnp.sum(jnp.sin(w) ** 2)
    start = jnp.array([2.0, 2.0])
    problem = QuadraticProblem(
        hessian=hessian,
        coupling=hessian,
        start=start,
        outer_loss=judge,
        step_size=0.1,
        horizon=horizon,
    )
    return problem, jnp.ones(2)


def counterexample() -> tuple[AbstractProblem, Outer]:
    """A strongly convex problem on which one-step truncation is an ascent direction."""
    hessian = jnp.array([[5.0, -2.0], [-2.0, 1.0]])
    coupling = jnp.diag(jnp.array([1.0, 0.25]))
    judge = lambda w, outer: w @ jnp.array([[1.0, -2.0], [-2.0, 5.0]]) @ w / 2
    problem = QuadraticProblem(
        hessian=hessian,
        coupling=coupling,
        start=jnp.zeros(2),
        outer_loss=judge,
        step_size=0.17,
        horizon=1000,
    )
    return problem, jnp.array([1.0, 2.0])


def cleaning(examples: int, horizon: int = 100) -> tuple[AbstractProblem, Outer]:
    """One weight for each of some digits, half of whose labels are random."""
    found = data.digits().arrays
    images = found["images"][: 2 * examples].reshape(2 * examples, -1) / 16.0
    images = jnp.asarray(np.hstack([images, np.ones((2 * examples, 1))]), float)
    labels = found["labels"][: 2 * examples].astype(np.int32)
    random = np.random.default_rng(0)
    noisy = random.random(examples) < 0.5
    labels[:examples][noisy] = random.integers(0, 10, noisy.sum())
    targets = jnp.asarray(labels)
    cost = lambda w, rows: optax.softmax_cross_entropy_with_integer_labels(
        images[rows] @ w, targets[rows]
    )
    train, held_out = slice(0, examples), slice(examples, None)
    problem = TrainingProblem(
        lambda w, outer, batch: (
            jnp.mean(jax.nn.sigmoid(outer) * cost(w, train)) + 1e-3 * jnp.sum(w**2)
        ),
        lambda w, outer: jnp.mean(cost(w, held_out)),
        jnp.zeros((images.shape[1], 10)),
        optax.sgd(1.0),
        horizon,
    )
    return problem, jnp.zeros(examples)


def network(horizon: int = 50) -> tuple[AbstractProblem, Outer]:
    """Weight decays of a small network, one per layer, trained with momentum on noisy targets."""
    keys = jax.random.split(jax.random.key(1), 4)
    # Drawn in float32, so that the problem is the same in both precisions.
    normal = lambda key, *shape: jax.random.normal(key, shape, jnp.float32).astype(float)
    inputs = normal(keys[0], 64, 5)
    targets = jnp.sin(inputs @ jnp.arange(1.0, 6.0)) + 0.3 * normal(keys[1], 64)
    params = {"first": 0.5 * normal(keys[2], 5, 16), "second": 0.3 * normal(keys[3], 16)}

    def error(params: dict, rows: slice) -> Scalar:
        predicted = jnp.tanh(inputs[rows] @ params["first"]) @ params["second"]
        return jnp.mean((predicted - targets[rows]) ** 2)

    def loss(params: dict, outer: dict, batch: None) -> Scalar:
        decay = jax.tree.map(lambda x, rate: jnp.exp(rate) * jnp.sum(x**2), params, outer)
        return error(params, slice(0, 32)) + sum(jax.tree.leaves(decay))

    problem = TrainingProblem(
        loss,
        lambda params, outer: error(params, slice(32, None)),
        params,
        optax.sgd(0.05, momentum=0.9),
        horizon,
    )
    return problem, {"first": jnp.array(-4.0), "second": jnp.array(-4.0)}


def diabetes(
    optimizer: Callable[[dict], optax.GradientTransformation],
    *,
    batch_size: int | None = None,
    tuned_start: bool = False,
    horizon: int = 100,
) -> tuple[AbstractProblem, Outer]:
    """One weight decay per feature and the step size of a linear regression on diabetes data."""
    features, progression = map(np.asarray, load_diabetes(return_X_y=True))
    inputs = jnp.asarray(features / features.std(axis=0), float)
    targets = jnp.asarray((progression - progression.mean()) / progression.std(), float)
    train, held_out = 300, slice(300, None)

    def loss(w: Outer, outer: dict, batch: Outer) -> Scalar:
        rows = slice(0, train) if batch is None else batch
        error = jnp.mean((inputs[rows] @ w - targets[rows]) ** 2)
        return error + jnp.sum(jnp.exp(outer["decay"]) * w**2)

    def objective(w: Outer, outer: dict) -> Scalar:
        return jnp.mean((inputs[held_out] @ w - targets[held_out]) ** 2)

    draw = lambda t, key: jax.random.randint(key, (batch_size or 1,), 0, train, jnp.int32)
    outer = {"decay": jnp.full(10, -3.0), "step_size": jnp.array(0.05)}
    start = (lambda outer, key: outer["start"]) if tuned_start else jnp.zeros(10)
    problem = TrainingProblem(
        loss, objective, start, optimizer, horizon, draw if batch_size else None
    )
    return problem, outer | ({"start": jnp.full(10, 0.1)} if tuned_start else {})


def logistic_map() -> tuple[AbstractProblem, Outer]:
    """Return the logistic map at a rate where it is chaotic."""
    return LogisticMap(), jnp.array(3.9)
