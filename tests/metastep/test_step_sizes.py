"""Schedules that may be tuned: the values of optax, and derivatives by every number."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep import step_sizes

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULES = {
    "cosine": ("warmup_cosine_decay_schedule", (0.01, 0.3, 3, 9, 0.02, 1.5)),
    "cosine without a rise": ("warmup_cosine_decay_schedule", (0.01, 0.3, 0, 9)),
    "exponential": ("exponential_decay", (0.3, 4, 0.5, 2)),
    "exponential from before the start": ("exponential_decay", (0.3, 4, 0.5, -2)),
    "falling to a bound": ("exponential_decay", (0.3, 2, 0.5, 0, False, 0.1)),
    "rising to a bound": ("exponential_decay", (0.3, 2, 1.5, 0, False, 0.9)),
    "stairs": ("exponential_decay", (0.3, 3, 0.5, 1, True)),
    "exponential after a rise": ("warmup_exponential_decay_schedule", (0.01, 0.3, 3, 4, 0.5)),
    "pieces": ("piecewise_constant_schedule", (0.3, {2: 0.5, 6: 0.1})),
}
STEPS = jnp.arange(12)


def values(module, name, arguments):
    schedule = getattr(module, name)(*arguments)
    return jnp.stack([jnp.asarray(schedule(step)) for step in STEPS])


@pytest.mark.parametrize("row", SCHEDULES)
def test_values_and_arguments_are_those_of_optax(row):
    name, arguments = SCHEDULES[row]
    np.testing.assert_allclose(
        values(step_sizes, name, arguments), values(optax, name, arguments), rtol=1e-12, atol=1e-15
    )
    assert list(inspect.signature(getattr(step_sizes, name)).parameters) == list(
        inspect.signature(getattr(optax, name)).parameters
    )


@pytest.mark.parametrize("row", SCHEDULES)
def test_derivatives_by_every_number(row):
    name, arguments = SCHEDULES[row]
    numbers, rebuild = [], []
    for argument in arguments:
        if isinstance(argument, dict):
            numbers += argument.values()
        elif isinstance(argument, float):
            numbers.append(argument)
        rebuild.append(argument)

    def at(numbers):
        rest = iter(numbers)
        replace = lambda x: next(rest) if isinstance(x, float) else x
        given = [
            {step: next(rest) for step in x} if isinstance(x, dict) else replace(x) for x in rebuild
        ]
        return values(step_sizes, name, given)

    numbers = jnp.array(numbers)
    found = jax.jit(jax.jacfwd(at))(numbers)
    width = 1e-6
    steps = width * jnp.eye(len(numbers))
    expected = jnp.stack([(at(numbers + e) - at(numbers - e)) / (2 * width) for e in steps], 1)
    np.testing.assert_allclose(found, expected, atol=1e-8)  # rounding, about 1e-16 / 1e-6
    used = jnp.any(found != 0, axis=0)
    assert jnp.all(used if row != "cosine without a rise" else used[1:])


def test_a_peak_of_zero_is_a_value_like_any_other():
    slope = jax.jacfwd(lambda peak: step_sizes.warmup_cosine_decay_schedule(0.0, peak, 2, 6)(3))
    assert np.isclose(slope(0.0), (1 + np.cos(np.pi / 4)) / 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("warmup_cosine_decay_schedule", (0.0, 0.1, 5, 5), "decay_steps is 5.*above warmup_steps"),
        ("exponential_decay", (0.1, 0, 0.5), "transition_steps is 0.*from 1"),
    ],
)
def test_wrong_lengths(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(step_sizes, name)(*arguments)
