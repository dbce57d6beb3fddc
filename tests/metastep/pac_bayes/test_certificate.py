"""A certificate: made, saved, read, checked; falsified ones are found."""

import json
from dataclasses import fields, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from metastep import pac_bayes
from metastep.pac_bayes.certify import mean_risk, relative_cross_entropy, write_certificate
from metastep.pac_bayes.errors import misclassified
from metastep.pac_bayes.examples import digest, trivial_error
from tests.metastep.pac_bayes.exact import exact, moments_and_bounds

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (1200, 3))
LABELS = (INPUTS[:, 0] > 0).astype(int)
DATA, TEST = (INPUTS[:1000], LABELS[:1000]), (INPUTS[1000:], LABELS[1000:])
PARAMS = {"W": jnp.array([[-2.0, 0.1, 0.2], [2.0, 0.1, 0.2]])}
PRIOR = {"W": jnp.full((2, 3), 0.1)}


def model(params, x):
    return params["W"] @ x


SETTINGS = pac_bayes.Settings(epochs=20, draws=20_000, optimizer=optax.adam(0.05))
GOOD = {"params": PARAMS, "prior": PRIOR, "key": KEY, "settings": SETTINGS}


@pytest.fixture(scope="module")
def certified():
    return pac_bayes.certify(model, DATA, test=TEST, **GOOD)


@pytest.fixture(scope="module")
def untested():
    return pac_bayes.certify(model, DATA, **GOOD).certificate


def test_the_certificate_is_that_of_the_posterior(certified):
    certificate, posterior = certified.certificate, certified.optimized.posterior
    # A separable problem with six weights: far from vacuous.
    assert certificate.bound < 0.4
    assert certificate.uncorrected < certificate.bound and certificate.confidence == 0.965
    rho = np.log(pac_bayes.prior_variance(certificate.j)) / 2
    # Neighbors on the grid are 1 / (2 b) apart.
    assert abs(rho - float(posterior.log_prior_scale)) < 0.005 + 1e-6
    kl = pac_bayes.kl_divergence(posterior.mean, posterior.log_scale, PRIOR, rho)
    assert np.isclose(certificate.kl, kl, rtol=1e-4, atol=0)  # float32 sums against float64 ones
    assert certificate.parameters == 6 and certificate.examples == 1000
    assert certificate.test_examples == 200 and certificate.test_error < certificate.bound
    assert certificate.data_digest == digest(DATA) != digest(TEST)
    assert certificate.check() == (True, ())


def test_the_certificate_is_computed_in_float64(certified):
    certificate, posterior = certified.certificate, certified.optimized.posterior
    # A dozen roundings of float64; float32 would be off by 1e-7.
    np.testing.assert_allclose(
        moments_and_bounds(certificate), exact(certificate, posterior, PRIOR), rtol=1e-13
    )


EXTREME = {
    "small": 5e-324,
    "third": 1 / 3,
    "next to one": 1 - 2**-53,
    "large": 1.7976931348623157e308,
    "integer beyond 2**53": 2.0**70 + 2.0**18,
}


@pytest.mark.parametrize("value", EXTREME.values(), ids=EXTREME)
def test_every_number_of_a_certificate_comes_back_to_the_bit(certified, tmp_path, value):
    names = [one.name for one in fields(pac_bayes.Certificate) if "float" in str(one.type)]
    assert len(names) >= 10
    changed = replace(certified.certificate, **dict.fromkeys(names, value))
    changed.save(tmp_path / "certificate.json")
    assert pac_bayes.Certificate.load(tmp_path / "certificate.json") == changed


