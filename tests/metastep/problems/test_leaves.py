"""What is trained and what is not: any pytree, real and complex, under every estimator."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import metastep as ms
from metastep.bilevel import F2SA, SOBA, AmIGO
from metastep.learned import LearnedSGD
from metastep.learned.segment import LearnedTraining, first_state, run_segment
from tests.helpers import central_differences, relative_distance

pytestmark = pytest.mark.usefixtures("x64")
STEPS, RATE = 4, 0.1


def examples(count):
    """Few, since each compiles; and no search for a smaller one."""
    return settings(max_examples=count, deadline=None, phases=[Phase.explicit, Phase.generate])


class Node(eqx.Module):
    """A module with a static field, as layers have them."""

    child: object
    units: int = eqx.field(static=True)


def twice(x):
    return 2 * x


ARRAYS = st.sampled_from(
    [
        np.array([0.3, -1.2]),
        np.array(0.7),
        np.array([1 + 2j, -0.5j]),
        np.array([[0.5]], np.float32),
        np.float64(-0.4),
    ]
)
OTHERS = st.one_of(
    st.floats(0.5, 2.0),
    st.integers(1, 3),
    st.booleans(),
    st.none(),
    st.sampled_from([twice, jnp.tanh, "same", np.array([1, 0]), np.array([True])]),
)


def grown(children):
    return st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.sampled_from("abc"), children, max_size=3),
        st.builds(Node, children, st.integers(1, 3)),
    )


TREES = st.builds(
    lambda first, more: {"first": first, "more": more},
    ARRAYS,
    st.recursive(st.one_of(ARRAYS, OTHERS), grown, max_leaves=6),
)


RICH = {
    "first": np.array([1 + 2j, -0.5j]),
    "more": [Node({"a": np.array([0.3, -1.2]), "b": 0.7}, 2), 2, True, None, jnp.tanh, "same"],
    "index": np.array([1, 0]),
    "single": np.array([[0.5]], np.float32),
}
"""One of everything: what a tree of `TREES` may hold."""


def constant(tree):
    """Return a factor made of everything that is not trained, by Python's own control flow."""
    factor = 1.0
    for leaf in jax.tree.leaves(tree):
        if eqx.is_array(leaf):  # numpy.float64 is a Python float as well
            continue
        if isinstance(leaf, bool):
            factor *= 1.1 if leaf else 1.0
        elif isinstance(leaf, int):
            factor *= math.prod(1.05 for _ in range(leaf))
        elif isinstance(leaf, float):
            factor *= 0.9 + leaf / 10
        elif callable(leaf):
            factor *= 1.1 if leaf is twice else 1.2
        elif isinstance(leaf, str):
            assert leaf == "same"
    return factor


def trained(tree):
    return [jnp.asarray(x) for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]


def target(x, outer):
    return outer * (1 + 1j) if jnp.iscomplexobj(x) else outer


def pulled(tree, outer, batch):
    squares = [jnp.sum(jnp.abs(x - target(x, outer)) ** 2) for x in trained(tree)]
    return constant(tree) * sum(squares) / 2


def judged(tree, outer):
    return sum(jnp.sum(jnp.abs(x) ** 2) for x in trained(tree)).astype(float)


def problem_of(tree, horizon=STEPS):
    return ms.TrainingProblem(pulled, judged, tree, optax.sgd(RATE), horizon)


def closed_form(tree, outer, horizon):
    """Return the trained leaves at the end, and the hypergradient."""
    shrunk = (1 - RATE * constant(tree)) ** horizon
    ends = [target(x, outer) + shrunk * (x - target(x, outer)) for x in trained(tree)]
    slopes = [2 * (1 - shrunk) * jnp.sum((jnp.conj(x) * target(x, 1.0)).real) for x in ends]
    return ends, sum(slopes)


@examples(10)
@given(tree=TREES)
@example(tree=RICH)
def test_arrays_are_trained_and_everything_else_is_what_it_was(tree):
    end = eqx.filter_jit(ms.unroll)(problem_of(tree), jnp.array(0.8), jax.random.key(0)).params
    assert jax.tree.structure(end) == jax.tree.structure(tree)
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(end), strict=True):
        if eqx.is_array(before):
            assert before.dtype == after.dtype and before.shape == after.shape
            assert eqx.is_inexact_array(before) or np.array_equal(before, after)
        else:
            assert type(before) is type(after) and before == after
    ends, _ = closed_form(tree, 0.8, STEPS)
    for expected, found in zip(ends, trained(end), strict=True):
        assert np.allclose(expected, found, rtol=1e-6, atol=0)  # one leaf is float32


EXACT = {
    "reverse": (ms.Reverse(), STEPS),
    "segments": (ms.Reverse(3), STEPS),
    "binomial": (ms.Reverse("binomial"), STEPS),
    "window": (ms.TruncatedReverse(STEPS), STEPS),
    "forward": (ms.Forward(), STEPS),
    "differences": (ms.CentralDifferences(), STEPS),
    "implicit": (ms.Implicit(), 300),
    "lu": (ms.Implicit(lx.LU()), 300),
}


