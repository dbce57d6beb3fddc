"""Recovery errors and conditions on dictionaries, against closed forms and brute force."""

import numpy as np
import pytest

from metastep.sparse_coding import (
    coherence,
    cosine_recovery_error,
    draw_signals,
    local_start,
    random_dictionary,
    recovery_error,
    restricted_isometry_bounds,
    restricted_isometry_constant,
    sample_start,
)

RNG = np.random.default_rng(5)
TRUTH = random_dictionary(RNG, 8, 12)
LEARNED = random_dictionary(RNG, 8, 20)


def test_order_and_sign_do_not_matter():
    signs = RNG.choice([-1, 1], 12)
    # Rounding: a squared distance comes from a difference of numbers near 1.
    assert recovery_error(TRUTH, (TRUTH * signs)[:, RNG.permutation(12)]) < 1e-15
    assert cosine_recovery_error(TRUTH, 3 * TRUTH) < 1e-15


def test_against_all_pairs():
    pairs = [
        min(np.sum((a - sign * b) ** 2) for b in LEARNED.T for sign in (-1, 1)) for a in TRUTH.T
    ]
    assert recovery_error(TRUTH, LEARNED) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert cosine_recovery_error(TRUTH, LEARNED) == pytest.approx(np.mean(pairs) / 2, rel=1e-12)
    scaled = 0.5 * LEARNED
    # |a - b/2|^2 = 1/4 + |a - b|^2 / 2 for unit vectors.
    assert recovery_error(TRUTH, scaled) == pytest.approx(0.25 + np.mean(pairs) / 2, rel=1e-12)
    assert cosine_recovery_error(TRUTH, scaled) == pytest.approx(np.mean(pairs) / 2, rel=1e-12)


def test_conditions_of_known_dictionaries():
    angle = 0.3
    two = np.array([[1.0, np.cos(angle)], [0.0, np.sin(angle)]])
    assert coherence(two) == pytest.approx(np.cos(angle), rel=1e-14)
    # Eigenvalues of two unit vectors' Gram matrix are 1 +- cos.
    assert restricted_isometry_constant(two, 2) == pytest.approx(np.cos(angle), rel=1e-14)
    assert restricted_isometry_constant(np.eye(5), 3) == 0 == coherence(np.eye(5))
    assert restricted_isometry_constant(np.ones((1, 3)), 3) == pytest.approx(2)


@pytest.mark.parametrize("sparsity", [1, 2, 4])
def test_bounds_bracket_the_constant(sparsity):
    exact = restricted_isometry_constant(LEARNED, sparsity)
    lower, upper = restricted_isometry_bounds(
        LEARNED, sparsity, supports=200, rng=np.random.default_rng(0)
    )
    # 1e-14 is rounding of the norms.
    assert lower <= exact + 1e-14 and exact <= upper + 1e-14
    assert sparsity == 1 or lower > 0.3 * exact
    assert upper <= (sparsity - 1) * coherence(LEARNED) + 1e-14


def test_signals_are_as_described():
    rng = np.random.default_rng(1)
    truth = random_dictionary(rng, 30, 50)
    np.testing.assert_allclose(np.linalg.norm(truth, axis=0), 1, rtol=1e-14)
    drawn = draw_signals(rng, truth, 4000, 3, noise=0.2)
    assert set(np.count_nonzero(drawn.codes, axis=1)) == {3}
    np.testing.assert_allclose(np.linalg.norm(drawn.codes, axis=1), 1, rtol=1e-14)
    noise = drawn.signals - drawn.codes @ truth.T
    # Standard error of a standard deviation from 120000 numbers: 0.2 / sqrt(240000) = 0.0004.
    assert noise.std() == pytest.approx(0.2, abs=0.0016)
    # Each atom is used 240 times on average; 5 standard deviations of a binomial are 75.
    uses = np.count_nonzero(drawn.codes, axis=0)
    assert uses.min() > 165 and uses.max() < 315


def test_starts():
    signals = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(sample_start(signals), [[0.6, 0], [0.8, 0]])
    assert recovery_error(np.eye(2), local_start(np.eye(2), signals)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_dictionary(RNG, 0, 3), "dim is 0"),
        (lambda: random_dictionary(RNG, 3, 0), "atoms is 0"),
        (lambda: draw_signals(RNG, TRUTH, 0, 3, 0.1), "samples is 0"),
        (lambda: draw_signals(RNG, TRUTH, 5, 13, 0.1), "n_nonzero is 13"),
        (lambda: draw_signals(RNG, TRUTH, 5, 3, -0.1), "noise is -0.1"),
        (lambda: draw_signals(RNG, TRUTH, 5, 3, np.nan), "noise is nan"),
        (lambda: recovery_error(TRUTH, TRUTH[:5]), r"\(8, 12\) and \(5, 12\)"),
        (lambda: recovery_error(TRUTH, TRUTH[:, :0]), "at least one atom"),
        (lambda: coherence(TRUTH[:, :1]), r"\(8, 1\)"),
        (lambda: restricted_isometry_constant(TRUTH, 13), "n_nonzero is 13"),
        (lambda: restricted_isometry_constant(np.ones((2, 100)), 5), "75287520 supports"),
        (lambda: restricted_isometry_bounds(TRUTH, 2, supports=0, rng=RNG), "supports is 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
