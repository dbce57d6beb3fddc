"""Optima against NumPy's least squares; losses against drawn tasks and exact expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.compilation import compiled
from metastep_lab.bernacchia2021.mixed_regression import (
    Design,
    MixedRegression,
    RegressionTasks,
    draw_tasks,
    new_task_loss,
    outer_solution,
    outer_solutions,
)
from metastep_lab.bernacchia2021.mixed_regression_runs import simulate
from metastep_lab.theory import maml

DIM = 8
OVER = Design(train_samples=6, validation_samples=2, tasks=2, target_samples=5)
UNDER = Design(train_samples=4, validation_samples=5, tasks=4, target_samples=5)
NOISE, VARIABILITY = 0.6, 0.5


def some_tasks(design):
    """Return tasks whose examples have nothing to do with each other."""
    rng = np.random.default_rng(3)
    draw = lambda count, *shape: jnp.asarray(rng.standard_normal((design.tasks, count, *shape)))
    train, valid = design.train_samples, design.validation_samples
    return RegressionTasks(draw(train, DIM), draw(train), draw(valid, DIM), draw(valid))


@pytest.mark.parametrize("design", [OVER, UNDER])
def test_the_optimum_is_that_of_least_squares(x64, design):
    tasks = some_tasks(design)
    start = np.random.default_rng(5).standard_normal(DIM)
    rates = jnp.array([-1.3, 0.0, 0.4])
    expected = []
    for rate in np.asarray(rates):
        inputs, targets = [], []
        for x, y, seen, measured in zip(*map(np.asarray, tasks), strict=True):
            step = rate / len(y) * x.T
            inputs.append(seen @ (np.eye(DIM) - step @ x))
            targets.append(measured - seen @ step @ y)
        inputs, targets = np.concatenate(inputs), np.concatenate(targets)
        least = np.linalg.lstsq(inputs, targets - inputs @ start, rcond=None)[0]
        expected.append(start + least)
    # Normal equations square the condition number, here about 100.
    found = compiled(outer_solutions)(tasks, rates, jnp.asarray(start))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)
    one = compiled(outer_solution)(*tasks, jnp.asarray(-1.3), jnp.asarray(start))
    np.testing.assert_allclose(one, expected[0], rtol=1e-10, atol=1e-11)


def random_covariance(seed):
    factor = np.random.default_rng(seed).standard_normal((DIM, DIM))
    return jnp.asarray(factor @ factor.T / DIM)


RATES = np.array([-1e-3, 0.0, 1e-3, 0.3])
TEST_RATES = np.array([0.0, 0.2])


def run(distribution, design, start, test_tasks=0, rates=RATES):
    rates = jnp.asarray(rates), jnp.asarray(TEST_RATES)
    return simulate(
        jax.random.key(1),
        distribution,
        design,
        *rates,
        runs=3000,
        start=start,
        test_tasks=test_tasks,
        test_samples=10,
    )


def z_score(values, expected):
    values = np.asarray(values)
    return (values.mean(axis=0) - expected) / (values.std(axis=0) / np.sqrt(len(values)))


@pytest.mark.parametrize("design", [OVER, UNDER])
def test_losses_and_slopes_at_zero_are_the_exact_ones(x64, design):
    """Covariances are given as matrices where drawn tasks are, so that both share a program."""
    as_matrix = design is OVER
    scale = lambda value: value * jnp.eye(DIM) if as_matrix else jnp.asarray(value)
    center, start = jnp.full(DIM, 0.4), jnp.full(DIM, 0.1)
    covariances = scale(VARIABILITY**2 / DIM), scale(1.0)
    distribution = MixedRegression(center, NOISE, *covariances)
    found = run(distribution, design, start, test_tasks=2 if as_matrix else 0)
    sizes = {name: getattr(design, name) for name in ("validation_samples", "target_samples")}
    sizes |= {"tasks": design.tasks, "dim": DIM, "noise": NOISE}
    losses = np.asarray(found.loss)
    # Numbers of one fixed seed; three standard errors are the promise.
    distance = 0.3 * DIM**0.5
    loss = maml.loss_at_zero(TEST_RATES, **sizes, variability=VARIABILITY, init_distance=distance)
    assert np.all(np.abs(z_score(losses[:, 1], loss)) < 3)
    slope = maml.slope_at_zero(TEST_RATES, **sizes)
    assert np.all(np.abs(z_score((losses[:, 2] - losses[:, 0]) / 2e-3, slope)) < 3)
    given = maml.loss_given_variance(
        np.asarray(found.distance)[..., None],
        TEST_RATES,
        dim=DIM,
        target_samples=design.target_samples,
        noise=NOISE,
        variability=VARIABILITY,
    )
    np.testing.assert_allclose(losses, given, rtol=1e-12)


def test_drawn_test_tasks_agree_with_the_expectation_for_any_covariance(x64):
    distribution = MixedRegression(
        jnp.full(DIM, 0.4), NOISE, random_covariance(1) / 4, random_covariance(2)
    )
    found = run(distribution, OVER, jnp.full(DIM, 0.1), test_tasks=2)
    assert np.all(np.abs(z_score(found.sampled_loss - found.loss, 0.0)) < 3)
    # All rates share the draws: in another place, a rate has the same loss.
    turned = run(distribution, OVER, jnp.full(DIM, 0.1), test_tasks=2, rates=RATES[::-1])
    np.testing.assert_allclose(turned.loss[:, ::-1], found.loss, rtol=1e-12)


ARGUMENTS = dict(train_samples=2, validation_samples=1, tasks=1, target_samples=2)


def simulated(dim=4, runs=2, test_tasks=0, test_samples=1, rate=0.1, **changed):
    distribution = MixedRegression(jnp.zeros(dim), noise=0.5, task_covariance=0.1)
    return simulate(
        jax.random.key(0),
        distribution,
        Design(**ARGUMENTS | changed),
        jnp.array([rate]),
        jnp.array([0.1]),
        runs=runs,
        test_tasks=test_tasks,
        test_samples=test_samples,
    )


def distribution(noise=0.5, task_covariance=0.1, covariance=1.0):
    values = map(jnp.asarray, (noise, task_covariance, covariance))
    return MixedRegression(jnp.zeros(2), *values)


BAD = [
    (lambda: simulated(dim=1), "dim is 1, as many as"),
    (lambda: simulated(runs=0), "runs is 0"),
    (lambda: simulated(test_tasks=-1), "test_tasks is -1"),
    (lambda: simulated(test_samples=0), "test_samples is 0"),
    (lambda: simulated(rate=np.nan), "train_rates is"),
    (lambda: simulated(tasks=0), "tasks is 0"),
    (lambda: simulated(train_samples=0), "train_samples is 0"),
    (lambda: simulated(target_samples=0), "target_samples is 0"),
    (lambda: distribution(noise=-1.0), "noise is -1"),
    (lambda: distribution(task_covariance=-0.1), "task_covariance has the eigenvalue"),
    (lambda: distribution(covariance=jnp.eye(3)), "covariance has shape"),
    (lambda: distribution(covariance=-jnp.eye(2)), "covariance has the eigenvalue -1"),
    (lambda: distribution(covariance=jnp.array([[1.0, 1.0], [0.0, 1.0]])), "not symmetric"),
    (lambda: distribution(covariance=jnp.eye(2) * jnp.nan), "not finite"),
    (
        lambda: draw_tasks(
            jax.random.key(0), distribution(), tasks=1, train_samples=1, validation_samples=0
        ),
        "validation_samples is 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_loss_of_the_center_without_a_step_is_that_of_chance(x64):
    loss = new_task_loss(jnp.zeros(2), jnp.zeros(1), distribution(), target_samples=3)
    np.testing.assert_allclose(loss, [(0.5**2 + 0.1 * 2) / 2], rtol=1e-14)
