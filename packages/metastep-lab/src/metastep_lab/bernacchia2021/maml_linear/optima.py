"""The optima of one setting: what the theory says, and what the simulation gives."""

import numpy as np
from scipy.optimize import fminbound

from metastep_lab.bernacchia2021.curves import best_rate, jackknife, mean_and_error, rate_grid
from metastep_lab.bernacchia2021.maml_linear.setting import Setting
from metastep_lab.theory import maml as theory

STEP = 1e-3
"""Half the width of the central difference at train rate 0; its bias is below 1e-4 of the slope."""

NEW_TASK = ("dim", "target_samples", "noise", "variability")
SIZES = ("validation_samples", "tasks", "init_distance")
"""The arguments of the theory beside rates, `train_samples` and `NEW_TASK`."""


def predicted(setting: Setting, train: np.ndarray, test: np.ndarray | float) -> np.ndarray:
    """Return the loss of Theorem 1 or 2."""
    sizes = setting.fields("train_samples", *SIZES, *NEW_TASK)
    return theory.expected_test_loss(train, test, **sizes)


def best_train_rate(setting: Setting) -> float:
    """Return the theory's best train rate: Eq. 8, or the minimum of Theorem 2 in the range."""
    if setting.dim > setting.equations:
        return theory.optimal_train_rates(setting.dim, setting.train_samples)[0]
    loss = lambda rate: predicted(setting, rate, setting.test_rate).item()
    # A ratio of two polynomials of fourth order (Eq. 9), which may have several minima: a grid
    # first.
    grid = rate_grid(setting.train_rate_limit, 401)
    near = grid[np.argmin([loss(rate) for rate in grid])] + np.array([-1, 1]) * (grid[1] - grid[0])
    return np.asarray(fminbound(loss, *near, xtol=1e-8)).item()


def optima(
    setting: Setting, grid: np.ndarray, best: float, along: np.ndarray, distances: np.ndarray
) -> list[tuple[str, float, tuple]]:
    """Return quantity, theory, and simulation with its error."""
    task, rate = setting.fields(*NEW_TASK), setting.test_rate
    count, curve = len(grid), along[:, : len(grid)]
    zero, _, at_best, below, above = np.moveaxis(
        along[:, [count // 2, *range(count, count + 4)]], 1, 0
    )
    slope = mean_and_error((above - below) / (2 * STEP))
    expected = predicted(setting, np.array([0.0, best, -STEP, STEP]), rate)
    exact = theory.loss_at_zero(rate, **setting.fields(*SIZES), **task).item()
    # The slope depends on neither the variability nor the start.
    without_tasks = setting.fields("dim", "target_samples", "noise", "validation_samples", "tasks")
    found = [
        ("best_train_rate", best, jackknife(curve, lambda y: best_rate(grid, y))),
        ("gain", expected[1] - expected[0], mean_and_error(at_best - zero)),
        ("loss_at_zero", exact, mean_and_error(zero)),
        ("slope_at_zero", theory.slope_at_zero(rate, **without_tasks).item(), slope),
        ("leading_slope", (expected[3] - expected[2]) / (2 * STEP), slope),
    ]
    if setting.dim > setting.equations:
        worst = theory.optimal_train_rates(setting.dim, setting.train_samples)[1]
        measured = jackknife(curve, lambda y: best_rate(grid, y, largest=True))
        found.append(("worst_train_rate", worst, measured))
    if setting.both_rates:
        sizes = setting.fields("dim", "train_samples", "noise", "variability", *SIZES)
        variance = theory.meta_parameter_variance(setting.train_rate, **sizes)
        # Exact for any V = E |omega* - w_0|^2, of which the simulation has the mean.
        optimal = lambda variance: theory.optimal_test_rate(variance, **task).item()
        measured = jackknife(distances[:, count], optimal)
        found.append(("best_test_rate", optimal(variance), measured))
    return found
