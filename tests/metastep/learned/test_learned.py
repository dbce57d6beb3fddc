"""Features, the MLP and the LSTM against independent code; ordinary optimizers against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.test_util import check_grads

import metastep as ms
from metastep.learned import (
    CoordinatewiseLSTM,
    LearnedAdam,
    LearnedSchedule,
    LearnedSGD,
    MLPOptimizer,
)
from metastep.learned import features as feature
from metastep.learned.lstm import logarithm_and_sign
from tests.helpers import relative_distance

FAMILIES = {
    "MLP": MLPOptimizer(hidden=4),
    "LSTM": CoordinatewiseLSTM(units=3),
    "SGD": LearnedSGD(0.1, 0.5, layers=2),
    "Adam": LearnedAdam(layers=2),
    "schedule": LearnedSchedule((0, 2)),
}
# Long enough for rows that are added up in pieces, with a rest.
PARAMS = {"w": np.linspace(-1, 2, 35).reshape(5, 7), "b": np.array([0.5, -3.0])}
GRADS = [
    {"w": np.sin(np.arange(35.0) + step).reshape(5, 7), "b": np.array([1e-3, 40.0]) / (1 + step)}
    for step in range(3)
]


def in_precision(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def updates_of(family, weights, dtype, params=PARAMS, grads=GRADS):
    """Return the update of every step, the parameters staying where they are."""
    optimizer, at = family(weights), in_precision(params, dtype)

    def step(state, grad):
        update, state = optimizer.update(grad, state, at)
        return state, update

    steps = jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_precision(grads, dtype))
    return jax.lax.scan(step, optimizer.init(at), steps)[1]


def numpy_mlp(weights, standardize):
    """The published loop, feature by feature, in float64."""
    decays = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])
    scales = [3, 10, 30, 100, 300, 1000, 3000, 10000, 300000]
    mean = {name: np.zeros((5, *leaf.shape)) for name, leaf in PARAMS.items()}
    square = {name: np.zeros((5, *leaf.shape)) for name, leaf in PARAMS.items()}
    found = []
    for count, grads in enumerate(GRADS, start=1):
        table = {}
        for name, grad in grads.items():
            for row, decay in enumerate(decays):
                mean[name][row] = decay * mean[name][row] + (1 - decay) * grad
                square[name][row] = decay * square[name][row] + (1 - decay) * grad**2
            root = 1 / np.sqrt(square[name] + 1e-6)
            rows = [grad[None], mean[name] * root, PARAMS[name][None], mean[name], square[name]]
            table[name] = np.concatenate([*rows, root]).reshape(22, -1).T
        everything = np.concatenate(list(table.values()))
        update = {}
        for name, rows in table.items():
            if standardize:
                rows = (rows - everything.mean(0)) / np.sqrt(1e-5 + everything.var(0))
            else:
                rows = rows / np.sqrt(1e-5 + (rows**2).mean(0))
            time = np.tile([np.tanh(count / scale - 1) for scale in scales], (len(rows), 1))
            rows = np.concatenate([rows, time], axis=1)
            hidden, output = weights["hidden"], weights["output"]
            units = np.maximum(rows @ hidden["weight"] + hidden["bias"], 0)
            out = units @ output["weight"] + output["bias"]
            step = -out[:, 0] * np.exp(0.001 * out[:, 1]) * 0.001
            update[name] = step.reshape(PARAMS[name].shape)
        found.append(update)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@pytest.mark.parametrize("standardize", [False, True])
def test_mlp_against_numpy(standardize, key, x64):
    family = MLPOptimizer(standardize=standardize)
    weights = family.initial_weights(key)
    assert jax.tree.leaves(weights)[1].shape == (31, 32)
    expected = numpy_mlp(jax.tree.map(np.asarray, weights), standardize)
    assert relative_distance(updates_of(family, weights, float), expected) < 1e-12
    assert relative_distance(updates_of(family, weights, jnp.float32), expected) < 3e-6  # float32


def test_derivatives_of_the_mlp(key, x64):
    """Forward and reverse mode against differences, beside an array without entries."""
    family = MLPOptimizer(hidden=4)
    tree = lambda leaf: {"w": leaf, "none": jnp.zeros((0, 3))}

    @jax.jit
    def found(weights, param, grad):
        updates = updates_of(family, weights, float, tree(param), [tree(grad)])
        return 1e3 * updates["w"]

    at = in_precision((family.initial_weights(key), PARAMS["w"], GRADS[1]["w"]), float)
    # Roots of squares around 1e-6 curve over 1e-3: differences of 1e-6 are off by 1e-6 of them.
    check_grads(found, at, order=1, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5, eps=1e-6)


def test_lstm_against_torch(key):
    family = CoordinatewiseLSTM(units=5)
    weights = family.initial_weights(key)
    cells = []
    for index, inputs in enumerate((2, 5)):
        layer = weights[f"layer {index}"]
        cell = torch.nn.LSTMCell(inputs, 5)
        both = torch.from_numpy(np.array(layer["weight"]))
        with torch.no_grad():
            cell.weight_ih.copy_(both[:, :inputs])
            cell.weight_hh.copy_(both[:, inputs:])
            cell.bias_ih.copy_(torch.from_numpy(np.array(layer["bias"])))
            cell.bias_hh.zero_()
        cells.append(cell)
    states, expected = [None, None], []
    output = np.asarray(weights["output"]["weight"])
    for grads in GRADS:
        grad = torch.tensor(np.concatenate([grads["b"], grads["w"].ravel()]))
        size = torch.where(grad.abs() >= np.exp(-10), grad.abs().log() / 10, -1)
        sign = torch.where(grad.abs() >= np.exp(-10), grad.sign(), np.exp(10) * grad)
        rows = torch.stack([size, sign], dim=1).float()
        for index, cell in enumerate(cells):
            states[index] = cell(rows, states[index])
            rows = states[index][0]
        expected.append(0.01 * rows.detach().numpy() @ output[0])
    found = updates_of(family, weights, jnp.float32)
    actual = np.concatenate([found["b"], found["w"].reshape(3, -1)], axis=1)
    assert np.allclose(actual, expected, rtol=1e-5, atol=1e-8)  # float32


def test_logarithm_and_sign():
    rows = jax.jit(logarithm_and_sign)(jnp.array([1.0, -np.exp(-5), 0.0, np.exp(-10) / 2]), 10.0)
    assert np.allclose(rows, [[0, -0.5, -1, -1], [1, -1, 0, 0.5]], atol=1e-6)
    slope = jax.jit(jax.grad(lambda g: jnp.sum(logarithm_and_sign(g, 10.0))))(jnp.zeros(2))
    assert np.allclose(slope, np.exp(10))


@pytest.mark.parametrize("name", ["MLP", "LSTM"])
def test_any_tree_precision_and_vmap(name, key, x64):
    family, other = FAMILIES[name], jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
    nested = [PARAMS["b"], (PARAMS["w"],)]
    nested_grads = [[grad["b"], (grad["w"],)] for grad in GRADS]

    @jax.jit  # one compilation for all
    def variants(weights):
        of = lambda dtype, *what: updates_of(family, weights, dtype, *what)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), PARAMS, other)
        return {
            "float64": of(jnp.float64),
            "float32": of(jnp.float32),
            "vmap": jax.vmap(lambda params: of(jnp.float64, params))(stacked),
            "other": of(jnp.float64, other),
            "nested": of(jnp.float64, nested, nested_grads),
        }

    found = variants(family.initial_weights(key))
    assert {leaf.dtype for leaf in jax.tree.leaves(found["float32"])} == {jnp.dtype(jnp.float32)}
    assert relative_distance(found["float32"], found["float64"]) < 1e-5  # float32
    apart = jax.tree.map(lambda *leaves: jnp.stack(leaves), found["float64"], found["other"])
    # Float64, and only the order of summation differs.
    assert relative_distance(found["vmap"], apart) < 1e-10
    assert relative_distance(found["nested"], found["float64"]) < 1e-10


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (LearnedSGD(0.3, 0.9), optax.sgd(0.3, momentum=0.9)),
        (LearnedAdam(0.02, layers=2), optax.adam(0.02)),
        (LearnedSchedule((0, 5), 0.2, optax.trace(0.5)), optax.sgd(0.2, momentum=0.5)),
    ],
)
def test_ordinary_optimizers_begin_as_optax(family, expected, key, x64):
    found = updates_of(family, family.initial_weights(key), float)
    assert relative_distance(found, updates_of(lambda _: expected, None, float)) < 1e-12


def test_the_family_is_an_optimizer_of_a_training_problem(key):
    problem = ms.TrainingProblem(
        loss=lambda params, outer, batch: jnp.sum(params**2),
        objective=lambda params, outer: jnp.sum(params**2),
        init_params=jnp.array([1.0, -2.0]),
        optimizer=LearnedSGD(0.05),
        horizon=3,
    )
    weights = LearnedSGD(0.05).initial_weights(key)
    estimate = ms.hypergradient(problem, weights, ms.Reverse(), key=key)
    # w_T = (1 - 2 r)^T w_0, so d objective / d log r = -4 T r (1 - 2 r)^(2 T - 1) |w_0|^2.
    assert np.isclose(estimate.grad["log step size"], -4 * 3 * 0.05 * 0.9**5 * 5, rtol=1e-5, atol=0)


BAD_PARAMS = {
    "integers": ({"w": np.zeros(2), "n": np.arange(3)}, r"params\['n'\] has dtype int32"),
    "empty": ({}, "no leaves"),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("params", "message"), BAD_PARAMS.values(), ids=BAD_PARAMS)
def test_refused_parameters(name, params, message):
    with pytest.raises(ValueError, match=message):
        FAMILIES[name]({}).init(params)


REFUSED = {
    "units": (lambda: CoordinatewiseLSTM(units=0), "units is 0"),
    "hidden": (lambda: MLPOptimizer(hidden=0), "hidden is 0"),
    "step size": (lambda: LearnedSGD(-1.0), "step_size is -1.0"),
    "momentum": (lambda: LearnedSGD(momentum=1.0), "momentum is 1.0"),
    "decay": (lambda: LearnedAdam(b2=1.0), "b2 is 1.0"),
    "layers": (lambda: LearnedAdam(layers=0), "layers is 0"),
    "knots": (lambda: LearnedSchedule((1, 2)), r"knots is \(1, 2\)"),
    "no params": (
        lambda: MLPOptimizer()({}).update(jnp.ones(2), MLPOptimizer()({}).init(jnp.ones(2))),
        "needs the parameters",
    ),
    "other layers": (
        lambda: LearnedSGD(layers=3)(LearnedSGD(layers=3).initial_weights(jax.random.key(0))).init(
            jnp.ones(2)
        ),
        "params has 1 arrays; allowed are 3",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("layers", [None, 1])
def test_momentum_keeps_half_precision(layers, key):
    """The weights are float32, and a compiled loop needs a state that keeps its dtypes."""
    family = LearnedSGD(0.1, 0.9, layers)
    optimizer = family(family.initial_weights(key))
    grad = jnp.ones(2, jnp.float16)
    state = optimizer.init(grad)
    _, after = optimizer.update(grad, state)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_times_in_half_precision(dtype):
    """Steps and time scales above the largest number of float16."""
    for step in (300, 70_000):
        found = feature.time_features(jnp.array(step), dtype)
        expected = np.tanh(step / np.array(feature.TIME_SCALES) - 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=float(jnp.finfo(dtype).eps))


def test_large_features_in_half_precision():
    """Squares of 1000 are above the largest number of float16, 65504."""
    rows = jnp.array([[1000.0, -1000.0]], jnp.float16)
    # Rounding of the result: one part in 2^11.
    np.testing.assert_allclose(feature.scale_of_tensor(rows), [1e-3], rtol=5e-4)
    np.testing.assert_allclose(feature.standardized([rows])[0], [[1.0, -1.0]], rtol=5e-4)


def test_features_in_single_precision():
    """After 20 steps, against float64; 1 - 0.9999 in single precision would cost 3e-4."""
    grads = np.random.default_rng(0).normal(size=(20, 7))
    decays = np.array([0.5, 0.9, 0.99, 0.999, 0.9999])[:, None]
    mean, square = np.zeros((2, 5, 7))
    for grad in grads:
        mean, square = (
            decays * mean + (1 - decays) * grad,
            decays * square + (1 - decays) * grad**2,
        )
    root = 1 / np.sqrt(square + 1e-6)
    expected = np.concatenate([grad[None], mean * root, mean, square, root, np.ones((1, 7))])
    update = lambda state, grad: (feature.update_moments(*state, grad), None)
    zeros = jnp.zeros((5, 7), jnp.float32)
    state, _ = jax.lax.scan(update, (zeros, zeros), jnp.asarray(grads, jnp.float32))
    found = feature.entry_features(jnp.asarray(grad, jnp.float32), *state)
    assert np.max(np.abs(found - expected) / np.abs(expected).max(axis=1, keepdims=True)) < 1e-6
    time = feature.time_features(jnp.asarray(5), jnp.dtype(jnp.float32))
    scales = np.array([3, 10, 30, 100, 300, 1000, 3000, 10000, 300000])
    assert np.allclose(time, np.tanh(5 / scales - 1), rtol=1e-6, atol=0)
