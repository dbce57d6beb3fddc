"""Eigenspaces against dense Hessians, a tiny run that is resumed, and its claims."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.curvature import subspace_overlap
from metastep_lab.runs.running import read_record
from metastep_lab.tables import Record, columns
from metastep_lab.wu2022.hessian_overlap import experiment as hessian_overlap
from metastep_lab.wu2022.hessian_overlap import spaces
from metastep_lab.wu2022.networks.digit_networks import DigitNetwork
from metastep_lab.wu2022.networks.images import Examples
from metastep_lab.wu2022.networks.training import State, as_risk
from tests.metastep_lab import small
from tests.metastep_lab.doctored import changed, check_every_claim, verdicts

EXPERIMENT = hessian_overlap.EXPERIMENT
SIZE = (7, 7)


def risk_of(network, seed, examples=5):
    """Return the loss of a network with random weights on random images of positive mean."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: network.init(key, SIZE), jax.random.key(0))
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 3, jnp.float32)
    images = jnp.asarray(rng.uniform(size=(examples, *SIZE)), jnp.float32)
    state = State(jax.tree.map(draw, shapes), {})
    return as_risk(network, state, Examples(images, jnp.zeros(examples, int)))


def dense(risk, layer):
    """Return the Hessian of one weight, by automatic differentiation."""
    weight = risk.params[layer]["weight"]

    def loss(flat):
        params = {
            **risk.params,
            layer: {**risk.params[layer], "weight": flat.reshape(weight.shape)},
        }
        scores = jax.vmap(lambda image: risk.model(params, image))(risk.inputs)
        return jnp.mean(jax.vmap(risk.loss)(scores, risk.targets))

    return np.asarray(jax.jit(jax.hessian(loss))(weight.reshape(-1)), float)


# rows: enough for the Hessian to be formed, and fewer, but one for each example and class.
@pytest.mark.parametrize(
    ("network", "layer", "rows"),
    [
        (DigitNetwork(hidden=(6,)), "fc1", 300),
        (DigitNetwork(hidden=(6,)), "fc1", 60),
        (DigitNetwork(channels=(2,), hidden=(4,)), "conv1", 50),
        (DigitNetwork(channels=(2,), hidden=(4,)), "conv1", 49),
    ],
)
def test_a_layer_against_dense_matrices(network, layer, rows, monkeypatch):
    monkeypatch.setattr(spaces, "AT_ONCE", 1500)  # several groups of examples
    found, vectors, inputs = [], [], []
    for seed in range(2):
        risk = risk_of(network, seed)
        spectrum = spaces.layer_spectrum(risk, f"{layer}.weight", rows)
        outputs = risk.params[layer]["weight"].shape[0]
        values, every = (part[..., ::-1] for part in np.linalg.eigh(dense(risk, layer)))
        k = 2 * outputs
        # Second derivatives in float32.
        np.testing.assert_allclose(spectrum.values, values[:k], atol=1e-5 * values[0])
        assert spectrum.kept > 1 - 1e-9
        found.append(spectrum)
        vectors.append(every[:, :k].T)
        inputs.append(np.linalg.eigh(spectrum.input)[1][:, -1])
    overlap = spaces.overlaps(found[0].space, found[1].space)
    np.testing.assert_allclose(overlap, subspace_overlap(*map(jnp.asarray, vectors)), atol=1e-3)
    matrices = vectors[0].reshape(k, outputs, -1)
    along = np.sum((matrices @ inputs[0]) ** 2, axis=1)
    np.testing.assert_allclose(spaces.along(found[0], inputs[0]), along, atol=1e-3)


def test_the_factors_and_their_product():
    spectrum = spaces.layer_spectrum(risk_of(DigitNetwork(hidden=(3,)), 0), "fc1.weight", 147)
    other = spaces.layer_spectrum(risk_of(DigitNetwork(hidden=(3,)), 1), "fc1.weight", 147)
    products = [spaces.factored(one) for one in (spectrum, other)]
    tops = []
    for one, product in zip((spectrum, other), products, strict=True):
        values, vectors = np.linalg.eigh(np.kron(one.output, one.input))
        np.testing.assert_allclose(product.values, values[::-1][:6], atol=1e-6 * values[-1])
        tops.append(vectors[:, ::-1][:, :6].T)
        taus, gammas = (np.linalg.eigvalsh(part)[::-1] for part in (one.output, one.input))
        assert product.reach == np.sum(taus * gammas[0] > taus[0] * gammas[1])
    found = spaces.factored_overlaps(*products)
    # Eigenvectors of numbers in float32.
    np.testing.assert_allclose(found, subspace_overlap(*map(jnp.asarray, tops)), atol=1e-4)


