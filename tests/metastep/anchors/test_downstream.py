"""Heads of ReLUs on the logits of a few words, and the normalized margin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastep.anchors.downstream import DownstreamHead, downstream_head, word_logits
from metastep.anchors.log_linear import LogLinearModel

RNG = np.random.default_rng(3)
MODEL = LogLinearModel(RNG.normal(size=(300, 5)), RNG.normal(size=(40, 5)))
WORDS = [3, 7, 11]
ANCHOR = RNG.normal(size=5)


def test_scores_by_a_loop():
    head = DownstreamHead(np.array(WORDS), np.array([1.0, -2.0, 0.5]), np.array([0.1, -1.0, 0.0]))
    for anchor, shift in ((None, np.zeros(5)), (ANCHOR, ANCHOR)):
        expected = [
            sum(
                a * max(state @ (MODEL.unembedding[j] - shift) - b, 0)
                for j, a, b in zip(WORDS, head.coefficients, head.thresholds, strict=True)
            )
            for state in MODEL.states
        ]
        np.testing.assert_allclose(head.scores(MODEL, anchor), expected, atol=1e-12)


@given(st.floats(0.01, 100), st.integers(1, 4))
def test_normalized_margin_ignores_scale_and_duplicates(scale, copies):
    coefficients = np.array([1.0, -2.0, 0.5])
    head = DownstreamHead(np.array(WORDS), coefficients, np.zeros(3))
    # Each word counted several times: the score and k grow alike.
    again = DownstreamHead(
        np.tile(WORDS, copies), np.tile(scale * coefficients, copies), np.zeros(3 * copies)
    )
    assert again.normalized_margin(scale * copies * 0.3) == pytest.approx(
        head.normalized_margin(0.3)
    )


def test_a_head_without_coefficients_has_no_margin():
    assert DownstreamHead(np.array(WORDS), np.zeros(3), np.zeros(3)).normalized_margin(0.0) == 0


@pytest.mark.parametrize("anchor", [None, ANCHOR])
def test_a_fitted_head_finds_a_head(anchor):
    made = DownstreamHead(
        np.array(WORDS),
        np.array([1.0, -1.0, 0.7]),
        np.quantile(word_logits(MODEL, WORDS, anchor), 0.3, axis=0),
    )
    scores = made.scores(MODEL, anchor)
    clear = np.abs(scores) > 0.2
    model, labels = MODEL.at(clear), np.where(scores[clear] > 0, 1, -1)
    head = downstream_head(model, labels, WORDS, anchor, quantile=0.3, penalty=0.01)
    assert np.mean(np.sign(head.scores(model, anchor)) == labels) > 0.97
    assert np.all(np.sign(head.coefficients) == np.sign(made.coefficients))


LABELS = np.where(np.arange(300) % 2, 1, -1)
BAD = [
    (lambda: downstream_head(MODEL, LABELS[:5], WORDS), "labels has shape"),
    (lambda: downstream_head(MODEL, np.ones(300, int), WORDS), "labels has shape"),
    (lambda: downstream_head(MODEL, LABELS, [40]), "words is"),
    (lambda: downstream_head(MODEL, LABELS, WORDS, np.ones(4)), "anchor has shape"),
    (lambda: downstream_head(MODEL, LABELS, WORDS, quantile=1.0), "quantile is 1"),
    (lambda: downstream_head(MODEL, LABELS, WORDS, penalty=0.0), "penalty is 0"),
    (lambda: DownstreamHead(np.array(WORDS), np.ones(2), np.ones(3)), "coefficients is"),
    (lambda: DownstreamHead(np.array(WORDS), np.ones(3), np.full(3, np.nan)), "thresholds is"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
