"""Eqs. 1 and 2 against 80-digit arithmetic and the reference tables; bounds on random problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metastep.tasks import random_quadratic
from metastep_lab.theory import quadratic_step_size as theory
from tests.high_precision import Spectral


def paper_problem(seed, dim=20):
    """Return H and w_0 of problem P0 to P4, or P5 with its 40 rows, or one of a seed of our own."""
    task = random_quadratic(seed, dim, rows=2 * dim if seed == 5 else dim)
    return np.asarray(task.hessian), np.asarray(task.start)


STEP_SIZES = np.concatenate([[0.0, 1e-6], np.logspace(-4, 1, 21)])
HORIZONS = (10, 20, 40, 80, 200, 1000, 5000)

# From an independent study; optimal step sizes of problems 0 and 5, digits as printed there.
OPTIMA = {
    0: (0.0289702, 0.0298851, 0.0306123, 0.0310595, 0.0314438, 0.0318188, 0.0319359),
    5: (0.0157848, 0.0168402, 0.0174615, 0.0177953, 0.0180007, 0.0181115, 0.0181338),
}
SETTLING = {  # (F''(eta*) / 200)^2 for problems 0 to 4
    10: (1124, 411, 3129, 1301, 3989),
    20: (1182, 530, 8777, 1711, 3296),
    40: (2542, 1356, 9727, 5056, 1542),
    80: (4178, 1544, 386, 13337, 2236),
}


@pytest.mark.parametrize("seed", sorted(OPTIMA))
def test_optimal_step_sizes_are_those_of_the_reference(seed):
    found = [theory.optimal_step_size(*paper_problem(seed), horizon) for horizon in HORIZONS]
    np.testing.assert_array_equal(np.round(found, 7), OPTIMA[seed])


@pytest.mark.parametrize("horizon", sorted(SETTLING))
def test_curvatures_are_those_of_the_reference(horizon):
    for seed, expected in enumerate(SETTLING[horizon]):
        problem = paper_problem(seed)
        best = theory.optimal_step_size(*problem, horizon)
        assert round(float(theory.meta_curvature(best, *problem, horizon) / 200) ** 2) == expected


@pytest.mark.parametrize("seed", [0, 5])
def test_value_and_gradient_are_exact_for_every_horizon(seed):
    hessian, start = paper_problem(seed)
    truth = Spectral(hessian, start)
    for horizon in HORIZONS:
        expected = [truth.derivative(eta, horizon) for eta in STEP_SIZES]
        value = theory.meta_objective(STEP_SIZES, hessian, start, horizon)
        slope = theory.meta_gradient(STEP_SIZES, hessian, start, horizon)
        # The value passes through zero: rounding of its two terms, which are about one.
        np.testing.assert_allclose(value, [float(v) for v, _ in expected], rtol=1e-13, atol=1e-15)
        # LAPACK's smallest eigenvalue is good to eps L / alpha, 3e-12 for problem 0.
        np.testing.assert_allclose(slope, [float(g) for _, g in expected], rtol=3e-12)


def test_gradient_does_not_depend_on_the_length_of_the_start():
    hessian, start = paper_problem(0)
    one = theory.meta_gradient(STEP_SIZES, hessian, start, 80)
    np.testing.assert_allclose(theory.meta_gradient(STEP_SIZES, hessian, 1e3 * start, 80), one)


@given(st.integers(6, 10**6), st.sampled_from([1, 2, 5, 30, 200]), st.integers(2, 8))
@settings(max_examples=50, deadline=None)
def test_bounds_and_shape_hold_on_random_problems(seed, horizon, dim):
    # In float32 the smallest eigenvalue of a square X^T X may round to below zero.
    with jax.enable_x64(True):
        hessian, start = paper_problem(seed, dim)
    start = start / np.linalg.norm(start)
    eigenvalues, _ = theory.spectrum(hessian, start)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    best = theory.optimal_step_size(hessian, start, horizon)
    assert 1 / largest < best < 1 / smallest
    etas = np.sort(np.concatenate([np.linspace(0, 3 / largest, 50), np.logspace(-3, 1, 30)]))
    slope = theory.meta_gradient(etas, hessian, start, horizon)
    assert np.all(slope[etas < best * (1 - 1e-9)] < 0)  # Claim 1
    assert np.all(slope[etas > best * (1 + 1e-9)] > 0)
    assert np.abs(slope).max() <= theory.meta_gradient_bound(hessian, start)  # Claim 2
    far, top = 0.5 / largest, max(2 / smallest, etas.max())
    floor = theory.meta_gradient_floor(far, top, hessian, start)  # Claim 3
    assert np.all(np.abs(slope[np.abs(etas - best) >= far]) >= floor)
    sign, plain = theory.log_plain_gradient(etas, hessian, start, horizon)  # Theorem 3
    # Strictly convex: the derivative rises, from below zero to above it.
    assert np.all(np.diff(sign) >= 0) and np.all(np.diff(plain[sign < 0]) < 1e-9)
    assert np.all(np.diff(plain[sign > 0]) > -1e-9)
    bound = theory.log_plain_gradient_bound(etas, hessian, start, horizon)
    stable = etas < 2 / largest
    assert np.all(plain[stable] <= bound[stable] + 1e-9)
    assert np.all(plain[~stable] >= bound[~stable] - 1e-9)


BAD = [
    (np.ones((2, 3)), np.ones(2), "hessian has shape"),
    (np.array([[1.0, 0.5], [0.0, 2.0]]), np.ones(2), "not symmetric"),
    (np.diag([1.0, -1.0]), np.ones(2), "positive definite"),
    (np.diag([1.0, 0.0]), np.ones(2), "positive definite"),
    (np.eye(2), np.ones(2), "differ"),
    (np.diag([1.0, 2.0]), np.zeros(2), "start is the zero vector"),
    (np.diag([1.0, 2.0]), np.ones(3), "start has shape"),
    (np.diag([1.0, 2.0]), np.array([1.0, np.nan]), "start has shape"),
    (np.diag([1.0, np.inf]), np.ones(2), "hessian has shape"),
    (np.diag([1.0, 2.0]), np.array([1.0, 0.0]), "orthogonal to the eigenvector of the largest"),
    (np.diag([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 1.0]), "of the smallest"),
]


@pytest.mark.parametrize(("hessian", "start", "message"), BAD)
def test_refuses_what_the_theory_excludes(hessian, start, message):
    for call in (
        lambda: theory.meta_objective(0.1, hessian, start, 5),
        lambda: theory.meta_gradient(0.1, hessian, start, 5),
        lambda: theory.optimal_step_size(hessian, start, 5),
        lambda: theory.meta_gradient_bound(hessian, start),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_repeated_extreme_eigenvalue_is_fine():
    found = theory.optimal_step_size(np.diag([1.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0]), 50)
    assert found == pytest.approx(theory.optimal_step_size(np.diag([1.0, 2.0]), np.ones(2), 50))


@pytest.mark.parametrize("horizon", [0, -1, 2.5, True])
def test_refuses_bad_horizons(horizon):
    with pytest.raises(ValueError, match="horizon is"):
        theory.meta_gradient(0.1, *paper_problem(0), horizon)


@pytest.mark.parametrize("step_size", [-0.1, np.nan, np.inf, [0.1, -1.0]])
def test_refuses_bad_step_sizes(step_size):
    with pytest.raises(ValueError, match="step_size is"):
        theory.meta_objective(step_size, *paper_problem(0), 5)


@pytest.mark.parametrize(("distance", "top"), [(0.0, 1e9), (1.0, 1e9), (1e-3, 0.1)])
def test_claim_3_refuses_what_it_does_not_cover(distance, top):
    with pytest.raises(ValueError, match=r"distance is|largest_step_size is"):
        theory.meta_gradient_floor(distance, top, *paper_problem(0))


def test_accepts_jax_arrays():
    hessian, start = paper_problem(0)
    found = theory.meta_gradient(jnp.array(0.5), jnp.asarray(hessian), jnp.asarray(start), 10)
    assert found.dtype == np.float64 and found.shape == ()
