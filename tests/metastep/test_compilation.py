"""Numbers that jaxlib's default kernels get wrong on processors with AVX-512."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep import compilation


def log_sum_exp(examples):
    return lambda weights: jnp.sum(jnp.log(jnp.sum(jnp.exp(examples @ weights.T), axis=1)))


def test_second_derivatives_of_a_log_sum_exp_are_the_closed_form():
    examples = jax.random.normal(jax.random.key(0), (60, 23))
    found = compilation.compiled(jax.jacfwd(jax.jacfwd(log_sum_exp(examples))))(jnp.zeros((10, 23)))
    x = np.asarray(examples, np.float64)
    covariance = np.eye(10) / 10 - 1 / 100  # of a uniform choice among ten classes
    expected = np.einsum("ab,ni,nj->aibj", covariance, x, x)
    # Sums of 60 float32 products: a relative error of 1e-6 is ten times what rounding explains.
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("entry", ["hypergradient", "compare", "minimize"])
def test_every_entry_point_is_protected(entry):
    """The objective is the size of the Hessian at which training ends, here where it started."""
    examples = jax.random.normal(jax.random.key(0), (60, 23))
    hessian = jax.jacfwd(jax.jacfwd(log_sum_exp(examples)))
    problem = ms.TrainingProblem(
        loss=lambda params, outer, batch: 0.0 * jnp.sum(params**2),
        objective=lambda params, outer: outer * jnp.sum(hessian(params) ** 2),
        init_params=jnp.zeros((10, 23)),
        optimizer=optax.sgd(0.1),
        horizon=1,
    )
    outer, key = jnp.array(1.0), jax.random.key(0)
    if entry == "hypergradient":
        found = ms.hypergradient(problem, outer, ms.Forward(), key=key).value
    elif entry == "compare":
        found = (
            ms.compare(problem, outer, [ms.Forward()], key=key, repeats=1).rows[0].estimate.value
        )
    else:
        optimizer = optax.sgd(0.0)
        run = ms.minimize(problem, outer, ms.Forward(), optimizer=optimizer, steps=1, key=key)
        found = run.history.value[0]
    gram = np.asarray(examples, np.float64).T @ np.asarray(examples, np.float64)
    covariance = np.eye(10) / 10 - 1 / 100
    # Squares of float32 numbers whose relative error is about 1e-6.
    np.testing.assert_allclose(found, np.sum(covariance**2) * np.sum(gram**2), rtol=1e-5)


def test_works_inside_a_function_that_the_user_compiles_differentiates_or_batches():
    cube = compilation.compiled(lambda x: x**3)
    points = jnp.array([1.0, 2.0])
    np.testing.assert_array_equal(jax.jit(cube)(points), [1, 8])
    np.testing.assert_array_equal(jax.jit(lambda: cube(points))(), [1, 8])
    np.testing.assert_array_equal(jax.vmap(jax.grad(cube))(points), [3, 12])
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(cube)))(points), [3, 12])


def test_compiles_once_for_shapes():
    traces = []

    def cube(x):
        traces.append(x)
        return x**3

    once = compilation.compiled(cube)
    for point in (1.0, 2.0):
        once(jnp.array(point))
    assert len(traces) == 1
    assert once.__name__ == "cube"


def test_an_xla_without_the_option_is_left_alone(monkeypatch):
    monkeypatch.setattr(compilation, "_PRODUCTS_ONLY", {"xla_no_such_option": "1"})
    compilation.compiler_options.cache_clear()
    try:
        assert compilation.compiler_options() == {}
        assert compilation.compiled(lambda x: 2 * x)(jnp.array(2.0)) == 4
    finally:
        compilation.compiler_options.cache_clear()


def test_the_default_kernels_are_measured_against_a_closed_form(monkeypatch):
    error = compilation.error_of_default_kernels()
    # Rounding of float32, or the sums of other numbers: nothing lies between.
    assert error < 1e-6 or error > 0.01
    protected = partial(jax.jit, compiler_options=compilation.compiler_options())
    monkeypatch.setattr(jax, "jit", protected)
    assert compilation.error_of_default_kernels() < 1e-6
