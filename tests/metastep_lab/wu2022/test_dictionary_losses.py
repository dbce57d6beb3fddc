"""The losses of dictionaries by least squares, and the claims on tables made by hand."""

from itertools import combinations

import numpy as np
import pytest

from metastep.sparse_coding import draw_signals, random_dictionary
from metastep_lab.tables import Record, columns
from metastep_lab.wu2022.dictionary_losses import losses
from metastep_lab.wu2022.dictionary_losses.experiment import EXPERIMENT, Config
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

RNG = np.random.default_rng(0)
TRUTH = random_dictionary(RNG, 7, 9)
DRAWN = draw_signals(RNG, TRUTH, 6, 2, 0.3, scale=2.0)


@pytest.mark.parametrize("n_nonzero", [1, 2])
def test_the_least_error_is_that_of_the_best_support(n_nonzero):
    expected = [
        min(
            np.linalg.lstsq(TRUTH[:, list(support)], y, rcond=None)[1].item()
            for support in combinations(range(9), n_nonzero)
        )
        for y in DRAWN.signals
    ]
    np.testing.assert_allclose(losses.least_errors(DRAWN.signals, TRUTH, n_nonzero), expected)
    pursued = losses.pursued_errors(DRAWN.signals, TRUTH, n_nonzero)
    assert np.all(pursued >= np.array(expected) * (1 - 1e-12))


def test_the_built_dictionary_lies_in_the_planes_and_keeps_its_distance():
    assert losses.built_dictionary(TRUTH, 6, apart=False).shape == (7, 216)
    built = losses.built_dictionary(TRUTH, 6, apart=True)
    np.testing.assert_allclose(np.linalg.norm(built, axis=0), 1.0)
    assert 0.7 * 216 < built.shape[1] <= 216
    bases = [np.linalg.qr(TRUTH[:, list(pair)])[0] for pair in combinations(range(9), 2)]
    off = [np.linalg.norm(built - basis @ (basis.T @ built), axis=0) for basis in bases]
    assert np.max(np.min(off, axis=0)) < 1e-12
    # Every atom but the last begins a plane, whose nearest directions are half an angle away.
    nearest = np.abs(TRUTH.T @ built).max(axis=1)
    np.testing.assert_allclose(nearest[:-1], np.cos(np.pi / 12))
    assert nearest[-1] <= np.cos(np.pi / 12)


def test_the_oracle_is_ridge_regression_on_the_support():
    visible, ridge = 5, 0.4
    found = losses.oracle_errors(DRAWN.signals, DRAWN.codes, TRUTH, visible, ridge)
    for error, y, code in zip(found, DRAWN.signals, DRAWN.codes, strict=True):
        atoms = TRUTH[:, code != 0]
        extended = np.vstack([atoms[:visible], ridge**0.5 * np.eye(2)])
        fitted = np.linalg.lstsq(extended, np.append(y[:visible], [0, 0]), rcond=None)[0]
        assert error == pytest.approx(np.sum((y[visible:] - atoms[visible:] @ fitted) ** 2))


def test_codes_of_a_scale_have_no_fixed_norm():
    drawn = draw_signals(np.random.default_rng(1), TRUTH, 4000, 2, 0.0, scale=3.0)
    entries = drawn.codes[drawn.codes != 0]
    # Four standard errors of a standard deviation of 8000 normal numbers.
    assert abs(entries.std() - 3) < 4 * 3 / np.sqrt(2 * entries.size)
    with pytest.raises(ValueError, match="scale is 0; allowed are positive numbers"):
        draw_signals(RNG, TRUTH, 5, 2, 0.1, scale=0)


def held():
    """Return a run of which every claim holds."""
    built = [
        (10, count, norm, length, angles, angles * 190, gain, 0.01, 0.02)
        for length in (1.0, 2.0)
        for count in (1, 2)
        for norm in (1.0, 8.0)
        for angles, gain in ((4, 0.5), (16, 2.0))
    ]
    masked = [(scale, 1 / scale, 1e-5, 2.0, 0.01) for scale in (1.0, 10.0, 100.0, 1000.0)]
    tables = {
        "built": columns(
            "dim n_nonzero norm length angles atoms gain standard_error distance", built
        ),
        "masked": columns("scale true_excess true_error built_excess built_error", masked),
    }
    return Record(Config(dims=(10,), norms=(1.0, 8.0), angles=(4, 16)), tables, {}, {})


def test_every_claim_can_fail():
    finest = "angles == 16 and n_nonzero == 2 and norm == 8"
    spoiled = (
        *(
            (name, "built", f"{finest} and length == {length}", values)
            for name, length in (("theorem-2.3.2", 2), ("theorem-2.3.2-with-unit-atoms", 1))
            for values in ({"gain": 0.9}, {"distance": 0.009})
        ),
        ("corollary-2.3.4", "built", "norm == 1 and n_nonzero == 2", {"gain": 0.9}),
        ("corollary-2.3.4", "built", "norm == 1 and n_nonzero == 2", {"atoms": 5000}),
        ("theorem-2.3.6", "masked", "scale == 1000", {"true_excess": 0.02}),
        ("masking-does-not-reward-the-noise", "masked", "scale == 10", {"built_excess": 0.05}),
    )
    check_every_claim(EXPERIMENT, spoiled, held())


def test_an_excess_that_does_not_fall_shows_no_limit():
    flat = changed(held(), "masked", "scale >= 10", true_excess=0.005)
    assert verdicts(EXPERIMENT, flat)["theorem-2.3.6"] is None


def test_codes_of_a_smaller_norm_do_not_speak_for_those_of_norm_1():
    record = held()
    frame = record.frames["built"].replace({"norm": {8.0: 0.5}})
    tables = {**record.tables, "built": {name: frame[name].to_numpy() for name in frame}}
    record = Record(record.config, tables, {}, {})
    assert verdicts(EXPERIMENT, record, "corollary-2.3.4")["corollary-2.3.4"] is True
    record = changed(record, "built", "norm == 1", gain=0.5)
    assert verdicts(EXPERIMENT, record, "corollary-2.3.4")["corollary-2.3.4"] is False
