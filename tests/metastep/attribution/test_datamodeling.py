"""The linear datamodelling score: 1 where the outcome is linear, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import rankdata

import metastep as ms
from metastep.attribution import (
    attribute,
    datamodeling_score,
    leave_out,
    linear_datamodeling_score,
)
from metastep.minimize import Checkpoint

EXAMPLES = 15
KEY = jax.random.key(2)
pytestmark = pytest.mark.usefixtures("x64")
SLOPES = np.random.default_rng(0).standard_normal((EXAMPLES, 3))


def linear(query):
    """One step of gradient descent on a linear loss: the outcome is linear in the weights."""
    return ms.TrainingProblem(
        lambda w, weights, batch: weights @ (jnp.asarray(SLOPES) @ w),
        lambda w, weights: query @ w,
        jnp.zeros(3),
        optax.sgd(1.0),
        1,
    )


QUERIES = np.eye(3)


@pytest.fixture(scope="module")
def judged():
    with jax.enable_x64(True):
        scores = attribute(linear, EXAMPLES, QUERIES, key=KEY)
        return scores, linear_datamodeling_score(
            linear, EXAMPLES, QUERIES, scores=scores, key=KEY, share=0.2, subsets=30
        )


def test_a_linear_outcome_is_predicted_exactly(judged):
    scores, found = judged
    assert np.allclose(scores.scores, -SLOPES.T, rtol=1e-12, atol=0)
    assert np.allclose(found.per_query, 1, rtol=0, atol=1e-12)
    assert found.mean == pytest.approx(1) and found.standard_error < 1e-12
    removals = found.removals
    assert removals.left_out.shape == (30, EXAMPLES) and set(removals.left_out.sum(1)) == {3}
    assert np.allclose(removals.predicted(scores.scores), removals.changes, rtol=0, atol=1e-12)
    assert datamodeling_score(-scores.scores, removals).mean == pytest.approx(-1)


def test_spearman_is_the_correlation_of_ranks(judged):
    _, found = judged
    other = np.random.default_rng(5).standard_normal((3, EXAMPLES))
    ours = datamodeling_score(other, found.removals)
    for query in range(3):
        predicted = rankdata(-(found.removals.left_out @ other[query]))
        true = rankdata(found.removals.changes[:, query])
        assert ours.per_query[query] == pytest.approx(np.corrcoef(predicted, true)[0, 1])
    assert ours.standard_error == pytest.approx(np.std(ours.per_query, ddof=1) / 3**0.5)


def test_a_query_that_nothing_changes_is_not_in_the_mean(judged):
    scores, found = judged
    constant = np.array(scores.scores)
    constant[1] = 0
    ours = datamodeling_score(constant, found.removals)
    assert np.isnan(ours.per_query[1]) and ours.mean == pytest.approx(1)


def test_a_checkpoint_is_handed_on(tmp_path, judged):
    path = tmp_path / "removals"
    run = lambda resume: linear_datamodeling_score(
        linear,
        EXAMPLES,
        QUERIES,
        scores=judged[0],
        key=KEY,
        subsets=4,
        checkpoint=Checkpoint(path, 2, resume),
    )
    assert np.array_equal(run(False).per_query, run(True).per_query)


def test_wrong_use_is_refused(judged):
    scores, found = judged
    two = leave_out(linear, EXAMPLES, QUERIES, left_out=[[0], [1]], key=KEY)
    bad = np.array(scores.scores)
    bad[0, 0] = np.nan
    for wrong, removals, words in (
        (scores.scores[:, 1:], found.removals, "allowed is \\(queries, 15\\)"),
        (scores.scores[1:], found.removals, "one for each of the 3 queries"),
        (bad, found.removals, "NaN or infinity"),
        (scores, two, "removals has 2 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            datamodeling_score(wrong, removals)
