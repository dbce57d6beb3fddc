"""The training problem: any pytree, any optimizer, and batches that belong to the trajectory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.problems.base import advance, split_keys, start
from tests.helpers import central_differences


@pytest.mark.parametrize("missing", ["init", "step", "objective"])
def test_a_problem_needs_its_three_methods(missing):
    named = {name: lambda self, *given: given for name in {"init", "step", "objective"} - {missing}}
    kind = type("Partial", (ms.AbstractProblem,), {"__annotations__": {"horizon": int}, **named})
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        kind(3)


QUADRATIC = lambda w, outer, batch: jnp.sum((w - outer) ** 2)


def make(**options):
    defaults = {
        "loss": QUADRATIC,
        "objective": lambda w, outer: jnp.sum(w**2),
        "init_params": jnp.array([1.0, -2.0]),
        "optimizer": optax.sgd(0.1),
        "horizon": 7,
    }
    return ms.TrainingProblem(**(defaults | options))


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.1),
    "rmsprop": optax.rmsprop(0.1),
    "schedule": optax.sgd(optax.cosine_decay_schedule(0.1, 7)),
    "polyak": optax.polyak_sgd(),
    "injected": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "lion": optax.lion(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_run_is_that_of_a_hand_written_loop(name, key):
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name])
    outer = jnp.array([0.3, 0.5])
    end = ms.unroll(make(optimizer=OPTIMIZERS[name]), outer, key)
    w = jnp.array([1.0, -2.0])
    state = optimizer.init(w)
    for _ in range(7):
        value, grad = jax.value_and_grad(QUADRATIC)(w, outer, None)
        updates, state = optimizer.update(grad, state, w, value=value, grad=grad)
        w = optax.apply_updates(w, updates)
    assert np.allclose(end.params, w, rtol=1e-5, atol=1e-6)
    assert end.step == 7


def test_a_model_with_static_parts_and_integers_is_trained(key):
    """Equinox modules hold functions; embeddings hold indices: both pass through untouched."""
    model = {"net": eqx.nn.MLP(2, "scalar", 4, 1, key=key), "index": jnp.array([1, 0])}

    def loss(model, outer, batch):
        return (model["net"](jnp.ones(2)[model["index"]]) - outer) ** 2

    problem = make(loss=loss, objective=lambda m, o: loss(m, 1.0, None), init_params=model)
    estimate = ms.hypergradient(problem, jnp.array(0.5), ms.Reverse(), key=key)
    end = eqx.filter_jit(ms.unroll)(problem, jnp.array(0.5), key)
    assert estimate.result == ms.RESULTS.successful
    assert end.params["net"].activation is model["net"].activation
    assert jnp.array_equal(end.params["index"], model["index"])


def test_a_callable_model_is_parameters_and_a_method_is_an_initialiser(key):
    class Model(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w * x

        def start(self, outer, key):
            return Model(self.w + outer)

    model = Model(jnp.array(2.0))
    options = {"loss": lambda m, o, b: (m(1.0) - o) ** 2, "objective": lambda m, o: m(1.0)}
    as_params = ms.unroll(make(init_params=model, **options), jnp.array(0.5), key).params
    drawn = ms.unroll(make(init_params=model.start, **options), jnp.array(0.5), key).params
    # Seven steps contract the distance to 0.5 by 0.8 each.
    assert np.isclose(as_params.w, 0.5 + 1.5 * 0.8**7)
    assert np.isclose(drawn.w, 0.5 + 2.0 * 0.8**7)


def test_batches_depend_on_the_step_and_the_key_alone(key):
    """The batches that a run draws, written into its parameters, survive any cut."""
    batch = lambda t, key: jax.random.normal(key) + 10.0 * t
    problem = make(
        loss=lambda w, outer, batch: -jnp.sum(w * batch) + 0 * outer.sum(),
        optimizer=optax.sgd(1.0),
        init_params=jnp.zeros(1),
        batch=batch,
    )
    outer, keys = jnp.zeros(1), split_keys(key)
    whole = advance(problem, outer, start(problem, outer, keys), keys, 7)
    parts = start(problem, outer, keys)
    for length in (1, 3, 0, 2, 1):
        parts = advance(problem, outer, parts, keys, length)
    assert jnp.array_equal(whole.inner.params, parts.inner.params)
    assert jnp.array_equal(whole.inner.step, parts.inner.step)
    # Seven different steps and a different key: none of the draws repeats.
    other = ms.unroll(problem, outer, jax.random.fold_in(key, 1))
    assert not jnp.array_equal(whole.inner.params, other.params)
    fractions = (whole.inner.params - sum(10.0 * t for t in range(7))) % 1.0
    assert jnp.all(fractions != 0)


def test_an_initialisation_can_be_drawn_and_tuned(key):
    problem = make(init_params=lambda outer, key: outer + jax.random.normal(key, (2,)))
    first = ms.unroll(problem, jnp.zeros(2), key).params
    assert jnp.array_equal(first, ms.unroll(problem, jnp.zeros(2), key).params)
    other = ms.unroll(problem, jnp.zeros(2), jax.random.fold_in(key, 1)).params
    assert not jnp.array_equal(first, other)


def test_old_style_keys_are_accepted():
    problem = make(batch=lambda t, key: jax.random.normal(key))
    for key in (jax.random.PRNGKey(0), jax.random.key(0)):
        for estimator in (ms.Reverse("sqrt"), ms.TruncatedReverse(2)):
            estimate = ms.hypergradient(problem, jnp.ones(2), estimator, key=key)
            assert estimate.result == ms.RESULTS.successful


def test_weights_per_example_through_bound_methods_keep_data_as_arguments(key):
    """A loss that is a method of a module carries its data as leaves of the problem."""

    class Task(eqx.Module):
        data: jax.Array

        def loss(self, w, outer, batch):
            return jnp.mean(outer * (self.data - w) ** 2)

    problem = make(
        loss=Task(jnp.arange(4.0)).loss,
        init_params=jnp.array(0.0),
        objective=lambda w, outer: w,
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(eqx.filter(problem, eqx.is_array))]
    assert (4,) in shapes
    estimate = ms.hypergradient(problem, jnp.ones(4), ms.Reverse(), key=key)
    assert estimate.grad.shape == (4,)


def running(estimator=None, loss=None):
    """Batch normalization by running statistics: a buffer that the objective uses, and the loss."""
    data = jnp.arange(12.0).reshape(6, 2) / 5

    def default_loss(w, outer, rows, buffers):
        mean, count = buffers["mean"], buffers["count"]
        hidden = data[rows] * w
        after = outer["momentum"] * mean + (1 - outer["momentum"]) * jnp.mean(hidden, axis=0)
        return jnp.mean((hidden - mean - 1) ** 2), {"mean": after, "count": count + 1}

    return ms.TrainingProblem(
        loss=loss or default_loss,
        objective=lambda w, outer, buffers: (
            jnp.sum((data * w - buffers["mean"]) ** 2) + 0.0 * buffers["count"]
        ),
        init_params=jnp.array([0.5, -0.3]),
        optimizer=lambda outer: optax.sgd(outer["rate"]),
        horizon=5,
        batch=lambda t, key: (2 * t + jnp.arange(2)) % 6,
        buffers={"mean": np.zeros(2), "count": np.zeros((), np.int32)},
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "estimator",
    [ms.Reverse(mixed=False), ms.Reverse("sqrt", mixed=True), ms.Forward()],
    ids=["reverse", "mixed", "forward"],
)
def test_buffers_are_part_of_the_inner_state(estimator, key):
    """They change at every step by what the loss returns, and derivatives pass through them."""
    outer = {"rate": 0.1, "momentum": 0.7}
    estimate = ms.hypergradient(running(), outer, estimator, key=key)
    w, data, mean = np.array([0.5, -0.3]), np.arange(12.0).reshape(6, 2) / 5, np.zeros(2)
    for t in range(5):
        batch = data[(2 * t + np.arange(2)) % 6]
        slope = np.mean(2 * (batch * w - mean - 1) * batch, axis=0) / 2
        mean = 0.7 * mean + 0.3 * np.mean(batch * w, axis=0)
        w = w - 0.1 * slope
    assert np.isclose(estimate.value, np.sum((data * w - mean) ** 2), rtol=1e-12, atol=0)
    slopes = central_differences(running(), outer, key)
    for name in outer:
        assert np.isclose(estimate.grad[name], slopes[name], rtol=1e-7, atol=0)
    assert ms.unroll(running(), outer, key).buffers["count"] == 5


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda w, outer, rows, buffers: jnp.sum(w), "with buffers it must return the pair"),
        (lambda w, outer, rows, buffers: (jnp.sum(w), {}), "another pytree structure"),
    ],
)
def test_a_loss_that_loses_its_buffers(loss, message, key):
    with pytest.raises(ValueError, match=message):
        ms.hypergradient(running(loss=loss), {"rate": 0.1}, ms.Reverse(), key=key)
