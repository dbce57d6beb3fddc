"""Bilevel solvers as estimators among others: in the outer loop, on real models, when it fails."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.bilevel import F2SA, SOBA, AmIGO, BilevelProblem
from metastep.saving import save
from tests.metastep.bilevel.quadratics import (
    BATCHES,
    Dense,
    first_step,
    flat,
    hyperparameters,
    problem,
)

pytestmark = pytest.mark.usefixtures("x64")

soba = SOBA(optax.sgd(0.2))


def test_the_optimizer_cannot_be_tuned(key):
    """The minimum does not depend on a step size; Reverse sees the path, and can."""
    training = ms.TrainingProblem(
        lambda z, outer, batch: (z - outer["target"]) ** 2,
        lambda z, outer: z**2,
        jnp.array(1.0),
        lambda outer: optax.sgd(outer["step_size"]),
        3,
    )
    outer = {"target": 0.5, "step_size": 0.1}
    for solver in (soba, AmIGO(optax.sgd(0.2)), F2SA(10.0)):
        with pytest.raises(ValueError, match=r"function of the hyperparameters.*Tune those with R"):
            ms.hypergradient(training, outer, solver, key=key)
    assert ms.hypergradient(training, outer, ms.Reverse(), key=key).grad["step_size"] != 0


def test_what_acts_on_the_beginning_alone_cannot_be_tuned(key):
    training = ms.TrainingProblem(
        lambda z, outer, batch: (z - outer["target"]) ** 2,
        lambda z, outer: z**2,
        lambda outer, key: outer["start"],
        optax.sgd(0.1),
        3,
    )
    with pytest.raises(ValueError, match=r"outer\['start'\] cannot influence.* begins"):
        ms.hypergradient(training, {"target": 0.5, "start": 0.1}, soba, key=key)


def test_a_problem_without_a_loss_is_refused(key):
    steps_only = ms.QuadraticProblem(
        jnp.eye(2), jnp.eye(2), jnp.zeros(2), lambda w, outer: jnp.sum(w), 0.1, 3
    )
    with pytest.raises(ValueError, match=r"problem is a QuadraticProblem.*TrainingProblem"):
        ms.hypergradient(steps_only, jnp.ones(2), soba, key=key)
    with_buffers = ms.TrainingProblem(
        lambda w, outer, batch, buffers: (w**2, buffers),
        lambda w, outer, buffers: w**2,
        jnp.array(1.0),
        optax.sgd(0.1),
        3,
        buffers=jnp.zeros(2),
    )
    with pytest.raises(ValueError, match="problem has buffers"):
        ms.hypergradient(with_buffers, 1.0, soba, key=key)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AmIGO(optax.sgd(0.1), inner_steps=0), "inner_steps is 0"),
        (lambda: AmIGO(optax.sgd(0.1), linear_steps=-1), "linear_steps is -1"),
        (lambda: F2SA(0.0), "penalty is 0.0; allowed are positive"),
        (lambda: F2SA(float("nan")), "penalty is nan"),
        (lambda: F2SA(1.0, inner_steps=True), "inner_steps is True"),
        (lambda: problem(horizon=0), "horizon is 0"),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_outer_steps_the_direction_is_the_hypergradient(key):
    """Follow a fixed `outer`: the direction tends to what unrolling gives, and the formula."""
    which = problem(optimizer=optax.sgd(0.4), horizon=80)
    run = ms.minimize(
        which,
        hyperparameters(),
        SOBA(optax.sgd(0.4)),
        optimizer=optax.sgd(0.0),
        steps=80,
        key=key,
        every=80,
        record=lambda step, outer, estimate: estimate.grad,
    )
    last = flat(jax.tree.map(lambda x: x[-1], run.history.recorded))
    exact = Dense().hypergradient(np.asarray(flat(hyperparameters())))
    # 80 steps contract by 0.52 each.
    np.testing.assert_allclose(last, exact, rtol=1e-10)
    estimate = ms.hypergradient(which, hyperparameters(), ms.Reverse(), key=key)
    np.testing.assert_allclose(flat(estimate.grad), exact, rtol=1e-10)


def test_a_resumed_run_has_the_same_bits(key, tmp_path):
    """State, counters and random batches come back, optimizers with a memory included."""
    at_random = lambda t, key: jax.random.randint(key, (), 0, BATCHES)
    which = problem(at_random, at_random, optax.adam(0.05))

    options = {
        "estimator": SOBA(optax.sgd(0.1, momentum=0.5)),
        "optimizer": optax.adam(0.01),
        "record": lambda step, outer, estimate: estimate.stats,
        "steps": 20,
        "every": 10,
    }
    run = partial(ms.minimize, which, hyperparameters(), key=key, **options)
    whole, path = run(), tmp_path / "run"
    run(checkpoint=ms.Checkpoint(path), callback=lambda report: report.step == 10)
    resumed = run(checkpoint=ms.Checkpoint(path, resume=True))
    everything = lambda run: (run.outer, run.history)
    same = jax.tree.map(jnp.array_equal, everything(whole), everything(resumed))
    assert jax.tree.all(same)
    assert resumed.history.recorded["calls"].inner_gradients.tolist() == list(range(1, 21))


class Model(eqx.Module):
    """Parameters beside what cannot be trained: a function and a table of integers."""

    weight: jax.Array
    order: jax.Array
    activation: object

    def __call__(self, x):
        return self.activation(self.weight * x[self.order])


def test_functions_and_integers_among_the_parameters(key, tmp_path):
    x = jnp.array([1.0, 2.0, 3.0])
    model = Model(jnp.ones(3), jnp.array([2, 0, 1]), jnp.tanh)
    which = BilevelProblem(
        lambda model, outer, batch: (
            jnp.sum((model(x) - 0.1) ** 2) + outer * jnp.sum(model.weight**2)
        ),
        lambda model, outer, batch: jnp.sum((model(x) - 0.2) ** 2),
        model,
        optax.sgd(0.01),
    )
    state = soba.init(which, jnp.array(0.1), key)
    assert state.params.order is None and state.fixed.weight is None
    save(tmp_path / "state", state, {})
    run = ms.minimize(
        which, jnp.array(0.1), soba, optimizer=optax.sgd(0.1), steps=3, key=key, every=3
    )
    assert run.result == ms.RESULTS.successful
    assert run.outer != 0.1


INNER, LINEAR = ms.RESULTS.nonfinite_inner, ms.RESULTS.linear_solve_failed
too_long = optax.sgd(float("inf"))

DIVERGING = {
    "z": (too_long, soba, INNER),
    "z of AmIGO": (too_long, AmIGO(optax.sgd(0.2)), INNER),
    "v": (optax.sgd(0.2), SOBA(too_long), LINEAR),
    "v of AmIGO": (optax.sgd(0.2), AmIGO(too_long), LINEAR),
    "y": (optax.sgd(0.2), F2SA(lambda step: 0.0 * step), INNER),
}


@pytest.mark.parametrize("what", DIVERGING)
def test_numbers_gone_wrong_are_values(what, key):
    """Nothing moves in a failed step but the counters."""
    optimizer, solver, expected = DIVERGING[what]
    which = scalar_problem(lambda z, outer, batch: (z - 2.0) ** 2, optimizer)
    estimate, state = first_step(which, solver, jnp.array(0.5), key)
    assert estimate.result == expected
    assert (estimate.stats["first_nonfinite_step"] > 0) == (expected == INNER)
    before = solver.init(which, jnp.array(0.5), key)
    assert state.calls.total > 0 and state.step == 1
    moved = replace(before, calls=state.calls, step=state.step)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, moved, state))


def test_a_broken_outer_loss_is_a_value(key):
    which = scalar_problem(lambda z, outer, batch: jnp.log(-1 - z**2), optax.sgd(0.1))
    estimate, _ = first_step(which, soba, jnp.array(0.5), key)
    assert estimate.result == ms.RESULTS.nonfinite_value


def scalar_problem(objective, optimizer):
    loss = lambda z, outer, batch: (z - outer) ** 2
    return BilevelProblem(loss, objective, jnp.array(1.0), optimizer)
