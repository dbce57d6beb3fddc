"""Inner loops that stop early: what the steps after the stop can tell, and who says so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.trees import norm

pytestmark = pytest.mark.usefixtures("x64")


class StopsEarly(ms.AbstractProblem):
    """Training that returns its state unchanged once a step is short."""

    training: ms.TrainingProblem
    tolerance: float
    horizon: int = eqx.field(static=True)

    def init(self, outer, key):
        return self.training.init(outer, key), jnp.array(False)

    def step(self, inner, outer, t, key):
        state, done = inner
        after = self.training.step(state, outer, t, key)
        move = jax.tree.map(jnp.subtract, after.params, state.params)
        done = done | (norm(move) < self.tolerance)
        keep = lambda old, new: jnp.where(done, old, new)
        return jax.tree.map(keep, state, after), done

    def objective(self, inner, outer, key):
        return self.training.objective(inner[0], outer, key)


def training(optimizer=None, objective=lambda w, outer: jnp.sum(w**2), horizon=60):
    loss = lambda w, outer, batch: jnp.sum((w - outer) ** 2) / 2
    optimizer = optimizer or optax.sgd(0.5)
    return ms.TrainingProblem(loss, objective, jnp.zeros(2), optimizer, horizon)


OUTER = jnp.array(1.0)
BLIND = {
    "one": ms.TruncatedReverse(1),
    "five": ms.TruncatedReverse(5),
    "segments": ms.TruncatedReverse(6, checkpoint=2),
    "implicit": ms.Implicit(),
    "neumann": ms.Implicit(ms.Neumann(10)),
}


@pytest.mark.parametrize("optimizer", [optax.sgd(0.5), optax.sgd(0.3, momentum=0.5)])
@pytest.mark.parametrize("estimator", BLIND.values(), ids=BLIND)
def test_steps_that_stand_still_are_named(estimator, optimizer, key):
    problem = StopsEarly(training(optimizer), 1e-2, 60)
    found = ms.hypergradient(problem, OUTER, estimator, key=key)
    assert found.result == ms.RESULTS.unmoved
    exact = ms.hypergradient(problem, OUTER, ms.Reverse(), key=key)
    assert exact.result == ms.RESULTS.successful
    # The end is within the tolerance of the target, 1, and follows it: d (2 w^2) = 4.
    assert np.isclose(exact.grad, 4, rtol=0.1, atol=0)


def test_a_part_that_does_not_pass_through_the_steps_makes_it_no_better(key):
    judged = lambda w, outer: jnp.sum(w**2) + outer**2
    problem = StopsEarly(training(objective=judged), 1e-2, 60)
    found = ms.hypergradient(problem, OUTER, ms.TruncatedReverse(5), key=key)
    assert found.grad == 2 and found.result == ms.RESULTS.unmoved


def test_a_window_that_reaches_back_to_the_last_move_sees_it(key):
    """The steps of sgd(0.5) are sqrt(2) / 2^t long: the eighth is the first below the tolerance."""
    problem = StopsEarly(training(horizon=20), 1e-2, 20)
    found = ms.hypergradient(problem, OUTER, ms.TruncatedReverse(20), key=key)
    assert found.result == ms.RESULTS.successful and found.grad > 0


def settled(dtype):
    """Descent that has come to rest in the last bit: float steps that leave w where it is."""
    loss = lambda w, outer, batch: jnp.sum((w - outer["target"]) ** 2) / 2
    optimizer = lambda outer: optax.sgd(outer["step_size"])
    problem = ms.TrainingProblem(
        loss, lambda w, outer: jnp.sum(w**2), jnp.zeros(2, dtype), optimizer, 300
    )
    return problem, {"target": jnp.asarray(1.0, dtype), "step_size": jnp.asarray(0.5, dtype)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_state_at_rest_in_its_minimum_is_no_alarm(dtype, key):
    """It does not move either, and the window holds the whole derivative: 1 - 0.5^20 of 4."""
    problem, outer = settled(dtype)
    end = ms.unroll(problem, outer, key)
    after = problem.step(end, outer, jnp.array(300), key)
    assert jnp.array_equal(end.params, after.params)
    found = ms.hypergradient(problem, outer, ms.TruncatedReverse(20), key=key)
    assert found.result == ms.RESULTS.successful
    assert np.isclose(found.grad["target"], 4 * (1 - 0.5**20), rtol=1e-5, atol=0)
    only = {"step_size": outer["step_size"]}
    fixed = eqx.tree_at(lambda p: p.loss, problem, lambda w, o, batch: jnp.sum((w - 1) ** 2) / 2)
    # Once at rest, a step size has no influence: 0 is the derivative.
    rest = ms.hypergradient(fixed, only, ms.TruncatedReverse(20), key=key)
    assert rest.grad["step_size"] == 0 and rest.result == ms.RESULTS.successful


def test_an_objective_without_slope_is_no_alarm(key):
    """The derivative by the state is zero: so is the hypergradient, wherever the loop stopped."""
    problem = StopsEarly(training(objective=lambda w, outer: jnp.sum(w * 0 + outer**2)), 1e-2, 60)
    found = ms.hypergradient(problem, OUTER, ms.TruncatedReverse(5), key=key)
    assert found.result == ms.RESULTS.successful and found.grad == 4


def test_minimize_skips_what_it_cannot_see(key):
    problem = StopsEarly(training(), 1e-2, 60)
    run = ms.minimize(
        problem, OUTER, ms.TruncatedReverse(5), optimizer=optax.sgd(0.1), steps=2, key=key
    )
    assert run.skipped == 2 and run.result == ms.RESULTS.unmoved


def test_under_vmap_each_problem_has_its_own_result(key):
    stopped = StopsEarly(training(), 1e-2, 60)
    estimate = lambda tolerance: ms.TruncatedReverse(5).estimate(
        StopsEarly(stopped.training, tolerance, 60), OUTER, None, key
    )[0]
    results = jax.jit(jax.vmap(estimate))(jnp.array([1e-2, 0.0])).result
    assert jnp.array_equal(results == ms.RESULTS.unmoved, jnp.array([True, False]))