def test_the_rows_of_largest_norm_are_kept():
    risk = risk_of(DigitNetwork(hidden=(6,)), 0, examples=40)
    every, some = (spaces.layer_spectrum(risk, "fc1.weight", rows) for rows in (290, 30))
    assert every.kept > some.kept > 0.3
    assert every.values[0] > some.values[0] > 0.3 * every.values[0]
    np.testing.assert_allclose(every.output, some.output, rtol=1e-6)


run = partial(small.run, "hessian-overlap")


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    calls = small.interrupted(monkeypatch, hessian_overlap, "_cell", 2)
    assert run(tmp_path / "run") == 130
    assert run(tmp_path / "run", "--resume") == 0
    assert run(tmp_path / "whole") == 0
    assert len(calls) == 5  # two cells, one of them begun twice; two more
    assert small.same_tables(tmp_path / "run", tmp_path / "whole") == sorted(hessian_overlap.TABLES)
    record = read_record(tmp_path / "run", EXPERIMENT)
    for name, header in hessian_overlap.TABLES.items():
        assert list(record.tables[name]) == header.split()
    overlaps = record.tables["overlaps"]["overlap"]
    assert np.all((overlaps >= 0) & (overlaps < 1 + 1e-5))
    assert verdicts(EXPERIMENT, record)["peak-place"] is not None
    assert set(EXPERIMENT.figures(record)) == {"overlap", "products", "mean-input"}


MODELS = ("F-200^2", "F-200^2-BN", "F-100-8")
OUTPUTS = {"F-200^2": (20, 30, 10), "F-100-8": (10, 8, 10)}  # made up, for short tables
HEIGHT, EARLY = 0.6, 0.012


def curve(outputs, layer, k):
    """Return an overlap that grows up to m and falls; that of the last layer is level."""
    if layer == "fc3":
        return np.where(k < outputs, HEIGHT, 0.3)
    return np.where(k <= outputs, k / outputs, np.maximum(0.2, 2 - k / outputs)) * HEIGHT


def handmade():
    """Return a record in which the theorem holds, but in fc2 of F-200^2."""
    config = replace(
        hessian_overlap.Config(),
        model=MODELS, models=(2, 1), step_size=(0.1, 0.2), momentum=(0.0, 0.9),
        weight_decay=(0.0, 0.0),
    )  # fmt: skip
    overlaps, pairs, layers = [], [], []
    for model in MODELS:
        for layer, outputs in zip(
            ("fc1", "fc2", "fc3"), OUTPUTS[model.removesuffix("-BN")], strict=True
        ):
            k = np.arange(1, 2 * outputs + 1)
            early = (model, layer) == ("F-200^2", "fc2")
            values = curve(outputs, layer, k)
            if early:
                values = EARLY * np.minimum(k / 9, 0.5 + 4.5 / k)
            if model.endswith("BN"):
                values = np.full(len(k), 0.001)
            layers.append((model, layer, outputs, 0.95))
            for first, second in ((0, 1), (0, 2), (1, 2)):
                place = model, layer, first, second
                overlaps += [
                    (*place, float(i), value, value) for i, value in zip(k, values, strict=True)
                ]
                reach = 9 if early else outputs
                found = reach, HEIGHT, int(np.argmax(values)) + 1, values.max(), HEIGHT
                pairs.append((*place, outputs, *found, int(np.argmax(values)) + 1))
    tables = {
        "layers": columns("model layer outputs kept", layers),
        "overlaps": columns(hessian_overlap.TABLES["overlaps"], overlaps),
        "pairs": columns(hessian_overlap.TABLES["pairs"], pairs),
        "networks": columns(
            "model network step_size momentum weight_decay",
            [(m, i, *d) for m in MODELS for i, d in enumerate(config.descents())],
        ),
    }
    return Record(config, tables, {}, {})


