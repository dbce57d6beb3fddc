"""The streaming fit against direct least squares, for every way to cut the stream."""

import numpy as np
import pytest

from metastep.anchors import fit_anchor, log_bulk_partitions

TOP = (0, 10, 100)
TOKENS, VOCABULARY, HIDDEN = 1300, 300, 12


@pytest.fixture(scope="module")
def model():
    """States far from centered, with scales from 1 to 1000, and a dictionary."""
    rng = np.random.default_rng(3)
    states = (rng.normal(size=(TOKENS, HIDDEN)) + 2) * np.logspace(0, 3, HIDDEN)
    words = (rng.normal(size=(VOCABULARY, HIDDEN)) + 0.3) / np.logspace(0, 3, HIDDEN)
    return states, words


def direct(states, values, fitted=slice(None), judged=slice(None), intercept=False):
    """Return anchors by least squares on all rows at once, and their mean squared error."""
    design = np.column_stack([states, np.ones(len(states))]) if intercept else states
    solution = np.linalg.lstsq(design[fitted], values[fitted], rcond=None)[0]
    return solution, np.mean((design[judged] @ solution - values[judged]) ** 2, axis=0)


@pytest.mark.parametrize("intercept", [False, True])
def test_streaming_equals_direct_least_squares(model, intercept):
    states, words = model
    block = 256
    fit = fit_anchor(np.split(states, [5, 700]), words, TOP, intercept, block=block)
    values = log_bulk_partitions(states @ words.T, TOP)
    solution, mse = direct(states, values, intercept=intercept)
    # Least squares by QR is backward stable: the rest is the condition number, 1e4, times 1e-16.
    np.testing.assert_allclose(fit.anchors, solution[:HIDDEN].T, rtol=1e-10)
    np.testing.assert_allclose(fit.intercepts, solution[HIDDEN] if intercept else 0, rtol=1e-10)
    np.testing.assert_allclose(fit.mse, mse, rtol=1e-10)
    np.testing.assert_allclose(fit.variance, values.var(axis=0), rtol=1e-10)
    np.testing.assert_allclose(fit.r2, 1 - mse / values.var(axis=0), rtol=1e-9)
    np.testing.assert_allclose(fit.log_partitions, values, rtol=1e-13)
    place = np.arange(TOKENS) % block
    first = place < np.where(np.arange(TOKENS) < TOKENS // block * block, block, TOKENS % block) / 2
    held_out = direct(states, values, first, ~first, intercept)[1]
    np.testing.assert_allclose(fit.held_out_mse, held_out, rtol=1e-10)
    assert fit.rank == fit.unknowns == HIDDEN + intercept and not fit.rank_deficient


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_every_way_to_cut_the_stream(model, dtype):
    states, words = (array.astype(dtype) for array in model)
    whole = fit_anchor([states], words, TOP)
    for size in (1, 7, 512, 1000):
        cut = fit_anchor((states[i : i + size] for i in range(0, TOKENS, size)), words, TOP)
        for name in ("anchors", "mse", "variance", "held_out_mse", "log_partitions"):
            np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))


def test_other_block_sizes_change_only_the_rounding(model):
    states, words = model
    fits = [fit_anchor([states], words, TOP, block=block) for block in (2, 100, 4096)]
    for fit in fits[1:]:
        np.testing.assert_allclose(fit.anchors, fits[0].anchors, rtol=1e-10)
        np.testing.assert_allclose(fit.mse, fits[0].mse, rtol=1e-10)


def test_a_linear_partition_function_is_found():
    rng = np.random.default_rng(4)
    direction, states = rng.normal(size=5), rng.normal(size=(400, 5))
    # One word, three times: log Z = <h, v> + log 3.
    fit = fit_anchor([states], np.tile(direction, (3, 1)), (0, 1), intercept=True)
    np.testing.assert_allclose(fit.anchors, np.tile(direction, (2, 1)), atol=1e-13)
    np.testing.assert_allclose(fit.intercepts, np.log([3, 2]), atol=1e-13)
    assert np.all(fit.mse < 1e-26) and np.all(fit.held_out_mse < 1e-26)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centered_states_are_rank_deficient_and_get_the_shortest_anchor(dtype):
    rng = np.random.default_rng(5)
    states = rng.normal(size=(500, 8))
    states = (states - states.mean(axis=1, keepdims=True)).astype(dtype)
    fit = fit_anchor([states], rng.normal(size=(60, 8)).astype(dtype), (0, 5))
    assert fit.rank_deficient and fit.rank == 7
    # The shortest solution has no part along the direction that the states lack, but for rounding.
    assert np.all(np.abs(fit.anchors.sum(axis=1)) < 10 * np.finfo(dtype).eps)
    expected = np.linalg.lstsq(states.astype(np.float64), fit.log_partitions, rcond=1e-5)[0].T
    np.testing.assert_allclose(fit.anchors, expected, atol=1e-12)


STATES, WORDS = np.ones((40, 3)) + np.eye(40, 3), np.ones((20, 3))
WRONG = {
    "narrow-states": ({"batches": [STATES[:, :2]]}, r"batch 0 .* shape \(40, 2\)"),
    "later-batch": ({"batches": [STATES, STATES[0]]}, r"batch 1 .* shape \(3,\)"),
    "vector": ({"unembedding": WORDS[0]}, "unembedding has shape"),
    "no-words": ({"unembedding": WORDS[:0]}, "unembedding has shape"),
    "nan-words": ({"unembedding": np.full((20, 3), np.nan)}, "unembedding holds"),
    "small-vocabulary": ({"top": (0, 20)}, "vocabulary of 20 words"),
    "negative-top": ({"top": (-1,)}, "top is"),
    "nan-states": ({"batches": [STATES, np.full((2, 3), np.nan)]}, r"token 40 \(in batch 1\)"),
    "infinite-states": ({"batches": [np.full((5, 3), np.inf)]}, "token 0"),
    "few-tokens": ({"batches": [STATES[:2]]}, "2 hidden states for 3 unknowns"),
    "few-with-intercept": ({"batches": [STATES[:3]], "intercept": True}, "for 4 unknowns"),
    "no-tokens": ({"batches": []}, "0 hidden states"),
    "block": ({"block": 1}, "block is 1"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input(changed, message):
    given = {"batches": [STATES], "unembedding": WORDS, "top": (0, 5)} | changed
    with pytest.raises(ValueError, match=message):
        fit_anchor(**given)
