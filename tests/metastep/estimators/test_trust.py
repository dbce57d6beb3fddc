"""No silently wrong number: what is refused, and what is reported."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

import metastep as ms
from metastep.compilation import compiled
from metastep.estimators.base import influences, require_estimator
from metastep.optimizers import adam
from tests.cases import EVERY_KIND

all_estimators = pytest.mark.parametrize("estimator", EVERY_KIND.values(), ids=EVERY_KIND)


def make(loss, objective=lambda w, outer: jnp.sum(w**2), optimizer=None, **options):
    optimizer = optimizer or optax.sgd(0.1)
    defaults = {"init_params": jnp.ones(2), "horizon": 10} | options
    return ms.TrainingProblem(loss=loss, objective=objective, optimizer=optimizer, **defaults)


LOST = {
    "unused": lambda w, outer, batch: jnp.sum((w - outer["used"]) ** 2),
    "stop_gradient": lambda w, outer, batch: jnp.sum(
        (w - outer["used"] * jax.lax.stop_gradient(outer["lost"])) ** 2
    ),
    "rounded": lambda w, outer, batch: jnp.sum(
        (w - outer["used"] * outer["lost"].astype(int)) ** 2
    ),
    "compared": lambda w, outer, batch: jnp.where(
        outer["lost"] > 0, jnp.sum((w - outer["used"]) ** 2), jnp.sum(w**2)
    ),
    "constant": lambda w, outer, batch: jnp.sum((w - outer["used"]) ** 2) + outer["lost"],
}


@all_estimators
@pytest.mark.parametrize("loss", LOST.values(), ids=LOST)
def test_a_leaf_without_influence_is_refused(loss, estimator, key):
    outer = {"used": jnp.array(0.5), "lost": jnp.array(1.5)}
    with pytest.raises(ValueError, match=r"^outer\['lost'\] cannot influence"):
        estimator.estimate(make(loss), outer, None, key)


@pytest.mark.parametrize("given", [ms.Reverse, "reverse", None])
def test_what_is_no_estimator_is_refused(given):
    allowed = r"^estimator is .*; allowed are instances of estimators, such as metastep.Reverse\(\)"
    with pytest.raises(ValueError, match=allowed):
        require_estimator(given)


def test_a_zero_derivative_is_no_error(key):
    """At lambda = 0 the derivative of lambda^2 vanishes; the leaf still has influence."""
    loss = lambda w, outer, batch: jnp.sum((w - outer**2) ** 2)
    estimate = ms.hypergradient(make(loss), jnp.array(0.0), ms.Reverse(), key=key)
    assert estimate.grad == 0
    assert estimate.result == ms.RESULTS.successful


def test_influence_is_traced_through_control_flow():
    def function(outer):
        body = lambda carry, _: (carry * outer["scan"], None)
        w, _ = jax.lax.scan(body, jnp.ones(()), None, length=3)
        w = jax.lax.fori_loop(0, 3, lambda i, w: w * outer["loop"], w)
        w = jax.lax.cond(outer["predicate"] > 0, lambda: w * outer["branch"], lambda: w)
        return w

    names = ["branch", "loop", "predicate", "scan", "unused"]
    outer = {name: jnp.array(1.0) for name in names}
    reached = dict(zip(names, influences(function, outer), strict=True))
    assert reached == {
        "branch": True,
        "loop": True,
        "predicate": False,
        "scan": True,
        "unused": False,
    }


@all_estimators
def test_the_first_nonfinite_step_is_reported(estimator, key):
    """NaN in the initial state, or a batch that turns NaN: the state is bad from then on."""
    loss = lambda w, outer, batch: jnp.sum((w - outer) ** 2) * batch

    def estimate(step, start):
        batch = lambda t, key: jnp.where(t == step - 1, jnp.nan, 1.0)
        problem = make(loss, batch=batch, init_params=start)
        return estimator.estimate(problem, jnp.array(0.5), None, key)[0]

    steps, starts = jnp.array([0, 1, 4]), jnp.array([[1.0, jnp.nan], [1.0, 1.0], [1.0, 1.0]])
    found = compiled(jax.vmap(estimate))(steps, starts)
    assert jnp.all(found.result == ms.RESULTS.nonfinite_inner)
    assert found.stats["first_nonfinite_step"].tolist() == [0, 1, 4]
    assert "first_nonfinite_step" in ms.RESULTS[ms.RESULTS.nonfinite_inner]


def test_overflow_is_found_at_the_step_of_overflow(key):
    """w_t = (-2)^t overflows float32 at 2^128."""
    loss = lambda w, outer, batch: jnp.sum(w**2) / 2 + 0 * outer * jnp.sum(w)
    problem = make(loss, optimizer=optax.sgd(3.0), horizon=200, init_params=jnp.ones(1))
    estimate = ms.hypergradient(problem, jnp.array(1.0), ms.Reverse(), key=key)
    assert estimate.stats["first_nonfinite_step"] == 128


def test_an_infinity_that_belongs_to_the_state_is_no_failure(key):
    """`optax.contrib.reduce_on_plateau` keeps the best loss so far, which begins as infinity."""
    loss = lambda w, outer, batch: jnp.sum((w - outer) ** 2)
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    problem = make(loss, optimizer=optimizer)
    estimate = ms.hypergradient(problem, jnp.array(0.5), ms.Reverse(), key=key)
    assert estimate.result == ms.RESULTS.successful


def test_a_nonfinite_objective(key):
    loss = lambda w, outer, batch: jnp.sum((w - outer) ** 2)
    problem = make(loss, objective=lambda w, outer: jnp.log(-jnp.sum(w**2)))
    estimate = ms.hypergradient(problem, jnp.array(0.5), ms.Reverse(), key=key)
    assert estimate.result == ms.RESULTS.nonfinite_value


def test_the_nan_of_adam_is_reported_and_our_adam_is_safe(key):
    """Where a gradient is always zero, so is Adam's second moment, and its root has no slope."""
    loss = lambda w, outer, batch: jnp.sum(jnp.array([1.0, 0.0]) * (w - outer["center"]) ** 2)
    outer = {"center": jnp.array(0.3), "rate": jnp.array(0.1)}

    def estimate(optimizer):
        problem = make(loss, optimizer=lambda outer: optimizer(outer["rate"]))
        return ms.hypergradient(problem, outer, ms.Reverse(), key=key)

    theirs, ours = estimate(optax.adam), estimate(adam)
    assert theirs.result == ms.RESULTS.nonfinite_gradient
    assert "metastep.optimizers" in ms.RESULTS[theirs.result]
    assert ours.result == ms.RESULTS.successful
    # Ours corrects the bias without cancellation: float32 rounding, over ten steps.
    assert jnp.allclose(ours.value, theirs.value, rtol=1e-5, atol=0)


