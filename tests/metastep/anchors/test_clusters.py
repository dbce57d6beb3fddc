"""Two clusters of a partition function that no single anchor fits, and distributions with one."""

import numpy as np
import pytest

from metastep.anchors import find_clusters, fit_anchor, fit_groups

TOP = (0, 2)


@pytest.fixture(scope="module")
def two_anchors():
    """States on two sides of a wall, and words of which each side sees one group."""
    rng = np.random.default_rng(6)
    side = rng.integers(2, size=900)
    states = np.column_stack([0.3 * rng.normal(size=(900, 3)), np.where(side, 60.0, -20.0)])
    first = np.column_stack([np.tile(rng.normal(size=3), (10, 1)), np.full(10, 1.0)])
    second = np.column_stack([np.tile(rng.normal(size=3), (10, 1)), np.full(10, -1.0)])
    return side, states, np.concatenate([first, second])


def test_each_cluster_has_its_own_anchor(two_anchors):
    side, states, words = two_anchors
    batches = np.array_split(states, 4)
    fit = fit_anchor(batches, words, TOP)
    clusters = find_clusters(fit.log_partitions[:, 0])
    np.testing.assert_array_equal(clusters.labels, side)
    # log Z is <h, v> + log 10 on each side, the other group has exp(-40) of it.
    np.testing.assert_allclose(clusters.centers, [20 + np.log(10), 60 + np.log(10)], atol=0.1)
    assert clusters.shares == (np.mean(side == 0), np.mean(side == 1))
    parts = fit_groups(states[None], fit, clusters.labels)
    assert np.all(fit.mse > 1e-2)
    for label, part in enumerate(parts):
        assert np.all(part.mse < 1e-20)
        alone = fit_anchor([states[side == label]], words, TOP)
        np.testing.assert_allclose(part.anchors, alone.anchors, rtol=1e-9, atol=1e-12)


def test_groups_may_leave_tokens_out_and_keep_the_intercept(two_anchors):
    side, states, words = two_anchors
    fit = fit_anchor([states], words, TOP, intercept=True)
    (part,) = fit_groups([states], fit, np.where(side == 0, 0, -1))
    assert part.unknowns == 5 and len(part.log_partitions) == np.sum(side == 0)


def test_one_cluster():
    rng = np.random.default_rng(7)
    for values in (
        rng.normal(size=5000),
        rng.uniform(size=5000),
        rng.exponential(size=5000),
        np.ones(10),
        np.append(np.linspace(0, 1, 500), 50.0),  # one outlier is no cluster
    ):
        assert find_clusters(values) is None


def test_the_split_has_the_least_variance_of_all():
    rng = np.random.default_rng(8)
    values = np.concatenate([rng.normal(0, 1, 60), rng.normal(30, 2, 40)])
    ordered = np.sort(values)
    within = [i * ordered[:i].var() + (100 - i) * ordered[i:].var() for i in range(1, 100)]
    assert np.sum(find_clusters(values).labels == 0) == 1 + np.argmin(within)


def test_wrong_input(two_anchors):
    side, states, words = two_anchors
    fit = fit_anchor([states], words, TOP)
    for values in (np.ones(1), np.array([1.0, np.nan]), np.ones((3, 2))):
        with pytest.raises(ValueError, match="values"):
            find_clusters(values)
    with pytest.raises(ValueError, match="labels has shape"):
        fit_groups([states], fit, side[:-1])
    with pytest.raises(ValueError, match="labels has shape"):
        fit_groups([states], fit, np.full(900, -1))
    for batches in ([states[:-1]], [states, states]):
        with pytest.raises(ValueError, match="batches has"):
            fit_groups(batches, fit, side)
    with pytest.raises(ValueError, match="3 hidden states for 4 unknowns"):
        fit_groups([states], fit, np.where(np.arange(900) < 3, 1, 0))
