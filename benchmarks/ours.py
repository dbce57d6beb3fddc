"""The cases, written with metastep's public interface."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems import Hypercleaning, Mlp

import metastep as ms
from metastep.tasks import WeightedClassification

KEY = 0
ESTIMATORS = {
    "reverse": ms.Reverse(),
    "sqrt": ms.Reverse(checkpoint="sqrt"),
    "truncated": ms.TruncatedReverse(window=5),
}


class JaxMethod:
    """A function of array arguments.

    Args:
        function: the function.
        arguments: its arguments.
        jit: whether to compile it; not needed where it compiles itself.
        compiler_options: options for XLA, if `jit`.
    """

    def __init__(
        self,
        function: Callable,
        *arguments: object,
        jit: bool = False,
        compiler_options: dict[str, str] | None = None,
    ):
        self._compiled = eqx.filter_jit(function, compiler_options=compiler_options)
        self._function = self._compiled if jit else function
        self._arguments = arguments

    def call(self) -> np.ndarray:
        """Compute the hypergradient once."""
        return np.asarray(self._function(*self._arguments))

    def alone(self) -> tuple[Callable[[], object], int]:
        """Compile without running.

        Returns:
            A function that runs what was compiled, and the bytes of XLA's temporary buffer.
        """
        compiled = self._compiled.lower(*self._arguments).compile()
        temporary = compiled.compiled.memory_analysis().temp_size_in_bytes
        return lambda: jax.block_until_ready(compiled(*self._arguments)), temporary


def _method(problem: ms.TrainingProblem, outer: jax.Array, estimator: str) -> JaxMethod:
    def grad(problem: ms.TrainingProblem, outer: jax.Array) -> jax.Array:
        key = jax.random.key(KEY)
        return ms.hypergradient(problem, outer, ESTIMATORS[estimator], key=key).grad

    return JaxMethod(grad, problem, outer)


def hypercleaning(data: Hypercleaning, estimator: str) -> JaxMethod:
    """Weights of training examples."""
    task = WeightedClassification(
        jnp.asarray(data.features),
        jnp.asarray(data.labels),
        jnp.asarray(data.validation_features),
        jnp.asarray(data.validation_labels),
        classes=10,
        regularization=data.regularization,
    )
    problem = ms.TrainingProblem(
        loss=task.loss,
        objective=task.validation_loss,
        init_params=task.initial_params(),
        optimizer=lambda outer: optax.sgd(data.step_size),
        horizon=data.horizon,
    )
    return _method(problem, jnp.asarray(data.outer), estimator)


class Batches(eqx.Module):
    """One stored batch for every step. A module, so that the arrays stay arguments."""

    features: jax.Array
    labels: jax.Array

    def __call__(self, t: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the batch of step `t`."""
        del key
        return self.features[t], self.labels[t]


def network_loss(params: tuple[jax.Array, ...], features: jax.Array, labels: jax.Array):
    """Return the mean cross-entropy."""
    for weight, bias in zip(params[:-2:2], params[1:-2:2], strict=True):
        features = jnp.tanh(features @ weight.T + bias)
    scores = features @ params[-2].T + params[-1]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def decayed_loss(params: tuple[jax.Array, ...], outer: jax.Array, batch) -> jax.Array:
    """Return the mean cross-entropy of a batch, plus exp(lambda_j) |p_j|^2 for every array."""
    decay = sum(
        jnp.exp(decay) * jnp.sum(leaf**2) for decay, leaf in zip(outer, params, strict=True)
    )
    return network_loss(params, *batch) + decay


class ValidationLoss(eqx.Module):
    """The mean cross-entropy of the validation examples."""

    features: jax.Array
    labels: jax.Array

    def __call__(self, params: tuple[jax.Array, ...], outer: jax.Array) -> jax.Array:
        """Return it for trained parameters."""
        del outer
        return network_loss(params, self.features, self.labels)


class NetworkTask(eqx.Module):
    """The arrays of the case `mlp`: a pytree of arrays alone, so that tasks can be stacked."""

    params: tuple[jax.Array, ...]
    batches: Batches
    validation: ValidationLoss
    outer: jax.Array

    def __init__(self, data: Mlp):
        self.params = tuple(map(jnp.asarray, data.params))
        self.batches = Batches(jnp.asarray(data.features), jnp.asarray(data.labels))
        self.validation = ValidationLoss(
            jnp.asarray(data.validation_features), jnp.asarray(data.validation_labels)
        )
        self.outer = jnp.asarray(data.outer)

    def problem(self, step_size: float, horizon: int) -> ms.TrainingProblem:
        """Train the network, one weight decay per array."""
        return ms.TrainingProblem(
            loss=decayed_loss,
            objective=self.validation,
            init_params=self.params,
            optimizer=lambda outer: optax.sgd(step_size),
            horizon=horizon,
            batch=self.batches,
        )


def mlp(data: Mlp, estimator: str) -> JaxMethod:
    """Weight decays of a small network."""
    task = NetworkTask(data)
    return _method(task.problem(data.step_size, data.horizon), task.outer, estimator)
