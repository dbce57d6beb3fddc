"""What the solvers compute: optima, single steps by hand, and what a step costs."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.bilevel import F2SA, SOBA, AmIGO, BilevelProblem, OracleCalls
from metastep.compilation import compiled
from tests.metastep.bilevel.quadratics import (
    BATCHES,
    Dense,
    first_step,
    flat,
    hyperparameters,
    in_turn,
    inner_loss,
    outer_loss,
    problem,
)

pytestmark = pytest.mark.usefixtures("x64")

RATE = 0.2
PENALTY = 7.0

SOLVERS = {
    "SOBA": SOBA(optax.sgd(RATE)),
    "AmIGO": AmIGO(optax.sgd(RATE), inner_steps=2, linear_steps=2),
    "StocBiO": AmIGO(optax.sgd(RATE), inner_steps=2, linear_steps=2, warm_start=False),
    "F2SA": F2SA(PENALTY, inner_steps=3),
}
table = partial(pytest.mark.parametrize, "name", SOLVERS)

growing = optax.exponential_decay(10.0, transition_steps=1, decay_rate=1.03, end_value=1e6)

# Longer series and growing penalties leave no bias. The tolerance of F2SA is 1 / (last penalty)
# with some room; that of the others is rounding.
CONVERGENT = {
    "SOBA": (  # with other optimizers than plain descent
        SOBA(optax.sgd(0.3, momentum=0.3)),
        optax.chain(optax.scale_by_rms(decay=0.0, eps=1.0), optax.scale(-0.6)),
        1e-10,
    ),
    "AmIGO": (AmIGO(optax.sgd(0.4), 3, 3), optax.sgd(0.4), 1e-10),
    "StocBiO": (AmIGO(optax.sgd(0.4), 5, 60, warm_start=False), optax.sgd(0.4), 1e-10),
    "F2SA": (F2SA(growing, 20), optax.sgd(0.5), 1e-5),
}


@pytest.mark.parametrize("name", CONVERGENT)
def test_full_batches_converge_to_the_outer_optimum(name, key):
    solver, inner_optimizer, tolerance = CONVERGENT[name]
    which = problem(optimizer=inner_optimizer)
    measure = lambda step, outer, estimate: estimate.stats
    run = ms.minimize(
        which,
        hyperparameters(),
        solver,
        optimizer=optax.sgd(0.1),
        steps=600,
        key=key,
        every=600,
        record=measure,
    )
    assert run.result == ms.RESULTS.successful
    exact = Dense().outer_optimum()
    assert np.abs(flat(run.outer) - exact).max() < tolerance
    stats = jax.tree.map(lambda x: x[-1], run.history.recorded)
    np.testing.assert_allclose(flat(stats["adjoint"]), Dense().adjoint(exact), atol=5 * tolerance)
    assert stats["linear_residual"] < 10 * tolerance
    assert stats["inner_gradient_norm"] < 10 * tolerance


def soba_by_hand(x, t, z, v):
    now = Dense(t % BATCHES, t % BATCHES)
    direction = now.outer_slope(z, x) - now.coupling.T @ v
    residual = now.hessian @ v + now.outer_gradient(z, x)
    return direction, z - RATE * now.inner_gradient(z, x), v - RATE * residual


def amigo_by_hand(x, t, z, v, warm_start=True):
    batches = [Dense((5 * t + i) % BATCHES, t % BATCHES) for i in range(5)]
    for now in batches[:2]:
        z = z - RATE * now.inner_gradient(z, x)
    right = batches[0].outer_gradient(z, x)
    v = v if warm_start else -RATE * right
    for now in batches[2:4]:
        v = v - RATE * (now.hessian @ v + right)
    return batches[4].outer_slope(z, x) - batches[4].coupling.T @ v, z, v


def f2sa_by_hand(x, t, z, y):
    batches = [Dense((4 * t + i) % BATCHES, (4 * t + i) % BATCHES) for i in range(4)]
    for now in batches[:3]:
        z = z - RATE * now.inner_gradient(z, x)
        y = y - RATE * (now.inner_gradient(y, x) + now.outer_gradient(y, x) / PENALTY)
    last = batches[3]
    difference = PENALTY * (last.inner_slope(y) - last.inner_slope(z))
    return last.outer_slope(y, x) + difference, z, y


BY_HAND = {
    "SOBA": soba_by_hand,
    "AmIGO": amigo_by_hand,
    "StocBiO": partial(amigo_by_hand, warm_start=False),
    "F2SA": f2sa_by_hand,
}


@table()
def test_steps_equal_those_by_hand(name, key):
    """Three steps: the third reveals what is reset, drawn twice or kept too long.

    Two hyperparameters at once, under vmap.
    """
    solver, which = SOLVERS[name], problem(in_turn, in_turn)
    begin = np.array([0.4, -0.7, 0.2])
    scales = jnp.array([1.0, 1.5])
    outers = jax.vmap(lambda scale: jax.tree.map(lambda x: x * scale, hyperparameters()))(scales)
    states = compiled(jax.vmap(lambda outer: solver.init(which, outer, key)))(outers)
    step = compiled(jax.vmap(lambda outer, state: solver.estimate(which, outer, state, key)))
    by_hand = [(begin, begin if name == "F2SA" else np.zeros(3)) for _ in scales]
    for lane, (z, companion) in enumerate(by_hand):
        np.testing.assert_array_equal(flat_lane(states.params, lane), z)
        np.testing.assert_array_equal(flat_lane(states.companion, lane), companion)
    for t in range(3):
        estimates, states = step(outers, states)
        for lane, (z, companion) in enumerate(by_hand):
            x = flat_lane(outers, lane)
            direction, z, companion = BY_HAND[name](x, t, z, companion)
            by_hand[lane] = z, companion
            np.testing.assert_allclose(flat_lane(estimates.grad, lane), direction, rtol=1e-12)
            np.testing.assert_allclose(flat_lane(states.params, lane), z, rtol=1e-12)
            np.testing.assert_allclose(flat_lane(states.companion, lane), companion, rtol=1e-12)
        outers = jax.tree.map(lambda x: 1.1 * x, outers)
    assert (states.step == 3).all()


def flat_lane(tree, lane):
    return np.asarray(flat(jax.tree.map(lambda x: x[lane], tree)))


def test_stocbio_is_a_neumann_sum(key):
    """On full batches: -eta (1 + (1 - eta H) + ... + (1 - eta H)^n) d_z f."""
    terms, dense = 4, Dense()
    solver = AmIGO(optax.sgd(RATE), 1, terms, warm_start=False)
    estimate, state = first_step(problem(), solver, hyperparameters(), key)
    z, x = np.asarray(flat(state.params)), np.asarray(flat(hyperparameters()))
    contraction = np.eye(3) - RATE * dense.hessian
    powers = [np.linalg.matrix_power(contraction, i) for i in range(terms + 1)]
    expected = -RATE * sum(powers) @ dense.outer_gradient(z, x)
    np.testing.assert_allclose(flat(estimate.stats["adjoint"]), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["SOBA", "F2SA"])
def test_the_direction_is_unbiased_over_batches(name, key):
    """From given z, and v or y; F2SA's step size of 0 keeps both where they are."""
    solver = SOBA(optax.sgd(RATE)) if name == "SOBA" else F2SA(PENALTY, 1)

    def on_batches(inner, outer):
        which = problem(lambda t, key: inner, lambda t, key: outer, optax.sgd(0.0))
        state = solver.init(which, hyperparameters(), key)
        moved = jax.tree.map(lambda leaf: leaf + 0.3, state.companion)
        estimate, after = solver.estimate(
            which, hyperparameters(), replace(state, companion=moved), key
        )
        return flat(estimate.grad), flat(after.companion), flat(state.params), flat(moved)

    pairs = jnp.meshgrid(jnp.arange(BATCHES), jnp.arange(BATCHES))
    each = compiled(jax.vmap(on_batches))(*(p.ravel() for p in pairs))
    direction, after, z, companion = (np.asarray(x).mean(axis=0) for x in each)
    x, full = np.asarray(flat(hyperparameters())), Dense()
    if name == "SOBA":
        expected = full.outer_slope(z, x) - full.coupling.T @ companion
        residual = full.hessian @ companion + full.outer_gradient(z, x)
        np.testing.assert_allclose(after, companion - RATE * residual, rtol=1e-12)
    else:
        difference = full.inner_slope(companion) - full.inner_slope(z)
        expected = full.outer_slope(companion, x) + PENALTY * difference
    np.testing.assert_allclose(direction, expected, rtol=1e-12)


