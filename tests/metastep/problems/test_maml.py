"""The MAML family against finite differences, hand-written loops, and closed forms."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.problems.averaged import Averaged
from metastep.problems.maml import MAMLProblem, MetaSGD, Reptile
from metastep_lab.bernacchia2021.mixed_regression import MixedRegression, draw_tasks, outer_solution
from tests.helpers import central_differences, relative_distance

HORIZON = 3
ROUNDING = 1e-12  # float64, a few hundred operations
pytestmark = pytest.mark.usefixtures("x64")


def loss(params, outer, batch):
    """A network with one hidden layer: its Hessian changes along the path."""
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["body"] + params["bias"])
    return jnp.mean((hidden @ params["head"] - targets) ** 2)


def draw(key):
    inputs, targets = jax.random.normal(key, (2, 6, 2)), jax.random.normal(key, (2, 6))
    return (inputs[0], targets[0]), (inputs[1], targets[1])


def task(key, rate=0.2, **options):
    return MAMLProblem(loss, *draw(key), horizon=HORIZON, rate=rate, **options)


def start():
    return {
        "body": jnp.array([[0.4, -0.3], [0.2, 0.8]]),
        "bias": jnp.array([0.1, -0.2]),
        "head": jnp.array([0.7, -0.5]),
    }


def per_parameter(tree):
    flat, unflatten = ravel_pytree(tree)
    return unflatten(jnp.linspace(-0.3, 0.4, flat.size))


def head(params):
    return params["head"]


def two(params):
    return params["bias"], params["head"]


def steps_by_hand(problem, outer, where=lambda p: p, put=lambda p, x: x, horizon=HORIZON):
    """Return the adapted parameters and every inner gradient, by plain gradient steps."""
    params = outer.params if isinstance(outer, MetaSGD) else outer
    rates = problem.rate if problem.rate is not None else outer.rate
    if jnp.ndim(jax.tree.leaves(rates)[0]) == 0:
        rates = jax.tree.map(lambda x: jnp.full_like(x, rates), where(params))
    gradients = []
    for _ in range(horizon):
        slope = where(jax.grad(loss)(params, outer, problem.training))
        params = put(params, jax.tree.map(lambda x, g, r: x - r * g, where(params), slope, rates))
        gradients.append(slope)
    return params, gradients


put_head = lambda params, leaf: params | {"head": leaf}

EXACT = {
    "maml": (lambda: start(), {}),
    "anil": (lambda: start(), {"where": head}),
    "meta-sgd": (lambda: MetaSGD(start(), per_parameter(start())), {"rate": None}),
    "meta-sgd-anil": (
        lambda: MetaSGD(start(), (jnp.array(-0.1), jnp.array([0.3, 0.2]))),
        {"rate": None, "where": two, "proximal": 0.5},
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_those_of_finite_differences(name, key):
    make, options = EXACT[name]
    outer, problem = make(), task(key, **options)
    found = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    assert found.result == ms.RESULTS.successful
    # Central differences with width 1e-5 in float64.
    assert relative_distance(found.grad, central_differences(problem, outer, key)) < 1e-8


def test_all_exact_estimators_agree_for_rates_of_any_sign(key):
    for rate in (-0.3, 0.25):
        problem = task(key, rate=jnp.array(rate))
        expected = ms.hypergradient(problem, start(), ms.Reverse(), key=key)
        for estimator in (ms.Forward(), ms.TruncatedReverse(HORIZON)):
            found = ms.hypergradient(problem, start(), estimator, key=key)
            assert relative_distance(found.grad, expected.grad) < ROUNDING
        end, _ = steps_by_hand(problem, start())
        assert np.isclose(
            expected.value, loss(end, None, problem.validation), rtol=ROUNDING, atol=0
        )


def test_a_window_multiplies_the_last_factors_of_the_chain(key):
    """TruncatedReverse(K) is the product of I - rate H over the last K steps, times d loss."""
    problem, (flat, unflatten) = task(key), ravel_pytree(start())
    training = lambda flat: loss(unflatten(flat), None, problem.training)
    path = [flat]
    for _ in range(HORIZON):
        path.append(path[-1] - 0.2 * jax.grad(training)(path[-1]))
    expected = jax.grad(lambda flat: loss(unflatten(flat), None, problem.validation))(path[-1])
    first_order = ms.hypergradient(task(key, first_order=True), start(), ms.Reverse(), key=key)
    assert relative_distance(first_order.grad, expected) < ROUNDING
    hessian = jax.jit(jax.hessian(training))
    for window in range(1, HORIZON):
        expected = expected - 0.2 * hessian(path[HORIZON - window]) @ expected
        found = ms.hypergradient(problem, start(), ms.TruncatedReverse(window), key=key)
        assert relative_distance(found.grad, expected) < ROUNDING


def test_first_order_with_learned_rates_of_some_leaves(key):
    """The start gets the gradient at the end; a rate gets minus the product with its gradients."""
    outer = MetaSGD(start(), jnp.array([0.3, -0.2]))
    problem = task(key, rate=None, where=head, first_order=True)
    found = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
    end, gradients = steps_by_hand(problem, outer, head, put_head)
    slope = jax.grad(loss)(end, None, problem.validation)
    assert np.isclose(found.value, loss(end, None, problem.validation), rtol=ROUNDING, atol=0)
    assert relative_distance(found.grad.params, slope) < ROUNDING
    assert relative_distance(found.grad.rate, -sum(gradients) * slope["head"]) < ROUNDING


def test_test_time_has_its_own_rate_and_number_of_steps(key):
    problem, learned = task(key, rate=None), MetaSGD(start(), per_parameter(start()))
    at_test = replace(problem, rate=-0.05, horizon=7)
    end, _ = steps_by_hand(at_test, learned, horizon=7)
    assert relative_distance(at_test.adapt(learned), end) < ROUNDING
    assert relative_distance(at_test.adapt(learned.params), end) < ROUNDING
    longer, _ = steps_by_hand(problem, learned, horizon=5)
    assert relative_distance(replace(problem, horizon=5).adapt(learned), longer) < ROUNDING
    only_head = replace(at_test, where=head).adapt(start())
    assert jnp.array_equal(only_head["body"], start()["body"])
    assert not jnp.array_equal(only_head["head"], start()["head"])


def test_tasks_at_once_one_by_one_and_as_one_problem(key):
    keys = jax.random.split(key, 4)
    estimate = lambda problem: ms.hypergradient(problem, start(), ms.Reverse(), key=key)
    loop = [estimate(task(key)) for key in keys]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *[one.grad for one in loop])
    stack = eqx.filter_vmap(task)(keys)
    together = eqx.filter_vmap(estimate)(stack)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one.grad for one in loop])
    assert relative_distance(together.grad, stacked) < ROUNDING
    averaged = estimate(Averaged(stack))
    assert relative_distance(averaged.grad, mean) < ROUNDING
    assert np.isclose(averaged.value, np.mean([one.value for one in loop]), rtol=ROUNDING, atol=0)


def test_reptile_moves_towards_the_adapted_parameters(key):
    keys = jax.random.split(key, 4)
    stack = eqx.filter_vmap(lambda key: Reptile(task(key)))(keys)
    run = ms.minimize(
        Averaged(stack), start(), ms.Reverse(), optimizer=optax.sgd(0.3), steps=3, key=key
    )
    omega = start()
    for _ in range(3):
        ends = [steps_by_hand(task(key), omega)[0] for key in keys]
        mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *ends)
        omega = jax.tree.map(lambda x, end: x + 0.3 * (end - x), omega, mean)
    assert relative_distance(run.outer, omega) < ROUNDING


def linear_loss(params, outer, batch):
    inputs, targets = batch
    return jnp.mean((inputs @ params - targets) ** 2) / 2


def mixed_regression(dim, key, *, tasks=4, train=7, validation=3):
    center = jnp.linspace(-1, 1, dim)
    distribution = MixedRegression(center, noise=0.3, task_covariance=0.2)
    sizes = {"tasks": tasks, "train_samples": train, "validation_samples": validation}
    return draw_tasks(key, distribution, **sizes)


def linear_task(drawn, rate, horizon=1, **options):
    train, validation = drawn[:2], drawn[2:]
    return MAMLProblem(linear_loss, train, validation, horizon=horizon, rate=rate, **options)


@pytest.mark.parametrize(("dim", "rate"), [(4, -0.4), (20, 0.1)])
def test_the_driver_ends_at_the_exact_solution(dim, rate, key):
    """With 12 validation examples in all tasks: unique for 4 parameters, nearest for 20."""
    drawn, omega = mixed_regression(dim, key), 0.5 * jnp.ones(dim)
    problem = Averaged(eqx.filter_vmap(linear_task)(tuple(drawn), jnp.full(4, rate)))
    moved = [
        (v @ (np.eye(dim) - rate * x.T @ x / 7), t - rate * v @ x.T @ y / 7)
        for x, y, v, t in zip(*map(np.asarray, drawn), strict=True)
    ]
    matrix, target = (np.concatenate(parts) for parts in zip(*moved, strict=True))
    # The outer loss is |matrix omega - target|^2 / 24: descend at 1 over its largest curvature.
    run = ms.minimize(
        problem,
        omega,
        ms.Reverse(),
        optimizer=optax.sgd(12 / np.linalg.norm(matrix, 2) ** 2),
        steps=4000,
        every=4000,
        key=key,
    )
    nearest = omega + np.linalg.lstsq(matrix, target - matrix @ np.asarray(omega))[0]
    # Gradient descent contracts by 1 - 1 / condition per step: 4000 steps at a condition of 100.
    assert relative_distance(run.outer, nearest) < 1e-9
    # Normal equations lose the squared condition number, about 1e4, of 16 digits.
    closed_form = outer_solution(*drawn, train_rate=rate, start=omega)
    assert relative_distance(run.outer, closed_form) < 1e-9


def test_implicit_maml_is_exact_where_adaptation_has_converged(key):
    drawn, omega = jax.tree.map(lambda x: x[0], mixed_regression(4, key)), jnp.ones(4)
    x, y, v, t = drawn
    for strength in (0.7, 3.0):
        problem = linear_task(drawn, 0.2, horizon=300, proximal=jnp.array(strength))
        found = ms.hypergradient(problem, omega, ms.Implicit(), key=key)
        assert found.result == ms.RESULTS.successful
        damped = x.T @ x / 7 + strength * jnp.eye(4)
        end = jnp.linalg.solve(damped, x.T @ y / 7 + strength * omega)
        slope = v.T @ (v @ end - t) / 3
        # Conjugate gradients stop at a relative residual of eps^(3/4), about 2e-12.
        expected = strength * jnp.linalg.solve(damped, slope)
        assert relative_distance(found.grad, expected) < 1e-10
    # Without a pull the minimum does not depend on where adaptation starts.
    free = linear_task(drawn, 0.2, horizon=300, proximal=jnp.array(0.0))
    lost = ms.hypergradient(free, omega, ms.Implicit(), key=key)
    # The descent contracts by 1 - 0.2 times the smallest eigenvalue per step.
    assert lost.stats["gradient_norm"] < 1e-3 * found.stats["gradient_norm"]


def test_models_of_layers_are_adapted_in_part(key):
    """A subtree that is itself a tuple, in a model whose static parts stay outside."""
    model = eqx.nn.MLP("scalar", "scalar", 3, 2, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    predict = lambda params: eqx.combine(params, static)(jnp.array(0.5))
    problem = MAMLProblem(
        lambda params, outer, batch: (predict(params) - batch) ** 2,
        jnp.array(1.0),
        jnp.array(2.0),
        horizon=2,
        rate=0.1,
        where=lambda params: params.layers[1:],
    )
    adapted = problem.adapt(params)
    assert jnp.array_equal(adapted.layers[0].weight, params.layers[0].weight)
    for index in (1, 2):
        assert not jnp.array_equal(adapted.layers[index].weight, params.layers[index].weight)
    assert abs(predict(adapted) - 1.0) < abs(predict(params) - 1.0)


def test_learned_rates_that_a_given_one_hides_are_refused(key):
    outer = MetaSGD(start(), jnp.array(0.2))
    for problem in (task(key), Reptile(task(key))):  # both have a rate of their own
        with pytest.raises(ValueError, match=r"outer\.rate cannot influence"):
            ms.hypergradient(problem, outer, ms.Reverse(), key=key)


WRONG = {
    "horizon is 0": lambda key: replace(task(key), horizon=0),
    "rate is nan": lambda key: task(key, rate=float("nan")),
    "proximal is -1": lambda key: task(key, proximal=-1.0),
    "where selects": lambda key: task(key, where=lambda params: ()).adapt(start()),
    r"where selects JitTracer\(float64\[3\]\)": lambda key: task(
        key, where=lambda params: jnp.ones(3)
    ).adapt(start()),
    r"outer\['head'\] has dtype int": lambda key: task(key).adapt(
        start() | {"head": jnp.array([1, 2])}
    ),
    "outer is a dict; with rate=None": lambda key: task(key, rate=None).adapt(start()),
    "rate has the structure": lambda key: task(key, rate={"head": 0.1}).adapt(start()),
    r"rate\['head'\] has shape \(3,\)": lambda key: task(
        key, rate=start() | {"head": jnp.ones(3)}
    ).adapt(start()),
    r"loss returned float64\[6\]": lambda key: MAMLProblem(
        lambda params, outer, batch: params * jnp.ones(6), 0, 0, horizon=1, rate=0.1
    ).adapt(jnp.array(1.0)),
    "Reptile moves": lambda key: Reptile(task(key, where=head)),
    "problem has where=None and rate=None": lambda key: Reptile(task(key, rate=None)),
    "problems has arrays": lambda key: Averaged(task(key)),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_use_is_named(message, key):
    with pytest.raises(ValueError, match=message):
        WRONG[message](key)