@pytest.mark.parametrize("side", [-1, 1])
def test_the_better_of_two_prior_variances_is_used(certified, side):
    """On both sides of the best variance, the index is the one towards it."""
    posterior = certified.optimized.posterior
    scales = np.concatenate([np.ravel(x) for x in jax.tree.leaves(posterior.log_scale)])
    prior = np.mean(np.exp(2 * scales)) + certified.certificate.distance_squared / 6
    rho = np.log(prior) / 2 + 0.5 * side
    moved = eqx.tree_at(lambda p: p.log_prior_scale, posterior, jnp.asarray(rho))
    risk = mean_risk(model, relative_cross_entropy, PARAMS, DATA)
    found = write_certificate(
        certified.optimized._replace(posterior=moved),
        PRIOR,
        SETTINGS,
        risk,
        np.zeros(10),
        np.zeros(0),
        None,
        ceiling=1e4,
    )
    place = 100 * (np.log(1e4) - 2 * rho)
    assert found.j == (np.ceil(place) if side > 0 else np.floor(place))


def test_of_an_error_of_another_kind_no_trivial_answer_is_known():
    settings = replace(SETTINGS, epochs=1, draws=100)
    half = lambda output, target: 0.5 * misclassified(output, target)
    found = pac_bayes.certify(model, DATA, error=half, **(GOOD | {"settings": settings}))
    assert found.certificate.trivial_error == 1


def test_saved_and_read_back(certified, tmp_path):
    path = tmp_path / "folder" / "certificate.json"
    certified.certificate.save(path)
    again = pac_bayes.Certificate.load(path)
    assert again == certified.certificate and again.check().holds


def test_held_out_data_do_not_enter_the_bound(certified, untested, tmp_path):
    nothing = {"test_examples": 0, "test_draws": 0, "test_error": None}
    assert untested == replace(certified.certificate, **nothing)
    assert untested.check() == (True, ()) and "held-out" not in str(untested)
    untested.save(tmp_path / "certificate.json")
    assert pac_bayes.Certificate.load(tmp_path / "certificate.json") == untested


OLDER = (
    "bound uncorrected confidence delta draw_delta examples draws error_sum kl parameters "
    "distance_squared variance_sum log_variance_sum j prior_ceiling prior_precision test_examples "
    "test_draws test_error data_digest"
).split()


NEWER = {"trivial_error": 1.0, "prior_examples": 0, "prior_rows": "", "prior_repeats": 0}


def test_older_files_are_read(certified, tmp_path):
    """Written before there were newer fields; and older readers find all that they read."""
    path = tmp_path / "certificate.json"
    certified.certificate.save(path)
    content = json.loads(path.read_text())
    assert content.keys() == {"schema", *OLDER, *NEWER}
    path.write_text(json.dumps({name: content[name] for name in ("schema", *OLDER)}))
    again = pac_bayes.Certificate.load(path)
    assert again == replace(certified.certificate, **NEWER)
    assert again.check().holds and not again.vacuous


@pytest.mark.parametrize("name", [*OLDER, *NEWER])
@pytest.mark.parametrize("value", ["text", True, [1], None])
def test_every_field_has_its_type(certified, tmp_path, name, value):
    path = tmp_path / "certificate.json"
    certified.certificate.save(path)
    content = json.loads(path.read_text())
    if name in ("data_digest", "prior_rows") and value == "text":
        value = 1
    path.write_text(json.dumps(content | {name: value}))
    if name == "test_error" and value is None:
        verdict = pac_bayes.Certificate.load(path).check()
        assert "test_error is None on 200 examples" in verdict.reasons[0]
        return
    with pytest.raises(ValueError, match=f"{name} is .*; allowed is a value of type"):
        pac_bayes.Certificate.load(path)


@pytest.mark.parametrize("name", OLDER)
def test_no_field_may_be_missing(certified, tmp_path, name):
    path = tmp_path / "certificate.json"
    certified.certificate.save(path)
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"has no {name}"):
        pac_bayes.Certificate.load(path)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (np.repeat(np.arange(10), 7), 0.9),
        (jnp.array([0, 0, 0, 1]), 0.25),
        (np.array([3, 3]), 0.0),
        (np.ones((4, 2)), 1.0),  # not one label for each example
        ({"a": np.ones(4), "b": np.ones(4)}, 1.0),
    ],
)
def test_the_error_of_the_most_frequent_class(targets, expected):
    assert trivial_error(targets) == pytest.approx(expected, rel=1e-15)
    assert trivial_error(targets, lambda output, target: 0.5 * misclassified(output, target)) == 1


