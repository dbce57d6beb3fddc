"""The error of a posterior, measured by independent draws of weights and examples."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.operators.risk import EmpiricalRisk
from metastep.pac_bayes.optimize import Optimized
from metastep.pac_bayes.posterior import (
    Basis,
    Layout,
    Matrices,
    Posterior,
    draw_noise,
    first_inputs,
    noisy_outputs,
    perturb,
    rotate,
)
from metastep.types import RandomKey

PAIRS = 500  # draws at a time, which bounds the memory
Error = Callable[[Any, Any], Any]


def misclassified(output: Float[Array, " classes"], target: Array) -> Array:
    """Return whether the largest score belongs to another class than the label: the 0-1 error."""
    return jnp.argmax(output) != target


def draw_errors(
    risk: EmpiricalRisk,
    optimized: Optimized,
    draws: int,
    key: RandomKey,
    error: Error = misclassified,
) -> Float[np.ndarray, " draws"]:
    """Return the errors of independent draws, each a pair of weights and a random example.

    Their mean is an unbiased estimate of the posterior's error on the data of `risk`. In layers
    whose input is the data, the output is drawn instead of the weights, since it is Gaussian for a
    given input. A draw then costs about one evaluation of the model.

    Args:
        risk: the model with the data on which to measure the error.
        optimized: the posterior and its basis.
        draws: the number of draws.
        key: a random key.
        error: `(output, target) -> number in [0, 1]` for one example.

    Raises:
        ValueError: for `draws` below 1, or an error outside [0, 1].
    """
    require_count("draws", draws)
    rotated = rotate(first_inputs(risk, optimized.layout), optimized.basis[1])
    # Whole chunks, of one shape; what is drawn beyond `draws` is independent of the others.
    keys = jax.random.split(key, -(-draws // PAIRS))
    found = _errors(risk, optimized[:2], rotated, keys, optimized.layout, error)
    # NumPy's float64 whatever the model's dtype: the certificate sums 150,000 of them.
    errors = np.asarray(found, float).reshape(-1)[:draws]
    if not np.all((errors >= 0) & (errors <= 1)):
        raise ValueError(
            f"error has values from {errors.min()} to {errors.max()}; allowed are errors in "
            "[0, 1]: the bound holds for no other. Clip or rescale it."
        )
    return errors


@compiled
def _errors(
    risk: EmpiricalRisk,
    parts: tuple[Posterior, Basis],
    rotated: Matrices,
    keys: Key[Array, " chunks"],
    layout: Layout,
    error: Error,
) -> Float[Array, "chunks pairs"]:
    posterior, basis = parts
    variance = {name: jnp.exp(2 * posterior.log_scale[name]) for name in layout.first}
    hidden = tuple(name for name in layout.names if name not in layout.first)
    rest = {name: posterior.log_scale[name] for name in hidden}
    # The other layers alone are drawn as weights.
    narrowed = eqx.tree_at(lambda p: p.log_scale, posterior, rest)

    def pair(key: RandomKey, row: Array, spread: Matrices) -> Array:
        layer_key, first_key = jax.random.split(key)
        noise, other = draw_noise(narrowed, layer_key)
        params = perturb(risk, layout, posterior, basis, noise, other, hidden)
        normal = lambda i, like: jax.random.normal(
            jax.random.fold_in(first_key, i), like.shape, like.dtype
        )
        shifts = {
            name: basis[0][name] @ (deviation * normal(i, deviation))
            for i, (name, deviation) in enumerate(spread.items())
        }
        inputs, target = jax.tree.map(lambda leaf: leaf[row], risk.data)
        # A batch of one, as every example has weights of its own.
        batch = jax.tree.map(lambda leaf: leaf[None], (inputs, shifts))
        output = noisy_outputs(risk, layout, params, *batch)
        return jnp.asarray(error(jax.tree.map(lambda leaf: leaf[0], output), target), float)

    def chunk(key: RandomKey) -> Array:
        row_key, key = jax.random.split(key)
        # With replacement: the Chernoff bound for their mean needs independent draws.
        rows = jax.random.randint(row_key, (PAIRS,), 0, risk.examples)
        # The output of such a layer is normal for a given input: its own draw replaces m n draws.
        spread = {
            name: jnp.sqrt(rotated[name][rows] ** 2 @ values.T) for name, values in variance.items()
        }
        return jax.vmap(pair)(jax.random.split(key, PAIRS), rows, spread)

    return jax.lax.map(chunk, keys)
