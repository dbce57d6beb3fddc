"""The exact divergence against plain sums, and down to where those lose every digit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from metastep.anchors.log_linear import LogLinearModel, divergences


def pair(seed, difference):
    rng = np.random.default_rng(seed)
    states, words = rng.normal(size=(7, 4)), rng.normal(size=(30, 4))
    return LogLinearModel(states, words), LogLinearModel(
        states, words + difference * rng.normal(size=words.shape)
    )


@given(st.integers(0, 50), st.sampled_from([0.1, 1.0, 5.0]))
def test_divergence_is_the_plain_sum_where_that_is_accurate(seed, difference):
    teacher, student = pair(seed, difference)
    probabilities = [softmax(model.logits(), axis=1) for model in (teacher, student)]
    expected = rel_entr(*probabilities).sum(axis=1)
    # The plain sum cancels: its error is that of its terms, about 1e-16 each.
    np.testing.assert_allclose(divergences(teacher, student), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("difference", [1e-3, 1e-6, 1e-9])
def test_small_divergences_keep_their_digits(difference):
    teacher, student = pair(0, difference)
    weights = softmax(teacher.logits(), axis=1)
    delta = teacher.states @ (student.unembedding - teacher.unembedding).T
    mean = np.sum(weights * delta, axis=1)
    variance = np.sum(weights * (delta - mean[:, None]) ** 2, axis=1)
    # Half the variance is right up to the third moment, and delta up to the rounding of the logits.
    np.testing.assert_allclose(
        divergences(teacher, student), variance / 2, rtol=10 * difference + 1e-15 / difference
    )


def test_huge_differences_and_equal_models():
    rng = np.random.default_rng(0)
    states, words = rng.normal(size=(5, 3)), rng.normal(size=(9, 3))
    teacher = LogLinearModel(states, words)
    assert np.all(divergences(teacher, teacher) == 0)
    far = LogLinearModel(
        np.column_stack([states, np.ones(5)]), np.column_stack([words, np.zeros(9)])
    )
    far.unembedding[2, 3] = 2000.0
    probability = np.exp(teacher.log_probabilities()[:, 2])
    # KL = log(1 - p + p e^2000) - 2000 p, where the exponential decides alone.
    expected = 2000 * (1 - probability) + np.log(probability)
    np.testing.assert_allclose(divergences(teacher, far), expected, rtol=1e-12)
    np.testing.assert_allclose(divergences(far, teacher), -np.log(probability), rtol=1e-9)


def test_half_precision_is_computed_in_double(x64):
    model = LogLinearModel(np.ones((2, 2), np.float16), np.ones((3, 2), np.float32))
    assert model.logits().dtype == np.float64


@pytest.mark.parametrize(
    ("states", "words", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 2)), "states has shape"),
        (np.ones(3), np.ones((4, 3)), "states has shape"),
        (np.ones((2, 3)), np.full((4, 3), np.nan), "unembedding holds"),
    ],
)
def test_bad_models(states, words, message):
    with pytest.raises(ValueError, match=message):
        LogLinearModel(states, words)


def test_models_of_other_inputs():
    teacher, student = pair(0, 1.0)
    with pytest.raises(ValueError, match="states of the student has 3 rows"):
        divergences(teacher, student.at(np.arange(3)))
    with pytest.raises(ValueError, match="unembedding of the student has 5 rows"):
        divergences(teacher, LogLinearModel(student.states, student.unembedding[:5]))
