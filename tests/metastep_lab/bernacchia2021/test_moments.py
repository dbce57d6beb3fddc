"""Random numbers of given moments, and what they make of the fourth moments of the inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep_lab.bernacchia2021.mixed_regression import MixedRegression, draw_tasks, new_task_loss
from metastep_lab.bernacchia2021.moments import shape, shaped
from metastep_lab.theory import maml


@pytest.mark.parametrize(("skewness", "kurtosis"), [(0, 2), (0, 3), (0, 20), (2, 20), (-1, 6)])
def test_the_moments_are_those_asked_for(skewness, kurtosis):
    """By Gauss-Hermite quadrature, exact for the twelfth power of a normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)
    values = np.asarray(shaped(nodes, shape(skewness, kurtosis)))
    moments = [weights @ values**k / weights.sum() for k in range(1, 5)]
    np.testing.assert_allclose(moments, [0, 1, skewness, kurtosis], atol=1e-7)


def test_impossible_moments_are_refused():
    with pytest.raises(ValueError, match=r"kurtosis is 1\.5 at skewness 2; allowed are pairs"):
        shape(2, 1.5)


def test_fourth_moments_by_quadrature():
    """E (x^T Sigma x) x x^T with every pair of entries of s at the nodes of a normal number."""
    sigma = np.array([[2.0, 0.7], [0.7, 1.0]])
    values, vectors = np.linalg.eigh(sigma)
    root = (vectors * np.sqrt(values)) @ vectors.T
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)
    entries = np.asarray(shaped(nodes, shape(1.0, 6.0)))
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    x = np.stack(np.meshgrid(entries, entries, indexing="ij"), -1).reshape(-1, 2) @ root
    lengths = np.einsum("ki,ij,kj->k", x, sigma, x)
    expected = np.einsum("k,ki,kj->ij", weights * lengths, x, x)
    np.testing.assert_allclose(maml.fourth_moments(sigma, 6.0), expected, rtol=1e-9)


def test_the_loss_on_a_new_task_is_that_of_drawn_ones(x64):
    """The analytic loss against 20,000 drawn tasks with skewed and heavy entries."""
    sigma, spread = np.array([[1.5, 0.4], [0.4, 0.8]]), np.array([[0.5, -0.1], [-0.1, 0.3]])
    entries, omega, rate = shape(1.0, 8.0), jnp.array([0.4, -0.2]), 0.15
    distribution = MixedRegression(
        jnp.zeros(2), 0.5, spread, sigma, task_shape=entries, input_shape=entries
    )
    drawn = draw_tasks(
        jax.random.key(0), distribution, tasks=20_000, train_samples=3, validation_samples=1
    )
    train, targets, test, measured = map(np.asarray, drawn)
    gradient = np.einsum("tnp,tn->tp", train, train @ omega - targets) / 3
    residual = np.einsum("tvp,tp->tv", test, omega - rate * gradient) - measured
    losses = np.mean(residual**2, axis=1) / 2
    expected = new_task_loss(omega, jnp.array([rate]), distribution, target_samples=3)[0]
    assert abs(losses.mean() - expected) < 4 * losses.std() / np.sqrt(losses.size)
    covariance = np.cov(train.reshape(-1, 2).T)
    np.testing.assert_allclose(covariance, sigma, atol=0.08)
