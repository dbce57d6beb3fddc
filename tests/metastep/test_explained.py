"""What users stumble over: each has a message that says what to do, or works."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import metastep as ms
from metastep import explained, step_sizes
from metastep.explained import check_optimizer_state
from tests.helpers import central_differences, relative_distance

ROWS = np.arange(12.0).reshape(6, 2) / 10


def make(**options):
    defaults = {
        "loss": lambda w, outer, batch: jnp.sum((w - outer["c"]) ** 4),
        "objective": lambda w, outer: jnp.sum(w**2),
        "init_params": jnp.array([1.0, -2.0]),
        "optimizer": lambda outer: optax.sgd(outer["rate"]),
        "horizon": 6,
    }
    return ms.TrainingProblem(**(defaults | options))


def outer():
    return {"rate": jnp.array(0.02), "c": jnp.array(0.3)}


def looping(w, outer, batch):
    halved = jax.lax.while_loop(lambda w: jnp.sum(w**2) > 1, lambda w: w / 2, w - outer["c"])
    return jnp.sum(halved**2)


def deciding(w, outer, batch):
    return jnp.sum(w**2) if outer["c"] > 0 else jnp.sum(w**4)


def searching(outer):
    return optax.lbfgs(outer["rate"], memory_size=1, scale_init_precond=False)


MESSAGES = {
    "a schedule that asks for its peak": (
        {
            "optimizer": lambda outer: optax.sgd(
                optax.warmup_cosine_decay_schedule(0.0, outer["rate"], 2, 6)
            )
        },
        "optimizer asks in Python .*warmup_cosine_decay_schedule.*metastep.step_sizes",
    ),
    "a batch that asks for the step": (
        {"batch": lambda t, key: ROWS[int(t)]},
        "batch asks in Python .*jnp.asarray",
    ),
    "NumPy rows": ({"batch": lambda t, key: ROWS[t]}, "batch asks in Python .*jnp.asarray"),
    "a list of batches": (
        {"batch": lambda t, key: [ROWS, ROWS][t]},
        "batch asks in Python .*jnp.asarray",
    ),
    "a loss that decides": ({"loss": deciding}, "loss asks in Python .*jnp.where"),
    "an objective in NumPy": (
        {"objective": lambda w, outer: np.sum(np.asarray(w))},
        "objective asks in Python",
    ),
    "a start in NumPy": (
        {"init_params": lambda outer, key: np.full(2, float(outer["c"]))},
        "init_params asks in Python",
    ),
    "a loop in the loss": ({"loss": looping}, "loss contains a loop of unknown length.*lax.scan"),
    "a line search": ({"optimizer": searching}, r"problem contains a loop.*Forward\(\)"),
    "a batch without a key": (
        {"batch": lambda t: t},
        r"batch is a function of \(t\), .*\(t, key\)",
    ),
    "a loss that awaits buffers": (
        {"loss": lambda w, outer, batch, buffers: (0.0, buffers)},
        r"loss is .*\(params, outer, batch\).*buffers=",
    ),
    "an objective that awaits buffers": (
        {"objective": lambda w, outer, buffers: 0.0},
        r"objective is .*\(params, outer\).*buffers=",
    ),
    "a loss without buffers": (
        {"buffers": jnp.zeros(2)},
        r"loss is .*\(params, outer, batch, buffers\)",
    ),
    "a start from a key": (
        {"init_params": lambda key: jnp.zeros(2)},
        r"init_params is .*\(outer, key\)",
    ),
    "a model of flax": (
        {"init_params": nnx.Linear(2, 1, rngs=nnx.Rngs(0))},
        r"init_params is a Linear, a model of flax.*nnx.split",
    ),
    "a model of linen": ({"init_params": nn.Dense(1)}, r"a model of flax.*\[\"params\"\]"),
    "lookahead without its pair": (
        {"optimizer": lambda outer: optax.lookahead(optax.sgd(outer["rate"]), 2, 0.5)},
        "optax.lookahead, which trains a pair.*init_synced",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_says_what_to_do(name, key):
    options, message = MESSAGES[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        ms.hypergradient(make(**options), outer(), ms.Reverse(), key=key)


def test_functions_without_a_signature_pass():
    explained.require_arguments("loss", max, "params, outer, batch")
    explained.require_arguments("loss", jax.jit(lambda w, outer, batch: w), "params, outer, batch")


@pytest.mark.parametrize("estimator", [ms.TruncatedReverse(2), ms.Reverse("binomial")], ids=str)
def test_every_reverse_pass_explains_loops(estimator, key):
    with pytest.raises(ValueError, match=r"(?s)problem contains a loop.*Forward\(\)"):
        ms.hypergradient(make(optimizer=searching), outer(), estimator, key=key)


def test_a_loop_in_the_loss_is_no_matter_of_the_estimator(key):
    with pytest.raises(ValueError, match="whatever the estimator"):
        ms.hypergradient(make(loss=looping), outer(), ms.Forward(), key=key)


def labelled(outer):
    """Return an optimizer whose labels are a module that can be called, wrapped."""
    labels = Line("slow", "fast")
    parts = {"slow": optax.sgd(0.1 * outer["rate"]), "fast": optax.sgd(outer["rate"])}
    return optax.multi_transform(parts, lambda params: labels)


class Line(eqx.Module):
    slope: jax.Array
    height: jax.Array

    def __call__(self, x):
        return self.slope * x + self.height


WORKING = {
    "warm-up and cosine": lambda: make(
        optimizer=lambda outer: optax.sgd(
            step_sizes.warmup_cosine_decay_schedule(0.0, outer["rate"], 2, 6)
        )
    ),
    "lookahead with its pair": lambda: make(
        init_params=optax.LookaheadParams.init_synced(jnp.array([1.0, -2.0])),
        loss=lambda pair, outer, batch: jnp.sum((pair.fast - outer["c"]) ** 4),
        objective=lambda pair, outer: jnp.sum(pair.slow**2),
        optimizer=lambda outer: optax.lookahead(optax.sgd(outer["rate"]), 2, 0.5),
    ),
    "accumulated gradients": lambda: make(
        optimizer=lambda outer: optax.MultiSteps(
            optax.sgd(outer["rate"]), 2, accumulator_dtype=jnp.float64
        )
    ),
    "labels": lambda: make(
        init_params=Line(jnp.array(1.0), jnp.array(0.5)),
        loss=lambda line, outer, batch: (line(2.0) - outer["c"]) ** 2,
        objective=lambda line, outer: line(1.0) ** 2,
        optimizer=labelled,
    ),
    "rows of JAX": lambda: make(
        batch=lambda t, key: jnp.asarray(ROWS)[(2 * t + jnp.arange(2)) % 6],
        loss=lambda w, outer, batch: jnp.sum((batch @ w - outer["c"]) ** 2),
    ),
}


@pytest.mark.parametrize("name", WORKING)
def test_the_answer_is_exact(name, key, x64):
    problem = WORKING[name]()
    estimate = ms.hypergradient(problem, outer(), ms.Reverse(), key=key)
    # Central differences of width 1e-5 carry errors of about 1e-10 / 1e-5 from rounding.
    assert relative_distance(estimate.grad, central_differences(problem, outer(), key)) < 1e-6


def test_forward_mode_goes_through_line_searches(key, x64):
    problem = make(optimizer=searching, horizon=2)
    estimate = ms.hypergradient(problem, outer(), ms.Forward(), key=key)
    assert relative_distance(estimate.grad, central_differences(problem, outer(), key)) < 1e-6


def test_accumulated_gradients_keep_their_precision(key, x64):
    accumulated = lambda outer: optax.MultiSteps(optax.sgd(outer["rate"]), 2)
    with pytest.raises(ValueError, match=r"float64 in float32.*accumulator_dtype=jnp\.float64"):
        ms.hypergradient(make(optimizer=accumulated), outer(), ms.Reverse(), key=key)
    # The sums of the masked part are compared with that part, not with the first parameters.
    params = {"high": jnp.zeros(2), "low": jnp.zeros(2, jnp.bfloat16)}
    low = optax.MultiSteps(optax.sgd(0.1), 2, accumulator_dtype=jnp.bfloat16)
    masked = optax.masked(low.gradient_transformation(), {"high": False, "low": True})
    check_optimizer_state(masked.init(params), params)
    plain = make(optimizer=optax.MultiSteps(optax.sgd(0.1), 2, accumulator_dtype=jnp.float64))
    built = make(optimizer=plain.optimizer.gradient_transformation())
    assert jnp.array_equal(
        ms.unroll(plain, outer(), key).params, ms.unroll(built, outer(), key).params
    )
