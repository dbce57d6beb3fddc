"""Our Adam is optax's Adam, with derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metastep.optimizers import adam, scale_by_adam


def trajectory(optimizer, steps=20):
    start = jnp.array([0.3, -0.2, 1.0])
    loss = lambda w: jnp.sum(jnp.array([1.0, 3.0, 0.0]) * jnp.cos(w) ** 2)

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0]


@jax.jit
def both(*numbers):
    return trajectory(adam(*numbers)), trajectory(optax.adam(*numbers))


@pytest.mark.usefixtures("x64")
@settings(max_examples=10, deadline=None)
@given(st.floats(0.001, 0.5), st.floats(0.0, 0.99), st.floats(0.5, 0.9999), st.floats(1e-9, 1e-2))
def test_values_are_those_of_optax(rate, b1, b2, eps):
    ours, theirs = both(rate, b1, b2, eps)
    # 1 - b2^t loses four digits in optax; the steps add up.
    assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("b2", [0.999, np.float32(0.999), jnp.float32(0.999)])
def test_the_bias_correction_keeps_all_digits_of_float32(b2):
    """optax takes 0.999 to the power t in float32: 1 - 0.999^t is off by 1e-5 and more."""
    scaled = scale_by_adam(b2=b2)
    gradient = jnp.float32(0.3)
    state = scaled.init(gradient)
    step = jax.jit(scaled.update)
    exact = float(b2)
    square = 0.0
    for t in range(1, 6):
        update, state = step(gradient, state)
        square = exact * square + (1 - exact) * float(gradient) ** 2
        root = np.sqrt(square / (1 - exact**t))
        # The moments are rounded: a few units in the last place, 1.2e-7 each.
        assert np.isclose(float(update), float(gradient) / (root + 1e-8), rtol=1e-6, atol=0)


def test_a_schedule_is_accepted():
    schedule = optax.linear_schedule(0.1, 0.0, 20)
    assert np.allclose(trajectory(adam(schedule)), trajectory(optax.adam(schedule)))


@pytest.mark.usefixtures("x64")
def test_the_derivative_at_zero_is_the_limit():
    """At a zero gradient the first update is g / (|g| + eps), with slope 1 / eps."""
    optimizer = adam(1.0, eps=1e-3)
    update = jax.jit(lambda g: optimizer.update(g, optimizer.init(g))[0])
    slope = jax.grad(update)(0.0)
    assert np.isclose(slope, -1e3, rtol=1e-12, atol=0)
    assert np.isclose((update(1e-9) - update(-1e-9)) / 2e-9, slope, rtol=1e-5, atol=0)
