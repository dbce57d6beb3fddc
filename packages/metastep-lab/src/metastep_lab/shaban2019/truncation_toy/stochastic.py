"""Theorem 3.3 by simulation: stochastic descent along K-RMD on f-tilde, and its bound.

Everything is elementwise on the toy problem: w_T = C w_0 + (1 - C) lambda with C = (1 - gamma G)^T,
and back-propagation through the last K steps multiplies the derivative by w_T by 1 - (1 - gamma
G)^K. A draw of the data adds xi . w to the outer loss, xi uniform on the corners of a square: the
estimate is unbiased but for truncation, and bounded, as the proof assumes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metastep.compilation import compiled
from metastep_lab.shaban2019.truncation_toy.model import HESSIAN, STEP_SIZE, outer_loss_tilde

START, NOISE, FIRST = 2.0, 5.0, 0.03
"""w_0, the size of each coordinate of xi, and eta_1 of eta_tau = eta_1 / sqrt(tau)."""
SMOOTHNESS = 32.0
"""Of F: the second derivative of |w|^2 + 10 |sin w|^2 is at most 22, that of the rest is 10."""


def averages(
    windows: Sequence[int], horizon: int, iterations: Sequence[int], runs: int, key: Array
) -> list[tuple]:
    """Descend from lambda = (1, 1) with every window; the draws of all windows are the same.

    Returns:
        Rows of window, iterations, average (the mean over runs of the mean of |d F|^2 over the
        iterations, weighted by step sizes), standard_error, bias (epsilon, the largest |h - d F|
        without noise on any path) and bound (of the proof of Theorem 3.3, with the largest |h| and
        |d F| on the paths as G).
    """
    keys = jax.random.split(key, runs)
    start = jnp.ones(2)
    rows = []
    for window in windows:
        lengths, errors, estimates = _paths(
            keys, start, jnp.asarray(window), horizon, max(iterations)
        )
        steps = FIRST / np.sqrt(np.arange(1, max(iterations) + 1))
        epsilon = float(errors.max())
        # The proof's G bounds both norms almost surely; here on the paths that were run.
        largest = float(jnp.maximum(lengths, estimates).max())
        first = float(outer_loss_tilde(_end(start, horizon), start))
        for count in iterations:
            part = steps[:count]
            means = np.asarray(lengths[:, :count]) ** 2 @ part / part.sum()
            # Appendix C, after the telescoping sum: F(lambda_1) + sum G epsilon eta + L (3 G^2 +
            # epsilon^2) / 2 eta^2, over sum eta. The end is dropped, as F is not negative.
            spent = largest * epsilon * part.sum()
            spent += SMOOTHNESS * (3 * largest**2 + epsilon**2) / 2 * np.sum(part**2)
            bound = (first + spent) / part.sum()
            error = means.std(ddof=1) / np.sqrt(runs)
            rows.append((window, count, means.mean(), error, epsilon, bound))
    return rows


def _end(outer: Array, horizon: int) -> Array:
    forgotten = (1 - STEP_SIZE * jnp.diagonal(jnp.asarray(HESSIAN))) ** horizon
    return forgotten * START + (1 - forgotten) * outer


@compiled
def _paths(
    keys: Array, start: Array, window: Array, horizon: int, iterations: int
) -> tuple[Array, Array, Array]:
    """Return |d F|, |h - d F| without noise, and |h|, of shape (runs, iterations)."""
    rates = 1 - STEP_SIZE * jnp.diagonal(jnp.asarray(HESSIAN))
    seen, all_of_it = 1 - rates**window, 1 - rates**horizon

    def descend(key: Array) -> tuple[Array, Array, Array]:
        def step(outer: Array, tau: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            by_state, direct = jax.grad(outer_loss_tilde, (0, 1))(_end(outer, horizon), outer)
            exact = direct + all_of_it * by_state
            sign = jax.random.rademacher(jax.random.fold_in(key, tau), (2,), outer.dtype)
            estimate = direct + seen * (by_state + NOISE * sign)
            # Without the noise: in Eq. 14 it enters by its mean, since xi is drawn after lambda.
            error = (all_of_it - seen) * by_state
            found = tuple(map(jnp.linalg.norm, (exact, error, estimate)))
            return outer - FIRST / jnp.sqrt(tau.astype(outer.dtype)) * estimate, found

        return jax.lax.scan(step, start, jnp.arange(1, iterations + 1))[1]

    return jax.lax.map(descend, keys, batch_size=len(keys))
