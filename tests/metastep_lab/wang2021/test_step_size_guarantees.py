"""The claims of `step-size-guarantees` on tables made by hand, and its parts."""

import numpy as np
import pytest

from metastep_lab.tables import Record, columns
from metastep_lab.theory import quadratic_step_size as theory
from metastep_lab.wang2021.step_size_guarantees import descents, sampling, stochastic
from metastep_lab.wang2021.step_size_guarantees.experiment import EXPERIMENT, Config
from metastep_lab.wang2021.step_size_guarantees.rows import by_descent
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

TRAIN, VALID = "train-by-train", "train-by-validation"


def held():
    """Return a run of which every claim holds."""
    config = Config(dims=(8, 16), horizons=(10, 40), noises=(2.0,), tasks=(4, 16))
    samples = [
        (mode, 16, 2.0, 40, m, 400, count, count, count, 0.3, 0.2, 0.4, 0.9, 0.8)
        for mode in (TRAIN, VALID)
        for m, count in ((4, 300), (16, 400))
    ]
    samples += [
        (f"sgd-{mode}", dim, 2.0, 100, m, 400, count, count, count, 0.3, 0.2, 0.4, 0.9, 0.8)
        for mode, sizes in ((TRAIN, ((8, 4), (16, 64))), (VALID, ((16, 4), (16, 64))))
        for (dim, m), count in zip(sizes, (390, 400), strict=True)
    ]
    rates = [
        (TRAIN, "t", 0.01, -0.02, 0.03),
        (VALID, "t", -1.01, -1.03, -0.98),
        (TRAIN, "d", 0.0, -0.01, 0.01),
        (VALID, "d", 0.0, -0.01, 0.01),
        ("excess", "n / d", -1.1, -1.3, -0.9),
        ("k_0", "1 / epsilon", 0.4, 0.3, 0.5),
    ]
    bounded = [
        (ratio, epsilon, 400, 400 if ratio == 20 else 10)
        for ratio in (5, 20)
        for epsilon in (0.5, 0.1)
    ]
    names = "mode dim noise horizon tasks repeats in_range far held median low high error best"
    tables = {
        "samples": columns(names, samples),
        "rates": columns("quantity against exponent lower upper", rates),
        "bounded": columns("ratio epsilon repeats held", bounded),
        "truncated": columns("dim runs reached largest", [(16, 4000, 0, 0.04)]),
        "settling": columns("updates bound", [(100.0, 1e9), (200.0, 1e10)]),
    }
    return Record(config, tables, {}, {})


def test_every_claim_can_fail():
    spoiled = (
        ("theorem-4", "settling", "updates == 200", {"bound": 150.0}),
        ("theorem-4", "settling", "updates == 200", {"updates": np.nan, "bound": 1e5}),
        ("theorem-4-rate", "rates", "quantity == 'k_0'", {"upper": 2.1}),
        ("theorem-7", "samples", f"mode == '{TRAIN}' and tasks == 16", {"held": 290}),
        ("theorem-8", "samples", f"mode == '{VALID}' and tasks == 16", {"held": 290}),
        *(
            (name, "rates", f"quantity == '{mode}' and against == '{against}'", values)
            for name, mode, against, center in (
                ("train-by-train-constant-in-t", TRAIN, "t", 0.0),
                ("train-by-validation-inverse-in-t", VALID, "t", -1.0),
                ("train-by-train-constant-in-d", TRAIN, "d", 0.0),
            )
            for values in (
                {"lower": center + 0.11, "upper": center + 0.2},
                {"lower": center - 0.2, "upper": center - 0.11},
            )
        ),
        *(
            (name, "samples", f"mode == 'sgd-{mode}' and tasks == 64", {"held": 380})
            for name, mode in (("theorem-9", TRAIN), ("theorem-10", VALID))
        ),
        ("sgd-is-not-truncated", "truncated", "", {"reached": 10}),
        ("theorem-6", "bounded", "ratio == 20 and epsilon == 0.1", {"held": 380}),
        ("theorem-6-rate", "rates", "quantity == 'excess'", {"upper": -0.4}),
    )
    check_every_claim(EXPERIMENT, spoiled, held())


def test_a_probability_that_still_grows_with_the_tasks_decides_nothing():
    more = changed(held(), "samples", f"mode == '{VALID}' and tasks == 16", held=380)
    assert verdicts(EXPERIMENT, more)["theorem-8"] is None