FC1 = "model == 'F-200^2' and layer == 'fc1'"
FC2 = "model == 'F-200^2' and layer == 'fc2'"
NARROW = "model == 'F-100-8' and layer == 'fc2'"
LAST = "model == 'F-200^2' and layer == 'fc3'"
SPOILED = (
    ("peak-place", "overlaps", "layer == 'fc1' and index == 17", {"overlap": 0.9}),
    ("theorem-place", "overlaps", f"{FC1} and index == 23", {"overlap": 0.9}),
    ("theorem-height", "pairs", FC1, {"alignment": 0.45}),
    ("theorem-height", "overlaps", f"{FC1} and index >= 19 and index <= 21", {"overlap": 0.4}),
    ("theorem-slope", "pairs", FC1, {"slope": 0.4}),
    ("falls-after-m", "overlaps", f"{FC1} and index == 40", {"overlap": 0.45}),
    ("reach", "overlaps", f"{FC2} and index == 18", {"overlap": 0.2}),
    ("reach", "overlaps", f"{FC2} and index == 1", {"overlap": 0.2}),
    ("product-predicts-peak", "overlaps", f"{FC1} and index == 17", {"kronecker": 0.9}),
    ("output-layer", "overlaps", f"{LAST} and index == 1", {"overlap": 0.2}),
    ("output-layer", "overlaps", f"{LAST} and index == 3", {"overlap": 0.3}),
    ("output-layer", "overlaps", f"{LAST} and index == 20", {"overlap": 0.5}),
    ("output-height", "pairs", LAST, {"alignment": 0.9}),
    ("output-height", "overlaps", f"{LAST} and index == 4", {"overlap": 0.8}),
    ("early-peak", "overlaps", FC2, {"overlap": 0.017}),
    ("early-peak", "overlaps", f"{FC2} and index == 20", {"overlap": 0.02}),
    ("narrow-peak", "overlaps", f"{NARROW} and index == 5", {"overlap": 0.9}),
    ("narrow-peak", "overlaps", f"{NARROW} and index == 16", {"overlap": 0.5}),
    ("batch-normalization", "overlaps", "model == 'F-200^2-BN'", {"overlap": 0.5}),
    ("settings", "overlaps", f"{FC1} and second == 2 and index == 15", {"overlap": 0.65}),
    ("settings", "overlaps", f"{FC1} and second == 2",
     {"overlap": lambda rows: rows["overlap"] / 2}),
)  # fmt: skip


def test_every_claim_can_hold_and_fail():
    good = handmade()
    assert set(verdicts(EXPERIMENT, good).values()) == {True}, verdicts(EXPERIMENT, good)
    check_every_claim(EXPERIMENT, SPOILED, good)
    assert EXPERIMENT.answer(good).startswith("Only in part.")
    random = Record(replace(good.config, labels="random"), good.tables, {}, {})
    assert set(verdicts(EXPERIMENT, random).values()) == {None}
    assert EXPERIMENT.answer(random).startswith("This run cannot tell")
    few = changed(good, "layers", kept=0.89)
    assert verdicts(EXPERIMENT, few)["peak-place"] is None
    # The rows of hidden layers are nothing to output layers.
    lost = verdicts(EXPERIMENT, changed(good, "layers", "layer != 'fc3'", kept=0.89))
    assert lost["peak-place"] is None and lost["output-layer"] is True
    lost = verdicts(EXPERIMENT, changed(good, "layers", "layer == 'fc3'", kept=0.89))
    assert lost["peak-place"] is True and lost["output-layer"] is None
    # Most hidden layers, says C.6.2: one of three is not enough against it.
    one = changed(good, "overlaps", f"{NARROW} and index == 9", overlap=0.9)
    assert verdicts(EXPERIMENT, one)["peak-place"] is True
    # Without a layer in which the condition holds, the theorem says nothing.
    fails = changed(good, "pairs", reach=3)
    assert verdicts(EXPERIMENT, fails)["theorem-height"] is None
