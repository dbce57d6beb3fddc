"""Bulk partition functions against arithmetic with more digits, and histograms."""

import mpmath
import numpy as np
import pytest

from metastep.anchors import log_bulk_partitions, partition_histograms

TOP = (0, 100, 3, 10)


def exact(logits, top):
    """Return log sum exp of all but the largest logits with 50 digits."""
    with mpmath.workdps(50):
        ordered = [sorted(map(mpmath.mpf, row.tolist())) for row in logits]
        bulk = lambda row, k: row[: len(row) - k]
        sums = [
            [mpmath.log(mpmath.fsum(map(mpmath.exp, bulk(r, k)))) for k in top] for r in ordered
        ]
    return np.array(sums, float)


# Each float32 exponential has an error of 1e-7, and so does their sum, or a little more.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("spread", [0.1, 3.0, 300.0])
def test_every_bulk_agrees_with_fifty_digits(dtype, tolerance, spread):
    rng = np.random.default_rng(1)
    logits = (spread * rng.normal(size=(70, 120)) + 40).astype(dtype)
    found = log_bulk_partitions(logits.copy(), TOP)
    expected = exact(logits, TOP)
    assert found.dtype == np.float64
    assert np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))) < tolerance


def test_a_few_words_with_all_the_probability_do_not_hide_the_bulk():
    logits = np.concatenate([np.full((1, 5000), -3.0), np.full((1, 10), 90.0)], axis=1)
    found = log_bulk_partitions(logits.astype(np.float32), (10, 0))
    # By subtraction in float32 the bulk would be 0 or noise of 1e-7 exp(90).
    np.testing.assert_allclose(found, [[np.log(5000) - 3, np.log(10) + 90]], rtol=1e-7)


def test_histograms_count_every_token_over_common_edges():
    values = np.random.default_rng(2).normal(size=(500, 2)) * [1.0, 3.0]
    found = partition_histograms(values, bins=20)
    assert found.edges.shape == (21,)
    np.testing.assert_array_equal(found.counts.sum(axis=1), [500, 500])
    np.testing.assert_array_equal(found.counts[1], np.histogram(values[:, 1], found.edges)[0])


@pytest.mark.parametrize("top", [(), (0, 0), (-1,), (5,), (2.0,)])
def test_impossible_bulk_sizes(top):
    with pytest.raises(ValueError, match="top is"):
        log_bulk_partitions(np.zeros((2, 5)), top)


def test_impossible_values():
    with pytest.raises(ValueError, match="logits has shape"):
        log_bulk_partitions(np.zeros(5), (0,))
    with pytest.raises(ValueError, match="infinities or NaN"):
        partition_histograms(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="shape"):
        partition_histograms(np.zeros(3))
    with pytest.raises(ValueError, match="bins is 0"):
        partition_histograms(np.zeros((3, 1)), bins=0)
