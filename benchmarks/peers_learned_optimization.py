"""The 31 features and their network, written with the parts of Google's learned_optimization.

That library's `MLPLOpt` sees 19 other features. What it is made of serves here as it does there:
the accumulators for many decays, the normalizer of a tensor, Haiku's network, and the order of
work of `MLPLOpt.update`. The published version, 0.0.1, calls functions that JAX has renamed, which
are put back, and imports TensorFlow for summaries that nothing here writes: a stub does.
"""

import sys
from unittest import mock

import flax  # noqa: F401  looks for TensorFlow when it is imported, and must not find the stub
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from metastep.learned.features import DECAYS, SQUARE_OFFSET, TIME_SCALES

STUBS = ("tensorflow", "tensorflow.compat", "tensorflow.compat.v2", "flax.metrics.tensorboard")

with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in STUBS}):
    from learned_optimization.learned_optimizers import common, mlp_lopt

jax.tree_map = jax.tree_multimap = jax.tree.map


def transformation(weights: dict) -> optax.GradientTransformation:
    """Return the MLP optimizer; the weights are those of `metastep.learned.MLPOptimizer`."""
    decays = jnp.asarray(DECAYS)
    means, squares = common.vec_rolling_mom(decays), common.vec_rolling_rms(decays)
    hidden = len(weights["hidden"]["bias"])
    network = hk.without_apply_rng(hk.transform(lambda rows: hk.nets.MLP([hidden, 2])(rows)))
    theta = {
        f"mlp/~/linear_{index}": {"w": weights[name]["weight"], "b": weights[name]["bias"]}
        for index, name in enumerate(("hidden", "output"))
    }

    def init(params: dict) -> tuple:
        return jnp.zeros((), jnp.int32), means.init(params), squares.init(params)

    def update(grads: dict, state: tuple, params: dict | None = None) -> tuple:
        count, mean, square = state
        mean, square = means.update(mean, grads), squares.update(square, grads)
        clock = jnp.tanh((count + 1) / jnp.asarray(TIME_SCALES, jnp.float32) - 1)

        def step(param: jax.Array, grad: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            root = jax.lax.rsqrt(v + SQUARE_OFFSET)
            rows = [grad[..., None], m * root, param[..., None], m, v, root]
            axes = list(range(param.ndim))
            normalized = mlp_lopt._second_moment_normalizer(jnp.concatenate(rows, -1), axis=axes)
            times = jnp.tile(jnp.reshape(clock, [1] * param.ndim + [-1]), [*param.shape, 1])
            output = network.apply(theta, jnp.concatenate([normalized, times], axis=-1))
            return -output[..., 0] * jnp.exp(output[..., 1] * 0.001) * 0.001

        updates = jax.tree.map(step, params, grads, mean.m, square.rms)
        return updates, (count + 1, mean, square)

    return optax.GradientTransformation(init, update)
