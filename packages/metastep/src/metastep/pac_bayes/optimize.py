"""Optimize a Gaussian posterior for its PAC-Bayes bound (Algorithm 4), and measure its error."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree

from metastep.compilation import compiled
from metastep.curvature.operators.risk import EmpiricalRisk
from metastep.pac_bayes.basis import ITER, Rotation
from metastep.pac_bayes.bound import LARGEST_LOG_SCALE, penalty, require_probability
from metastep.pac_bayes.posterior import (
    Basis,
    Layout,
    Matrices,
    Posterior,
    draw_noise,
    find_layout,
    first_inputs,
    initial_posterior,
    noisy_outputs,
    perturb,
    rotate,
)
from metastep.types import RandomKey, Scalar

PAIRS = 500  # draws at a time, which bounds the memory


class Optimized(NamedTuple):
    """A posterior with the basis to which its scales refer.

    Attributes:
        posterior: means, scales, and the prior's scale.
        basis: orthogonal matrices `(left, right)` of each layer.
        layout: which parameters belong to layers.
        history: by epoch, the mean over steps of loss, penalty and KL; shape (epochs, 3).
    """

    posterior: Posterior
    basis: Basis
    layout: Layout
    history: Float[np.ndarray, "epochs 3"]


def optimize(
    risk: EmpiricalRisk,
    prior: PyTree,
    rotation: Rotation = ITER,
    *,
    key: RandomKey,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: optax.GradientTransformation | None = None,
    delta: float = 0.025,
) -> Optimized:
    """Minimize mean loss + sqrt(B_RE / 2) over the posterior's means, scales and prior variance.

    The gradient is unbiased: each step uses one draw of the weights and one batch of examples. For
    a layer whose input is the data, a step costs about twice its share of plain training; for
    other layers `[m, n]`, m n (m + n) more multiplications. Each epoch is one compiled scan.

    Args:
        risk: model, data, trained parameters, and a differentiable surrogate loss that is at least
            the error, such as cross-entropy / log 2.
        prior: parameters like those of `risk`, chosen without its data: the initialization.
        rotation: the basis of the posterior: `BASE`, `APPR`, `ITER`, `ITER_M`, or a `Rotation`.
        key: a random key.
        epochs: passes over the data.
        batch_size: examples in each step; a last, smaller batch is omitted.
        optimizer: any optax transformation; None for Adam with a step size of 0.005.
        delta: the bound's confidence parameter, in (0, 1).

    Raises:
        ValueError: for an argument outside its range, a prior that differs in structure or is not
            finite, or a model whose layers cannot be captured.

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Algorithm 1 (Algorithm 4 of the thesis);
        Dziugaite and Roy (2017).
    """
    require_probability("delta", delta)
    _require_counts(epochs, batch_size, risk.examples)
    prior = checked_prior(prior, risk)
    layout = find_layout(risk)
    optimizer = ADAM if optimizer is None else optimizer
    posterior = initial_posterior(risk, layout)
    state = optimizer.init(eqx.filter(posterior, eqx.is_array))
    inputs, basis, rotated, history = first_inputs(risk, layout), ({}, {}), {}, []
    for epoch in range(epochs):
        if rotation.is_due(epoch):
            basis = rotation.basis(at(risk, posterior), layout)
            rotated = rotate(inputs, basis[1])
        posterior, state, summary = _epoch(
            posterior,
            state,
            _Fixed(risk, prior, basis, rotated, jnp.asarray(delta)),
            jax.random.fold_in(key, epoch),
            optimizer,
            layout,
            batch_size,
        )
        history.append(np.asarray(summary))
    return Optimized(posterior, basis, layout, np.stack(history))


ADAM = optax.adam(0.005)


def _require_counts(epochs: int, batch_size: int, examples: int) -> None:
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; allowed are integers from 1.")
    if not 1 <= batch_size <= examples:
        raise ValueError(
            f"batch_size is {batch_size}; allowed are integers from 1 to {examples}, the number "
            "of examples."
        )


def checked_prior(prior: PyTree, risk: EmpiricalRisk) -> PyTree:
    """Return the prior's floating-point leaves, or raise a `ValueError` if they do not fit."""
    floating = eqx.filter(prior, eqx.is_inexact_array_like)
    floating = jax.tree.map(jnp.asarray, floating)
    shape = lambda tree: jax.tree.map(jnp.shape, tree)
    expected = shape(eqx.filter(risk.params, eqx.is_inexact_array))
    if shape(floating) != expected:
        raise ValueError(
            f"prior has parameters of shapes {shape(floating)}; allowed are those of params, "
            f"{expected}."
        )
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(floating)):
        raise ValueError("prior has infinite or NaN entries; allowed are finite parameters.")
    return floating


