"""Hypercleaning with jaxopt, and with nothing but JAX."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ours import JaxMethod
from problems import Hypercleaning

from metastep import tasks

# With its default options, jaxlib 0.10.2 compiles some of these to programs that return NaN on CPUs
# with AVX-512: its YNNPACK kernels for element-wise operations and sums are at fault. The kernels
# for products are not, and are as fast.
COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def cross_entropy(params: jax.Array, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the loss of every example, as one writes it down."""
    log_probabilities = jax.nn.log_softmax(features @ params.T)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]


def _losses(data: Hypercleaning, fast: bool = False) -> tuple[Callable, Callable, tuple, tuple]:
    """Return training loss, validation loss, and the examples of both as arrays."""
    per_example, stored = (
        (tasks.cross_entropy, tasks.StoredTwice) if fast else (cross_entropy, jnp.asarray)
    )

    def training(params, outer, features, labels):
        losses = per_example(params, features, labels)
        return jnp.mean(jax.nn.sigmoid(outer) * losses) + data.regularization * jnp.sum(params**2)

    def validation(params, features, labels):
        return jnp.mean(cross_entropy(params, features, labels))

    train = (stored(data.features), jnp.asarray(data.labels))
    held_out = (jnp.asarray(data.validation_features), jnp.asarray(data.validation_labels))
    return training, validation, train, held_out


def _start(data: Hypercleaning) -> jax.Array:
    return jnp.zeros((10, data.features.shape[1]))


def _method(value: Callable, data: Hypercleaning, train: tuple, held_out: tuple) -> JaxMethod:
    options = COMPILER_OPTIONS if jax.default_backend() == "cpu" else None
    outer = jnp.asarray(data.outer)
    return JaxMethod(jax.grad(value), outer, train, held_out, jit=True, compiler_options=options)


def by_hand(data: Hypercleaning, fast: bool = False) -> JaxMethod:
    """One scan, differentiated: what metastep does, without its interface and its checks.

    Args:
        data: the case.
        fast: take the linear model's loss from metastep instead of writing it down plainly.
    """
    training, validation, train, held_out = _losses(data, fast)

    def value(outer, train, held_out):
        def step(params, _):
            return params - data.step_size * jax.grad(training)(params, outer, *train), None

        params, _ = jax.lax.scan(step, _start(data), None, length=data.horizon)
        return validation(params, *held_out)

    return _method(value, data, train, held_out)


def jaxopt(data: Hypercleaning) -> JaxMethod:
    """`jaxopt.GradientDescent` with its loop unrolled and differentiated."""
    from jaxopt import GradientDescent

    training, validation, train, held_out = _losses(data)
    solver = GradientDescent(
        training,
        maxiter=data.horizon,
        stepsize=data.step_size,
        acceleration=False,
        tol=0.0,
        implicit_diff=False,
        unroll=True,
    )

    def value(outer, train, held_out):
        return validation(solver.run(_start(data), outer, *train).params, *held_out)

    return _method(value, data, train, held_out)
