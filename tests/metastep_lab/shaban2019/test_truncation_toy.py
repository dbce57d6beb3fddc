"""The limits of K-RMD on f-tilde against the roots of an independent study (ten digits)."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metastep as ms
from metastep_lab.shaban2019.truncation_toy import experiment as toy
from metastep_lab.shaban2019.truncation_toy.counterexamples import NEUMANN_TERMS, neumann, ten_steps
from metastep_lab.shaban2019.truncation_toy.model import HESSIAN, STEP_SIZE
from metastep_lab.shaban2019.truncation_toy.stochastic import FIRST, NOISE, SMOOTHNESS, averages

LIMITS = {
    1: ((0.8842638180, -0.0011740540), 0.5576, 3.43, 10.42),
    10: ((0.4403291485, -0.0055673021), 0.1137, 0.174, 3.00),
    100: ((0.3267031670, -0.0081587301), 0.0, 0.0, 0.0),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", LIMITS)
def test_biased_limits(window, key):
    limit, distance, gap, length = LIMITS[window]
    problem, best = toy.toy("f-tilde", 100), jnp.array(LIMITS[100][0])
    config = toy.Config(outer_steps=400)
    _, end = toy._descend(problem, jnp.array([1.0, 1.0]), window, config, key)
    # 400 steps of size eta / sqrt(step) leave a relative distance of about 1e-8 to the root.
    assert np.allclose(end, limit, atol=2e-7)
    here = ms.hypergradient(problem, end, ms.Reverse(), key=key)
    there = ms.hypergradient(problem, best, ms.Reverse(), key=key)
    assert np.isclose(jnp.linalg.norm(end - best), distance, atol=1e-4)
    assert np.isclose(here.value - there.value, gap, rtol=3e-3, atol=1e-6)
    assert np.isclose(here.stats["gradient_norm"], length, rtol=3e-3, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_counterexample_diverges_with_window_one():
    """|d| is 25.7 at (1, 1) and grows; a window of 20 at the same step size shrinks it."""
    key = jax.random.key(0)
    before, after = ten_steps(0.17, ms.TruncatedReverse(1), key)
    assert np.isclose(before, 25.7, atol=0.05)
    assert after > 4 * before
    before, after = ten_steps(0.17, ms.TruncatedReverse(20), key)
    assert after < before / 100


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", [1, 100])
def test_a_stochastic_run_begins_with_the_gradient_its_bias_and_the_bound(window, key):
    """After one step Theorem 3.3 bounds |dF|^2 by (F + spent) / eta, with the largest gradient."""
    problem, start = toy.toy("f-tilde", 100), jnp.ones(2)
    gradient = lambda estimator: ms.hypergradient(problem, start, estimator, key=key)
    exact, short = gradient(ms.Reverse()), gradient(ms.TruncatedReverse(window))
    ((*_, average, _, bias, bound),) = averages((window,), 100, (1,), 2, key)
    off = jnp.linalg.norm(short.grad - exact.grad)
    assert np.isclose(average, jnp.sum(exact.grad**2), rtol=1e-9, atol=0)
    assert np.isclose(bias, off, rtol=1e-9, atol=1e-9)
    by_state = 1 - (1 - STEP_SIZE * jnp.diagonal(jnp.asarray(HESSIAN))) ** window
    corners = [NOISE * by_state * jnp.array(sign) for sign in product((-1, 1), repeat=2)]
    sizes = [jnp.linalg.norm(vector) for vector in (*(short.grad + c for c in corners), exact.grad)]
    spent = [s * off * FIRST + SMOOTHNESS * (3 * s**2 + off**2) / 2 * FIRST**2 for s in sizes]
    assert np.isclose(
        [(exact.value + one) / FIRST for one in spent], bound, rtol=1e-9, atol=0
    ).any()


@pytest.mark.usefixtures("x64")
def test_k_rmd_ends_where_theorem_3_5_says(key):
    found = toy._interference(toy.Config(windows=(5, 20), horizon=20), key)
    assert np.allclose(found["limit"], found["closed_form"], rtol=1e-9, atol=0)
    assert abs(found["limit"][0] - found["truth"][0]) > 1e-2


RATIOS = {1: -0.451, 2: -0.306, 5: 0.047}


@pytest.mark.usefixtures("x64")
def test_the_ratio_turns_negative_from_the_origin_alone(key):
    """Figure 2, right, of Shaban et al. 2019, which does not say where its path starts.

    The ratios are those of an independent study.
    """
    config = toy.Config(windows=tuple(RATIOS), outer_steps=200)
    problem = toy.toy("f-tilde", config.horizon)
    for start, turns in (((0.0, 0.0), True), ((1.0, 1.0), False)):
        (path, _), _ = toy._descend(problem, jnp.array(start), 1, config, key)
        rows = toy._ratios(problem, "f-tilde", path, config, key)
        lowest = {w: min(row[3] for row in rows if row[1] == w) for w in RATIOS}
        assert bool(lowest[1] < 0) is turns
        if turns:
            # Printed to three decimals.
            assert all(abs(lowest[window] - ratio) < 6e-4 for window, ratio in RATIOS.items())


@pytest.mark.usefixtures("x64")
def test_the_error_of_a_series_is_that_of_its_matrices():
    """At the fixed point K terms leave (1 - eta H)^K of the inverse, and the bound is Eq. 8's."""
    key = jax.random.key(4)
    found = {name: np.asarray(column) for name, column in neumann(key).items()}
    assert tuple(found["window"]) == NEUMANN_TERMS
    drawn = lambda stream, shape: np.asarray(
        jax.random.normal(jax.random.fold_in(key, stream), shape)
    )
    factor, target, coupling = drawn(1, (20, 60)), drawn(2, (20,)), drawn(3, (20, 20))
    hessian = factor @ factor.T / 60
    values = np.linalg.eigvalsh(hessian)
    step = 0.9 / values[-1]
    for sign in (1, -1):
        # The coupling enters as +B or -B; the gradient of the objective decides the lengths.
        end = -sign * np.linalg.solve(hessian, coupling @ np.ones(20))
        slope = 2 * (end - target)
        exact = np.linalg.norm(coupling.T @ np.linalg.solve(hessian, slope))
        if np.isclose(exact, found["exact_norm"][0], rtol=1e-6, atol=0):
            break
    else:
        pytest.fail("neither sign gives the norm of the exact gradient")
    left = lambda terms: np.linalg.matrix_power(np.eye(20) - step * hessian, terms)
    errors = [
        np.linalg.norm(coupling.T @ left(terms) @ np.linalg.solve(hessian, slope))
        for terms in NEUMANN_TERMS
    ]
    # 2,000 steps leave at least (1 - eta mu)^2000 of the way to the fixed point.
    assert np.allclose(found["error"], errors, rtol=1e-5, atol=1e-8)
    lengths = np.linalg.norm(slope), np.linalg.norm(coupling, 2)
    contraction = 1 - step * values[0]
    bounds = [contraction**terms / values[0] * lengths[0] * lengths[1] for terms in NEUMANN_TERMS]
    assert np.allclose(found["bound"], bounds, rtol=1e-5, atol=0)
