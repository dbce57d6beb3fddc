"""Sign and log magnitude against closed forms, against plain derivatives, and under chaos."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep_lab.theory import quadratic_step_size as theory

HESSIAN = np.diag([4.0, 1.0, 0.25])
START = np.array([1.0, -2.0, 0.5])


@cache
def descent(horizon, dtype=jnp.float32):
    """Return one and the same problem, which is compiled once."""
    hessian = jnp.asarray(HESSIAN, dtype)
    loss = lambda w, outer, batch: w @ hessian @ w / 2
    return ms.TrainingProblem(
        loss, lambda w, outer: loss(w, outer, None), jnp.asarray(START, dtype), optax.sgd, horizon
    )


@pytest.mark.parametrize("horizon", [1, 40])
@pytest.mark.parametrize("step_size", [0.05, 0.3, 0.45, 0.7])
def test_equals_the_closed_form_beyond_the_range_of_float32(horizon, step_size, key):
    found = ms.scaled_hypergradient(descent(horizon), step_size, key=key)
    step_size = float(np.float32(step_size))
    sign, magnitude = theory.log_plain_gradient(step_size, HESSIAN, START, horizon)
    assert float(found.sign) == sign
    # Float32 powers: a relative error of about 1e-6 per step of the horizon.
    np.testing.assert_allclose(found.log_magnitude, magnitude, atol=1e-6 * horizon, rtol=1e-6)


def test_holds_a_derivative_of_e_minus_800_in_float32(key):
    found = ms.scaled_hypergradient(descent(400), 0.4, key=key)
    expected = theory.log_plain_gradient(float(np.float32(0.4)), HESSIAN, START, 400)
    assert expected[1] < -80
    assert float(found.sign) == expected[0]
    np.testing.assert_allclose(found.log_magnitude, expected[1], rtol=1e-5)


def test_equals_forward_on_a_problem_with_every_kind_of_hyperparameter(x64, key):
    from tests import cases

    problem, outer = cases.PROBLEMS["momentum-batches"]()
    exact = ms.hypergradient(problem, outer, ms.Forward(), key=key).grad
    found = ms.scaled_hypergradient(problem, outer, key=key, chunk=2)
    grad = jax.tree.map(lambda s, m: s * jnp.exp(m), found.sign, found.log_magnitude)
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-15)
    assert found.result == ms.RESULTS.successful


def test_lyapunov_exponent_of_linear_dynamics_is_the_largest_rate(x64, key):
    problem = descent(2000, jnp.float64)
    found = ms.scaled_hypergradient(problem, 0.4, key=key)
    # The slowest direction decays by 1 - 0.4 / 4 per step; transients weigh 1 / horizon.
    np.testing.assert_allclose(found.lyapunov_exponent, np.log(0.9), atol=2e-3)
    # 2000 roundings of every factor 1 - 0.4 h add up like sqrt(2000) = 45 of them: 1.7 digits.
    assert 1 < float(found.digits_lost) < 3 and found.result == ms.RESULTS.successful


def test_large_and_small_coordinates_count_alike(key):
    """The same training with a coordinate in units a billion times as large or small: no chaos."""

    @jax.jit
    def measured(unit):
        scale = jnp.ones(3).at[1].set(unit)
        loss = lambda w, outer, batch: jnp.sum(jnp.cos(w / scale) * scale**2)
        judge = lambda w, outer: jnp.sum((w / scale) ** 2)
        problem = ms.TrainingProblem(loss, judge, scale, optax.sgd, 40)
        return ms.scaled_hypergradient(problem, jnp.array(0.1), key=key)

    found = [measured(unit) for unit in (1.0, 1e-9, 1e9)]
    assert all(one.result == ms.RESULTS.successful for one in found)
    # Each is the root mean square of two draws.
    assert np.ptp([float(one.digits_lost) for one in found]) < 1


def test_a_derivative_that_rounding_has_replaced_is_called_so(key):
    """At w = 1 steps of w^3 - w are rounding: float32 is off by a factor of two and a half."""
    loss = lambda w, outer, batch: w**4 / 4 - w**2 / 2
    problem = ms.TrainingProblem(loss, lambda w, o: w, jnp.array(0.5), optax.sgd, 100)
    found = ms.scaled_hypergradient(problem, 0.49, key=key)
    assert float(found.digits_lost) > 4


@pytest.mark.parametrize("step_size", [0.3, 0.45])
def test_digits_lost_are_those_of_the_closed_form(step_size, key):
    """The derivative along the one hyperparameter, in float32 against NumPy's float64."""
    found = ms.scaled_hypergradient(descent(400), step_size, key=key)
    exact = theory.log_plain_gradient(float(np.float32(step_size)), HESSIAN, START, 400)[1]
    true = np.log10(abs(np.expm1(float(found.log_magnitude) - exact)) / np.finfo(np.float32).eps)
    # One draw of an error against the root mean square of two.
    assert abs(float(found.digits_lost) - max(true, 0)) < 1.5


