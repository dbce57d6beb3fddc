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


def sweep(
    setting: Setting, best: float, names: tuple[str, ...], rates: int, runs: int, key: Array
) -> list[tuple]:
    """Vary one quantity after the other, of `FACTORS`, with the same key for all values.

    Returns:
        Rows of figure, varied, value, loss (at the train rate `best`), its standard error,
        best_train_rate (that of the smallest simulated loss), shift (its relative change from that
        of the setting itself), shift_error (by the jackknife of both) and spread (largest minus
        smallest mean loss over the train rates). Values with as many validation examples as
        parameters, give or take one, are left out.
    """
    grid = rate_grid(setting.train_rate_limit, rates)
    optimum = lambda curve: best_rate(grid, curve)
    shift = lambda both: optimum(both[rates:]) / optimum(both[:rates]) - 1
    nowhere = jnp.zeros(setting.dim)
    own = _curves(setting, nowhere, grid, best, runs, key)
    rows = []
    for varied in names:
        for changed, value, start in _values(setting, varied, FACTORS[varied], key):
            same = changed == setting and not np.any(start)
            losses = own if same else _curves(changed, start, grid, best, runs, key)
            # Side by side, run by run: the jackknife leaves the same runs out of both, and what
            # they share cancels in the shift.
            curve, both = losses[:, :-1], np.hstack([own[:, :-1], losses[:, :-1]])
            means, moved = curve.mean(axis=0), (0.0, 0.0) if same else jackknife(both, shift)
            numbers = *mean_and_error(losses[:, -1]), optimum(means), *moved, np.ptp(means)
            rows.append((setting.figure, varied, value, *numbers))
    return rows


def _curves(
    setting: Setting, start: Array, grid: np.ndarray, best: float, runs: int, key: Array
) -> np.ndarray:
    """Return the losses of every run at the train rates of the grid and at the best."""
    distribution = setting.distribution
    rates = jnp.asarray([*grid, best]), jnp.asarray([setting.test_rate])
    start = distribution.center + start
    found = simulate(key, distribution, setting.design, *rates, runs=runs, start=start)
    return np.asarray(found.loss)[..., 0]


def _values(
    setting: Setting, varied: str, factors: tuple[float, ...], key: Array
) -> list[tuple[Setting, float, Array]]:
    """Return changed settings, the values, and omega_0 - w_0 in a random direction."""
    # Inputs are isotropic: only the distance matters, and one direction stands for all.
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
        # Two factors may be rounded to one count.
        known = value in [one for _, one, _ in found]
        if abs(changed.dim - changed.equations) > 1 and not known:
            found.append((changed, value, jnp.zeros(setting.dim)))
    return found