def at(risk: EmpiricalRisk, posterior: Posterior) -> EmpiricalRisk:
    """Return the risk at the posterior's mean."""
    return replace(risk, params=eqx.combine(posterior.mean, risk.params))


class _Fixed(eqx.Module):
    """The constants of an epoch."""

    risk: EmpiricalRisk
    prior: PyTree
    basis: Basis
    rotated: Matrices
    delta: Array


@compiled
def _epoch(
    posterior: Posterior,
    state: optax.OptState,
    fixed: _Fixed,
    key: RandomKey,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    batch_size: int,
) -> tuple[Posterior, optax.OptState, Float[Array, "3"]]:
    order_key, noise_key = jax.random.split(key)
    examples = fixed.risk.examples
    steps = examples // batch_size
    order = jax.random.permutation(order_key, examples)[: steps * batch_size]
    objective = jax.value_and_grad(partial(_objective, layout=layout), has_aux=True)

    def step(carry: Any, now: tuple[Array, Array]) -> tuple[Any, Array]:
        posterior, state = carry
        (_, summary), gradient = objective(posterior, fixed, *now)
        updates, state = optimizer.update(gradient, state, posterior)
        posterior = eqx.apply_updates(posterior, updates)
        # KL falls beyond the largest variance that the union bound allows, and the bound does not.
        allowed = jnp.minimum(posterior.log_prior_scale, LARGEST_LOG_SCALE)
        return (eqx.tree_at(_log_prior_scale, posterior, allowed), state), summary

    batches = order.reshape(steps, batch_size), jax.random.split(noise_key, steps)
    (posterior, state), summaries = jax.lax.scan(step, (posterior, state), batches)
    return posterior, state, jnp.mean(summaries, axis=0)


def _log_prior_scale(posterior: Posterior) -> Scalar:
    return posterior.log_prior_scale


def _objective(
    posterior: Posterior, fixed: _Fixed, rows: Array, key: RandomKey, layout: Layout
) -> tuple[Scalar, Float[Array, "3"]]:
    """Return the loss of one draw on one batch plus the penalty (C.271)."""
    risk = fixed.risk
    noise, other = draw_noise(posterior, key)
    hidden = tuple(name for name in layout.names if name not in layout.first)
    params = perturb(risk, layout, posterior, fixed.basis, noise, other, hidden)
    left = fixed.basis[0]
    shifts = {
        name: fixed.rotated[name][rows] @ noise[name].T @ left[name].T for name in layout.first
    }
    inputs, targets = jax.tree.map(lambda leaf: leaf[rows], risk.data)
    outputs = noisy_outputs(risk, layout, params, inputs, shifts)
    loss = jnp.mean(jax.vmap(risk.loss)(outputs, targets))
    kl = posterior.kl(fixed.prior)
    examples = jnp.asarray(risk.examples, kl.dtype)
    complexity = penalty(kl, posterior.log_prior_scale, examples, fixed.delta)
    return loss + complexity, jnp.stack([loss, complexity, kl])


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
    if draws < 1:
        raise ValueError(f"draws is {draws}; allowed are integers from 1.")
    rotated = rotate(first_inputs(risk, optimized.layout), optimized.basis[1])
    keys = jax.random.split(key, -(-draws // PAIRS))
    found = _errors(risk, optimized[:2], rotated, keys, optimized.layout, error)
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
    narrowed = eqx.tree_at(lambda p: p.log_scale, posterior, rest)

    def pair(key: RandomKey, row: Array, spread: Matrices) -> Array:
        layer_key, first_key = jax.random.split(key)
        noise, other = draw_noise(narrowed, layer_key)
        params = perturb(risk, layout, posterior, basis, noise, other, hidden)
        shifts = {
            name: basis[0][name]
            @ (deviation * jax.random.normal(jax.random.fold_in(first_key, i), deviation.shape))
            for i, (name, deviation) in enumerate(spread.items())
        }
        inputs, target = jax.tree.map(lambda leaf: leaf[row], risk.data)
        batch = jax.tree.map(lambda leaf: leaf[None], (inputs, shifts))
        output = noisy_outputs(risk, layout, params, *batch)
        return jnp.asarray(error(jax.tree.map(lambda leaf: leaf[0], output), target), float)

    def chunk(key: RandomKey) -> Array:
        row_key, key = jax.random.split(key)
        rows = jax.random.randint(row_key, (PAIRS,), 0, risk.examples)
        spread = {
            name: jnp.sqrt(rotated[name][rows] ** 2 @ values.T) for name, values in variance.items()
        }
        return jax.vmap(pair)(jax.random.split(key, PAIRS), rows, spread)

    return jax.lax.map(chunk, keys)