def test_descents_settle_where_loops_do():
    """The count of updates by a plain loop with the derivative of `theory`."""
    problems = descents.draw_quadratics(1, 3, np.random.default_rng(0))
    eigenvalues, squares = problems.eigenvalues[0], problems.squares[0]
    hessian, start = np.diag(eigenvalues), np.sqrt(squares)
    best = theory.optimal_step_size(hessian, start, 4)
    eta, path = 2 / eigenvalues[0], []
    for k in range(1, 1501):
        eta = max(eta - float(theory.meta_gradient(eta, hessian, start, 4)) / np.sqrt(k), 0.0)
        path.append(abs(eta - best))
    rows = descents.settling(problems, 4, 1500)
    for _, first, distance, updates, bound in rows:
        if first == 2.0:
            far = np.flatnonzero(np.array(path) > distance / eigenvalues[-1])
            assert updates == far[-1] + 2 < bound


def test_the_bound_of_theorem_4_has_the_extreme_coordinates_alone():
    """By hand for L = 2, alpha = 1, c_1^2 = c_d^2 = 0.49 and epsilon = 1/4.

    D_max = 4 * 8 / 0.49, k_1 = (4 D_max)^2, R = M^ - 1/2 with M^ = 1 + D_max, and D_min is the
    smaller of 2 epsilon c_d^2 / 2 and 2 epsilon c_1^2 4 / (2 M^ - 1)^2.
    """
    eigenvalues, squares = np.array([1.0, 1.5, 2.0]), np.array([0.49, 0.02, 0.49])
    steepest = 32 / 0.49
    reach = 1 + steepest
    flattest = 0.5 * 0.49 * min(0.5, 4 / (2 * reach - 1) ** 2)
    bound = (4 * steepest + (reach - 0.5) / flattest / 2) ** 2
    found = descents.updates_bound(eigenvalues, squares, 0.25, 2.0)
    assert found == pytest.approx(bound, rel=1e-12)


def test_theorem_9_is_compared_with_every_step_size(monkeypatch):
    rng = lambda: np.random.default_rng([0, 3, 8])
    chosen, judged = stochastic.theorem_9(8, 4, 40, 2.0, 8 * 10**8, rng())
    # Step size 0 leaves w = 0, and |w*|^2 = 1; all draws choose the end of the range.
    assert judged.error.shape == (12,) and judged.error[0] == pytest.approx(1)
    assert judged.error[-1] == pytest.approx(chosen.error.mean())
    monkeypatch.setattr(stochastic, "truncated", lambda *sizes: (0, 0.0))
    config = Config(sgd_dims=(8,), sgd_tasks=(4,), repeats=40, fresh=10)
    first = by_descent(config, 0)[0][0]
    # Not the smallest error on any one new task.
    assert first[-2:] == pytest.approx((chosen.error.mean(), judged.error.min()))


def test_truncation_is_looked_for_in_as_many_steps_as_theorem_10_has(monkeypatch):
    seen = []
    monkeypatch.setattr(
        stochastic, "_largest", lambda *arguments: seen.append(arguments[-1]) or np.ones(2)
    )
    stochastic.truncated(8, 2, 2.0, 0)
    # t = 4 d^2 ln^2 d, so that the last step size, 1 / (d^2 ln^2 d), is 4 / t.
    assert seen == [stochastic.horizon_of(8)] == [int(np.ceil(4 * 64 * np.log(8) ** 2))]


def test_ties_are_all_judged():
    case = sampling.Case(TRAIN, 8, 4, 1, 2.0, 10)
    grid = sampling.grid_of(10)
    objective = np.ones((2, grid.size))
    objective[0, 3:6], objective[1, 7] = 0.5 * (1 + 1e-14 * np.arange(3)), 0.5
    judged = sampling.Judged(np.arange(grid.size, dtype=float), np.zeros(grid.size))
    found = sampling._minimize(case, objective, judged)
    np.testing.assert_array_equal(found.smallest, grid[[3, 7]])
    np.testing.assert_array_equal(found.largest, grid[[5, 7]])
    np.testing.assert_array_equal(found.error, [5.0, 7.0])


@pytest.mark.parametrize("mode", [TRAIN, VALID])
def test_smaller_numbers_of_tasks_are_parts_of_larger_ones(mode):
    case = sampling.Case(mode, 8, 4, 3, 2.0, 10)
    judged = sampling.Judged(np.zeros(sampling.POINTS + 1), np.zeros(sampling.POINTS + 1))
    tune = lambda tasks: sampling.tune(case, 5, tasks, judged, np.random.default_rng(0))
    alone, both = tune((4,))[4], tune((2, 4))
    np.testing.assert_array_equal(alone.smallest, both[4].smallest)
    assert set(both) == {2, 4} and not np.array_equal(both[2].smallest, both[4].smallest)
