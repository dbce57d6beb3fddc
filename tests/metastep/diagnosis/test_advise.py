"""Which estimator is recommended, for tables made up at random."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import metastep as ms
from metastep.diagnosis.advise import advise, trusted
from metastep.diagnosis.rows import Option, WindowRow


@functools.cache
def measured():
    """A diagnosis whose table is then replaced."""
    problem = ms.QuadraticProblem(
        jnp.eye(1), jnp.eye(1), jnp.ones(1), lambda w, outer: jnp.sum(w**2), 0.1, 5
    )
    return ms.diagnose(problem, jnp.array([0.5]), key=jax.random.key(0))


NUMBERS = st.sampled_from([0.1, 0.96, 1.0])
ESTIMATORS = (
    ms.Reverse(),
    ms.Reverse("sqrt"),
    ms.Forward(),
    ms.TruncatedReverse(1),
    ms.TruncatedReverse(5),
    ms.Implicit(),
    ms.EvolutionStrategies(0.01, 16),
)
ROWS = st.tuples(*(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS) for _ in ESTIMATORS))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ROWS, st.tuples(NUMBERS, NUMBERS), st.sampled_from(["", "no fixed point"]))
def test_what_is_recommended_is_not_dominated_by_what_can_be_trusted(rows, adjoints, message):
    """By no estimator that fits into memory and is at least as good in everything its table says.

    Numbers come from a few values, so that ties are frequent.
    """
    options = tuple(
        Option(one, cosine, error, seconds, int(100 * memory), True)
        for one, (cosine, error, seconds, memory) in zip(ESTIMATORS, rows, strict=True)
    )
    windows = [WindowRow(w, 1.0, 0.0, 1.0, a) for w, a in zip((1, 5), adjoints, strict=True)]
    made = replace(
        measured(),
        options=options,
        windows=tuple(windows),
        implicit_message=message,
        memory=99,
    )
    advised = advise(made).recommendation.estimator
    if advised is None:
        return
    own = made.option(advised)
    figures = lambda o: np.array([-o.cosine, o.relative_error, o.seconds, o.memory])
    for other in options:
        if other.memory <= made.memory and trusted(made, other):
            better = figures(other) - figures(own)
            assert not (np.all(better <= 0) and np.any(better < 0))


def test_where_it_is_chaotic_no_exact_estimator_is_recommended():
    found = advise(replace(measured(), chaotic=True))
    assert isinstance(found.recommendation.estimator, ms.EvolutionStrategies)