def test_results_survive_vmap(key):
    loss = lambda w, outer, batch: jnp.sum((w - outer) ** 2)
    problem = make(loss, optimizer=optax.sgd(0.1))
    outers = jnp.array([0.5, jnp.nan, 0.1])
    call = lambda outer: ms.Reverse().estimate(problem, outer, None, key)[0]
    results = compiled(jax.vmap(call))(outers).result
    assert (results == ms.RESULTS.successful).tolist() == [True, False, True]
    assert (results == ms.RESULTS.nonfinite_inner).tolist() == [False, True, False]


BAD_OUTER = {
    "integer": ({"a": jnp.array(1)}, r"outer\['a'\] has dtype int32"),
    "python-int": ({"a": 1}, r"outer\['a'\] has dtype int32"),
    "boolean": ({"a": True}, r"outer\['a'\] has dtype bool"),
    "complex": ({"a": 1j}, r"outer\['a'\] has dtype complex64"),
    "text": ({"a": "0.1"}, r"outer\['a'\] is a str"),
    "empty": ({}, "outer has no leaves"),
}


@pytest.mark.parametrize(("outer", "message"), BAD_OUTER.values(), ids=BAD_OUTER)
def test_bad_hyperparameters(outer, message, key):
    problem = make(lambda w, outer, batch: jnp.sum(w**2))
    with pytest.raises(ValueError, match=message):
        ms.hypergradient(problem, outer, ms.Reverse(), key=key)


