"""Our Adam is optax's Adam, with derivatives."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metastep as ms
from metastep import optimizers, step_sizes
from metastep.optimizers import adam, scale_by_adam

PAIRS = {"adam": (adam, optax.adam), "adamw": (optimizers.adamw, optax.adamw)}
PRECISIONS = [jnp.float16, jnp.bfloat16, jnp.float32]


def trajectory(optimizer, steps=20):
    start = jnp.array([0.3, -0.2, 1.0])
    loss = lambda w: jnp.sum(jnp.array([1.0, 3.0, 0.0]) * jnp.cos(w) ** 2)

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        return (optax.apply_updates(w, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[0][0]


@jax.jit
def both(*numbers):
    return trajectory(adam(*numbers)), trajectory(optax.adam(*numbers))


@pytest.mark.usefixtures("x64")
@settings(max_examples=10, deadline=None)
@given(st.floats(0.001, 0.5), st.floats(0.0, 0.99), st.floats(0.5, 0.9999), st.floats(1e-9, 1e-2))
def test_values_are_those_of_optax(rate, b1, b2, eps):
    ours, theirs = both(rate, b1, b2, eps)
    # 1 - b2^t loses four digits in optax; the steps add up.
    assert np.allclose(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("b2", [0.999, np.float32(0.999), jnp.float32(0.999)])
def test_the_bias_correction_keeps_all_digits_of_float32(b2):
    """optax takes 0.999 to the power t in float32: 1 - 0.999^t is off by 1e-5 and more."""
    scaled = scale_by_adam(b2=b2)
    gradient = jnp.float32(0.3)
    state = scaled.init(gradient)
    step = jax.jit(scaled.update)
    exact = float(b2)
    square = 0.0
    for t in range(1, 6):
        update, state = step(gradient, state)
        square = exact * square + (1 - exact) * float(gradient) ** 2
        root = np.sqrt(square / (1 - exact**t))
        # The moments are rounded: a few units in the last place, 1.2e-7 each.
        assert np.isclose(float(update), float(gradient) / (root + 1e-8), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": True}, {"eps_root": 1e-4}, {"mu_dtype": jnp.float32}],
    ids=["plain", "nesterov", "eps_root", "mu_dtype"],
)
def test_every_option_and_precision(name, options, dtype):
    """Random trees; the gradients are large enough for float16 to hold their squares."""
    rng = np.random.default_rng(0)
    sizes = lambda shape: rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)
    draw = lambda *shape: jnp.asarray(sizes(shape), dtype)
    params = {"a": draw(3, 2), "b": [draw(4), None]}
    gradients = [{"a": draw(3, 2), "b": [draw(4), None]} for _ in range(5)]
    ends = []
    for make in PAIRS[name]:
        optimizer, now = make(0.1, **options), params
        state = optimizer.init(now)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, now)
            now = optax.apply_updates(now, updates)
        ends.append(now)
    for ours, theirs in zip(*map(jax.tree.leaves, ends), strict=True):
        assert ours.dtype == theirs.dtype == dtype
        if dtype == jnp.float16:
            # Five steps of 0.1 whose ratio optax rounds to 11 bits, several times each.
            np.testing.assert_allclose(ours, theirs, atol=5e-3, rtol=0)
        else:
            # optax loses digits of 1 - 0.999^t: 6.5e-6 of five steps of up to 0.2.
            rounding = 6.5e-6 if dtype == jnp.float32 else 4 * jnp.finfo(dtype).eps
            np.testing.assert_allclose(ours, theirs, atol=rounding, rtol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_the_arguments_are_those_of_optax(name):
    ours, theirs = (inspect.signature(function).parameters for function in PAIRS[name])
    assert list(ours) == list(theirs)
    for argument in ours:
        assert ours[argument].default == theirs[argument].default


def test_decay_can_be_masked_and_scheduled():
    decay, mask = optax.linear_schedule(0.5, 0.0, 20), jnp.array([True, False, True])
    ends = [trajectory(make(0.1, weight_decay=decay, mask=mask[0])) for make in PAIRS["adamw"]]
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_a_schedule_is_accepted():
    schedule = optax.linear_schedule(0.1, 0.0, 20)
    assert np.allclose(trajectory(adam(schedule)), trajectory(optax.adam(schedule)))


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_zero_and_tiny_gradients_are_finite_in_every_precision(dtype, nesterov, key):
    """optax divides zero by zero in float16, where its eps and the square of 1e-3 are zero."""

    def estimate(adam, dtype):
        scale = jnp.array([0.0, 1e-3, 1.0], dtype)
        problem = ms.TrainingProblem(
            loss=lambda w, outer, batch: jnp.sum(scale * w * outer["slope"].astype(dtype)),
            objective=lambda w, outer: jnp.sum(w.astype(jnp.float32)),
            init_params=jnp.ones(3, dtype),
            optimizer=lambda outer: adam(outer["rate"], outer["b1"], nesterov=nesterov),
            horizon=4,
        )
        outer = {"rate": 0.125, "b1": 0.9, "slope": 1.0}
        return ms.hypergradient(problem, outer, ms.Reverse(), key=key)

    ours, exact = estimate(adam, dtype), estimate(optax.adam, jnp.float32)
    assert ours.result == ms.RESULTS.successful
    # eps in float16 shortens the steps along the second coordinate by 6 %; bfloat16 rounds.
    assert np.isclose(ours.value, exact.value, atol=0.05)


@pytest.mark.usefixtures("x64")
def test_the_derivative_at_zero_is_the_limit():
    """At a zero gradient the first update is g / (|g| + eps), with slope 1 / eps."""
    optimizer = adam(1.0, eps=1e-3)
    update = jax.jit(lambda g: optimizer.update(g, optimizer.init(g))[0])
    slope = jax.grad(update)(0.0)
    assert np.isclose(slope, -1e3, rtol=1e-12, atol=0)
    assert np.isclose((update(1e-9) - update(-1e-9)) / 2e-9, slope, rtol=1e-5, atol=0)


def test_a_network_with_dead_units_and_a_schedule(key):
    """optax.adamw is NaN here, with every step of `minimize` skipped."""
    data = jax.random.normal(key, (16, 3))

    def predict(params, x):
        return jax.nn.relu(x @ params["in"] - params["bias"]) @ params["out"]

    def problem(adamw):
        return ms.TrainingProblem(
            loss=lambda params, outer, batch: jnp.mean((predict(params, data) - 1) ** 2),
            objective=lambda params, outer: jnp.mean((predict(params, data) - 1) ** 2),
            init_params={
                "in": jax.random.normal(key, (3, 4)),
                "bias": jnp.array([0.0, 0.0, 0.0, 100.0]),  # the last unit is dead
                "out": jnp.ones(4) / 4,
            },
            optimizer=lambda outer: adamw(
                step_sizes.warmup_cosine_decay_schedule(0.0, outer["peak"], 3, 10),
                weight_decay=outer["decay"],
            ),
            horizon=10,
        )

    outer = {"peak": 0.1, "decay": 0.01}
    theirs, ours = (
        ms.hypergradient(problem(make), outer, ms.Reverse(), key=key)
        for make in (optax.adamw, optimizers.adamw)
    )
    assert theirs.result == ms.RESULTS.nonfinite_gradient
    assert "metastep.optimizers" in ms.RESULTS[theirs.result]
    assert np.isclose(ours.value, theirs.value, rtol=1e-5, atol=0)
    slopes = ms.hypergradient(problem(optimizers.adamw), outer, ms.Forward(), key=key).grad
    for name in outer:
        assert np.isclose(ours.grad[name], slopes[name], rtol=1e-3, atol=0)
