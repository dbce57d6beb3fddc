"""The bound's constants against brute force, and its conditions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastep_lab.theory import transfer as theory

unit = st.floats(0, 1)
nats = st.floats(0, 50)


@given(unit, nats)
def test_a_lowered_word_costs_less_than_its_probability_times_the_shift(probability, shift):
    found = float(theory.silencing_divergence(probability, shift))
    rounding = 1e-15 * (1 + shift)  # of s p and the logarithm
    assert -rounding <= found <= shift * probability + rounding
    if probability < 1:
        rest, moved = 1 - probability, probability * np.exp(-shift)
        direct = np.log(rest + moved) + shift * probability
        assert abs(found - direct) < 1e-12


def test_the_misprint_of_the_proof():
    """The reference numbers: B.8 as printed gives -.0010 where the divergence is .0040."""
    assert float(theory.silencing_divergence(1e-3, 5.0)) == pytest.approx(0.004006, abs=1e-6)
    assert float(theory.silencing_divergence(1.0, 700.0)) == 0
    assert float(theory.silencing_divergence(1e-30, 1e3)) == pytest.approx(1e-27, rel=2e-3)


def test_ratios_of_the_reference():
    assert float(theory.boundary_ratio(1e-3)) == pytest.approx(7.994, abs=5e-4)
    limit = float(theory.boundary_ratio(1e-3, 1e-3 / 8))
    assert limit == pytest.approx(14.2, abs=0.05)
    margins = np.geomspace(1e-3, 6, 60)
    for ratio in (0, 1 / 16, 1 / 8):
        assert np.all(theory.boundary_ratio(margins, ratio * margins) < theory.PRINTED_CONSTANT)


@given(st.floats(1e-3, 6), st.floats(0, 0.125), st.integers(1, 5), st.floats(0, 3))
def test_the_exact_minimum_is_that_of_a_grid_and_beats_every_constant(margin, ratio, words, above):
    error = ratio * margin
    threshold = error - np.log(4 * words) + above
    found = float(theory.flip_divergence(margin, error, least_threshold=threshold, words=words))
    slack = np.linspace(0, 3, 3001)
    active = np.expm1(np.maximum(margin / 2 - 2 * error - slack, 0))
    grid = 1 - np.exp(-slack) + words * np.exp(threshold - error - slack) * active
    slope = (1 + words * np.exp(threshold - error) * np.exp(margin / 2)) * 1e-3
    least = np.min(grid)
    # The exact minimum is below the grid's, by at most the slope of a cell.
    assert least - slope <= np.sqrt(2 * found) <= least + 1e-12
    # The constants follow from it, up to rounding.
    assert margin**2 / found <= theory.EXACT_CONSTANT * (1 + 1e-9)
    assert float(theory.boundary_ratio(margin, error)) * found <= margin**2 * (1 + 1e-9)


def test_bound():
    setting = {"overlap": 0.5, "bulk_probability": 0.2, "normalized_margin": 2.0}
    proven = float(theory.transfer_bound(1e-4, **setting))
    assert proven == pytest.approx(1152e-4 / (0.5 * 0.04 * 4))
    printed = theory.transfer_bound(1e-4, constant=theory.PRINTED_CONSTANT, **setting)
    assert float(printed) == pytest.approx(proven / 4)
    assert np.isinf(theory.transfer_bound(1e-4, **setting | {"overlap": 0.0}))
    wide = [theory.transfer_bound(1.0, **setting | {"normalized_margin": m}) for m in (6.0, 60.0)]
    assert wide[0] == wide[1]


BAD = [
    (lambda: theory.silencing_divergence(1.5, 1.0), "probability is 1.5"),
    (lambda: theory.silencing_divergence(0.5, -1.0), "shift is -1"),
    (lambda: theory.silencing_divergence(0.5, np.inf), "shift is inf"),
    (lambda: theory.boundary_ratio(0.0), "normalized_margin is 0"),
    (lambda: theory.boundary_ratio(1.0, 0.2), "anchor_error is 0.2"),
    (
        lambda: theory.transfer_bound(
            -1.0, overlap=1.0, bulk_probability=1.0, normalized_margin=1.0
        ),
        "divergence is -1",
    ),
    (
        lambda: theory.transfer_bound(
            1.0, overlap=1.0, bulk_probability=np.nan, normalized_margin=1.0
        ),
        "bulk_probability is nan",
    ),
    (lambda: theory.flip_divergence(1.0, 0.1, least_threshold=0.0, words=0), "words is 0"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
