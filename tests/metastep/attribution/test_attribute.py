"""Scores against closed forms and finite differences, and when not to believe them."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

import metastep as ms
from metastep.attribution import attribute, leave_out
from metastep.attribution.attribute import CLOSE, REMOVAL, REPEATS, SMOOTH
from metastep.attribution.datamodeling import SUBSETS
from metastep.attribution.queries import Question
from metastep.attribution.units import as_units
from tests.helpers import central_differences, compilations, relative_distance
from tests.metastep.attribution.cases import (
    ASKED,
    EXAMPLES,
    QUERIES,
    Ridge,
    X,
    Y,
    fitted,
    network,
)

KEY = jax.random.key(4)
pytestmark = pytest.mark.usefixtures("x64")
ESTIMATORS = {
    "exact": (ms.Reverse(), 1e-9),
    "mixed": (ms.Reverse(checkpoint="sqrt", mixed=True), 1e-9),
    # What a window of 300 of 600 steps leaves out is (1 - 0.2 * 0.1)^300 = 2e-3 at most.
    "truncated": (ms.TruncatedReverse(300), 2e-3),
    "implicit": (ms.Implicit(lx.CG(rtol=1e-10, atol=0.0)), 1e-8),
    "forward": (ms.Forward(chunk=4), 1e-9),
}


@pytest.mark.parametrize(("estimator", "tolerance"), ESTIMATORS.values(), ids=ESTIMATORS)
def test_ridge_regression_has_the_influence_of_the_closed_form(estimator, tolerance):
    solution, hessian = fitted(np.ones(EXAMPLES))
    of_queries = (ASKED[0] @ solution - ASKED[1])[:, None] * ASKED[0]
    of_examples = (X @ solution - Y)[:, None] * X / EXAMPLES
    expected = -of_queries @ np.linalg.solve(hessian, of_examples.T)
    found = attribute(Ridge(), EXAMPLES, ASKED, estimator=estimator, key=KEY, batch_size=3)
    assert found.scores.shape == (QUERIES, EXAMPLES)
    assert relative_distance(found.scores, expected) < tolerance
    assert found.trustworthy and found.message == ""
    assert np.allclose(found.values, (ASKED[0] @ solution - ASKED[1]) ** 2 / 2, rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def of_network():
    with jax.enable_x64(True):
        return attribute(network, 8, ASKED, key=KEY, batch_size=3)


def test_a_network_on_batches_agrees_with_finite_differences(of_network):
    for query in range(QUERIES):
        problem = Question(network, (ASKED[0][query], ASKED[1][query]))
        expected = central_differences(problem, jnp.ones(8), KEY)
        # The error of the differences is about 1e-10.
        assert relative_distance(of_network.scores[query], expected) < 1e-7
    assert str(of_network).startswith(f"Scores of 8 examples for {QUERIES} queries.")


def test_one_problem_is_one_query_whatever_the_batch_size(of_network):
    problem = network((ASKED[0][1], ASKED[1][1]))
    found = attribute(problem, jnp.ones(8), key=KEY, share=None)
    assert found.scores.shape == (1, 8)
    assert relative_distance(found.scores[0], of_network.scores[1]) < 1e-12
    assert np.isnan(found.metasmoothness) and np.isnan(found.removal_error)


def test_training_that_is_driven_from_outside_shares_its_program_between_queries():
    def loss(w, weights, rows):
        return jnp.mean(weights[rows] * (jnp.asarray(X)[rows] @ w - jnp.asarray(Y)[rows]) ** 2)

    def judged(query, w, weights):
        return (query[0] @ w - query[1]) ** 2

    batches, optimizer = ms.Batches(np.arange(EXAMPLES), size=5), optax.sgd(0.1)
    asked = lambda query: ms.TrainingProblem(
        loss, jax.tree_util.Partial(judged, query), jnp.zeros(3), optimizer, 4, batches
    )
    drive = lambda problem, weights, key: ms.driven_hypergradient(
        problem, weights, ms.Reverse("sqrt"), key=key
    )
    some, others = (jax.tree.map(lambda x, half=half: x[half::2], ASKED) for half in (0, 1))
    found = attribute(asked, EXAMPLES, some, estimator=drive, key=KEY, share=None)
    with compilations() as count:
        attribute(asked, EXAMPLES, others, estimator=drive, key=KEY, share=None)
    assert count == [0]
    assert found.scores.shape == (QUERIES // 2, EXAMPLES)
    of_first = attribute(asked(jax.tree.map(lambda x: x[0], ASKED)), EXAMPLES, key=KEY, share=None)
    assert relative_distance(found.scores[:1], of_first.scores) < 1e-12
    assert found.result == ms.RESULTS.successful


def test_a_group_has_the_sum_of_its_members(of_network):
    groups = np.array([2, 0, 1, 0, 2, 2, 1, 0])
    found = attribute(network, 8, ASKED, key=KEY, groups=groups, share=0.4)
    expected = np.stack([of_network.scores[:, groups == group].sum(axis=1) for group in range(3)])
    assert relative_distance(found.scores, expected.T) < 1e-12
    removal = leave_out(network, 8, ASKED, left_out=[[2]], key=KEY, groups=groups)
    alone = leave_out(network, 8, ASKED, left_out=[[0, 4, 5]], key=KEY)
    assert np.array_equal(removal.values, alone.values)


def tokens(weights_of):
    """Return a problem with weights for the coordinates of three examples, as `weights_of` has."""
    targets = jnp.arange(6.0).reshape(3, 2)
    return ms.TrainingProblem(
        lambda w, outer, batch: jnp.mean(weights_of(outer) * (w - targets) ** 2),
        lambda w, outer: jnp.sum(w**2),
        jnp.zeros(2),
        optax.sgd(0.3),
        20,
    )


def test_weights_of_tokens_and_trees_of_weights():
    per_token = attribute(tokens(lambda w: w), jnp.ones((3, 2)), key=KEY)
    assert per_token.scores.shape == (1, 3, 2)
    rows = attribute(tokens(lambda w: w), jnp.ones((3, 2)), key=KEY, groups=np.arange(3), share=0.4)
    assert relative_distance(rows.scores, per_token.scores.sum(axis=2)) < 1e-12
    tree = attribute(
        tokens(lambda w: jnp.concatenate([w["first"], w["rest"]])),
        {"first": jnp.ones((1, 2)), "rest": jnp.ones((2, 2))},
        key=KEY,
    )
    joined = np.concatenate([tree.scores["first"], tree.scores["rest"]], axis=1)
    assert relative_distance(joined, per_token.scores) < 1e-12
    assert per_token.trustworthy and tree.removal_error < CLOSE


def test_no_training_has_a_key_that_draws_removals():
    """The second training had the one that draws the subsets of the datamodelling score."""
    trainings = range(REPEATS + 1, REPEATS + 1000)
    assert REMOVAL not in trainings and SUBSETS not in trainings and REMOVAL != SUBSETS


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_weights_of_16_bits_are_added_in_more(dtype):
    """300 ones are 256 in bfloat16."""
    weights, groups = jnp.ones(300, dtype), np.zeros(300, np.uint8)
    units = as_units(weights, groups)
    assert units.collect(weights) == 300
    many = as_units(jnp.ones(256), np.arange(256, dtype=np.uint8))
    assert many.count == 256 and many.groups.dtype == jnp.int32


def test_standard_errors_are_those_of_the_keys(of_network):
    found = attribute(network, 8, ASKED, key=KEY, batch_size=3, repeats=3)
    keys = [KEY, *(jax.random.fold_in(KEY, 11 + n) for n in (1, 2))]
    alone = [attribute(network, 8, ASKED, key=key, share=None).scores for key in keys]
    assert relative_distance(found.scores, np.mean(alone, axis=0)) < 1e-12
    expected = np.std(alone, axis=0, ddof=1) / 3**0.5
    assert relative_distance(found.standard_errors, expected) < 1e-12
    assert of_network.standard_errors is None
    # The removal is tried with the first key, against the scores of this key.
    assert found.removal_error == pytest.approx(of_network.removal_error, rel=1e-9)


def chaotic(query):
    """Gradient descent on cosines with a step size of 30, whose path nobody can foresee."""
    return ms.TrainingProblem(
        lambda w, weights, batch: jnp.mean(weights * jnp.cos(w * (1 + jnp.asarray(Y)))),
        lambda w, weights: jnp.sin(w * query[1]),
        jnp.array(1.0),
        optax.sgd(30.0),
        30,
    )


DOUBTFUL = {
    "overflow in the check": (Ridge(1e3, 40), ms.Reverse(), "is left out by inf"),
    "divergence": (Ridge(1e3, 90), ms.Reverse(), "infinite or NaN"),
    "chaos": (chaotic, ms.Reverse(), "metasmoothness"),
    "short window": (Ridge(0.05, 40), ms.TruncatedReverse(2), "Their order may still be right"),
    "not converged": (Ridge(0.05, 5), ms.Implicit(), "needs the inner loop to have converged"),
}


@pytest.mark.parametrize(("problem", "estimator", "words"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_says_when_scores_are_not_to_be_believed(problem, estimator, words):
    found = attribute(problem, EXAMPLES, ASKED, estimator=estimator, key=KEY)
    assert not found.trustworthy and words in found.message
    assert ("metasmoothness" in words) <= (found.metasmoothness < SMOOTH)


def rounded(query):
    problem = Ridge(horizon=2)(query)
    return ms.TrainingProblem(
        problem.loss,
        lambda w, weights: jnp.round(query[0] @ w),
        problem.init_params,
        problem.optimizer,
        2,
    )


def unweighted(query):
    problem = Ridge(horizon=2)(query)
    return ms.TrainingProblem(
        lambda w, weights, batch: problem.loss(w, jnp.round(weights), batch),
        problem.objective_of_params,
        problem.init_params,
        problem.optimizer,
        2,
    )


PLAIN = Ridge(horizon=2)((ASKED[0][0], ASKED[1][0]))
GOOD = {"problem": Ridge(horizon=2), "examples": EXAMPLES, "queries": ASKED}
WRONG = {
    "queries without a derivative": ({"problem": rounded}, "queries have no derivative"),
    "weights that are not used": ({"problem": unweighted}, "examples cannot reach the training"),
    "queries for one problem": ({"problem": PLAIN}, "queries are given"),
    "no queries": ({"queries": None}, "queries is None"),
    "zero queries": ({"queries": (np.zeros((0, 3)), np.zeros(0))}, "numbers of rows"),
    "queries of two lengths": ({"queries": (np.zeros((2, 3)), np.zeros(3))}, "[0] 2, [1] 3"),
    "text for queries": ({"queries": "text"}, "queries holds 'text'"),
    "one query": ({"queries": (np.zeros(3), np.array(1.0))}, "float64[3], float64[]; allowed"),
    "no problem": ({"problem": lambda query: query}, "returned a tuple"),
    "a name": ({"estimator": "reverse"}, "estimator is 'reverse'; allowed are instances"),
    "a class": ({"estimator": ms.Reverse}, "allowed are instances of estimators"),
    "no estimate": ({"estimator": lambda *_: 1.0}, "estimator returned a float"),
    "integer weights": ({"examples": np.ones(EXAMPLES, int)}, "examples holds int64"),
    "no examples": ({"examples": 0}, "examples holds int"),
    "groups of wrong length": ({"groups": np.zeros(5, int)}, "groups is of int64[5]"),
    "groups of floats": ({"groups": np.zeros(EXAMPLES)}, "groups is of float64"),
    "groups with a gap": ({"groups": np.arange(EXAMPLES) * 2}, "numpy.unique"),
    "groups of a tree": ({"examples": {"a": np.ones(3)}, "groups": np.arange(3)}, "is a tree"),
    "share of one": ({"share": 1.0}, "share is 1.0"),
    "share of NaN": ({"share": float("nan")}, "share is nan"),
    "no repeats": ({"repeats": 0}, "repeats is 0"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
    "no key": ({"key": 3}, "key is 3"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(change, words):
    with pytest.raises(ValueError) as caught:
        attribute(**{**GOOD, "key": KEY, **change})
    assert words in str(caught.value)
