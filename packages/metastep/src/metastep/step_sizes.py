"""Tunable step size schedules: variants of optax's that do not branch on their values.

Most schedules of optax accept traced values, and can be tuned directly: `cosine_decay_schedule`,
`linear_schedule`, `polynomial_schedule`, `warmup_constant_schedule`, `sgdr_schedule` without peaks.
This module has the others, with the same names, arguments and values. Lengths are integers and
cannot be tuned; numbers may be traced.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from metastep import checks
from metastep.types import Number


def warmup_cosine_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    decay_steps: int,
    end_value: Number = 0.0,
    exponent: Number = 1.0,
) -> optax.Schedule:
    """Rise linearly to the peak, then fall along a cosine.

    Example:
        >>> import optax
        >>> from metastep import step_sizes
        >>> optimizer = lambda outer: optax.sgd(
        ...     step_sizes.warmup_cosine_decay_schedule(0.0, outer["peak"], 2, 10)
        ... )

    Args:
        init_value: the initial value.
        peak_value: the value after the rise; 0 is allowed.
        warmup_steps: length of the rise.
        decay_steps: length of rise and fall together.
        end_value: the final value.
        exponent: the power of the falling cosine.

    Returns:
        A function of the step, equal to optax's for a peak other than 0.

    Raises:
        ValueError: if the fall has no steps.
    """
    length = decay_steps - warmup_steps
    allowed = f"the integers above warmup_steps, {warmup_steps}"
    checks.require(length >= 1, "decay_steps", decay_steps, allowed)
    # optax divides the final value by the peak, and asks in Python whether the peak is 0. The shape
    # alone does not need it.
    shape = optax.cosine_decay_schedule(1.0, length, exponent=exponent)
    rise = optax.linear_schedule(init_value, peak_value, warmup_steps)
    fall = lambda count: end_value + (peak_value - end_value) * shape(count)
    # `join_schedules` counts the steps of the fall from the peak.
    return optax.join_schedules([rise, fall], [warmup_steps])


def exponential_decay(
    init_value: Number,
    transition_steps: int,
    decay_rate: Number,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> optax.Schedule:
    """Multiply by a rate once every `transition_steps` steps, or evenly between them.

    Args:
        init_value: the initial value.
        transition_steps: the number of steps per multiplication, from 1.
        decay_rate: the factor, above 0.
        transition_begin: the step at which the decay begins; 0 in place of a negative one.
        staircase: whether the value changes at multiples of `transition_steps` only.
        end_value: the limit: a lower bound for rates below 1, otherwise an upper bound.

    Returns:
        A function of the step, equal to optax's.

    Raises:
        ValueError: for `transition_steps` below 1.
    """
    checks.require_count("transition_steps", transition_steps)
    begin = max(transition_begin, 0)  # as in optax

    def schedule(count: Any) -> Array:
        taken = jnp.maximum(count - begin, 0) / transition_steps
        value = init_value * jnp.power(decay_rate, jnp.floor(taken) if staircase else taken)
        if end_value is None:
            return value
        falls = jnp.asarray(decay_rate) < 1
        return jnp.where(falls, jnp.maximum(value, end_value), jnp.minimum(value, end_value))

    return schedule


def warmup_exponential_decay_schedule(
    init_value: Number,
    peak_value: Number,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: Number,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> optax.Schedule:
    """Rise linearly to `peak_value` in `warmup_steps` steps, then fall by `exponential_decay`.

    The steps of the fall are counted from the peak. Equal to optax's.
    """
    rise = optax.linear_schedule(init_value, peak_value, warmup_steps)
    fall = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return optax.join_schedules([rise, fall], [warmup_steps])


def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: Mapping[int, Number] | None = None
) -> optax.Schedule:
    """Multiply by a factor at each boundary, the step from which it counts. Equal to optax's."""
    scales = dict(boundaries_and_scales or {})

    def schedule(count: Any) -> Array:
        value = jnp.asarray(init_value)
        for boundary, scale in scales.items():
            value = value * jnp.where(count >= boundary, scale, 1.0)
        return value

    return schedule
