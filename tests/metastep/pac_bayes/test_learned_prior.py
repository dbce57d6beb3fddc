"""Priors that a part of the data trains: the bound counts the rest, and nothing is in both."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastep import pac_bayes
from metastep.pac_bayes import Certificate, LearnedPrior
from metastep.pac_bayes.certify import cross_entropy_bits, relative_cross_entropy
from metastep.pac_bayes.examples import digest, trivial_error
from metastep.pac_bayes.learned_prior import read_rows, write_rows
from tests.metastep.pac_bayes.exact import exact, moments_and_bounds

KEY = jax.random.key(0)
CLASSES, SIZE = 10, 601
CENTERS = 3 * jax.random.normal(jax.random.key(1), (CLASSES, 6))
LABELS = jax.random.randint(jax.random.key(2), (SIZE,), 0, CLASSES)
INPUTS = CENTERS[LABELS] + jax.random.normal(KEY, (SIZE, 6))
DATA = (INPUTS, LABELS)
SETTINGS = pac_bayes.Settings(epochs=10, draws=20_000)


def model(params, x):
    return params["W"] @ x + params["b"]


class Trainer:
    """Class means as a linear classifier, and a record of the examples that it got."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, y):
        x, y = np.asarray(x), np.asarray(y)
        self.seen.append((x, y))
        means = np.stack([np.mean(x[y == one], axis=0) for one in range(CLASSES)])
        return {"W": means, "b": -np.sum(means**2, axis=1) / 2}


def certify(prior, data=DATA, **arguments):
    arguments = {"key": KEY, "settings": SETTINGS} | arguments
    return pac_bayes.certify(model, data, prior=prior, **arguments)


@pytest.fixture(scope="module")
def learned():
    train = Trainer()
    return train, certify(LearnedPrior(train))


def test_the_bound_counts_the_examples_that_the_prior_has_not_seen(learned):
    train, (certificate, optimized) = learned
    ((x, y),) = train.seen
    rows = read_rows(certificate.prior_rows, 300, 301)
    assert (certificate.prior_examples, certificate.examples) == (300, 301)
    assert certificate.prior_repeats == 0
    np.testing.assert_array_equal(x, INPUTS[np.flatnonzero(rows)])
    np.testing.assert_array_equal(y, LABELS[np.flatnonzero(rows)])
    rest = np.flatnonzero(~rows)
    assert certificate.data_digest == digest((INPUTS[rest], LABELS[rest]))
    assert certificate.trivial_error == trivial_error(LABELS[rest])
    # A dozen roundings of float64 in sums of 70 terms; the KL is a difference of them.
    prior = Trainer()(x, y)
    np.testing.assert_allclose(
        moments_and_bounds(certificate), exact(certificate, optimized.posterior, prior), rtol=1e-11
    )
    assert certificate.confidence == 0.965 and not certificate.vacuous


def test_the_choice_of_examples_depends_on_the_key_alone(learned):
    first = LearnedPrior(Trainer()).learn(DATA, KEY)
    again = LearnedPrior(Trainer()).learn((-INPUTS, LABELS[::-1]), KEY)
    other = LearnedPrior(Trainer()).learn(DATA, jax.random.key(7))
    assert np.array_equal(first.rows, again.rows) and not np.array_equal(first.rows, other.rows)
    few = LearnedPrior(Trainer(), share=0.9).learn(DATA, KEY)
    assert np.sum(few.rows) == 540 and len(few.data[0]) == 61


def test_it_beats_a_prior_without_data(learned):
    params = Trainer()(*DATA)
    without = certify({"W": jnp.zeros((CLASSES, 6)), "b": jnp.zeros(CLASSES)}, params=params)
    assert learned[1].certificate.bound < without.certificate.bound - 0.1
    assert without.certificate.prior_rows == "" and without.certificate.examples == SIZE


def test_a_posterior_that_stays_at_its_prior_has_no_divergence():
    """Steps of size 0: what is left is the test-set bound of n - n_prior examples, and the grid."""
    certificate, optimized = certify(
        LearnedPrior(Trainer()),
        settings=replace(SETTINGS, optimizer=optax.sgd(0.0), epochs=1),
    )
    assert certificate.distance_squared == 0
    # The prior is the first of the union, to the rounding of a logarithm in float32.
    assert certificate.j == 1 and abs(certificate.kl) < 1e-6
    assert np.allclose(optimized.posterior.log_scale["W"], np.log(0.03), rtol=1e-7, atol=0)


def test_a_prior_that_was_trained_before():
    rows = np.arange(0, SIZE, 3)
    params = Trainer()(INPUTS[rows], LABELS[rows])
    prior = LearnedPrior(lambda x, y: params, rows=rows)
    certificate = certify(prior).certificate
    assert np.array_equal(np.flatnonzero(read_rows(certificate.prior_rows, 201, 400)), rows)
    # The posterior may begin anywhere, for instance with what all data trained.
    moved = certify(prior, params=Trainer()(*DATA)).certificate
    assert moved.check(DATA).holds and moved.distance_squared > 0


