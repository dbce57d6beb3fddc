"""What estimators are held against: the exact gradient, or slopes that need no derivative."""

import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import metastep as ms
from tests.cases import PROBLEMS
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("x64")

# Fourth order with a relative step of eps^(1/5): errors of about eps^(4/5) = 3e-13 from both
# truncation and rounding, times derivatives and values of order 1 to 100.
SHARP = 1e-9


@pytest.mark.parametrize("directions", [2, 10])
def test_slopes_are_those_of_the_exact_gradient(directions, key):
    """Along the coordinates if there are enough directions, else within their span."""
    problem, outer = PROBLEMS["momentum-batches"]()
    estimator = ms.CentralDifferences(directions)
    found = ms.hypergradient(problem, outer, estimator, key=key)
    exact = ravel_pytree(ms.hypergradient(problem, outer, ms.Reverse(), key=key).grad)[0]
    basis = estimator.basis(outer, key)
    assert basis.shape == (min(directions, exact.size), exact.size)
    assert relative_distance(ravel_pytree(found.grad)[0], exact @ basis.T @ basis) < SHARP
    # The uncertainty is that of second order, far above the error of fourth order.
    assert SHARP < found.stats["uncertainty"] < 1e-3


def test_a_reference_beyond_the_memory_gives_way_to_central_differences(key):
    problem, outer = PROBLEMS["quadratic"]()
    compare = lambda memory: ms.compare(
        problem, outer, [ms.TruncatedReverse(2)], key=key, repeats=1, memory=memory
    )
    exact, measured = compare(2**30), compare(1)
    assert exact.reference_estimator == ms.Reverse()
    assert measured.reference_estimator == ms.CentralDifferences()
    assert jnp.isclose(
        measured.rows[0].relative_error, exact.rows[0].relative_error, rtol=SHARP, atol=0
    )
    assert jnp.isclose(measured.rows[0].cosine, exact.rows[0].cosine, rtol=SHARP, atol=0)
    assert "slopes are good to" in str(measured)


def test_where_there_is_no_slope_the_uncertainty_says_so(key):
    class Noise(ms.AbstractProblem):
        """Values without any smoothness at the scale of the steps."""

        horizon: int = 1

        def init(self, outer, key):
            return jnp.zeros(())

        def step(self, inner, outer, t, key):
            return jnp.sum(jnp.sin(1e9 * outer))

        def objective(self, inner, outer, key):
            return inner

    found = ms.hypergradient(Noise(), jnp.linspace(1.0, 2.0, 8), ms.CentralDifferences(), key=key)
    assert found.stats["uncertainty"] > 0.1


@pytest.mark.parametrize(
    "make", [lambda: ms.CentralDifferences(0), lambda: ms.CentralDifferences(step=0.0)]
)
def test_wrong_choices_are_named(make):
    with pytest.raises(ValueError, match=r"(directions|step) is"):
        make()


def test_a_hyperparameter_that_nothing_uses_is_refused(key):
    problem, outer = PROBLEMS["sgd"]()
    with pytest.raises(ValueError, match=r"outer\['spare'\] cannot influence"):
        ms.hypergradient(problem, outer | {"spare": 1.0}, ms.CentralDifferences(), key=key)