@pytest.mark.parametrize(("estimator", "horizon"), EXACT.values(), ids=EXACT)
def test_every_exact_estimator(estimator, horizon):
    problem = problem_of(RICH, horizon)
    found = ms.hypergradient(problem, 0.8, estimator, key=jax.random.key(0))
    assert found.result == ms.RESULTS.successful
    _, expected = closed_form(RICH, 0.8, horizon)
    # A float32 leaf, differenced over a fraction of 0.8, keeps four digits.
    rtol = 1e-3 if isinstance(estimator, ms.CentralDifferences) else 1e-5
    assert np.isclose(found.grad, expected, rtol=rtol, atol=0)


def recorded(estimator, steps, part):
    """Return a part of every estimate while the hyperparameter stands still at .8."""
    run = ms.minimize(
        problem_of(RICH),
        jnp.array(0.8),
        estimator,
        optimizer=optax.sgd(0.0),
        steps=steps,
        every=steps,
        key=jax.random.key(0),
        record=lambda step, outer, found: part(found),
    )
    return run.history.recorded


SAMPLED = {
    "random-directions": ms.RandomDirections(200),
    "evolution": ms.EvolutionStrategies(0.1, 200),
    "persistent": ms.PersistentEvolutionStrategies(STEPS, 0.1, 200),
}


@pytest.mark.parametrize("estimator", SAMPLED.values(), ids=SAMPLED)
def test_every_sampled_estimator(estimator):
    """The objective is quadratic in outer: smoothing does not move its gradient."""
    grad, error = recorded(estimator, 1, lambda found: (found.grad, found.stats["standard_error"]))
    _, expected = closed_form(RICH, 0.8, STEPS)
    assert jnp.abs(grad[0] - expected) < 4 * error[0]


BILEVEL = {
    "soba": SOBA(optax.sgd(RATE)),
    "amigo": AmIGO(optax.sgd(RATE), 3, 3),
    "f2sa": F2SA(1e4, 3),
}


@pytest.mark.parametrize("solver", BILEVEL.values(), ids=BILEVEL)
def test_every_bilevel_solver(solver):
    grads = recorded(solver, 300, lambda found: found.grad)
    _, expected = closed_form(RICH, 0.8, 10_000)
    # 1 / penalty, and the rounding of a float32 leaf times the penalty.
    assert np.isclose(grads[-1], expected, rtol=0.02, atol=0)


def test_log_domain_and_scaled():
    """Descent on outer c |x|^2 / 2 scales: x_T = (1 - RATE outer c)^T x_0."""
    loss = lambda tree, outer, batch: outer * pulled(tree, 0.0, None)
    problem = ms.TrainingProblem(loss, judged, RICH, optax.sgd(RATE), STEPS)
    key, shrink = jax.random.key(0), RATE * constant(RICH)
    found = ms.hypergradient(problem, 0.3, ms.LogDomain(), key=key)
    assert found.result == ms.RESULTS.successful
    assert np.isclose(found.grad, -2 * shrink / (1 - 0.3 * shrink), rtol=1e-5, atol=0)
    scaled = ms.scaled_hypergradient(problem, 0.3, key=key)
    plain = ms.hypergradient(problem, 0.3, ms.Reverse(), key=key).grad
    assert np.isclose(scaled.sign * jnp.exp(scaled.log_magnitude), plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("params", [1.0, {"w": 0.0, "flag": True}, [np.array([1, 2])], None])
def test_parameters_without_an_array_to_train_are_refused(params, key):
    problem = ms.TrainingProblem(pulled, judged, params, optax.sgd(RATE), STEPS)
    with pytest.raises(ValueError, match=r"^init_params gives .*Write jnp.array\(1.0\) for 1.0"):
        ms.unroll(problem, 0.8, key)


class Numbers(ms.AbstractProblem):
    """A state of Python numbers: one that steps multiply, one that they count, one left alone."""

    horizon: int = eqx.field(static=True, default=5)

    def init(self, outer, key):
        return {"w": 2.0, "count": 0, "rate": 0.5, "flag": True}

    def step(self, inner, outer, t, key):
        rate = inner["rate"] if inner["flag"] else math.nan
        return inner | {"w": (1 - rate * outer) * inner["w"], "count": inner["count"] + 1}

    def objective(self, inner, outer, key):
        assert isinstance(inner["rate"], float) and inner["flag"] is True
        return inner["w"] ** 2 * (inner["count"] == 5)


ANY = {
    "reverse": ms.Reverse(),
    "binomial": ms.Reverse("binomial"),
    "forward": ms.Forward(),
    "window": ms.TruncatedReverse(5),
}


@pytest.mark.parametrize("estimator", ANY.values(), ids=ANY)
@pytest.mark.parametrize("wrap", ["plain", "bounded", "averaged"])
def test_a_number_that_steps_change_is_state(wrap, estimator, key):
    problem = Numbers()
    if wrap == "bounded":
        problem = ms.Bounded(problem, 10.0, params=lambda inner: inner["w"])
    if wrap == "averaged":
        problem = ms.Averaged(Shifted(jnp.zeros(3)))
    found = ms.hypergradient(problem, 0.4, estimator, key=key)
    assert np.isclose(found.value, 4 * 0.8**10, rtol=1e-12, atol=0)
    assert np.isclose(found.grad, -0.5 * 40 * 0.8**9, rtol=1e-12, atol=0)


class Shifted(Numbers):
    """The same, with an array to stack."""

    shift: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(()))

    def __init__(self, shift):
        self.shift = shift
        self.horizon = 5

    def objective(self, inner, outer, key):
        return super().objective(inner, outer, key) + self.shift