def test_the_file_can_be_checked_again_with_the_data(learned, tmp_path):
    certificate = learned[1].certificate
    certificate.save(tmp_path / "certificate.json")
    again = Certificate.load(tmp_path / "certificate.json")
    assert again == certificate
    assert again.check() == again.check(DATA) == again.check(jax.tree.map(np.asarray, DATA))
    assert again.check(DATA) == (True, ())
    assert "from 301 examples; 300 others trained its prior" in str(again)
    for other in (
        (INPUTS[::-1], LABELS[::-1]),
        (INPUTS[:-1], LABELS[:-1]),
        (INPUTS, LABELS[:-1]),
        (INPUTS.at[:, 0].add(1e-3), LABELS),
        (),
    ):
        verdict = again.check(other)
        assert not verdict.holds and "from other data" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"prior_examples": 301, "examples": 300}, "names 300 examples"),
        ({"prior_examples": 0}, "prior_examples is 0"),
        ({"prior_examples": -300}, "prior_examples is -300"),
        ({"prior_rows": ""}, "has 0 digits"),
        ({"prior_rows": "zz" * 76}, "non-hexadecimal"),
        ({"prior_rows": "ff" * 76}, "names 601 examples"),
        ({"examples": 10**18}, "has 152 digits"),
        ({"prior_repeats": -1}, "prior_repeats is -1"),
    ],
)
def test_falsified(learned, changed, reason):
    verdict = replace(learned[1].certificate, **changed).check(DATA)
    assert not verdict.holds and reason in verdict.reasons[0]


def test_counting_the_examples_of_the_prior_is_found_out(learned):
    """All 601 examples in the bound: the number is smaller, and no longer follows."""
    certificate = learned[1].certificate
    found = replace(certificate, prior_examples=0, prior_rows="", examples=SIZE).check(DATA)
    assert [reason.split()[0] for reason in found.reasons[:2]] == ["bound", "uncorrected"]
    assert "from other data" in found.reasons[-1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": np.arange(SIZE)}, "trained on 601 of 601 examples"),
        ({"rows": np.arange(SIZE - 1)}, "allowed are from 1 to 599"),
        ({"rows": np.array([], int)}, "trained on 0 of 601"),
        ({"rows": [0, 1, 1]}, "not distinct integers from 0 to 600"),
        ({"rows": [0, SIZE]}, "not distinct integers"),
        ({"rows": [-1]}, "not distinct integers"),
        ({"rows": np.ones(SIZE, bool)}, "dtype bool"),
        ({"rows": np.zeros((2, 2), int)}, "shape \\(2, 2\\)"),
        ({"share": 0.001}, "trained on 0 of 601"),
        ({"share": 0.9999}, "trained on 600 of 601"),
    ],
)
def test_examples_that_leave_no_bound(changed, message):
    with pytest.raises(ValueError, match=message):
        certify(LearnedPrior(Trainer(), **changed))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match="scale is"):
        LearnedPrior(Trainer(), scale=scale)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_bad_share(share):
    with pytest.raises(ValueError, match="share is"):
        LearnedPrior(Trainer(), share=share)


def test_a_prior_trained_on_the_data_of_its_bound_is_refused():
    """Two data sets that overlap, one after the other; and parameters that are the prior's mean."""
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf[:300], leaf[250:]]), DATA)
    prior = LearnedPrior(Trainer(), rows=np.arange(300))
    with pytest.raises(ValueError, match="50 of the 351 examples of the bound also train"):
        certify(prior, twice)
    certificate = certify(replace(prior, allow_repeats=True), twice).certificate
    assert certificate.prior_repeats == 50 and certificate.check(twice).holds
    params = Trainer()(*DATA)
    with pytest.raises(ValueError, match="prior equals params"):
        certify(LearnedPrior(lambda x, y: params), params=params)


def test_held_out_data_show_a_prior_that_reads_the_bounds_examples_from_elsewhere():
    """Labels by chance, and least squares with more weights than examples: all is memorized."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 400)), rng.integers(0, 2, 600)
    line = np.linalg.lstsq(x[:300], 2 * y[:300] - 1, rcond=None)[0]
    leaked = {"W": np.stack([-9 * line, 9 * line]), "b": np.zeros(2)}
    certificate = certify(
        LearnedPrior(lambda x, y: leaked), (x[:300], y[:300]), test=(x[300:], y[300:])
    ).certificate
    assert certificate.bound < 0.35 < 0.4 < certificate.test_error
    (reason,) = certificate.check().reasons
    assert "the prior may have seen the training data" in reason


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"W": jnp.full((CLASSES, 6), jnp.nan), "b": jnp.zeros(CLASSES)}, "infinite or NaN"),
        (None, "no floating-point leaf"),
    ],
)
def test_what_train_may_not_return(result, message):
    with pytest.raises(ValueError, match=message):
        certify(LearnedPrior(lambda x, y: result))


def test_inputs_and_targets_have_the_same_number_of_examples():
    with pytest.raises(ValueError, match="arrays of \\[600, 601\\] examples"):
        certify(LearnedPrior(Trainer()), (INPUTS, LABELS[1:]))


@given(rows=st.lists(st.booleans(), min_size=1, max_size=40))
def test_rows_are_read_as_they_were_written(rows):
    rows = np.array(rows)
    trained = int(np.sum(rows))
    text = write_rows(rows) if trained else ""
    assert np.array_equal(read_rows(text, trained, len(rows) - trained), rows)
    for wrong in (text + "00", text + " ", text.replace("f", "F") + "0", text[:-1] + "g"):
        with pytest.raises(ValueError, match=r"prior_rows|hexadecimal"):
            read_rows(wrong, trained, len(rows) - trained)


def test_the_surrogate_is_relative_to_a_guess():
    scores, label = jnp.array([0.3, -1.0]), jnp.array(1)
    assert relative_cross_entropy(scores, label) == cross_entropy_bits(scores, label)
    assert relative_cross_entropy(jnp.zeros(10), label) == pytest.approx(1, rel=1e-12)


def test_files_are_json(learned, tmp_path):
    learned[1].certificate.save(tmp_path / "certificate.json")
    content = json.loads((tmp_path / "certificate.json").read_text())
    assert content["prior_examples"] == 300 and len(content["prior_rows"]) == 152
