"""Mixed mode: the numbers of plain reverse mode, without its activations."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import metastep as ms
from metastep.diagnosis.compare import ready
from metastep.learned import LearnedAdam
from metastep.learned.segment import LearnedTraining
from metastep.problems import InnerGradient
from tests.cases import FEATURES, PROBLEMS, TARGETS, TUNED_START
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")

ROUNDING = 1e-12  # of sums in another order, in float64
NAMED = PROBLEMS | TUNED_START


def gradient(problem, outer, key, estimator):
    return ms.hypergradient(problem, outer, estimator, key=key).grad


def both(problem, outer, key, make=ms.Reverse):
    """Return the relative difference of the gradients in mixed and in plain mode."""
    mixed, plain = (gradient(problem, outer, key, make(mixed=mixed)) for mixed in (True, False))
    return relative_distance(mixed, plain)


@pytest.mark.parametrize(
    "name", ["sgd", "optax-adam", "clipped", "adam-batches", "start", "one-step"]
)
def test_every_problem(name, key):
    problem, outer = NAMED[name]()
    assert both(problem, outer, key) < ROUNDING


@functools.cache
def plain(estimator):
    problem, outer = NAMED["start-momentum-batches"]()
    return problem, outer, gradient(problem, outer, jax.random.key(20), estimator)


SCHEDULES = {
    "segments": (ms.Reverse(5, mixed=True), ms.Reverse(mixed=False)),
    "sqrt": (ms.Reverse("sqrt", mixed=True), ms.Reverse(mixed=False)),
    "binomial": (ms.Reverse(ms.Binomial(3), mixed=True), ms.Reverse(mixed=False)),
    "window": (ms.TruncatedReverse(4, mixed=True), ms.TruncatedReverse(4, mixed=False)),
    "window-binomial": (
        ms.TruncatedReverse(4, ms.Binomial(2), mixed=True),
        ms.TruncatedReverse(4, mixed=False),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule(name, key):
    mixed, reference = SCHEDULES[name]
    problem, outer, expected = plain(reference)
    assert relative_distance(gradient(problem, outer, key, mixed), expected) < ROUNDING


def network(optimizer, batch=None, horizon=4):
    """Return a network with a matrix, a vector and an index, weights per example, and a decay."""

    def loss(params, outer, batch):
        rows = jnp.arange(4) if batch is None else batch
        hidden = jnp.tanh(FEATURES[rows][:, params["order"]] @ params["w"])
        errors = (hidden @ params["v"] - TARGETS[rows]) ** 2
        decay = jnp.exp(outer["decay"]) * jnp.sum(params["w"] ** 4)
        return jnp.mean(jax.nn.sigmoid(outer["weights"][rows]) * errors) + decay

    params = {
        "w": jnp.linspace(-0.4, 0.5, 9).reshape(3, 3),
        "v": jnp.array([0.3, -0.2, 0.6]),
        "order": jnp.array([2, 0, 1]),
        "name": None,
    }
    objective = lambda params, outer: jnp.sum(jnp.sin(params["w"])) + params["v"] @ params["v"]
    problem = ms.TrainingProblem(loss, objective, params, optimizer, horizon, batch)
    outer = {"weights": jnp.array([0.1, -0.3, 0.4, 0.2]), "decay": jnp.array(-2.0)}
    return problem, outer


OPTIMIZERS = {
    "nesterov": lambda: optax.sgd(0.3, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(0.1, eps_root=1e-8),
    "rmsprop": lambda: optax.rmsprop(0.1),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1, eps_root=1e-8)),
    "polyak": lambda: optax.polyak_sgd(max_learning_rate=0.5, f_min=-1.0),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(0.1, warmup_steps=2),
    "muon": lambda: optax.contrib.muon(0.1),
    "scheduled": lambda: optax.sgd(optax.cosine_decay_schedule(0.3, 4)),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, key):
    problem, outer = network(OPTIMIZERS[name]())
    assert both(problem, outer, key) < ROUNDING


def test_signs_carry_no_derivative(key):
    problem, outer = network(optax.lion(0.1))
    with pytest.raises(ValueError, match="cannot influence"):
        gradient(problem, outer, key, ms.Reverse(mixed=True))


def test_what_the_loss_closes_over_may_be_traced(key):
    """The data are batched by one `vmap`, the hyperparameters by another, and both are derived."""

    def gradient(scale, shift, mixed):
        data = scale * FEATURES
        loss = lambda w, outer, batch: jnp.mean(jnp.tanh(data @ w - outer["shift"]) ** 2)
        problem = ms.TrainingProblem(
            loss, lambda w, outer: jnp.sum(jnp.cos(w)), jnp.ones(3), optax.sgd(0.3, 0.9), 4
        )
        estimate = ms.Reverse(mixed=mixed).estimate(problem, {"shift": shift}, None, key)[0]
        return estimate.grad["shift"]

    def slopes(mixed):
        table = jax.vmap(jax.vmap(gradient, (None, 0, None)), (0, None, None))
        total = lambda scales, shifts: jnp.sum(jnp.sin(table(scales, shifts, mixed)))
        return jax.jit(jax.grad(total, (0, 1)))(jnp.array([0.5, 1.5]), jnp.array([0.1, 0.2, 0.3]))

    assert relative_distance(slopes(True), slopes(False)) < ROUNDING


DERIVATIVES = {
    "reverse-over-reverse": lambda value, grad: jax.jacrev(grad),
    "forward-over-reverse": lambda value, grad: jax.jacfwd(grad),
    "hessian-of-value": lambda value, grad: jax.hessian(value),
}


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [("reverse-over-reverse", None), ("forward-over-reverse", 2), ("hessian-of-value", "sqrt")],
)
def test_second_derivatives(name, checkpoint, key):
    rows = lambda t, key: (t + jnp.arange(2)) % 4
    problem, outer = network(optax.sgd(0.3, momentum=0.9), rows, horizon=3)

    def second(mixed):
        estimator = ms.Reverse(checkpoint, mixed)
        estimate = lambda outer: estimator.estimate(problem, outer, None, key)[0]
        value, grad = lambda outer: estimate(outer).value, lambda outer: estimate(outer).grad
        return jax.jit(DERIVATIVES[name](value, grad))(outer)

    assert relative_distance(second(True), second(False)) < ROUNDING


def sines(mixed):
    """Return a function with a gradient in the middle, of a vector and a matrix."""

    def function(x, matrix):
        loss = lambda w: jnp.sum(jnp.sin(matrix @ w) ** 2)
        value, gradient = InnerGradient(mixed)(loss, jnp.tanh(x))
        return jnp.sum(gradient**3) + value**2

    return function


@pytest.mark.parametrize("modes", ["f", "r", "fr", "rf", "rr", "ff", "rfr"])
def test_every_order_and_mode_of_derivatives(modes):
    def derived(function):
        for mode in modes:
            function = (jax.jacfwd if mode == "f" else jax.jacrev)(function, (0, 1))
        return function

    x, matrix = jnp.array([0.3, -0.7]), jnp.array([[1.0, 0.2], [0.5, -0.4]])
    found, expected = (jax.jit(derived(sines(mixed)))(x, matrix) for mixed in (True, False))
    assert relative_distance(found, expected) < ROUNDING


def test_complex_parameters():
    def slope(mixed):
        def function(x):
            loss = lambda w: jnp.sum(jnp.abs(jnp.sin(w * x)) ** 2)
            _, gradient = InnerGradient(mixed)(loss, jnp.array([0.3 + 0.4j, -0.2 + 0.1j]) * x)
            return jnp.sum(jnp.abs(gradient) ** 2 + jnp.real(gradient * (1 + 2j)))

        return jax.grad(function)(jnp.array([0.5 - 0.3j, 0.7 + 0.2j]))

    assert relative_distance(slope(True), slope(False)) < ROUNDING


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype, key):
    problem, outer = network(optax.sgd(0.3))
    cast = lambda tree: jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
    outer = cast(outer)
    params = cast(problem.init_params)
    loss = lambda params, outer, batch: problem.loss(params, outer, batch).astype(dtype)
    half = ms.TrainingProblem(loss, problem.objective_of_params, params, optax.sgd(0.3), 4)
    estimate = ms.hypergradient(half, outer, ms.Reverse(mixed=True), key=key)
    assert {x.dtype for x in jax.tree.leaves(estimate.grad)} == {jnp.dtype(dtype)}
    exact = ms.hypergradient(problem, jax.tree.map(jnp.float64, outer), ms.Reverse(), key=key)
    # Errors of a hundred operations add up; the unit roundoffs are 2^-11 and 2^-8.
    tolerance = 50 * float(jnp.finfo(dtype).eps)
    assert relative_distance(cast_up(estimate.grad), exact.grad) < tolerance


def cast_up(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


def test_the_other_problems_with_an_inner_gradient(key):
    loss = lambda params, outer, batch: jnp.mean((jnp.tanh(batch @ params) - 0.3) ** 2)
    maml = ms.MAMLProblem(loss, FEATURES, FEATURES[:2], horizon=3, rate=0.5)
    assert both(maml, jnp.array([0.2, -0.3, 0.5]), key) < ROUNDING
    adapted = ms.MAMLProblem(loss, FEATURES, FEATURES[:2], horizon=3, rate=None)
    outer = ms.MetaSGD(jnp.array([0.2, -0.3, 0.5]), jnp.array(0.4))
    assert both(adapted, outer, key) < ROUNDING
    log_domain = lambda mixed: ms.LogDomain(ms.Reverse(mixed=mixed))
    scaled = ms.TrainingProblem(
        lambda w, outer, batch: jnp.sum(FEATURES.T @ (FEATURES @ w) * w) / 2,
        lambda w, outer: jnp.sum(w**2),
        jnp.ones(3),
        lambda outer: optax.sgd(outer),
        20,
    )
    assert both(scaled, jnp.array(0.1), key, log_domain) < ROUNDING


class Valley(eqx.Module):
    """A task for a learned optimizer."""

    def init(self, key):
        return jax.random.normal(key, (3,))

    def loss(self, params, step):
        return jnp.sum(jnp.cos(params - 0.1 * step))


def test_learned_optimizers(key):
    family = LearnedAdam(layers=1)
    weights = jax.tree.map(jnp.float64, family.initial_weights(key))
    measure = lambda task, params, key: jnp.sum(params**2)
    problem = LearnedTraining(Valley(), family, measure, horizon=3, first_order=False)
    assert both(problem, weights, key) < ROUNDING


def deep(layers, width, rows):
    """Return a deep narrow network on many rows: its activations outweigh its parameters."""
    weights = 0.5 * jax.random.normal(jax.random.key(0), (layers, width, width))
    inputs = jax.random.normal(jax.random.key(1), (rows, width))

    def loss(weights, outer, batch):
        hidden = inputs
        for layer in range(layers):
            hidden = jnp.tanh(hidden @ weights[layer])
        return jnp.mean(outer * jnp.sum(hidden**2, axis=1))

    objective = lambda weights, outer: jnp.sum(weights**3)
    problem = ms.TrainingProblem(loss, objective, weights, optax.sgd(0.1), 20)
    return problem, jnp.ones(rows)


def temporary_bytes(problem, outer, estimator):
    return ready(problem, outer, estimator, jax.random.key(0)).temporary_bytes


def test_what_is_stored(key):
    problem, outer = deep(layers=4, width=8, rows=2000)
    mixed, plain, unasked = (
        temporary_bytes(problem, outer, ms.Reverse(mixed=mixed)) for mixed in (True, False, None)
    )
    activations = 20 * 4 * 2000 * 8 * 8
    assert plain > activations > 4 * mixed
    assert unasked == plain  # 20 MiB are there to be used
    # A hundred times the steps would not fit into the room: the choice needs no compiling.
    loss = lambda w: problem.loss(w, outer, None)
    differentiated = lambda steps: str(
        jax.make_jaxpr(jax.grad(lambda w: InnerGradient(None, steps)(loss, w)[0]))(
            problem.init_params
        )
    )
    assert "linear_map" in differentiated(2000) and "linear_map" not in differentiated(20)
    comparison = ms.compare(
        problem, outer, [ms.Reverse(mixed=True), ms.Reverse(mixed=False)], key=key, repeats=1
    )
    assert comparison.rows[0].temporary_bytes == mixed
    assert "Reverse(mixed=True)" in str(comparison)


def test_a_problem_without_an_inner_gradient(key):
    problem, outer = PROBLEMS["quadratic"]()
    with pytest.raises(ValueError, match="mixed is True, and QuadraticProblem has no gradient"):
        gradient(problem, outer, key, ms.Reverse(mixed=True))


def test_sums_over_a_batch_of_losses(key):
    """A loss may use the others of its `vmap`; what they share is then no batch, its tangent is."""

    def trained(mixed, params, factor, inputs, weight):
        def loss(params):
            shared = jax.lax.pmean(inputs, "tasks") @ params
            return jnp.sum(shared**2) + jax.lax.pmean(factor * jnp.sum(jnp.sin(params)), "tasks")

        def step(params, _):
            value, gradient = InnerGradient(mixed)(loss, params)
            return params - 0.1 * gradient * value, value

        params, values = jax.lax.scan(step, params, length=3)
        return weight * jnp.sum(values) + jnp.sum(jnp.sin(params))

    def slopes(mixed):
        tasks = jax.vmap(functools.partial(trained, mixed), (None, 0, 0, 0), axis_name="tasks")
        total = lambda params, factors: jnp.sum(tasks(params, factors, inputs, jnp.arange(4.0)))
        return jax.jit(jax.grad(total, (0, 1)))(jnp.array([0.3, -0.2, 0.5]), jnp.arange(1.0, 5.0))

    inputs = jax.random.normal(key, (4, 2, 3))
    assert relative_distance(slopes(True), slopes(False)) < ROUNDING
