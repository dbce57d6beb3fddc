"""Binomial checkpointing: memory keeps to its budget."""

import jax
import jax.numpy as jnp
import pytest

import metastep as ms
from metastep.compilation import compiled


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
