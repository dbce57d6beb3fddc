"""The samples against autodiff, and a tiny run that is interrupted and resumed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import integrate
from scipy.stats import norm

from metastep_lab.runs.running import read_record
from metastep_lab.tables import Record
from metastep_lab.wu2022.hessian_two_layer import experiment as hessian_two_layer
from metastep_lab.wu2022.hessian_two_layer import samples as samples
from tests.metastep_lab import small
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

EXPERIMENT = hessian_two_layer.EXPERIMENT
UNITS, CLASSES = 12, 3


def test_the_gram_matrix_has_the_spectrum_of_the_hessian():
    network = samples.draw_network(jax.random.key(0), UNITS, CLASSES)
    key = jax.random.key(1)
    factors, x = samples.sample(network, key, 1)

    def loss(first):
        scores = jax.nn.relu(x @ first.T) @ network.second.T
        labels = jnp.zeros(len(x), int)  # the Hessian of the cross-entropy knows no label
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))

    size = network.first.size
    hessian = np.asarray(jax.hessian(loss)(network.first), float).reshape(size, size)
    values, vectors = np.linalg.eigh(hessian)
    moment = lambda rows: rows.T @ rows / len(x)
    output, inputs = moment(factors.reshape(-1, UNITS)), moment(x)
    left, right = (np.linalg.eigh(np.asarray(part, float))[1][:, ::-1] for part in (output, inputs))
    # The input's first eigenvalue is far above its second, so that it belongs to both vectors.
    kronecker = np.stack([np.kron(left[:, a], right[:, 0]) for a in range(CLASSES - 1)])
    gap, overlap = samples._hessian(network, key, 1)
    # Second derivatives in float32.
    assert np.isclose(gap, values[-CLASSES] / values[1 - CLASSES], rtol=1e-4, atol=0)
    expected = np.sum((kronecker @ vectors[:, 1 - CLASSES :]) ** 2) / (CLASSES - 1)
    assert np.isclose(overlap, expected, rtol=1e-4, atol=0)


def test_the_predicted_overlap_is_that_of_the_shares():
    share = lambda s: norm.cdf(s / np.sqrt(np.pi - 1))
    mean, square = (
        integrate.quad(lambda s, power=power: share(s) ** power * norm.pdf(s), -9, 9)[0]
        for power in (1, 2)
    )
    # The quadrature's own error estimate is below 1e-8; three digits are 0.829.
    assert np.isclose(samples.PREDICTED, mean**2 / square, rtol=1e-7, atol=0)
    assert round(samples.PREDICTED, 3) == 0.829


def test_the_scores_keep_a_mean():
    """Lemma C.2.12 says 0; the correlation of two rectified normals is that of Cho and Saul."""
    network = samples.draw_network(jax.random.key(0), 100, 10)
    found = samples.moments(network, jax.random.split(jax.random.key(1), 5))
    assert samples.sample(network, jax.random.key(1), 1)[0].shape == (samples.BATCH, 10, 100)
    share = float(found.scores @ found.scores / found.square)
    rng = np.random.default_rng(0)
    first, second = rng.multivariate_normal([0, 0], [[1, 1 / np.pi], [1 / np.pi, 1]], 100_000).T
    product = np.maximum(first, 0) * np.maximum(second, 0)
    # The standard error of the mean of 100,000 products of variance below 1.
    assert np.isclose(2 * product.mean(), samples.MEAN_SHARE, rtol=0, atol=0.012)
    # Ten scores of one network: a chi-squared mean over ten, relative spread 0.2.
    assert 0.2 < share < 0.8
    # Half of the inputs activate a unit, on average over units.
    assert abs(float(jnp.mean(jnp.diagonal(found.active))) - 0.5) < 0.05


run = partial(small.run, "hessian-two-layer")


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    calls = small.interrupted(monkeypatch, hessian_two_layer, "measure", 2)
    assert run(tmp_path / "run") == 130
    assert run(tmp_path / "run", "--resume") == 0
    assert len(calls) == 3
    record = read_record(tmp_path / "run", EXPERIMENT)
    table = record.tables["overlaps"]
    assert list(table) == hessian_two_layer.COLUMNS.split()
    assert table["units"].tolist() == [8, 16] and table["inputs"].tolist() == [12, 28]
    overlaps = ("independent", "printed", "row_span", "weighted_row_span", "kronecker")
    # Overlaps are shares; float32 rounding above 1.
    assert all(np.all((table[name] > 0) & (table[name] < 1 + 1e-5)) for name in overlaps)
    found = verdicts(EXPERIMENT, record)
    assert found.pop("curvature-has-full-rank") is not None
    assert set(found.values()) == {None}
    assert set(EXPERIMENT.figures(record)) == {"gap", "overlaps"}


GOOD = {
    "units": [100.0, 400.0],
    "gap_output": [0.45, 0.1],
    "gap_hessian": [0.5, 0.1],
    "independent": [0.45, 0.999],
    "kronecker": [0.45, 0.99],
    "mean_share": [0.5, 0.04],
    "shift": [0.2, 0.05],
    "least": [0.6, 0.5],
    "row_span": [0.45, 0.83],
    "printed": [0.45, 0.83],
    "weighted_row_span": [0.45, 0.995],
}
SPOILED = (
    ("output-gap", {"gap_output": [0.45, 0.26]}),
    ("output-gap", {"gap_output": [0.1, 0.1]}),
    ("hessian-gap", {"gap_hessian": [0.5, 0.26]}),
    ("hessian-gap", {"gap_hessian": [0.1, 0.2]}),
    ("scores-have-mean-zero", {"mean_share": [0.5, 0.49]}),
    ("scores-forget-units", {"shift": [0.2, 0.11]}),
    ("scores-forget-units", {"shift": [0.05, 0.05]}),
    ("curvature-has-full-rank", {"least": [0.09, 0.5]}),
    ("independent-copy", {"independent": [1, 0.99]}),
    ("decoupling", {"kronecker": [1, 0.97]}),
    ("row-span", {"row_span": [1, 0.94]}),
    ("weighted-row-span", {"row_span": [0.83, 0.79]}),
    ("weighted-row-span", {"weighted_row_span": [1, 0.98]}),
)


def test_every_claim_can_hold_and_fail():
    table = {name: np.array(column) for name, column in GOOD.items()}
    good = Record(hessian_two_layer.Config(), {"overlaps": table}, {}, {})
    spoiled = [(name, "overlaps", "", values) for name, values in SPOILED]
    # The row span cannot be the eigenspace and be as far from it as predicted.
    check_every_claim(EXPERIMENT, spoiled, good, changed(good, "overlaps", row_span=0.96))


def test_the_theorems_are_about_every_network():
    """One of four networks spoils what holds with probability 1, and not what is a mean."""
    table = {name: np.tile(column, 4) for name, column in GOOD.items()}
    good = Record(hessian_two_layer.Config(), {"overlaps": table}, {}, {})
    for name, values in (
        ("output-gap", {"gap_output": 0.3}), ("hessian-gap", {"gap_hessian": 0.3}),
        ("independent-copy", {"independent": 0.99}), ("decoupling", {"kronecker": 0.97}),
    ):  # fmt: skip
        assert verdicts(EXPERIMENT, good, name)[name] is True
        assert verdicts(EXPERIMENT, changed(good, "overlaps", "index == 7", **values), name) == {
            name: False
        }
