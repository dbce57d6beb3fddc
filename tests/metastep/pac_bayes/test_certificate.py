"""A certificate: made, saved, read, checked; falsified ones are found."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep import pac_bayes
from metastep.pac_bayes.certify import digest

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (1200, 3))
LABELS = (INPUTS[:, 0] > 0).astype(int)
DATA, TEST = (INPUTS[:1000], LABELS[:1000]), (INPUTS[1000:], LABELS[1000:])
PARAMS = {"W": jnp.array([[-2.0, 0.1, 0.2], [2.0, 0.1, 0.2]])}
PRIOR = {"W": jnp.full((2, 3), 0.1)}


def model(params, x):
    return params["W"] @ x


@pytest.fixture(scope="module")
def certified():
    settings = pac_bayes.Settings(epochs=20, draws=20_000, optimizer=optax.adam(0.05))
    return pac_bayes.certify(
        model, DATA, params=PARAMS, prior=PRIOR, test=TEST, key=KEY, settings=settings
    )


def test_the_certificate_is_that_of_the_posterior(certified):
    certificate, posterior = certified.certificate, certified.optimized.posterior
    # A separable problem with six weights: far from vacuous.
    assert certificate.bound < 0.4
    assert certificate.uncorrected < certificate.bound and certificate.confidence == 0.965
    rho = np.log(pac_bayes.prior_variance(certificate.j)) / 2
    # Neighbors on the grid are 1 / (2 b) apart.
    assert abs(rho - float(posterior.log_prior_scale)) < 0.005 + 1e-6
    kl = pac_bayes.kl_divergence(posterior.mean, posterior.log_scale, PRIOR, rho)
    assert np.isclose(certificate.kl, kl, rtol=1e-4)  # float32 sums against float64 ones
    assert certificate.parameters == 6 and certificate.examples == 1000
    assert certificate.test_examples == 200 and certificate.test_error < certificate.bound
    assert certificate.data_digest == digest(DATA) != digest(TEST)
    assert certificate.check() == (True, ())


def test_saved_and_read_back(certified, tmp_path):
    path = tmp_path / "folder" / "certificate.json"
    certified.certificate.save(path)
    again = pac_bayes.Certificate.load(path)
    assert again == certified.certificate and again.check().holds


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
        ({"test_error": 0.9}, "contradicts a bound"),
    ],
)
def test_falsified(certified, changed, reason):
    verdict = replace(certified.certificate, **changed).check()
    assert not verdict.holds and any(reason in text for text in verdict.reasons)


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
