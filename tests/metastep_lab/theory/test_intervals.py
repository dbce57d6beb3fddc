"""Intervals against their definition, and exponents against exact powers."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binom

from metastep_lab.theory import intervals


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (3, 7), (7, 7), (395, 400)])
def test_a_tail_of_a_fortieth_lies_beyond_each_end(successes, trials):
    lower, upper = intervals.probability(successes, trials)
    beyond = binom.sf(successes - 1, trials, lower), binom.cdf(successes, trials, upper)
    assert (lower, beyond[0])[successes > 0] == pytest.approx((0, 0.025)[successes > 0], abs=1e-9)
    assert beyond[1] == pytest.approx(0.025 if successes < trials else 1.0, abs=1e-9)


def test_a_level_is_reached_missed_or_open():
    """368 trials without a failure are the fewest that show 0.99."""
    assert intervals.at_least(0.99, 368, 368) is True
    assert intervals.at_least(0.99, 367, 367) is None
    assert intervals.at_least(0.99, 380, 400) is False
    with pytest.raises(ValueError, match="successes is 5 of 4"):
        intervals.probability(5, 4)


def test_exponents():
    x = np.geomspace(1, 100, 9)
    assert intervals.exponent(x, 3 * x**-1.5) == pytest.approx((-1.5, -1.5, -1.5))
    assert np.isnan(intervals.exponent(x, x - 1)).all()
    rng = np.random.default_rng(0)
    fits = [intervals.exponent(x, x**2 * np.exp(rng.normal(size=9))) for _ in range(400)]
    inside = np.mean([fit.lower < 2 < fit.upper for fit in fits])
    # 0.95 with a standard deviation of 0.011 over 400 fits.
    assert 0.915 < inside < 0.985
    assert np.isnan(intervals.exponent(x[:2], x[:2])).all()


def test_the_means_of_groups_take_degrees_of_freedom():
    """Against the fit with a constant for each group; without them, 0.905 would be covered."""
    rng = np.random.default_rng(0)
    groups, x = 10, np.geomspace(1, 100, 4)

    def draw():
        logarithms = rng.normal(size=(groups, 1)) + rng.normal(size=(groups, x.size))
        y = x**2 * np.exp(logarithms)
        centred = y / np.exp(np.log(y).mean(axis=1, keepdims=True))
        return y, intervals.exponent(np.tile(x, groups), centred.ravel(), groups)

    covered = [fit.lower < 2 < fit.upper for _, fit in (draw() for _ in range(400))]
    # One draw by hand: a column for each group and one for the slope.
    y, fit = draw()
    design = np.kron(np.eye(groups), np.ones((x.size, 1)))
    design = np.column_stack([design, np.tile(np.log(x), groups)])
    solution, (rest,), *_ = np.linalg.lstsq(design, np.log(y).ravel(), rcond=None)
    error = np.sqrt(rest / (40 - 11) * np.linalg.inv(design.T @ design)[-1, -1])
    margin = stats.t.ppf(0.975, 40 - 11) * error
    assert fit == pytest.approx((solution[-1], solution[-1] - margin, solution[-1] + margin))
    assert 0.915 < np.mean(covered) < 0.985
