"""Balanced sets and corrupted labels, on drawn sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metastep_lab.data import balanced_indices, corrupt_labels

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    sizes=st.lists(st.integers(0, 20), max_size=4),
    seed=SEEDS,
)
def test_balanced_sets(counts, sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    try:
        sets = balanced_indices(labels, sizes, seed)
    except ValueError as error:
        assert "ask for smaller sets" in str(error)
        assert sum(-(-size // len(counts)) for size in sizes) > min(counts)
        return
    assert [len(chosen) for chosen in sets] == sizes
    together = np.concatenate([np.zeros(0, int), *sets])
    assert len(np.unique(together)) == len(together)
    for chosen in sets:
        assert chosen.dtype == np.int64
        assert np.ptp(np.bincount(labels[chosen] // 3, minlength=len(counts))) <= 1
    again = balanced_indices(labels, sizes, seed)
    assert all((one == other).all() for one, other in zip(sets, again, strict=True))


def fits(left, surplus):
    """Whether each set can take its surplus from distinct classes, by trying everything."""
    if not surplus:
        return True
    choices = [c for c in np.ndindex(*[2] * len(left)) if sum(c) == surplus[0]]
    trials = [tuple(n - c for n, c in zip(left, choice, strict=True)) for choice in choices]
    return any(min(trial) >= 0 and fits(trial, surplus[1:]) for trial in trials)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    seed=SEEDS,
)
def test_sets_are_refused_only_if_impossible(counts, sizes, seed):
    floor = sum(size // len(counts) for size in sizes)
    left = tuple(count - floor for count in counts)
    possible = min(left) >= 0 and fits(left, [size % len(counts) for size in sizes])
    try:
        balanced_indices(np.repeat(np.arange(len(counts)), counts), sizes, seed)
    except ValueError:
        assert not possible
    else:
        assert possible


def test_seeds_differ_and_no_order_is_left():
    labels = np.repeat(np.arange(10), 100)
    first, second = (balanced_indices(labels, [500], seed)[0] for seed in (0, 1))
    assert set(first) != set(second)
    assert 0 < np.count_nonzero(np.diff(labels[first]) < 0)


def test_labels_may_be_strings():
    (chosen,) = balanced_indices(["b", "a", "b", "b"], [2], 0)
    assert sorted(np.array(["b", "a", "b", "b"])[chosen]) == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "sizes", "error", "message"),
    [
        ([0, 0, 1], [4], ValueError, "need 2 of class 1, which has 1"),
        ([0, 1], [-1], ValueError, "negative"),
        ([], [1], ValueError, "no labels"),
        ([[0, 1]], [1], ValueError, "shape"),
        ([0.5, 1.0], [1], ValueError, "float64"),
        ([0, 1], [1.5], TypeError, "integer"),
    ],
)
def test_wrong_use_of_balanced_indices(labels, sizes, error, message):
    with pytest.raises(error, match=message):
        balanced_indices(labels, sizes, 0)


def test_nothing_from_nothing():
    assert [len(chosen) for chosen in balanced_indices(np.zeros(0, int), [0, 0], 0)] == [0, 0]


@settings(max_examples=80, deadline=None)
@given(
    classes=st.integers(1, 12),
    size=st.integers(0, 50),
    fraction=st.floats(0, 1),
    dtype=st.sampled_from([np.uint8, np.int32, np.int64]),
    seed=SEEDS,
)
def test_corruption(classes, size, fraction, dtype, seed):
    labels = np.random.default_rng(seed).integers(classes, size=size).astype(dtype)
    before = labels.copy()
    found, replaced = corrupt_labels(labels, classes, fraction, np.random.default_rng(seed))
    assert found.dtype == dtype and replaced.dtype == bool
    assert found.shape == replaced.shape == labels.shape
    assert ((found >= 0) & (found < classes)).all()
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(found[~replaced], labels[~replaced])
    if fraction in (0.0, 1.0):
        assert (replaced == bool(fraction)).all()


def test_rates_are_the_documented_ones():
    labels = np.tile(np.arange(10), 4000)
    found, replaced = corrupt_labels(labels, 10, 0.5, np.random.default_rng(0))
    error = 4 * 0.5 / np.sqrt(labels.size)  # four standard errors
    assert abs(replaced.mean() - 0.5) < error
    assert abs((found != labels).mean() - 0.45) < error
    np.testing.assert_allclose(np.bincount(found[replaced]) / replaced.sum(), 0.1, atol=error)


@pytest.mark.parametrize(
    ("labels", "classes", "fraction", "message"),
    [
        ([0, 1], 2, 1.5, "between 0 and 1"),
        ([0, 1], 2, float("nan"), "between 0 and 1"),
        ([0, 2], 2, 0.5, "Labels must be 0 to 1: 0 to 2 found"),
        ([-1, 0], 2, 0.5, "Labels must be 0 to 1"),
        ([0.0], 2, 0.5, "float64"),
        ([0], 0, 0.5, "cannot hold 0 classes"),
        (np.zeros(2, np.uint8), 257, 0.5, "uint8 cannot hold 257"),
    ],
)
def test_wrong_use_of_corrupt_labels(labels, classes, fraction, message):
    with pytest.raises(ValueError, match=message):
        corrupt_labels(labels, classes, fraction, np.random.default_rng(0))
