"""The measures against dense matrices, a tiny run that is resumed, and bad input."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.curvature import LayerHessian
from metastep.curvature.layers.capture import LayerFactors
from metastep_lab import cli
from metastep_lab.runs.running import read_record
from metastep_lab.wu2022.hessian_structure import clusters as hessian_structure_clusters
from metastep_lab.wu2022.hessian_structure import experiment as hessian_structure
from metastep_lab.wu2022.hessian_structure import study as hessian_structure_study
from metastep_lab.wu2022.networks import capturing
from metastep_lab.wu2022.networks.images import Examples, load
from metastep_lab.wu2022.networks.names import network_of
from metastep_lab.wu2022.networks.training import State, as_risk, predictions
from tests.metastep_lab import small
from tests.metastep_lab.doctored import verdicts

EXPERIMENT = hessian_structure.EXPERIMENT
CLASSES = 10
EXAMPLES, INPUTS, OUTPUTS, TOP = 7, 4, 12, 20


def operator(key):
    """Return the Hessian of a layer with random inputs of positive mean and random Jacobians."""
    keys = jax.random.split(key, 3)
    inputs = 1 + 0.3 * jax.random.normal(keys[0], (EXAMPLES, 1, INPUTS))
    jacobian = jax.random.normal(keys[1], (EXAMPLES, CLASSES, 1, OUTPUTS))
    p = jax.nn.softmax(jax.random.normal(keys[2], (EXAMPLES, CLASSES)))
    curvature = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    return LayerHessian(LayerFactors(inputs, jacobian), curvature), p


def test_a_layer_against_dense_matrices(key):
    hessian, _ = operator(key)
    found = hessian_structure_study.measure(hessian, TOP, key)
    columns = list[str](hessian_structure_study.LAYER_COLUMNS.split())
    numbers = dict(zip(columns, found.numbers, strict=True))
    names = list[str](hessian_structure_study.SPECTRUM_COLUMNS.split())
    spectrum = dict(zip(names, np.array(found.spectrum).T, strict=True))
    x = np.asarray(hessian.factors.inputs[:, 0], float)
    g = np.asarray(hessian.factors.jacobian[:, :, 0], float)
    each = np.einsum("icm,icd,idk->imk", g, np.asarray(hessian.curvature, float), g)
    dense = np.mean([np.kron(m, np.outer(v, v)) for m, v in zip(each, x, strict=True)], axis=0)
    output, moment = each.mean(axis=0), x.T @ x / EXAMPLES
    values, vectors = (part[..., ::-1] for part in np.linalg.eigh(dense))
    factored, directions = (part[..., ::-1] for part in np.linalg.eigh(np.kron(output, moment)))
    taus, left = (part[..., ::-1] for part in np.linalg.eigh(output))
    gammas, right = (part[..., ::-1] for part in np.linalg.eigh(moment))
    mean = x.mean(axis=0) / np.linalg.norm(x.mean(axis=0))
    top = vectors[:, :TOP].T.reshape(TOP, OUTPUTS, INPUTS)
    ratio = gammas[0] / gammas[1]
    bound = np.sum(x.mean(axis=0) ** 2) / np.linalg.norm(np.cov(x.T, bias=True), 2) - 1
    trace = np.trace(output) * np.trace(moment) / np.trace(dense)
    expected = {
        "alignment": (right[:, 0] @ mean) ** 2,
        "ratio": ratio,
        "ratio_bound": bound,
        "output_gap": taus[8] / taus[9],
        "hessian_gap": values[8] / values[9],
        "output_share": taus[:9].sum() / taus.sum(),
        "trace_ratio": trace,
    }
    # Moments and eigenvalues in float32; a ratio divides by small ones.
    for name, value in expected.items():
        assert np.isclose(numbers[name], value, rtol=1e-3, atol=0), name
    lines = {
        "true": values[:TOP],
        "kronecker": factored[:TOP],
        "overlap": [
            np.sum((directions[:, :k].T @ vectors[:, :k]) ** 2) / k for k in range(1, TOP + 1)
        ],
        "rank_one": np.linalg.norm(top, 2, axis=(1, 2)),
        "input_correspondence": np.sum((top @ right[:, 0]) ** 2, axis=1),
        "inside": np.sum((left[:, :9].T @ top) ** 2, axis=(1, 2)),
    }
    # Eigenvectors in float32: rounding over the relative gap, 1e-2 at the narrowest.
    for name, value in lines.items():
        np.testing.assert_allclose(spectrum[name], value, atol=2e-3, err_msg=name)
    assert np.isnan(spectrum["output_correspondence"][OUTPUTS:]).all()
    assert np.isclose(spectrum["output_correspondence"][1], np.sum((left[:, 1] @ top[1]) ** 2))


def test_an_image_network_is_captured_in_parts(key, monkeypatch):
    network = network_of("VGG11-W4")
    images, labels = jax.random.normal(key, (7, 32, 32)), jnp.arange(7) % CLASSES
    shapes = jax.eval_shape(lambda key: network.init(key, (32, 32)), key)
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
    state = State(jax.tree.map(draw, shapes), {})
    risk = as_risk(network, state, Examples(images, labels))
    # 4 inputs and 10 times 10 outputs: two parts of three, and the seventh is left out.
    monkeypatch.setattr(capturing, "AT_ONCE", 4 * 104)
    found = capturing.captured(risk, "fc1.weight")
    p = jax.nn.softmax(predictions(network, state, images[:6]))
    expected = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None, :]
    # Scores of order 10 in float32.
    np.testing.assert_allclose(found.curvature, expected, atol=1e-4)
    eye = np.broadcast_to(np.eye(CLASSES)[:, None], (6, CLASSES, 1, CLASSES))
    np.testing.assert_array_equal(found.factors.jacobian, eye)


def test_clusters_of_the_rows(key):
    hessian, p = operator(key)
    labels = np.array([0, 1, 2, 3, 4, 4, 0])
    place = hessian, jnp.log(p), jnp.asarray(labels)
    found = hessian_structure_clusters.shares(*place)
    # Examples that the capture had no room for do not count.
    more = jnp.concatenate([place[1], place[1]]), jnp.concatenate([place[2], place[2] + 1])
    np.testing.assert_array_equal(hessian_structure_clusters.shares(hessian, *more), found)
    roots = [np.diag(np.sqrt(q)) @ (np.eye(CLASSES) - q) for q in np.asarray(p, float)]
    rows = np.array(roots) @ np.asarray(hessian.factors.jacobian[:, :, 0], float)
    # N^T N = M, whatever the labels.
    g = np.asarray(hessian.factors.jacobian[:, :, 0])
    each = np.einsum("icm,icd,idk->imk", g, np.asarray(hessian.curvature), g)
    np.testing.assert_allclose(rows.transpose(0, 2, 1) @ rows, each, atol=1e-4)
    centers = np.zeros((CLASSES, *rows.shape[1:]))
    for label in set(labels.tolist()):
        centers[label] = rows[labels == label].mean(axis=0)
    total = np.sum(centers**2)
    shares = [CLASSES * np.sum(centers.mean(axis=axis) ** 2) / total for axis in (0, 1)]
    # Sums of a thousand numbers in float32.
    np.testing.assert_allclose(found, shares, rtol=1e-4)
    inputs = np.asarray(hessian.factors.inputs[:, 0], float)
    both = np.einsum("icm,in->icmn", rows, inputs)
    by_weight = np.zeros((CLASSES, *both.shape[1:]))
    for label in set(labels.tolist()):
        by_weight[label] = both[labels == label].mean(axis=0)
    later = jax.random.normal(key, (CLASSES, OUTPUTS))
    grams = hessian_structure_clusters.grams(*place, later)
    # Examples that the capture had no room for do not count.
    np.testing.assert_array_equal(hessian_structure_clusters.grams(hessian, *more, later), grams)
    near = np.mean(roots, axis=0) @ np.asarray(later, float)
    near_weight = np.einsum("cm,n->cmn", near, inputs.mean(axis=0))
    for gram, means, close in zip(
        np.asarray(grams, float), (centers, by_weight), (near, near_weight), strict=True
    ):
        flat, close = means.reshape(CLASSES**2, -1), close.reshape(CLASSES, -1)
        every = np.concatenate([flat, close])
        np.testing.assert_allclose(gram, every @ every.T, rtol=1e-4, atol=1e-4)
        middle = means.mean(axis=0).reshape(CLASSES, -1)
        cosines = np.sum(middle * close, axis=1) ** 2
        cosines /= np.sum(middle**2, axis=1) * np.sum(close**2, axis=1)
        found = hessian_structure_clusters.agreement(gram)
        np.testing.assert_allclose(found, cosines, rtol=1e-2, atol=1e-4)


def test_the_embedding_keeps_clusters_and_its_bits(key):
    """Examples that differ by a hundredth have rows that cluster by logit."""
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(1, CLASSES, 1, OUTPUTS))
    jacobian = jacobian + 0.01 * rng.normal(size=(EXAMPLES, CLASSES, 1, OUTPUTS))
    parts = np.ones((EXAMPLES, 1, INPUTS)), jacobian, np.zeros((EXAMPLES, CLASSES, CLASSES))
    inputs, jacobian, curvature = (jnp.asarray(part, jnp.float32) for part in parts)
    hessian = LayerHessian(LayerFactors(inputs, jacobian), curvature)
    place = hessian, jnp.zeros((EXAMPLES, CLASSES)), jnp.arange(EXAMPLES)
    later = jnp.ones((CLASSES, OUTPUTS))
    grams = np.asarray(hessian_structure_clusters.grams(*place, later), float)
    points = list(hessian_structure_clusters.embedded(grams, key))
    assert points == list(hessian_structure_clusters.embedded(grams, key))
    assert len(points) == 2 * (CLASSES**2 + CLASSES)
    assert {point[1] for point in points} == {-1, *range(CLASSES)}
    present = [point for point in points if point[0] == "output" and 0 <= point[1] < EXAMPLES]
    logits, places = (np.array([point[part] for point in present]) for part in (2, slice(3, 5)))
    distances = np.linalg.norm(places[:, None] - places, axis=2) + np.diag([np.inf] * len(places))
    np.testing.assert_array_equal(logits[np.argmin(distances, axis=1)], logits)


def test_logit_centers_follow_from_the_weights_and_the_shares_of_active_units(key):
    """(C.266) has a half for every share, which is as far off as (4.8) for two layers."""
    config = replace(EXPERIMENT.presets["quick"], model=("F-200^2",))
    examples = load(config, SimpleNamespace(data=None, seed=0), "true")
    network = network_of("F-200^2")
    params = network.init(key, examples.images.shape[1:])
    state = State(params, {})
    risk = as_risk(network, state, examples)
    scores = predictions(network, state, risk.inputs)
    first, second, last = (params[name]["weight"] for name in ("fc1", "fc2", "fc3"))
    before = examples.images.reshape(len(examples.labels), -1) @ first.T
    share = lambda values: jnp.mean(values >= 0, axis=0)
    then = share(jax.nn.relu(before) @ second.T)
    halves = hessian_structure_clusters.later_weights(params)
    found = []
    for later in (halves, (last * then) @ second * share(before)):
        place = capturing.captured(risk, "fc1.weight"), scores, risk.targets
        grams = np.asarray(hessian_structure_clusters.grams(*place, later), float)
        found.append(hessian_structure_clusters.agreement(grams[0]).mean())
    assert found[0] < 0.7 and found[1] > 0.95


run = partial(small.run, "hessian-structure")


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    calls = small.interrupted(monkeypatch, hessian_structure, "_cell", 2)
    assert run(tmp_path / "run") == 130
    assert run(tmp_path / "run", "--resume") == 0
    assert run(tmp_path / "whole") == 0
    assert len(calls) == 5  # two cells, one of them begun twice; two more
    names = small.same_tables(tmp_path / "run", tmp_path / "whole")
    assert names == sorted(hessian_structure.TABLES)
    record = read_record(tmp_path / "run", EXPERIMENT)
    for name, header in hessian_structure.TABLES.items():
        assert list(record.tables[name]) == header.split()
    spectra = record.frames["spectra"].query("layer == 'fc2' and seed == 1")
    assert spectra["index"].tolist() == list(range(1, 21))
    # Shares, with rounding of float32 above 1.
    shares = ("overlap", "rank_one", "input_correspondence", "inside")
    assert all(np.all((spectra[name] >= 0) & (spectra[name] < 1 + 1e-5)) for name in shares)
    found = verdicts(EXPERIMENT, record)
    assert found["outliers"] is None and found["reference"] is None
    centers = record.frames["centers"]
    assert len(centers) == 2 * CLASSES and centers["by_output"].between(0, 1 + 1e-6).all()
    # (C.257) of Wu's thesis, Weyl's inequality: lambda_1 / lambda_2 >= |E[x]|^2 / |Sigma| - 1.
    slack = record.tables["layers"]["ratio"] - record.tables["layers"]["ratio_bound"]
    assert np.isfinite(slack).any() and np.nanmin(slack) >= 0
    assert set(EXPERIMENT.figures(record)) == {
        "kronecker", "spectra", "correspondence", "rank-one", "singular", "training", "clusters",
        "logit-clusters", "class-clusters", "whole",
    }  # fmt: skip
    points = record.tables["embedding"]
    count = CLASSES**2 + CLASSES
    assert len(points["x"]) == 2 * 2 * count  # two moments, two kinds of derivatives
    # The first singular value is that of the table of spectra.
    first = record.frames["singular"].query("index == 1 and layer == 'fc2'")["value"]
    rank_one = record.frames["spectra"].query("layer == 'fc2' and seed == 0")["rank_one"]
    np.testing.assert_allclose(first, rank_one[:4], atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("examples=1798", "examples is 1798"), ("model=F-200^2,VGG12", "model is 'VGG12'; allowed")],
)
def test_a_wrong_setting_leaves_nothing_behind(setting, message, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["run", "hessian-structure", "--preset", "quick", "--set", setting]
    assert cli.invoke([*command, "--out", str(out)], (EXPERIMENT.listing,)) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not out.exists()


def test_an_image_network_is_trained_and_measured(tmp_path):
    out = tmp_path / "run"
    settings = "model=VGG11-W4 labels=true examples=256 epochs=10 models=1 top=20".split()
    flags = [part for setting in settings for part in ("--set", setting)]
    command = ["run", "hessian-structure", "--preset", "quick", *flags, "--out", str(out)]
    assert cli.invoke(command, (EXPERIMENT.listing,)) == 0
    record = read_record(out, EXPERIMENT)
    layers = [f"conv{i + 1}" for i in range(8)]
    assert record.tables["layers"]["layer"].tolist() == [*layers, "fc1"]
    assert record.tables["models"]["loss"][0] < np.log(CLASSES)
    assert record.tables["layers"]["positions"].tolist() == [1024, 256, 64, 64, 16, 16, 4, 4, 1]
    assert "kronecker" in EXPERIMENT.figures(record)
