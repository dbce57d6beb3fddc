"""Binomial checkpointing: the schedule is optimal, and memory keeps to its budget."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metastep as ms
from metastep.compilation import compiled
from metastep.estimators.binomial import schedule


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


def memory(checkpoint, horizon, key):
    problem = ms.QuadraticProblem(
        jnp.eye(1000), jnp.eye(1000), jnp.ones(1000), lambda w, outer: jnp.sum(w**2), 0.1, horizon
    )
    call = lambda outer: ms.Reverse(checkpoint).estimate(problem, outer, None, key)[0].grad
    lowered = jax.jit(call).lower(jnp.ones(1000))
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_the_budget_whatever_the_horizon(key):
    """A state of 4 kB: eight of them and a few for the step, for 50 steps and for 5000."""
    short, long = (memory(ms.Binomial(8), horizon, key) for horizon in (50, 5000))
    # The schedule itself is 13 bytes per move, 2 moves per step.
    assert long - short < 5000 * 2 * 13 + 4000
    assert short < 25 * 4000


def test_an_estimate_with_a_schedule_cannot_be_differentiated_again(key):
    """It says so; it does not return a number."""
    loss = lambda w, outer: jnp.sum(w**2)

    @compiled
    def gradient(hessian):
        problem = ms.QuadraticProblem(hessian, jnp.eye(2), jnp.ones(2), loss, 0.1, 5)
        estimate, _ = ms.Reverse("binomial").estimate(problem, jnp.ones(2), None, key)
        return jnp.sum(estimate.grad)

    with pytest.raises(ValueError, match="differentiation does not work"):
        jax.grad(gradient)(jnp.eye(2))


@pytest.mark.parametrize("states", [0, -1, True, 2.0, "8"])
def test_a_budget_is_a_count(states):
    with pytest.raises((ValueError, TypeError), match="states"):
        ms.Binomial(states)