@table()
def test_counters_count_what_happens(name, key):
    """The losses and the batches themselves say how often they were asked for."""
    seen = {"g": [], "f": [], "inner": [], "outer": []}

    def note(what, t):
        jax.debug.callback(lambda t: seen[what].append(int(t)), t)

    def batches(what):
        def draw(t, key):
            note(what, t)
            return t % BATCHES

        return draw

    def counted(what, loss):
        def evaluate(params, outer, batch):
            note(what, 0)
            return loss(params, outer, batch)

        return evaluate

    which = BilevelProblem(
        counted("g", inner_loss),
        counted("f", outer_loss),
        problem().training.init_params,
        optax.sgd(RATE),
        1,
        batches("inner"),
        batches("outer"),
    )
    solver = SOLVERS[name]
    state = solver.init(which, hyperparameters(), key)
    jax.effects_barrier()
    for calls in seen.values():
        calls.clear()
    step = compiled(partial(solver.estimate, which))
    for _ in range(2):
        estimate, state = step(hyperparameters(), state, key)
    jax.effects_barrier()
    calls = state.calls
    # Every batch is drawn once, and none is left out or drawn again. The order of the callbacks is
    # that of the compiler.
    assert sorted(seen["inner"]) == list(range(calls.inner_batches))
    assert sorted(seen["outer"]) == list(range(calls.outer_batches))
    assert len(seen["f"]) == calls.outer_gradients
    # SOBA gets gradient and products from one evaluation; elsewhere each has its own.
    at_once = 3 if name == "SOBA" else 1
    products = calls.hessian_products + calls.cross_products
    assert at_once * len(seen["g"]) == calls.inner_gradients + products
    assert calls.total == calls.inner_gradients + products + calls.outer_gradients
    assert jax.tree.leaves(OracleCalls()) == [0] * 6
    expected = {"SOBA": (1, 1, 1, 1), "AmIGO": (2, 2, 1, 1), "StocBiO": (2, 2, 1, 1)}
    gradients, hessian, cross, judged = expected.get(name, (8, 0, 0, 4))
    assert calls.inner_gradients == 2 * gradients
    assert calls.hessian_products == 2 * hessian
    assert calls.cross_products == 2 * cross
    assert calls.outer_gradients == 2 * judged
    assert jax.tree.all(jax.tree.map(jnp.array_equal, estimate.stats["calls"], calls))


@table()
def test_nothing_is_left_of_nothing(name, key):
    """Where z is the minimum of both losses, no ratio becomes NaN."""
    which = BilevelProblem(
        lambda z, outer, batch: jnp.sum((z - 1.0) ** 2) * (1 + outer**2),
        lambda z, outer, batch: jnp.sum((z - 1.0) ** 2) + outer**2,
        jnp.ones(2),
        optax.sgd(0.1),
    )
    solver, outer = SOLVERS[name], jnp.array(0.5)
    estimate, _ = first_step(which, solver, outer, key)
    assert estimate.result == ms.RESULTS.successful
    assert estimate.stats["linear_residual"] == 0.0
    assert jnp.isclose(estimate.grad, 1.0)
