"""Pytree algebra where its precision or its range is at an end."""

import jax.numpy as jnp
import numpy as np
import pytest

from metastep import trees
from metastep.diagnosis.bias_curve import _length

MANY = 70_000  # above 65504, the largest number of float16


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=str)
def test_norm_and_product_of_many_numbers_do_not_overflow(dtype):
    ones = {"a": jnp.ones(MANY, dtype)}
    found = trees.norm(ones)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, MANY**0.5, rtol=float(jnp.finfo(dtype).eps), atol=0)
    np.testing.assert_allclose(trees.inner_product(ones, ones), MANY, rtol=1e-6, atol=0)


def test_products_of_half_precision_neither_overflow_nor_vanish():
    """256 times itself, and a norm of 1e5, are beyond the numbers of float16."""
    large, tiny = jnp.full(3, 300, jnp.float16), jnp.full(3, 1e-5, jnp.float16)
    np.testing.assert_allclose(trees.inner_product(large, large), 3 * 300.0**2, rtol=1e-6)
    np.testing.assert_allclose(trees.inner_product(tiny, tiny), 3e-10, rtol=0.02)
    long = jnp.full(100, 1e4, jnp.float16)
    np.testing.assert_allclose(trees.cosine(long, long), 1, rtol=1e-6)
    # The step sizes of a diagnosis, where a state that moves would count as one at rest.
    np.testing.assert_allclose(_length(jnp.full(4, 1e-4, jnp.float16)), 2e-4, rtol=0.01)


def test_the_error_of_a_mean_of_many_half_precision_numbers():
    samples = jnp.tile(jnp.array([-1.0, 1.0], jnp.float16), MANY // 2)
    np.testing.assert_allclose(trees.mean_and_error(samples)[1], MANY**-0.5, rtol=1e-3)


def test_norm_of_what_is_not_finite_or_nothing():
    assert trees.norm({}) == trees.norm(jnp.zeros(3)) == trees.largest({}) == 0
    assert jnp.isinf(trees.norm(jnp.array([1.0, jnp.inf])))
    assert jnp.isnan(trees.norm(jnp.array([1.0, jnp.nan])))


@pytest.mark.parametrize("exponent", [-120, -3, 0, 5, 120])
def test_times_power_is_exact(exponent):
    x = jnp.array([1.5, -0.75, 0.0], jnp.float32)
    np.testing.assert_array_equal(
        trees.times_power(x, jnp.asarray(exponent)), np.ldexp(np.asarray(x), exponent)
    )
