"""Metasmoothness: closed forms, and a response that is anything but smooth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.diagnosis.metasmoothness import smoothness


class Response(ms.AbstractProblem):
    """One step to a state that is a function of the hyperparameter."""

    function: object
    horizon: int = 1

    def init(self, outer, key):
        return jnp.zeros(2)

    def step(self, inner, outer, t, key):
        return self.function(outer)

    def objective(self, inner, outer, key):
        return jnp.sum(inner)


def test_the_score_is_that_of_the_formula(key):
    """The first number turns back after h, the second goes on; their weights are 0.5 and 8."""
    points = jnp.array([[0.0, 0.0], [1.0, 3.0], [0.5, 8.0]])
    problem = Response(lambda x: points[jnp.round(x).astype(int)] + 0 * x)
    found = ms.metasmoothness(problem, 0.0, key=key, direction=1.0, length=1.0)
    assert np.isclose(found.score, (8 - 0.5) / 8.5, rtol=1e-6, atol=0)
    assert found.values == (0.0, 4.0, 8.5) and found.length == 1.0


def test_a_number_that_stays_infinite_has_no_weight():
    """The best loss so far begins at infinity; the score was NaN, which counts as not checked."""
    ends = [(np.array([w, np.inf, -np.inf]),) for w in (0.0, 1.0, 3.0)]
    assert smoothness(*ends) == 1.0
    assert smoothness(ends[0], ends[2], ends[1]) == -1.0
    assert smoothness(ends[0], ends[0], ends[0]) == 1.0
    assert np.isnan(smoothness(*ends[:2], (np.array([3.0, 7.0, -np.inf]),)))
    assert np.isnan(smoothness(*ends[:2], (np.array([np.nan, np.inf, -np.inf]),)))


def test_a_random_response_has_a_score_near_zero(key):
    """Sums of 4,000 signs with equal weights scatter by 1 / sqrt(4000) about their mean, -1/3."""

    def noise(x):
        return jax.random.normal(jax.random.key(jnp.round(1e3 * x).astype(int)), (4000,))

    class Noise(Response):
        def init(self, outer, key):
            return jnp.zeros(4000)

    found = ms.metasmoothness(Noise(noise), 0.0, key=key, direction=1.0, length=0.1)
    assert abs(found.score) < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0.0}, "length is 0.0"),
        ({"direction": {"b": 1.0}}, "direction has the structure"),
        ({"direction": {"a": 0.0}}, "direction is zero"),
    ],
)
def test_wrong_use_is_named(options, message, key):
    problem = ms.TrainingProblem(
        lambda w, outer, batch: (w - outer["a"]) ** 2,
        lambda w, outer: w**2,
        jnp.array(0.0),
        optax.sgd(0.1),
        3,
    )
    with pytest.raises(ValueError, match=message):
        ms.metasmoothness(problem, {"a": 1.0}, key=key, **options)


class Jagged(ms.AbstractProblem):
    """Every step moves every number up or down, by a sign that changes within 1e-5 of itself."""

    height: float
    horizon: int = eqx.field(static=True, default=3)

    def init(self, outer, key):
        return outer + jnp.linspace(0.0, 1.0, 50)

    def step(self, inner, outer, t, key):
        return inner + self.height * jnp.sign(jnp.sin(1e5 * inner))

    def objective(self, inner, outer, key):
        return jnp.mean(inner**2)


@pytest.mark.parametrize(("height", "jumps"), [(0.3, True), (0.0, False)])
def test_a_response_that_jumps_is_warned_of_although_its_derivative_is_exact(height, jumps, key):
    """The slope between two jumps has all its digits; what lies beyond is another matter."""
    found = ms.diagnose(Jagged(height), jnp.array(0.5), key=key)
    kinds = {warning.kind for warning in found.warnings}
    assert ("not-smooth" in kinds) == jumps and np.isnan(found.response.reach) == jumps
    assert ("need not point downhill" in found.details().replace("\n", " ")) == jumps
    assert "chaotic" not in kinds or jumps
    if found.recommendation.estimator is not None:
        assert ("But steps may lead nowhere" in found.recommendation.reason) == jumps
