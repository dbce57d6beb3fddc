"""Closed forms against loops in plain NumPy and the values of an independent study."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metastep_lab.theory import truncation as theory

TOY = np.diag([1.0, 0.5])
COUNTEREXAMPLE = {
    "hessian": np.array([[5.0, -2.0], [-2.0, 1.0]]),
    "coupling": np.diag([1.0, 0.25]),
    "curvature": np.array([[1.0, -2.0], [-2.0, 5.0]]),
}


def random_problem(seed, dim, hyperparameters):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((dim, 2 * dim))
    hessian = factor @ factor.T / dim + 0.1 * np.eye(dim)
    coupling = rng.standard_normal((dim, hyperparameters))
    step_size = 0.9 / np.linalg.eigvalsh(hessian)[-1]
    return rng, hessian, coupling, step_size


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 40))
def test_final_state_is_the_loop(seed, dim, hyperparameters, horizon):
    rng, hessian, coupling, step_size = random_problem(seed, dim, hyperparameters)
    start, outer = rng.standard_normal(dim), rng.standard_normal(hyperparameters)
    w = start
    for _ in range(horizon):
        w = w - step_size * (hessian @ w - coupling @ outer)
    expected = theory.final_state(hessian, coupling, start, outer, step_size, horizon)
    # The condition number stays below about 1e3.
    assert np.allclose(w, expected, rtol=1e-10, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 40))
def test_truncated_gradient_is_the_sum(seed, dim, hyperparameters, window):
    rng, hessian, coupling, step_size = random_problem(seed, dim, hyperparameters)
    adjoint = final_gradient = rng.standard_normal(dim)
    total = np.zeros(hyperparameters)
    for _ in range(window):
        total = total + step_size * coupling.T @ adjoint
        adjoint = adjoint - step_size * hessian @ adjoint
    expected = theory.truncated_gradient(hessian, coupling, final_gradient, step_size, window)
    assert np.allclose(total, expected, rtol=1e-10, atol=1e-11)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 39))
def test_the_bias_stays_below_the_bound(seed, dim, hyperparameters, window):
    """Eq. 10 on random problems: |h_{T-K} - d| for T = 40."""
    rng, hessian, coupling, step_size = random_problem(seed, dim, hyperparameters)
    final_gradient = rng.standard_normal(dim)
    gradient = lambda steps: theory.truncated_gradient(
        hessian, coupling, final_gradient, step_size, steps
    )
    bound = theory.bias_bound(
        window,
        step_size=step_size,
        strong_convexity=np.linalg.eigvalsh(hessian)[0],
        final_gradient_norm=np.linalg.norm(final_gradient),
        largest_response=step_size * np.linalg.norm(coupling, 2),
    )
    # Equality is reached in one dimension: allow the rounding of the two gradients.
    rounding = 1e-13 * np.linalg.norm(gradient(40))
    assert np.linalg.norm(gradient(40) - gradient(window)) <= bound * (1 + 1e-9) + rounding


RATIOS = {
    1: (0.0503, 0.1000),
    2: (0.098, 0.190),
    5: (0.228, 0.410),
    10: (0.404, 0.651),
    25: (0.727, 0.928),
    50: (0.929, 0.995),
}


@pytest.mark.parametrize("window", RATIOS)
def test_descent_ratio_bounds(window):
    bounds = theory.descent_ratio_bounds(TOY, 0.1, window, 100)
    assert np.allclose(bounds, RATIOS[window], atol=6e-4)  # the table gives three digits


def test_interference_limits():
    limits, truth = theory.interference_limits(
        [1, 2, 5, 10, 100], step_size=0.1, horizon=100, start=2.0, target=1.0
    )
    expected = (0.9090882749, 0.8403312164, 0.7094564512, 0.6055609643, truth)
    assert np.isclose(truth, 0.4999867195, atol=6e-11)
    assert np.allclose(limits, expected, atol=6e-11)


@pytest.mark.parametrize("step_size", [0.17, 0.05, 0.01, 0.001])
def test_the_counterexample_is_one_for_every_inner_step_size(step_size):
    """Window 1 can point uphill at a cosine of -0.63, whatever the inner step size."""
    cosine = theory.worst_cosine(**COUNTEREXAMPLE, step_size=step_size, window=1)
    assert np.isclose(cosine, -0.63, atol=0.005)


@pytest.mark.parametrize("step_size", [0.17, 0.05, 0.01])
def test_the_counterexample_diverges_for_every_outer_step_size(step_size):
    """h = P lambda with two negative eigenvalues: I - eta P has no eigenvalue inside the circle."""
    hessian, coupling, curvature = COUNTEREXAMPLE.values()
    response = step_size * coupling @ curvature @ np.linalg.solve(hessian, coupling)
    eigenvalues = np.linalg.eigvals(response)
    assert np.all(np.real(eigenvalues) < 0)
    assert np.isclose(np.trace(response) / step_size, -27 / 16)
    assert np.isclose(np.linalg.det(response) / step_size**2, 1 / 16)


def test_long_windows_descend_on_the_counterexample():
    cosines = [
        theory.worst_cosine(**COUNTEREXAMPLE, step_size=0.01, window=window)
        for window in (1, 5, 20, 200, 1000, 5000)
    ]
    assert cosines == sorted(cosines)
    assert cosines[2] < 0 < cosines[3]
    assert cosines[-1] > 0.9999


def test_commuting_problems_never_point_uphill():
    """The true sub-case of Lemma 3.2: J commutes with H."""
    for window in (1, 3, 10):
        cosine = theory.worst_cosine(TOY, TOY, np.diag([3.0, 1.0]), 0.1, window)
        assert cosine > 0


def test_an_indefinite_hessian_is_refused():
    with pytest.raises(ValueError, match="eigenvalue -1; all must be positive"):
        theory.power_of_step(np.diag([1.0, -1.0]), 0.1, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(0, 30))
def test_descent_converges_at_the_rate_of_lemma_b_2(seed, dim, steps):
    """|w_t - w*| <= D exp(-alpha gamma t) on a strongly convex loss that is no quadratic."""
    rng, hessian, _, _ = random_problem(seed, dim, 1)
    # w^T H w / 2 + sum log cosh w: its curvature lies between that of H and one more.
    eigenvalues = np.linalg.eigvalsh(hessian)
    step_size = 1 / (eigenvalues[-1] + 1)
    w = 3 * rng.standard_normal(dim)
    first = np.linalg.norm(w)
    for _ in range(steps):
        w = w - step_size * (hessian @ w + np.tanh(w))
    bound = first * np.exp(-eigenvalues[0] * step_size * steps)
    assert np.linalg.norm(w) <= bound * (1 + 1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_directions_of_lemma_d_1_lead_to_a_stationary_point(seed, dim):
    """g = P grad f, P within c_1 and c_2: h_t = |grad f| vanishes."""
    rng, hessian, _, _ = random_problem(seed, dim, 1)
    smoothness = np.linalg.eigvalsh(hessian)[-1] + 1
    x = start = 3 * rng.standard_normal(dim)
    factor = rng.standard_normal((dim, dim))
    skew = (factor - factor.T) / (np.linalg.norm(factor - factor.T, 2) + 1e-9)
    slope = lambda x: hessian @ x + np.sin(x)
    for _ in range(2000):
        # g . grad f = |grad f|^2 and |g|^2 <= 4 |grad f|^2: c_1 = 1, c_2 = 4.
        gradient = slope(x)
        x = x - 1 / (4 * smoothness) * (gradient + skew @ gradient)
    assert np.linalg.norm(slope(x)) < 1e-3 * max(np.linalg.norm(slope(start)), 1.0)


@pytest.mark.parametrize("window", [1, 3, 6, 9])
def test_equation_9_holds_where_the_loss_is_not_convex_on_the_way(window):
    """g = a (w - lambda)^2 / 2 + cos w, convex from w = 2 on alone, which the last steps reach."""
    step, horizon, outer, w = 0.4, 10, 4.0, 0.5
    slopes, path = [], []
    for _ in range(horizon):
        slopes.append(1 - step * (0.5 - np.cos(w)))
        w = w - step * (0.5 * (w - outer) - np.sin(w))
        path.append(w)
    response, force = step * 0.5, 2 * (w - 1)
    terms = [response * np.prod(slopes[t + 1 :]) * force for t in range(horizon)]
    kept = slopes[horizon - window :]
    strong = min((1 - slope) / step for slope in kept)
    assert strong > 0 > min(1 - slope for slope in slopes)
    bound = 2 ** (horizon - window + 1) * (1 - step * strong) ** window * abs(force) * response
    assert abs(sum(terms[: horizon - window])) <= bound
