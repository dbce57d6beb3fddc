"""Every exact estimator on every problem, against `Reverse` and against central differences."""

import functools

import jax
import jax.numpy as jnp
import pytest

import metastep as ms
from metastep.compilation import compiled
from tests.cases import (
    BATCHED,
    BRIEF,
    EDGE,
    EVERY_KIND,
    EXACT,
    FULL_WINDOW,
    PROBLEMS,
    TUNED_START,
)
from tests.helpers import central_differences, relative_distance, value_at

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def reference(name):
    """Return a problem, its hyperparameters and `Reverse` on it, computed once per session."""
    problem, outer = (PROBLEMS | TUNED_START | BRIEF)[name]()
    key = jax.random.key(20)
    return problem, outer, ms.hypergradient(problem, outer, ms.Reverse(), key=key)


# Forward mode, which is independent of reverse mode, meets every problem below.
DIFFERENCED = ["quadratic", "momentum", "safe-adam", "clipped", "start-momentum-batches"]


@pytest.mark.parametrize("name", DIFFERENCED)
def test_reverse_agrees_with_central_differences(name, key):
    problem, outer, exact = reference(name)
    # Central differences of width 1e-5 carry errors of about 1e-10 / 1e-5 from rounding.
    assert relative_distance(exact.grad, central_differences(problem, outer, key)) < 1e-6
    assert exact.result == ms.RESULTS.successful


@pytest.mark.parametrize("name", ["quadratic", "momentum-batches", "start-momentum-batches"])
def test_the_trajectory_is_a_plain_loop(name, key):
    problem, outer, exact = reference(name)
    assert jnp.allclose(exact.value, value_at(problem, outer, key), rtol=1e-13, atol=0)


# Every row meets every problem; segments, which add nothing to a step, a few of them.
MET = [
    (name, row) for row in EXACT if row != "segments-of-5" for name in (*PROBLEMS, *TUNED_START)
] + [
    (name, "segments-of-5")
    for name in ("quadratic", "clipped", "one-step", "start-momentum-batches")
]


@pytest.mark.parametrize(("problem_name", "row"), MET)
def test_exact_estimators_agree(row, problem_name, key):
    problem, outer, exact = reference(problem_name)
    row = EXACT[row]
    estimate = ms.hypergradient(problem, outer, row.make(problem.horizon), key=key)
    assert relative_distance(estimate.grad, exact.grad) < row.rtol
    assert relative_distance(estimate.value, exact.value) < row.rtol


@pytest.mark.parametrize("row", EDGE.values(), ids=EDGE)
def test_segments_of_any_length(row, key):
    problem, outer, exact = reference("brief")
    estimate = ms.hypergradient(problem, outer, row.make(problem.horizon), key=key)
    assert relative_distance(estimate.grad, exact.grad) < row.rtol


@pytest.mark.parametrize("problem_name", ["quadratic", "safe-adam", "momentum-batches", "one-step"])
@pytest.mark.parametrize("row", FULL_WINDOW.values(), ids=FULL_WINDOW)
def test_full_window_is_exact(row, problem_name, key):
    problem, outer, exact = reference(problem_name)
    estimate = ms.hypergradient(problem, outer, row.make(problem.horizon), key=key)
    assert relative_distance(estimate.grad, exact.grad) < row.rtol


@pytest.mark.parametrize("problem_name", ["brief-start", *TUNED_START])
def test_full_window_leaves_out_the_initial_state(problem_name, key):
    """B_0 belongs to no window: K = T differs from the full gradient by exactly that term."""
    problem, outer, exact = reference(problem_name)
    window = ms.hypergradient(problem, outer, ms.TruncatedReverse(problem.horizon), key=key)
    keys_used = lambda start: ms.hypergradient(
        FixedPath(problem, outer), start, ms.Reverse(), key=key
    )
    initial_term = keys_used(outer).grad
    total = jax.tree.map(jnp.add, window.grad, initial_term)
    assert relative_distance(total, exact.grad) < 1e-12
    assert relative_distance(window.grad, exact.grad) > 1e-3


class FixedPath(ms.AbstractProblem):
    """The same dynamics, with `outer` acting through the initial state alone."""

    problem: ms.TrainingProblem
    fixed: dict
    horizon: int

    def __init__(self, problem, fixed):
        self.problem, self.fixed, self.horizon = problem, fixed, problem.horizon

    def init(self, outer, key):
        # Adding zeros keeps every leaf connected, as `Reverse` demands.
        state = self.problem.init(outer, key)
        rest = 0 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outer))
        return jax.tree.map(
            lambda x: x + rest if jnp.issubdtype(x.dtype, jnp.floating) else x, state
        )

    def step(self, inner, outer, t, key):
        return self.problem.step(inner, self.fixed, t, key)

    def objective(self, inner, outer, key):
        return self.problem.objective(inner, self.fixed, key)


@pytest.mark.parametrize(("estimator", "problem_name"), BATCHED, ids=str)
def test_estimators_under_vmap(estimator, problem_name, key):
    """A batch of keys and hyperparameters equals one call after the other."""
    problem, outer = PROBLEMS[problem_name]()
    outers = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x, 0.9 * x]), outer)
    keys = jax.random.split(key, 3)
    call = lambda outer, key: estimator.estimate(problem, outer, None, key)[0]
    batched = jax.jit(jax.vmap(call))(outers, keys)
    for i in range(3):
        single = jax.jit(call)(jax.tree.map(lambda x, i=i: x[i], outers), keys[i])
        one = jax.tree.map(lambda x, i=i: x[i], batched)
        # Batched products may be summed in another order.
        assert relative_distance(one.grad, single.grad) < 1e-11
        assert jnp.array_equal(one.result == single.result, True)


def test_a_batch_of_problems_under_vmap(key):
    """A problem is a pytree: its arrays can carry a batch axis."""
    problem, outer = PROBLEMS["quadratic"]()
    starts = jnp.array([[2.0, -1.0], [0.0, 1.0]])
    batch = lambda start: ms.QuadraticProblem(
        problem.hessian, problem.coupling, start, problem.outer_loss, 0.1, 40
    )
    grad = lambda start: ms.Reverse().estimate(batch(start), outer, None, key)[0].grad
    batched = compiled(jax.vmap(grad))(starts)
    for start, one in zip(starts, batched, strict=True):
        single = ms.hypergradient(batch(start), outer, ms.Reverse(), key=key).grad
        assert relative_distance(one, single) < 1e-12


@pytest.mark.parametrize(
    ("dtype", "of_outer"),
    [
        (jnp.float32, jnp.float32),
        (jnp.float64, jnp.float64),
        (jnp.float64, jnp.float32),
        (jnp.float32, jnp.float16),
    ],
)
def test_the_dtype_of_the_hyperparameters_is_kept(dtype, of_outer, key):
    problem, outer = PROBLEMS["quadratic"]()
    cast = lambda tree, dtype: jax.tree.map(
        lambda x: x.astype(dtype) if isinstance(x, jax.Array) else x, tree
    )
    for estimator in EVERY_KIND.values():
        call = lambda outer, key, estimator=estimator: ms.hypergradient(
            cast(problem, dtype), outer, estimator, key=key
        )
        estimate = jax.eval_shape(call, cast(outer, of_outer), key)
        assert estimate.grad.dtype == of_outer
        assert estimate.value.dtype == dtype