def logistic_map(horizon):
    """w <- r w (1 - w) as descent: chaotic at r = 4, with Lyapunov exponent log 2."""
    loss = lambda w, outer, batch: w**2 / 2 - outer * (w**2 / 2 - w**3 / 3)
    return ms.TrainingProblem(
        loss, lambda w, outer: w, jnp.array(0.3), lambda outer: optax.sgd(1.0), horizon
    )


def test_chaos_is_measured_and_named(x64, key):
    problem = logistic_map(300)
    found = ms.scaled_hypergradient(problem, 3.9999, key=key)
    np.testing.assert_allclose(found.lyapunov_exponent, np.log(2), atol=0.1)
    assert found.result == ms.RESULTS.chaotic
    assert "not meaningful" in ms.RESULTS[found.result]
    # All that float64 has, to rounding of the error itself, which is between a tenth and two.
    assert float(found.digits_lost) > 15
    # The same map where it settles on a fixed point is fine.
    assert ms.scaled_hypergradient(problem, 2.5, key=key).result == ms.RESULTS.successful


def test_a_chaotic_sign_is_that_of_rounding():
    """What the flag is for: float32 and float64 disagree about most of these derivatives."""
    rates = np.float32(3.9 + 0.01 * np.arange(10))
    signs = []
    for double in (False, True):
        with jax.enable_x64(double):
            problem, key = logistic_map(200), jax.random.key(0)
            at = [jnp.asarray(rate, problem.init_params.dtype) for rate in rates]
            found = [ms.scaled_hypergradient(problem, rate, key=key) for rate in at]
            signs.append([float(one.sign) for one in found])
            chaotic = [one.result == ms.RESULTS.chaotic for one in found]
    assert all(chaotic) and signs[0] != signs[1]


def test_float32_hyperparameters_stay_float32_where_float64_is_enabled(x64, key):
    found = ms.scaled_hypergradient(descent(40), jnp.float32(0.3), key=key)
    expected = theory.log_plain_gradient(float(np.float32(0.3)), HESSIAN, START, 40)
    assert found.sign.dtype == found.log_magnitude.dtype == jnp.float32
    np.testing.assert_allclose(found.log_magnitude, expected[1], rtol=1e-5)


def test_an_inner_state_that_overflows_is_named(key):
    found = ms.scaled_hypergradient(descent(400), 5.0, key=key)
    assert found.result == ms.RESULTS.nonfinite_inner


@pytest.mark.parametrize(
    ("horizon", "result"),
    [(100, ms.RESULTS.successful), (200, ms.RESULTS.underflowed)],
    ids=["in-range", "below"],
)
def test_an_inner_state_that_underflows_is_named(horizon, result, key):
    """After 130 steps w = 0.51^t / 2 is below the least normal float32, at which it stops."""
    loss = lambda w, outer, batch: w**2 / 2
    problem = ms.TrainingProblem(loss, lambda w, outer: w, jnp.array(0.5), optax.sgd, horizon)
    found = ms.scaled_hypergradient(problem, 0.49, key=key)
    rate = float(np.float32(0.49))
    expected = np.log(horizon / 2) + (horizon - 1) * np.log1p(-rate)
    error = abs(np.expm1(float(found.log_magnitude) - expected))
    assert found.result == result
    assert (error > 0.1) == (result == ms.RESULTS.underflowed)
    # Where nothing is right, all digits are lost; the estimate may be off by one.
    assert float(found.digits_lost) > np.log10(min(error, 1) / np.finfo(np.float32).eps) - 1


def test_float64_holds_what_float32_does_not(x64, key):
    loss = lambda w, outer, batch: w**2 / 2
    problem = ms.TrainingProblem(loss, lambda w, outer: w, jnp.array(0.5), optax.sgd, 200)
    found = ms.scaled_hypergradient(problem, 0.49, key=key)
    assert found.result == ms.RESULTS.successful
    np.testing.assert_allclose(found.log_magnitude, np.log(100) + 199 * np.log(0.51), rtol=1e-12)


@pytest.mark.parametrize("chunk", [0, -1, True])
def test_bad_chunk(chunk, key):
    with pytest.raises(ValueError, match="chunk is"):
        ms.scaled_hypergradient(descent(2), 0.1, key=key, chunk=chunk)
