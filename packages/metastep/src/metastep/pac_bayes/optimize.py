"""Optimize a Gaussian posterior for its PAC-Bayes bound (Algorithm 4), and measure its error."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.operators.risk import EmpiricalRisk
from metastep.pac_bayes.basis import ITER, Rotation
from metastep.pac_bayes.bound import PRIOR_CEILING, PRIOR_PRECISION, penalty, require_probability
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
from metastep.trees import as_arrays
from metastep.types import RandomKey, Scalar


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
    begin: Callable[[EmpiricalRisk, Layout], Posterior] = initial_posterior,
    ceiling: float = PRIOR_CEILING,
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
        begin: the posterior before the first step: `initial_posterior` with the scales |w| of
            Algorithm 4, or `isotropic_posterior` with those of the prior.
        ceiling: c, above all variances c exp(-j / b) that the prior may have.

    Raises:
        ValueError: for a prior that differs in structure or is not finite, or a model whose layers
            cannot be captured.

    Reference:
        Wu, Zhu, Wu, Wang, Ge (2020), Dissecting Hessian, Algorithm 1 (Algorithm 4 of the thesis);
        Dziugaite and Roy (2017).
    """
    require_probability("delta", delta)
    require_count("epochs", epochs)
    require_count("batch_size", batch_size, most=risk.examples)
    prior = checked_prior(prior, risk)
    layout = find_layout(risk)
    optimizer = ADAM if optimizer is None else optimizer
    posterior = begin(risk, layout)
    state = optimizer.init(eqx.filter(posterior, eqx.is_array))
    inputs, basis, rotated, history = first_inputs(risk, layout), ({}, {}), {}, []
    for epoch in range(epochs):
        if rotation.is_due(epoch):
            basis = rotation.basis(at(risk, posterior), layout)
            rotated = rotate(inputs, basis[1])
        posterior, state, summary = _epoch(
            posterior,
            state,
            # Arrays, not Python numbers, each of which would be another compiled program.
            _Fixed(risk, prior, basis, rotated, jnp.asarray(delta), jnp.asarray(math.log(ceiling))),
            # By its number: a longer run begins with the draws of a shorter one.
            jax.random.fold_in(key, epoch),
            optimizer,
            layout,
            batch_size,
        )
        history.append(np.asarray(summary))
    return Optimized(posterior, basis, layout, np.stack(history))


# One object for all calls: its functions are static, and new ones would compile every epoch anew.
ADAM = optax.adam(0.005)


def checked_prior(prior: PyTree, risk: EmpiricalRisk) -> PyTree:
    """Return the prior's floating-point leaves as a tree like those of the parameters.

    A `ValueError` refuses leaves that do not fit by path and shape, or are not finite.
    """
    # Numbers that are no arrays, such as the eps of a normalization, are no parameters of the risk.
    found, expected = _by_path(as_arrays(prior)), _by_path(risk.params)
    shape = lambda leaves, path, missing: leaves[path].shape if path in leaves else missing
    different = [
        path for path in expected | found if shape(found, path, 0) != shape(expected, path, 0)
    ]
    if different:
        path = different[0]
        raise ValueError(
            f"prior has other parameters than params: the shape of {path or 'the array'} is "
            f"{shape(found, path, 'missing')}; allowed is "
            f"{shape(expected, path, 'no such parameter')}."
        )
    if not all(np.all(np.isfinite(leaf)) for leaf in found.values()):
        raise ValueError("prior has infinite or NaN entries; allowed are finite parameters.")
    # Its own tree may differ in what is no array: two equinox modules in an activation, say.
    like = jax.tree.structure(eqx.filter(risk.params, eqx.is_inexact_array))
    return jax.tree.unflatten(like, [found[path] for path in expected])


def _by_path(tree: PyTree) -> dict[str, Array]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_inexact_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


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
    log_ceiling: Array


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
    # Whole batches alone, since another size would be another program. The order is new in each
    # epoch, so that all examples have their turn.
    steps = examples // batch_size
    order = jax.random.permutation(order_key, examples)[: steps * batch_size]
    objective = jax.value_and_grad(partial(_objective, layout=layout), has_aux=True)

    # The union bound counts variances c exp(-j / b) for j from 1; scales are half their logarithms.
    largest = (fixed.log_ceiling - 1 / PRIOR_PRECISION) / 2  # at j = 1

    def step(carry: Any, now: tuple[Array, Array]) -> tuple[Any, Array]:
        posterior, state = carry
        (_, summary), gradient = objective(posterior, fixed, *now)
        updates, state = optimizer.update(gradient, state, posterior)
        posterior = eqx.apply_updates(posterior, updates)
        # KL falls beyond the largest variance that the union bound allows, and the bound does not.
        allowed = jnp.minimum(posterior.log_prior_scale, largest)
        return (eqx.tree_at(lambda p: p.log_prior_scale, posterior, allowed), state), summary

    batches = order.reshape(steps, batch_size), jax.random.split(noise_key, steps)
    (posterior, state), summaries = jax.lax.scan(step, (posterior, state), batches)
    return posterior, state, jnp.mean(summaries, axis=0)


def _objective(
    posterior: Posterior, fixed: _Fixed, rows: Array, key: RandomKey, layout: Layout
) -> tuple[Scalar, Float[Array, "3"]]:
    """Return the loss of one draw on one batch plus the penalty (C.271)."""
    risk = fixed.risk
    # By reparametrization: the draw is differentiable in means and scales, and so is its loss.
    noise, other = draw_noise(posterior, key)
    hidden = tuple(name for name in layout.names if name not in layout.first)
    params = perturb(risk, layout, posterior, fixed.basis, noise, other, hidden)
    left = fixed.basis[0]
    # Layers that see the data: their outputs move by R(x) E', and no noisy weight is ever formed.
    shifts = {
        name: fixed.rotated[name][rows] @ noise[name].T @ left[name].T for name in layout.first
    }
    inputs, targets = jax.tree.map(lambda leaf: leaf[rows], risk.data)
    outputs = noisy_outputs(risk, layout, params, inputs, shifts)
    loss = jnp.mean(jax.vmap(risk.loss)(outputs, targets))
    kl = posterior.kl(fixed.prior)
    examples = jnp.asarray(risk.examples, kl.dtype)
    complexity = penalty(kl, posterior.log_prior_scale, examples, fixed.delta, fixed.log_ceiling)
    return loss + complexity, jnp.stack([loss, complexity, kl])
