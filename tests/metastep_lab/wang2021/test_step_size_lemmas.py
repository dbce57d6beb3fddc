"""Lemmas 1 to 6 of Wang et al. (2021) on drawn tasks, as far as their constants can be seen.

Their L of 100 bounds the smoothness of almost all tasks; here 10 does, and is taken.
"""

from functools import cache

import numpy as np
import pytest

from metastep_lab.theory import least_squares as theory
from metastep_lab.wang2021.step_size_guarantees.sampling import grid_of, simulate
from metastep_lab.wang2021.step_size_guarantees.setting import case_of

DIM, TASKS, L = 32, 1600, 10.0
TRAIN, VALID = "train-by-train", "train-by-validation"


@cache
def objectives(mode, noise, horizon, m):
    """Return the step sizes, and the meta-objective of m tasks in each of several draws."""
    drawn = simulate(case_of(mode, DIM, noise, horizon), TASKS, np.random.default_rng(0))
    return grid_of(horizon), drawn.objective.reshape(TASKS // m, m, -1).mean(axis=1)


def test_lemmas_1_to_3_train_by_train():
    noise, horizon = 2.0, 400
    grid, drawn = objectives(TRAIN, noise, horizon, 16)
    small = grid <= 1 / L
    assert np.all(np.diff(drawn[:, small], axis=1) < 0)
    bound = 2 * L**2 * noise**2 * (1 - 1 / L**2) ** horizon
    assert np.all(drawn[:, small][:, -1] <= bound)

    high = np.all(drawn >= noise**2 / (10 * L**8), axis=0) & ~small
    edge = grid[high][0]
    assert 1 / L < edge < 3 * L and np.all(high[grid >= edge])
    # Uniform convergence below the step sizes at which some of 1,600 tasks diverge.
    quiet = ~small & (grid < grid[~small & (drawn.max(axis=0) > 1)][0] / 1.3)
    assert quiet.sum() >= 2
    spread = np.abs(drawn - drawn.mean(axis=0))[:, quiet]
    assert np.all(spread <= noise**2 / L**3)


def test_lemma_4_the_signal_is_won_at_steps_of_order_one_over_t():
    times, ranges = np.geomspace(1e-3, 10, 400), []
    for horizon in (40, 160, 640):
        losses = theory.train_by_validation(times / horizon, ratio=4.0, noise=2.0, horizon=horizon)
        gains = 0.5 + 2.0 - losses
        enough = times[gains >= 6 / 9 * gains.max()]
        ranges.append((enough[0], times[gains.argmax()], enough[-1], gains.max()))
    assert np.all(gains[times > enough[-1]] < 6 / 9 * gains.max())
    np.testing.assert_allclose(ranges[1:], ranges[:-1], rtol=0.06)  # they converge in t


@pytest.mark.parametrize("noise", [2.0, 4.0])
def test_lemma_5_large_steps_fit_noise(noise):
    grid, drawn = objectives(VALID, noise, 400, 64)
    # C' does not depend on sigma: the same for both.
    assert np.all(drawn[:, grid >= 1 / L] >= (0.5 + 0.04) * noise**2)


def test_lemma_6_uniform_convergence():
    distances = []
    for m in (16, 64):
        grid, drawn = objectives(VALID, 2.0, 400, m)
        distances.append(np.abs(drawn - drawn.mean(axis=0))[:, grid <= 1 / L].max(axis=1).mean())
    # Like 1 / sqrt(m); 25 draws give the mean to some 15 %.
    assert distances[0] / distances[1] == pytest.approx(2, rel=0.3)