def test_numbers_in_the_log_domain(key):
    found = ms.hypergradient(Numbers(), 0.4, ms.LogDomain(), key=key)
    assert found.result == ms.RESULTS.successful
    assert np.isclose(found.grad, -2 * 0.5 / 0.8, rtol=1e-12, atol=0)
    scaled = ms.scaled_hypergradient(Numbers(), 0.4, key=key)
    assert np.isclose(scaled.log_magnitude, math.log(0.5 * 40 * 0.8**9), rtol=1e-12, atol=0)


def test_a_leaf_that_cannot_change_may_not(key):
    class Phases(Numbers):
        def init(self, outer, key):
            return {"w": 1.0, "phase": "warm"}

        def step(self, inner, outer, t, key):
            return {"w": inner["w"] * outer, "phase": "hot"}

    with pytest.raises(ValueError, match=r"step changed the leaf \['phase'\] from 'warm' to 'hot'"):
        ms.unroll(Phases(), 0.4, key)


def test_a_learned_optimizer_trains_arrays_only(key):
    class Task(eqx.Module):
        aim: float = 1.0

        def init(self, key):
            return {"w": jnp.zeros(2), "scale": 0.5, "f": jnp.tanh, "on": True}

        def loss(self, params, step):
            assert params["on"] is True
            return jnp.sum((params["f"](params["scale"] * params["w"]) - self.aim) ** 2)

    family = LearnedSGD(0.1, 0.5)
    weights = family.initial_weights(key)
    measure = lambda task, params, key: task.loss(params, 0)
    problem = LearnedTraining(Task(), family, measure, 6, first_order=False)
    expected = ms.hypergradient(problem, weights, ms.Reverse(), key=key)
    state = first_state(problem, weights, ms.problems.base.split_keys(key).init)
    segment = run_segment(problem, weights, state, jnp.asarray(6), 2, 3)
    assert relative_distance(segment.grad, expected.grad) < 1e-12
    params = segment.state.params
    assert params["scale"] == 0.5 and params["f"] is jnp.tanh and params["w"][0] > 0


def dropout(key):
    layers = [eqx.nn.Linear(3, 4, key=key), eqx.nn.Dropout(0.5), eqx.nn.Lambda(jnp.tanh)]
    model = eqx.nn.Sequential(layers)
    return model, lambda model, key: model(jnp.array([1.0, -0.5, 2.0]), key=key)


def attention(key):
    model = eqx.nn.MultiheadAttention(2, 4, dropout_p=0.2, key=key)
    x = jnp.sin(jnp.arange(12.0).reshape(3, 4))
    return model, lambda model, key: model(x, x, x, key=key)


def pooled(pool):
    def make(key):
        model = eqx.nn.Sequential([eqx.nn.Conv2d(1, 2, 3, key=key), pool(2, 2)])
        image = jnp.sin(jnp.arange(36.0).reshape(1, 6, 6))
        return model, lambda model, key: model(image)

    return make


class Normalized(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.linear = eqx.nn.Linear(3, 2, key=key)
        self.norm = eqx.nn.BatchNorm(2, "batch", mode="batch")

    def __call__(self, x, state):
        return self.norm(self.linear(x), state)


def normalized(key):
    """Statistics of the batch; the running ones, which are not looked at, are in the parameters."""
    x = jnp.sin(jnp.arange(12.0).reshape(4, 3))

    def apply(params, key):
        run = jax.vmap(params[0], axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return run(x, params[1])[0]

    return eqx.nn.make_with_state(Normalized)(key), apply


LAYERS = {
    "dropout": dropout,
    "attention": attention,
    "maximum": pooled(eqx.nn.MaxPool2d),
    "mean": pooled(eqx.nn.AvgPool2d),
    "batch-statistics": normalized,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_equinox(name, key):
    model, apply = LAYERS[name](key)
    fixed = jax.random.fold_in(key, 1)
    loss = lambda model, outer, key: jnp.mean((apply(model, key) - outer["aim"]) ** 2)
    problem = ms.TrainingProblem(
        loss,
        lambda model, outer: loss(model, {"aim": 0.3}, fixed),
        model,
        lambda outer: optax.sgd(outer["step_size"]),
        horizon=3,
        batch=lambda t, key: key,
    )
    outer = {"aim": jnp.array(0.5), "step_size": jnp.array(0.1)}
    slopes = central_differences(problem, outer, key)
    for estimator in (ms.Reverse(), ms.Forward()):
        found = ms.hypergradient(problem, outer, estimator, key=key)
        assert found.result == ms.RESULTS.successful
        assert relative_distance(found.grad, slopes) < 1e-7  # the width of the differences, squared
