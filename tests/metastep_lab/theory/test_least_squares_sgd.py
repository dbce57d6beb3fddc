"""Exact expectations against every sequence of examples, simulated descent and limits."""

from itertools import product

import numpy as np
import pytest

from metastep_lab.theory import least_squares_sgd as theory


def task(seed, examples, dim, noise=1.0):
    rng = np.random.default_rng(seed)
    inputs, truth = rng.standard_normal((examples, dim)), rng.standard_normal(dim)
    targets = inputs @ truth + noise * rng.standard_normal(examples)
    return {"inputs": inputs, "targets": targets, "truth": truth}


def losses(w, inputs, targets, truth):
    residual = w @ inputs.T - targets
    return np.sum(residual**2, axis=-1) / (2 * len(targets)), np.sum((w - truth) ** 2, axis=-1)


def descend(sequences, step_size, inputs, targets):
    """Stochastic gradient descent with the given examples, shape (runs, horizon)."""
    w = np.zeros((len(sequences), inputs.shape[1]))
    for chosen in np.transpose(sequences):
        x = inputs[chosen]
        w = w - step_size * (np.sum(x * w, axis=1) - targets[chosen])[:, None] * x
    return w


SMALL = [(1, 2, 6), (2, 3, 5), (3, 4, 4), (4, 5, 3), (3, 7, 1), (2, 3, 0)]


