"""Schedules: the fewest repeated steps, and every step gone back over once."""

import functools

import numpy as np
import pytest

from metastep.schedules import schedule


@functools.cache
def fewest_steps(length, states):
    """Return the fewest forward steps that reverse `length` steps: dynamic programming."""
    if length == 1:
        return 0
    if states == 1:
        return length * (length - 1) // 2
    return min(
        first + fewest_steps(length - first, states - 1) + fewest_steps(first, states)
        for first in range(1, length)
    )


@pytest.mark.parametrize("states", range(1, 9))
def test_no_schedule_takes_fewer_steps(states):
    for length in range(states, 40):
        assert schedule(length, states).count.sum() == fewest_steps(length, states)


@pytest.mark.parametrize(("steps", "states"), [(1, 1), (7, 1), (40, 3), (100, 8), (1000, 11)])
def test_a_schedule_goes_back_over_every_step_once(steps, states):
    """Follow the moves: each reads what was stored, and the steps backward come in order."""
    plan, slots, reversed_steps = schedule(steps, states), {0: 0}, []
    for source, count, target, backward in zip(*plan.moves(slice(None)), strict=True):
        position = slots[source] + count
        if backward:
            reversed_steps.append(position)
        else:
            slots[target] = position
    assert reversed_steps == list(range(steps))[::-1]
    assert len(slots) <= states
    assert len(plan.count) <= 2 * steps - 1
    assert not np.any(plan.backward[: plan.descent])
