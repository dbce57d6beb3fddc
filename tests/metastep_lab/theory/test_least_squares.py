"""Population objectives against moments, against the reference table and against simulation."""

import jax.numpy as jnp
import numpy as np
import pytest

from metastep_lab.theory import least_squares as theory
from metastep_lab.wang2021.least_squares.step_size_grid import draw_spectral_tasks, spectral_losses

# sigma: eta_valid t at t = 10 and 1280, eta_train there, M(eta_valid) and M(eta_train) / sigma^2
# at t = 40, for n = 500, n_1 = 250 and d = 1000: the reference table, except that it has
# .3331 for eta_train at t = 1280. Quadrature in 40 digits gives F(.3331) = 1.446e-70,
# F(.333255) = 1.381e-70, F(.3333) = 1.395e-70 at sigma = 1.
THEOREM_5 = {
    1.0: (0.1677, 0.1743, 0.3246, 0.3333, 0.8838, 1.481),
    2.0: (0.0541, 0.0549, 0.3296, 0.3333, 0.9520, 1.106),
    3.0: (0.0259, 0.0261, 0.3314, 0.3333, 0.9756, 1.037),
    5.0: (0.0097, 0.0098, 0.3326, 0.3333, 0.9905, 1.002),
}
THEOREM_6 = {2: 1.962, 5: 1.250, 10: 1.111, 20: 1.053, 50: 1.020, 100: 1.010, 1000: 1.001}
TEST_RMSE = {  # sigma: train-by-train, train-by-validation, at the grid's best step sizes
    1.0: (0.3162, 1.574, 0.005623, 1.341),
    2.0: (0.3162, 2.901, None, 2.223),
    3.0: (0.3162, 4.278, 0.000562, 3.157),
    5.0: (0.3162, 7.068, 0.000316, 5.097),
}


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.999, 1.0, 1.001, 2.0, 50.0])
def test_moments_of_the_law(ratio):
    eigenvalues, weights = theory.marchenko_pastur(ratio)
    # E l^k = sum of Narayana numbers times ratio^j.
    expected = [1, 1, 1 + ratio, 1 + 3 * ratio + ratio**2, 1 + 6 * ratio + 6 * ratio**2 + ratio**3]
    for power, moment in enumerate(expected):
        np.testing.assert_allclose(weights @ eigenvalues**power, moment, rtol=1e-11)
    assert np.all(weights[:-1] >= 0) and np.all(eigenvalues >= 0)
    np.testing.assert_allclose(weights[-1], max(0, 1 - 1 / ratio), atol=1e-4)


@pytest.mark.parametrize("noise", THEOREM_5)
def test_theorem_5_is_the_reference_table(noise):
    best = lambda objective, ratio, t: theory.optimal_step_size(
        objective, ratio=ratio, noise=noise, horizon=t
    )
    valid = {t: best(theory.train_by_validation, 4.0, t) for t in (10, 40, 1280)}
    train = {t: best(theory.train_by_train, 2.0, t) for t in (10, 40, 1280)}
    error = lambda eta, ratio: float(
        theory.mean_squared_error(eta, ratio=ratio, noise=noise, horizon=40)
    )
    found = (valid[10] * 10, valid[1280] * 1280, train[10], train[1280], error(valid[40], 4.0))
    np.testing.assert_allclose(found, THEOREM_5[noise][:5], atol=5.1e-5)
    np.testing.assert_allclose(error(train[40], 2.0) / noise**2, THEOREM_5[noise][5], atol=5.1e-4)


def test_theorem_6_is_the_reference_table():
    for multiple, expected in THEOREM_6.items():
        setting = {"ratio": 1 / multiple, "noise": 1.0, "horizon": 40}
        best = theory.optimal_step_size(theory.train_by_train, **setting)
        error = theory.mean_squared_error(best, **setting) * multiple
        np.testing.assert_allclose(error, expected, atol=5.1e-4)


@pytest.mark.parametrize("noise", TEST_RMSE)
def test_predicted_test_errors_are_those_of_the_reference_table(noise):
    train, train_rmse, valid, valid_rmse = TEST_RMSE[noise]
    rmse = lambda eta: np.sqrt(
        2 * theory.train_by_validation(eta, ratio=2.0, noise=noise, horizon=40)
    )
    np.testing.assert_allclose(rmse(train), train_rmse, atol=6e-4)
    if valid is not None:
        np.testing.assert_allclose(rmse(valid), valid_rmse, atol=6e-4)


@pytest.mark.parametrize("ratio", [0.4, 1.0, 2.5])
def test_closed_forms_agree_with_simulation(x64, ratio):
    """300 tasks at d = 400: within four standard errors and 1 / d of the untrained loss."""
    dim, tasks, horizon, noise = 400, 300, 25, 1.5
    samples = round(dim / ratio)
    grid = np.geomspace(1e-3, 0.98 * 2 / (1 + np.sqrt(ratio)) ** 2, 9)
    drawn = draw_spectral_tasks(
        np.random.default_rng(4),
        tasks=tasks,
        dim=dim,
        samples=samples,
        noise=noise,
        validation_samples=300,
        steps=grid.size,
    )
    found = spectral_losses(drawn, jnp.asarray(grid), horizon=horizon, radius=np.inf)
    setting = {"ratio": dim / samples, "noise": noise, "horizon": horizon}
    for measured, population in (
        (found.training, theory.train_by_train),
        (found.validation, theory.train_by_validation),
        (found.error, theory.mean_squared_error),
    ):
        values, expected = np.asarray(measured), population(grid, **setting)
        allowed = 4 * values.std(axis=0) / np.sqrt(tasks) + (1 + noise**2) / dim
        assert np.all(np.abs(values.mean(axis=0) - expected) < allowed)


def test_no_training_and_long_training():
    setting = {"noise": 2.0, "horizon": 7}
    assert theory.mean_squared_error(0.0, ratio=3.0, **setting) == pytest.approx(1)
    assert theory.train_by_validation(0.0, ratio=3.0, **setting) == pytest.approx((1 + 4) / 2)
    assert theory.train_by_train(0.0, ratio=3.0, **setting) == pytest.approx((1 + 4) / 2)
    # After very many steps: the least-squares solution, n / (n - d) of d sigma^2 / n.
    late = theory.mean_squared_error(0.5, ratio=0.25, noise=2.0, horizon=2000)
    assert late == pytest.approx(4 * 0.25 / 0.75, rel=1e-9)
    finite = theory.least_squares_error(dim=10**6, samples=4 * 10**6, noise=2.0)
    assert late == pytest.approx(finite, rel=1e-5)


BAD = [
    (lambda: theory.marchenko_pastur(0.0), "ratio is"),
    (lambda: theory.marchenko_pastur(float("nan")), "ratio is"),
    (lambda: theory.train_by_train(0.1, ratio=-1.0, noise=1.0, horizon=5), "ratio is"),
    (lambda: theory.train_by_train(0.1, ratio=1.0, noise=-1.0, horizon=5), "noise is"),
    (lambda: theory.train_by_validation(0.1, ratio=1.0, noise=1.0, horizon=0), "horizon is"),
    (lambda: theory.mean_squared_error(-0.1, ratio=1.0, noise=1.0, horizon=5), "step_size is"),
    (lambda: theory.least_squares_error(dim=5, samples=6, noise=1.0), "samples is"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