@pytest.mark.parametrize(("examples", "dim", "horizon"), SMALL)
@pytest.mark.parametrize("step_size", [0.0, 1e-3, 0.1, 0.7])
def test_the_mean_over_every_sequence_of_examples(examples, dim, horizon, step_size):
    one = task(examples, examples, dim)
    sequences = np.array(list(product(range(examples), repeat=horizon)), int)
    w = descend(sequences, step_size, one["inputs"], one["targets"])
    train, error = (np.mean(values) for values in losses(w, **one))
    found = theory.expected_losses(step_size, horizon=horizon, **one)
    # At 0.7 some sequences diverge: the sums hold terms 1e4 times the result.
    assert np.isclose(found.train, train, rtol=1e-10, atol=1e-12)
    assert np.isclose(found.mean_squared_error, error, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("step_size", [0.01, 0.05])
def test_simulated_descent(step_size):
    one = task(7, 8, 16, noise=2.0)
    rng = np.random.default_rng(0)
    w = descend(rng.integers(8, size=(4000, 100)), step_size, one["inputs"], one["targets"])
    found = theory.expected_losses(step_size, horizon=100, **one)
    pairs = zip(losses(w, **one), (found.train, found.mean_squared_error), strict=True)
    for simulated, expected in pairs:
        standard_error = np.std(simulated, ddof=1) / np.sqrt(len(w))
        assert abs(np.mean(simulated) - expected) < 4 * standard_error


@pytest.mark.parametrize("horizon", [7, 100, 1001])
def test_the_second_moment_is_the_loop_over_residuals(horizon):
    """R <- R - eta (G R + R G) / n + eta^2 G diag(R) G / n for R = E r r^T, with G = X X^T."""
    one, step_size = task(3, 6, 12), 0.06
    gram = one["inputs"] @ one["inputs"].T
    moment, mean = np.outer(one["targets"], one["targets"]), one["targets"]
    for _ in range(horizon):
        noise = gram @ np.diag(np.diag(moment)) @ gram
        moment = moment - step_size / 6 * (gram @ moment + moment @ gram) + step_size**2 / 6 * noise
        mean = mean - step_size / 6 * gram @ mean
    inverse, targets = np.linalg.inv(gram), one["targets"]
    second = moment - np.outer(targets, mean) - np.outer(mean, targets)
    norm = np.trace(inverse @ (np.outer(targets, targets) + second))
    product_with_truth = one["truth"] @ one["inputs"].T @ inverse @ (targets - mean)
    error = norm - 2 * product_with_truth + one["truth"] @ one["truth"]
    found = theory.expected_losses(step_size, horizon=horizon, **one)
    # The condition number of G is about 50; 1001 steps round as many times.
    assert np.isclose(found.train, np.trace(moment) / 12, rtol=1e-9, atol=1e-13)
    assert np.isclose(found.mean_squared_error, error, rtol=1e-10, atol=0)


def test_several_tasks_and_their_validation_sets_are_the_mean_over_sequences():
    tasks = [task(seed, 2, 5) for seed in (0, 1)]
    tests = [task(seed, 3, 5) for seed in (2, 3)]
    sequences = np.array(list(product(range(2), repeat=4)), int)
    stacked = {name: np.stack([one[name] for one in tasks]) for name in tasks[0]}
    validation = tuple(np.stack([one[name] for one in tests]) for name in ("inputs", "targets"))
    steps = np.array([0.0, 0.2])
    found = theory.expected_losses(steps, horizon=4, validation=validation, **stacked)
    assert found.validation.shape == found.train.shape == (2, 2)
    for row, one in enumerate(tasks):
        for column, step in enumerate(steps):
            w = descend(sequences, step, one["inputs"], one["targets"])
            train, error = (np.mean(values) for values in losses(w, **one))
            residual = w @ validation[0][row].T - validation[1][row]
            at = (row, column)
            np.testing.assert_allclose(found.train[at], train, rtol=1e-10)
            np.testing.assert_allclose(found.mean_squared_error[at], error, rtol=1e-10)
            np.testing.assert_allclose(found.validation[at], np.mean(residual**2) / 2, rtol=1e-10)


def test_shapes_follow_step_sizes_and_horizons():
    one = task(0, 4, 9)
    steps, horizons = np.array([[0.01, 0.02, 0.05]]), np.array([3, 10])
    found = theory.expected_losses(steps, horizon=horizons, **one)
    assert found.train.shape == found.mean_squared_error.shape == (1, 3, 2)
    single = theory.expected_losses(0.02, horizon=10, **one)
    assert single.train.shape == ()
    assert np.isclose(found.train[0, 1, 1], single.train, rtol=1e-12, atol=0)
    assert np.isclose(
        found.mean_squared_error[0, 1, 1], single.mean_squared_error, rtol=1e-12, atol=0
    )


def test_nothing_moves_at_step_size_zero():
    one = task(1, 4, 9)
    found = theory.expected_losses(0.0, horizon=10**9, **one)
    assert np.isclose(found.train, np.sum(one["targets"] ** 2) / 8, rtol=1e-12, atol=0)
    assert np.isclose(found.mean_squared_error, np.sum(one["truth"] ** 2), rtol=1e-12, atol=0)


def test_small_steps_are_gradient_flow():
    """With eta t fixed and eta to zero the noise vanishes and w follows the flow."""
    one, time = task(2, 5, 11), 0.7
    hessian = one["inputs"].T @ one["inputs"] / 5
    eigenvalues, modes = np.linalg.eigh(hessian)
    reached = np.where(eigenvalues > 1e-12, -np.expm1(-time * eigenvalues), 0)
    pseudo_inverse = np.linalg.pinv(hessian) @ one["inputs"].T @ one["targets"] / 5
    w = modes @ (reached * (modes.T @ pseudo_inverse))
    found = theory.expected_losses(time / 10**10, horizon=10**10, **one)
    train, error = losses(w, **one)
    # The flow is left by terms of order eta d = 1e-9, and rounding grows with eta t only.
    assert np.isclose(found.train, train, rtol=1e-8, atol=0)
    assert np.isclose(found.mean_squared_error, error, rtol=1e-8, atol=0)


def test_long_horizons_interpolate():
    one = task(5, 6, 12)
    found = theory.expected_losses(0.05, horizon=10**6, **one)
    interpolating = np.linalg.pinv(one["inputs"]) @ one["targets"]
    assert 0 <= abs(found.train) < 1e-20
    assert np.isclose(found.mean_squared_error, losses(interpolating, **one)[1], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("examples", "dim"), [(1, 3), (4, 8), (9, 12)])
def test_the_second_moment_diverges_beyond_the_threshold_only(examples, dim):
    one = task(examples, examples, dim)
    threshold = theory.divergence_step_size(one["inputs"])
    if examples == 1:
        assert np.isclose(threshold, 2 / np.sum(one["inputs"] ** 2), rtol=1e-12, atol=0)
    below, at, above = (
        theory.expected_losses(factor * threshold, horizon=[10**5, 10**6], **one).train
        for factor in (0.99, 1.0, 1.01)
    )
    assert np.all(below < 1e-30)
    assert np.isclose(
        at[0], at[1], rtol=1e-6, atol=0
    )  # an eigenvalue 1 - 1e-16 is left to a power of 1e6
    assert np.all(above > 1e6) and above[1] == np.inf


def test_the_ranges_of_the_theorems():
    assert np.isclose(theory.train_by_train_range(50), 1e-8, rtol=1e-12, atol=0)
    for dim in (2, 100):
        expected = 1 / (dim * np.log(dim)) ** 2
        assert np.isclose(theory.train_by_validation_range(dim), expected, rtol=1e-12, atol=0)


GOOD = task(0, 2, 4)
BAD = {
    "negative step": ({"step_size": -0.1}, "step_size is -0.1; allowed are finite numbers from 0"),
    "infinite step": ({"step_size": [np.inf]}, "step_size is "),
    "negative horizon": ({"horizon": -1}, "horizon is -1; allowed are integers from 0"),
    "horizon no integer": ({"horizon": 1.5}, "horizon is 1.5; allowed are integers from 0"),
    "as many as dimensions": ({"inputs": np.eye(2)}, r"inputs has the shape \(2, 2\); allowed: "),
    "no example": ({"inputs": np.zeros((0, 3))}, r"inputs has the shape \(0, 3\)"),
    "vector": ({"inputs": np.ones(3)}, r"inputs has the shape \(3,\)"),
    "dependent rows": ({"inputs": np.ones((2, 4))}, "smallest singular value .*independent rows"),
    "targets": ({"targets": np.ones(3)}, r"targets has the shape \(3,\); allowed: \(2,\)"),
    "validation": ({"validation": (np.ones((3, 2)), np.ones(3))}, r"inputs of the shape \(3, 2\)"),
    "answers": ({"validation": (np.ones((3, 4)), np.ones(2))}, r"targets has the shape \(2,\)"),
    "truth": ({"truth": np.ones(2)}, r"truth has the shape \(2,\); allowed: \(4,\)"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_wrong_arguments_are_refused_in_one_line(change, message):
    arguments = {"step_size": 0.1, "horizon": 3, **GOOD, **change}
    with pytest.raises(ValueError, match=message) as raised:
        theory.expected_losses(arguments.pop("step_size"), **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "function", [theory.train_by_train_range, theory.train_by_validation_range]
)
def test_ranges_refuse_a_single_dimension(function):
    with pytest.raises(ValueError, match="dim is 1; allowed are integers from 2"):
        function(1)
