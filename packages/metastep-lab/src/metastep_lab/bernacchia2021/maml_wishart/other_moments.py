"""Theorem 3 for inputs and tasks that are not normal: given third and fourth moments."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from metastep_lab.bernacchia2021.curves import mean_and_error
from metastep_lab.bernacchia2021.mixed_regression import MixedRegression
from metastep_lab.bernacchia2021.mixed_regression_runs import simulate
from metastep_lab.bernacchia2021.moments import shape
from metastep_lab.theory.maml import fourth_moments


def rows_by_moments(
    config: Any,
    covariances: tuple[np.ndarray, np.ndarray],
    predict: Callable[..., np.ndarray],
    grid: np.ndarray,
    key: Array,
) -> list[tuple]:
    """Simulate inputs x = Sigma^{1/2} s and tasks alike, with independent entries of s.

    `predict` is Theorem 3, of train and test rates and `fourth_moment`. The draws of all moments
    are transformed from the same normal numbers.

    Returns:
        Rows of skewness, kurtosis, train_rate, theory, simulated, standard_error, expected_change
        (of the theory, from normal inputs), change (the same, simulated) and change_error.
    """
    rates = jnp.asarray(grid), jnp.asarray([config.test_rate])
    normal = predict(grid, config.test_rate)
    at_normal = None
    rows = []
    # Normal entries first: the changes of all others are from them.
    for moments in ((0.0, 3.0), *zip(config.skewness, config.kurtosis, strict=True)):
        entries = shape(*moments)
        distribution = MixedRegression(
            jnp.zeros(config.dim),
            config.noise,
            covariances[1],
            covariances[0],
            task_shape=entries,
            input_shape=entries,
        )
        found = simulate(key, distribution, config.design, *rates, runs=config.runs)
        losses = np.asarray(found.loss)[..., 0]
        at_normal = losses if at_normal is None else at_normal
        fourth = fourth_moments(covariances[0], moments[1])
        theory = predict(grid, config.test_rate, fourth_moment=fourth)
        numbers = theory, *mean_and_error(losses), theory - normal
        changes = mean_and_error(losses - at_normal)
        rows += [(*moments, *row) for row in zip(grid, *numbers, *changes, strict=True)]
    return rows