def test_a_vector_loss_is_refused(key):
    with pytest.raises(ValueError, match=r"loss returned float32\[2\]; it must return one real"):
        ms.hypergradient(make(lambda w, o, b: w * o), jnp.array(1.0), ms.Reverse(), key=key)


@pytest.mark.parametrize(
    "objective", [lambda w, outer: w, lambda w, outer: jnp.sum(w) > 0], ids=["vector", "boolean"]
)
def test_a_bad_objective_is_refused(objective, key):
    problem = make(lambda w, outer, batch: jnp.sum((w - outer) ** 2), objective)
    with pytest.raises(ValueError, match=r"objective returned .*; it must return one real scalar"):
        ms.hypergradient(problem, jnp.array(1.0), ms.Reverse(), key=key)


@pytest.mark.parametrize("horizon", [0, -5, True])
def test_bad_horizons(horizon, key):
    with pytest.raises(ValueError, match=r"horizon is .*; allowed are the integers from 1"):
        make(lambda w, outer, batch: jnp.sum(w**2), horizon=horizon)
    problem = ms.QuadraticProblem(
        jnp.eye(2), jnp.eye(2), jnp.ones(2), lambda w, outer: jnp.sum(w), 0.1, horizon
    )
    with pytest.raises(ValueError, match=r"horizon is .*; allowed are the integers from 1"):
        ms.hypergradient(problem, jnp.ones(2), ms.Reverse(), key=key)


class ChangesShape(ms.AbstractProblem):
    horizon: int = 3

    def init(self, outer, key):
        return {"w": jnp.zeros(2)}

    def step(self, inner, outer, t, key):
        return {"w": jnp.concatenate([inner["w"], outer[None]])}

    def objective(self, inner, outer, key):
        return jnp.sum(inner["w"])


def test_a_step_that_changes_shapes_is_refused(key):
    message = r"problem.step changed the leaf \['w'\] from float32\[2\] to float32\[3\]"
    with pytest.raises(ValueError, match=message):
        ms.hypergradient(ChangesShape(), jnp.array(1.0), ms.Reverse(), key=key)


WRONG_TYPES = """
import jax, jax.numpy as jnp, optax, metastep as ms

def attempt(make):
    try:
        make()
    except ValueError as error:
        print(error)

def estimate(estimator, horizon=5):
    problem = ms.QuadraticProblem(
        jnp.eye(2), jnp.eye(2), jnp.ones(2), lambda w, outer: jnp.sum(w), 0.1, horizon
    )
    return lambda: ms.hypergradient(problem, jnp.ones(2), estimator, key=jax.random.key(0))

attempt(estimate(ms.TruncatedReverse("3")))
attempt(estimate(ms.Reverse(checkpoint="sometimes")))
attempt(estimate(ms.Reverse(mixed="yes")))
attempt(estimate(ms.Forward(chunk=1.5)))
attempt(lambda: ms.Neumann(2.5))
attempt(estimate(ms.Reverse(), horizon=2.0))
"""


def test_wrong_types_without_the_type_checker_of_the_tests():
    """A user has no runtime type checker: the same messages must come from the library itself."""
    finished = subprocess.run(
        [sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=True
    )
    lines = finished.stdout.splitlines()
    names = ["window is '3'", "checkpoint is 'sometimes'", "mixed is 'yes'", "chunk is 1.5"]
    assert [line.split(";")[0] for line in lines] == [*names, "terms is 2.5", "horizon is 2.0"]
    assert all("allowed are" in line for line in lines)
