"""Theorems 3.3.1 and 3.3.2, exact to 1e-12, on random models."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastep.anchors.bulk import least_squares_anchor, log_bulk
from metastep.anchors.counterexamples import shift_logits, silence_words, useless_shift
from metastep.anchors.downstream import DownstreamHead, word_logits
from metastep.anchors.log_linear import LogLinearModel, divergences
from metastep_lab.theory.transfer import silencing_divergence

EXACT = 1e-12  # the constructions are exact: what is left is rounding of numbers below 100
seeds = st.integers(0, 10**6)


def random_model(seed, states=20, vocabulary=25, hidden=4):
    rng = np.random.default_rng(seed)
    model = LogLinearModel(rng.normal(size=(states, hidden)), rng.normal(size=(vocabulary, hidden)))
    words = rng.choice(vocabulary, 4, replace=False)
    head = DownstreamHead(words, rng.normal(size=4), rng.normal(size=4) - 1)
    return model, head, rng.normal(size=hidden)


@given(seeds, st.floats(0, 60))
def test_silencing(seed, shift):
    model, head, anchor = random_model(seed)
    word, coefficient = head.words[0], head.coefficients[0]
    student = silence_words(model, [int(word)], shift)
    probability = np.exp(model.log_probabilities()[:, word])
    found = divergences(model, student)
    np.testing.assert_allclose(found, silencing_divergence(probability, shift), rtol=0, atol=EXACT)
    assert np.all(found <= shift * probability + EXACT)
    before, after = (word_logits(one, head.words) @ head.coefficients for one in (model, student))
    np.testing.assert_allclose(after, before - shift * coefficient, rtol=0, atol=EXACT)
    # The enhanced model of Eq. 3.5 ignores the change where the word was below its threshold.
    silent = word_logits(model, head.words, anchor)[:, 0] <= head.thresholds[0]
    change = head.scores(student, np.append(anchor, 0.0)) - head.scores(model, anchor)
    np.testing.assert_allclose(change[silent], 0, atol=EXACT)


def test_silencing_several_words_is_like_one_of_their_probability():
    model, head, _ = random_model(1)
    probability = np.exp(model.log_probabilities()[:, head.words]).sum(axis=1)
    found = divergences(model, silence_words(model, head.words, 3.0))
    np.testing.assert_allclose(found, silencing_divergence(probability, 3.0), rtol=0, atol=EXACT)


@given(seeds)
def test_shifting(seed):
    model, head, anchor = random_model(seed)
    student = shift_logits(model, useless_shift(model, head.thresholds))
    assert np.all(divergences(model, student) < EXACT)
    assert np.all(head.scores(student) == 0)
    change = head.scores(student, np.append(anchor, 1.0)) - head.scores(model, anchor)
    np.testing.assert_allclose(change, 0, atol=EXACT)


def test_shifts_of_each_state_and_the_anchor_that_is_fitted_again():
    model, head, _ = random_model(2)
    shifts = np.random.default_rng(0).normal(size=20) * 30
    student = shift_logits(model, shifts)
    assert np.all(divergences(model, student) < EXACT)
    values = [log_bulk(model, one, head.words, 3) for one in (model, student)]
    np.testing.assert_allclose(values[1], values[0] + shifts, rtol=0, atol=EXACT)
    anchors = [
        least_squares_anchor(one, value)
        for one, value in zip((model, student), values, strict=True)
    ]
    moved = np.append(anchors[0], 1.0)
    np.testing.assert_allclose(
        word_logits(student, head.words, moved), word_logits(model, head.words, anchors[0]),
        rtol=0, atol=EXACT,
    )  # fmt: skip
    errors = [np.sum((student.states @ v - values[1]) ** 2) for v in (moved, anchors[1])]
    assert errors[1] <= errors[0]


BAD = [
    (lambda model: silence_words(model, [25], 1.0), "words is"),
    (lambda model: silence_words(model, [1, 1], 1.0), "words is"),
    (lambda model: silence_words(model, [], 1.0), "words is"),
    (lambda model: silence_words(model, np.array([0.5]), 1.0), "words is"),
    (lambda model: silence_words(model, [0], -1.0), "shift is -1"),
    (lambda model: shift_logits(model, np.ones(3)), "shift is"),
    (lambda model: shift_logits(model, np.inf), "shift is inf"),
    (lambda model: useless_shift(model, []), "thresholds is"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_model(0)[0])
