"""What the loss and the best train rate of `maml-linear` depend on, one quantity at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metastep_lab.bernacchia2021.curves import best_rate, jackknife, mean_and_error, rate_grid
from metastep_lab.bernacchia2021.maml_linear.setting import Setting
from metastep_lab.bernacchia2021.mixed_regression_runs import simulate

FACTORS = {
    "noise": (0.5, 1.0, 2.0),
    "variability": (0.5, 1.0, 2.0),
    "test_rate": (0.5, 1.0, 2.0),
    "target_samples": (0.5, 1.0, 2.0),
    "validation_samples": (0.5, 1.0, 2.0),
    "tasks": (0.5, 1.0, 2.0, 4.0),
    "start": (0.0, 1.0, 2.0),
}
"""What is varied, in units of the setting; `start` in units of nu, as |omega_0 - w_0|."""


def sweep(setting: Setting, best: float, rates: int, runs: int, key: Array) -> list[tuple]:
    """Vary one quantity after the other.

    Args:
        setting: the others.
        best: the train rate at which the loss is measured.
        rates: train rates of the curve along which the best is found.
        runs: repetitions, with the same key for all values.
        key: of the draws.

    Returns:
        Rows of figure, varied, value, loss (at `best`), its standard error, best_train_rate (that
        of the smallest simulated loss), its error, and spread (largest minus smallest mean loss
        over the train rates). Values with as many validation examples as parameters, give or take
        one, are left out.
    """
    grid = rate_grid(setting.train_rate_limit, rates)
    rows = []
    for varied, factors in FACTORS.items():
        for changed, value, start in _values(setting, varied, factors, key):
            distribution = changed.distribution
            found = simulate(
                key,
                distribution,
                changed.design,
                jnp.asarray([*grid, best]),
                jnp.asarray([changed.test_rate]),
                runs=runs,
                start=distribution.center + start,
            )
            losses = np.asarray(found.loss)[..., 0]
            curve, means = losses[:, :-1], losses[:, :-1].mean(axis=0)
            optimum = jackknife(curve, lambda y: best_rate(grid, y))
            numbers = *mean_and_error(losses[:, -1]), *optimum, np.ptp(means)
            rows.append((setting.figure, varied, value, *numbers))
    return rows


def _values(
    setting: Setting, varied: str, factors: tuple[float, ...], key: Array
) -> list[tuple[Setting, float, Array]]:
    """Return changed settings, the values, and omega_0 - w_0 in a random direction."""
    center = jax.random.normal(jax.random.fold_in(key, 1), (setting.dim,))
    direction = center / jnp.linalg.norm(center)
    found = []
    for factor in factors:
        if varied == "start":
            distance = factor * setting.variability
            found.append((setting, distance, distance * direction))
            continue
        old = getattr(setting, varied)
        value = factor * old if isinstance(old, float) else max(1, round(factor * old))
        changed = setting._replace(**{varied: value})
        known = value in [one for _, one, _ in found]
        if abs(changed.dim - changed.equations) > 1 and not known:
            found.append((changed, value, jnp.zeros(setting.dim)))
    return found
