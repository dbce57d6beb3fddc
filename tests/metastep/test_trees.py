"""Pytree algebra where its precision or its range is at an end."""

import jax.numpy as jnp
import numpy as np
import pytest

from metastep import trees

MANY = 70_000  # above 65504, the largest number of float16


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=str)
def test_norm_and_product_of_many_numbers_do_not_overflow(dtype):
    ones = {"a": jnp.ones(MANY, dtype)}
    found = trees.norm(ones)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, MANY**0.5, rtol=float(jnp.finfo(dtype).eps), atol=0)
    np.testing.assert_allclose(trees.inner_product(ones, ones), MANY, rtol=1e-6, atol=0)


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
