"""Schedules of step sizes that may be tuned: optax's, without questions about their values.

Most schedules of optax take traced values, and can be tuned as they are: `cosine_decay_schedule`,
`linear_schedule`, `polynomial_schedule`, `warmup_constant_schedule`, `sgdr_schedule` without peaks.
The ones here have the names, the arguments and the values of those that do not. Lengths are
integers and cannot be tuned; numbers may be traced.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

Number = float | Array


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
        init_value: where it begins.
        peak_value: what it rises to; 0 is a value like any other.
        warmup_steps: length of the rise.
        decay_steps: length of rise and fall together.
        end_value: where it ends.
        exponent: the power of the falling cosine.

    Returns:
        A function of the step, with the values of optax's for a peak that is not 0.

    Raises:
        ValueError: for a fall of no length.
    """
    length = decay_steps - warmup_steps
    if length < 1:
        raise ValueError(
            f"decay_steps is {decay_steps}; allowed are the integers above warmup_steps, "
            f"{warmup_steps}."
        )
    shape = optax.cosine_decay_schedule(1.0, length, exponent=exponent)
    rise = optax.linear_schedule(init_value, peak_value, warmup_steps)
    fall = lambda count: end_value + (peak_value - end_value) * shape(count)
    return optax.join_schedules([rise, fall], [warmup_steps])


def exponential_decay(
    init_value: Number,
    transition_steps: int,
    decay_rate: Number,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> optax.Schedule:
    """Multiply by a rate at every so many steps, or evenly between them.

    Args:
        init_value: where it begins.
        transition_steps: after how many steps it has been multiplied once, from 1.
        decay_rate: the factor, above 0.
        transition_begin: the step at which it begins to change.
        staircase: whether it changes at multiples of `transition_steps` only.
        end_value: where it stops: a lower bound for rates below 1, else an upper bound.

    Returns:
        A function of the step, with the values of optax's.

    Raises:
        ValueError: for `transition_steps` below 1.
    """
    if transition_steps < 1:
        raise ValueError(
            f"transition_steps is {transition_steps}; allowed are the integers from 1."
        )

    def schedule(count: Any) -> Array:
        taken = jnp.maximum(count - transition_begin, 0) / transition_steps
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
    """Rise linearly to the peak, then decay exponentially.

    Args:
        init_value: where it begins.
        peak_value: what it rises to.
        warmup_steps: length of the rise.
        transition_steps: as for `exponential_decay`, as are the arguments after it, with steps
            counted from the peak.
        decay_rate: the factor.
        transition_begin: the step at which it begins to fall.
        staircase: whether it falls in steps.
        end_value: where it stops.

    Returns:
        A function of the step, with the values of optax's.

    Raises:
        ValueError: for `transition_steps` below 1.
    """
    rise = optax.linear_schedule(init_value, peak_value, warmup_steps)
    fall = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return optax.join_schedules([rise, fall], [warmup_steps])


def piecewise_constant_schedule(
    init_value: Number, boundaries_and_scales: Mapping[int, Number] | None = None
) -> optax.Schedule:
    """Multiply by a factor at each boundary.

    Args:
        init_value: where it begins.
        boundaries_and_scales: the factor for every step at which the value changes.

    Returns:
        A function of the step, with the values of optax's.
    """
    scales = dict(boundaries_and_scales or {})

    def schedule(count: Any) -> Array:
        value = jnp.asarray(init_value)
        for boundary, scale in scales.items():
            value = value * jnp.where(count >= boundary, scale, 1.0)
        return value

    return schedule
