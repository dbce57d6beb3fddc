"""Problems drawn at random: every exact estimator agrees with `Reverse`, and with differences.

`METASTEP_FUZZ` in the environment multiplies the long form; see `make fuzz`.
"""

import math
import os
import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import metastep as ms
from metastep.compilation import compiled
from metastep.problems.base import initial
from tests import any_optimizer, any_problem
from tests.helpers import problem_value

pytestmark = pytest.mark.usefixtures("x64")

MORE = int(os.environ.get("METASTEP_FUZZ", "1"))


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], np.float64)


@dataclass(frozen=True)
class Other:
    """An estimator to hold against `Reverse`, as one program or driven by Python."""

    estimator: ms.AbstractEstimator
    driven: bool = False

    def __call__(self, problem, outer, key):
        run = ms.driven_hypergradient if self.driven else ms.hypergradient
        return run(problem, outer, self.estimator, key=key)

    @property
    def most(self):
        """On how many problems of a recipe: Python takes half a second for each."""
        return 4 if self.driven else math.inf


@st.composite
def whole(draw, recipe):
    """Draw an estimator that must give the gradient of `Reverse`."""
    steps = recipe.horizon
    window = lambda checkpoint, mixed: ms.TruncatedReverse(steps, checkpoint, mixed)
    modes = [ms.Reverse] if any_problem.tuned_start(recipe) else [ms.Reverse, window]
    reverse = draw(st.sampled_from(modes))
    checkpoint = st.sampled_from([None, 1, 2, steps, "sqrt", "binomial", ms.Binomial(2)])
    mixed = st.sampled_from([None, True, True])
    kind = draw(st.sampled_from(["reverse", "reverse", "reverse", "forward", "chunk", "driven"]))
    return {
        "reverse": lambda: Other(reverse(draw(checkpoint), draw(mixed))),
        "forward": lambda: Other(ms.Forward()),
        "chunk": lambda: Other(ms.Forward(chunk=2)),
        "driven": lambda: Other(reverse(draw(checkpoint), draw(mixed)), driven=True),
    }[kind]()


@compiled
def slopes(problem, outer, key):
    """Return central differences at two widths; they differ where the objective has a kink."""
    vector, unflatten = ravel_pytree(outer)
    value = lambda at: problem_value(problem, unflatten(at), key)
    wide = lambda row: (value(vector + row) - value(vector - row)) / (2 * jnp.sum(row))
    rows = lambda width: jax.lax.map(wide, width * jnp.eye(vector.size))
    coarse, fine = rows(2e-4), rows(1e-4)
    return (4 * fine - coarse) / 3, rows(1e-6)


@compiled
def windows(problem, outer, key, window):
    """Return the gradients of `PersistentReverse` with one run, and the keys of the run."""
    estimator, grads = ms.PersistentReverse(window, runs=1), []
    state = estimator.init(problem, outer, key)
    for _ in range(min(2, problem.horizon // window)):
        estimate, state = estimator.estimate(problem, outer, state, key)
        grads.append(estimate.grad)
    return grads, jax.tree.map(lambda x: x[0], state.keys)


@compiled
def windows_by_hand(problem, outer, keys, window):
    """Return the same by a plain loop over the steps."""

    def walk(inner, outer, first):
        for t in range(first, first + window):
            inner = problem.step(inner, outer, jnp.asarray(t), keys.step(t))
        return inner

    inner, grads = initial(problem, outer, keys.init), []
    for first in range(0, window * min(2, problem.horizon // window), window):
        judged = lambda outer: problem.objective(
            walk(inner, outer, first),  # noqa: B023
            outer,
            keys.objective,
        )
        grads.append(jax.grad(judged)(outer))
        inner = walk(inner, outer, first)
    return grads


# By the decimal digits of the roughest dtype: against `Reverse`, and against differences in double
# precision. Rounding is amplified by the steps; half precision is held against itself alone.
TOLERANCES = {15: (1e-8, 1e-6), 6: (1e-2, 3e-2), 2: (0.3, None)}


def distance(found, expected):
    """Return the distance relative to the larger of the gradient and a hundredth of 1."""
    scale = max(np.linalg.norm(flat(expected)), 0.01)
    return np.linalg.norm(flat(found) - flat(expected)) / scale


def check(recipe, others, window, count, number):
    """Hold `count` problems of one recipe against their references."""
    among, to_slopes = TOLERANCES[recipe.digits]
    make, make_double = any_problem.maker(recipe), any_problem.maker(recipe.in_double)
    for index in range(count):
        draws = lambda: np.random.default_rng([number, index])  # noqa: B023
        problem, outer = make(draws())
        key = jax.random.key(index)
        expected = ms.hypergradient(problem, outer, ms.Reverse(), key=key)
        assert expected.result == ms.RESULTS.successful
        for other in others:
            if index >= other.most:
                continue
            found = other(problem, outer, key)
            assert found.result == expected.result
            assert distance(found.value, expected.value) < among
            assert distance(found.grad, expected.grad) < among
        if window:
            grads, keys = windows(problem, outer, key, window)
            by_hand = windows_by_hand(problem, outer, keys, window)
            if distance(grads, by_hand) >= among:
                # In half precision the loop by hand may have no right digit either.
                precise = windows_by_hand(*make_double(draws()), keys, window)
                assert recipe.digits == 2 and distance(by_hand, precise) >= among
        if to_slopes:
            rows = slopes(*make_double(draws()), key)
            assert min(distance(row, expected.grad) for row in rows) < to_slopes


def fuzz(names, recipes, count):
    """Draw recipes for these optimizers, and `count` problems of each."""

    @seed(zlib.crc32("".join(names).encode()))
    @settings(
        max_examples=recipes,
        deadline=None,
        phases=[Phase.generate],  # a smaller example would compile anew at every try
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw_and_check(data):
        number = data.draw(st.integers(0, 2**30))
        assume(number)  # the simplest example, which hypothesis tries first
        recipe = data.draw(any_problem.recipes(data.draw(st.sampled_from(names))))
        others = [data.draw(whole(recipe)) for _ in range(2)]
        divisors = [n for n in range(1, recipe.horizon + 1) if recipe.horizon % n == 0]
        window = data.draw(st.sampled_from([None, None, *divisors]))
        check(recipe, others, window, count, number)

    draw_and_check()


def test_problems():
    fuzz(sorted(any_optimizer.ROWS), 2, 8)


@pytest.mark.parametrize("name", any_optimizer.ROWS)
def test_many_problems(name):
    fuzz([name], MORE, 100)