def test_a_vacuous_bound_is_called_so(certified, untested):
    certificate = certified.certificate
    assert certificate.trivial_error == trivial_error(DATA[1]) > certificate.bound
    assert not certificate.vacuous and "vacuous" not in str(certificate)
    assert f"at most {certificate.bound:.3f}. On 200 held-out examples" in str(certificate)
    for bound, trivial in ((0.993, 0.9), (0.9, 0.9), (1.0, 1.0)):
        empty = replace(untested, bound=bound, trivial_error=trivial)
        assert empty.vacuous
        assert "is vacuous" in str(empty) and "optimize for more epochs" in str(empty)
    assert not replace(untested, bound=0.899, trivial_error=0.9).vacuous


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bound": 0.01}, "bound is 0.01, and the constants give"),
        ({"kl": 1.0}, "kl is 1, and"),
        ({"confidence": 0.99}, "confidence is 0.99"),
        ({"variance_sum": 0.01}, "kl is"),
        ({"error_sum": -1.0}, "impossible: error is"),
        ({"j": 0}, "impossible: j is 0"),
        ({"delta": 2.0}, "impossible: delta is 2"),
        ({"draws": 0}, "impossible"),
        ({"test_examples": 0}, "impossible: test_error"),
        ({"test_draws": 0}, "impossible: test_error"),
        ({"test_error": None}, "impossible: test_error is None on 200"),
        ({"test_error": 0.9}, "contradicts a bound"),
        ({"trivial_error": 1.5}, "impossible: trivial_error is 1.5"),
        ({"prior_examples": 3}, "impossible: prior_rows has 0 digits and prior_examples is 3"),
        ({"prior_repeats": 1001}, "impossible: prior_repeats is 1001"),
    ],
)
def test_falsified(certified, changed, reason):
    verdict = replace(certified.certificate, **changed).check()
    assert not verdict.holds and any(reason in text for text in verdict.reasons)


@pytest.mark.parametrize(("examples", "draws"), [(50, 10**6), (10**6, 50), (50, 50)])
def test_few_examples_or_few_draws_contradict_no_true_bound(certified, examples, draws):
    """A rate that 50 draws reach with a chance above 1 / 1000 if the bound is the error."""
    certificate = certified.certificate
    unlucky = scipy.stats.binom.isf(0.001, 50, certificate.bound) / 50
    test = {"test_examples": examples, "test_draws": draws, "test_error": unlucky}
    assert replace(certificate, **test).check().holds
    assert not replace(certificate, **(test | {"test_error": 0.95})).check().holds


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "is no certificate"),
        ("[]", "has the schema None"),
        ('{"schema": "metastep certificate 2"}', "has the schema 'metastep certificate 2'"),
        ('{"schema": "metastep certificate 1", "bound": "x"}', "bound is 'x'"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "certificate.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        pac_bayes.Certificate.load(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test": (INPUTS[:0], LABELS[:0])}, "test has no examples"),
        ({"data": (INPUTS.at[3, 0].set(jnp.nan), LABELS)}, "data has infinite or NaN"),
        ({"params": {"W": jnp.full((2, 3), jnp.nan)}}, "infinite or NaN"),
        ({"prior": PARAMS}, "prior equals params"),
        ({"params": None}, "params is None"),
        ({"data": (INPUTS, LABELS - 5)}, "loss has values"),
        ({"loss": lambda output, target: -jnp.ones(())}, "loss has values from -1"),
    ],
)
def test_bad_arguments(changed, message):
    good = {"data": DATA, "params": PARAMS, "prior": PRIOR, "test": TEST, "key": KEY}
    arguments = good | changed
    with pytest.raises(ValueError, match=message):
        pac_bayes.certify(model, arguments.pop("data"), **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"delta": 1.0}, "delta is 1"),
        ({"draw_delta": 0.0}, "draw_delta is 0"),
        ({"delta": 0.7, "draw_delta": 0.7}, "delta \\+ draw_delta is 1.4"),
        ({"epochs": 0}, "epochs is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings(changed, message):
    with pytest.raises(ValueError, match=message):
        pac_bayes.Settings(**changed)
