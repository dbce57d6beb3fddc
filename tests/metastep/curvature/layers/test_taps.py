"""Layers that a model names itself, against dense matrices and against the modules they tap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metastep.curvature import EmpiricalRisk, find_layers, layer_hessian, tap, tap_modules
from metastep.curvature.layers.capture import batch_factors
from tests.metastep.curvature.cases import CLASSES, EXAMPLES, dense_hessian, loss_of

EXACT = 1e-10  # float64, sums of a few hundred terms of size one
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
MASK = np.arange(16).reshape(4, 4) % 3 > 0
SIZES = {"masked": (4, 5), "first": (4, 5), "second": (4, 5), "own": (CLASSES, 5), "added": (4, 2)}


@jax.custom_vjp
def product(matrix, vector):
    return matrix @ vector


def pull(kept, slope):
    return jnp.outer(slope, kept[1]), kept[0].T @ slope


product.defvjp(lambda matrix, vector: (matrix @ vector, (matrix, vector)), pull)


def uncapturable(params, x, mark=tap):
    """A masked weight in mapped and recomputed code, a shared one, and one with its own rule."""
    tokens = x.reshape(4, 3)  # the mapped axis comes last
    masked = jax.checkpoint(lambda token: mark("masked", (params["W"] * MASK) @ token, token))
    hidden = jax.nn.relu(jax.vmap(masked, in_axes=1, out_axes=1)(tokens)).T
    hidden = mark("added", hidden, None)
    hidden = jax.nn.relu(mark("first", hidden @ params["U"], hidden))
    hidden = jax.jit(lambda h: mark("second", h @ params["U"], h))(hidden)
    hidden = jax.nn.relu(hidden).mean(axis=0)
    return mark("own", product(params["V"], hidden), hidden)


def drawn(shapes):
    """Return a tree with normal numbers in place of shapes."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape))
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    return jax.tree.map(lambda leaf: draw(leaf) if is_shape(leaf) else leaf, shapes)


def risk_of(model, params, inputs):
    x = np.random.default_rng(1).normal(size=(EXAMPLES, inputs))
    return EmpiricalRisk(model, CROSS_ENTROPY, params, x, np.arange(EXAMPLES) % CLASSES)


def blocks(risk, names):
    """Return the Hessian of each layer from its factors, by their definition."""
    layers, curvature = jax.jit(batch_factors(risk, names, True))(risk.data)
    found = {}
    for name, layer in layers.items():
        slopes = np.einsum("icpm,ipn->icmn", layer.jacobian, layer.inputs)
        slopes = slopes.reshape(EXAMPLES, CLASSES, -1)
        found[name] = np.einsum("icu,icd,idv->uv", slopes, curvature[name], slopes) / EXAMPLES
    return found


def test_taps_equal_the_dense_hessian_of_what_is_added_to_them(x64):
    """By adding V (x, 1) to the outputs with `vmap`, `jit` and all the rest left to JAX."""
    shapes = {"W": (4, 4), "U": (4, 4), "V": (CLASSES, 4)}
    params = drawn({name: jax.ShapeDtypeStruct(shape, float) for name, shape in shapes.items()})
    risk = risk_of(uncapturable, params, 12)
    ends = np.cumsum([0, *(m * n for m, n in SIZES.values())])

    def moved(flat, x):
        parts = jnp.split(flat, ends[1:-1])
        added = {
            name: part.reshape(shape)
            for part, (name, shape) in zip(parts, SIZES.items(), strict=True)
        }

        def mark(name, outputs, inputs):
            ones = jnp.ones((*outputs.shape[:-1], 1))
            inputs = ones if inputs is None else inputs
            return outputs + jnp.concatenate([inputs, ones], axis=-1) @ added[name].T

        return uncapturable(params, x, mark)

    loss = lambda flat: jnp.mean(
        jax.vmap(lambda x, y: CROSS_ENTROPY(moved(flat, x), y))(*risk.data)
    )
    dense = jax.jit(jax.hessian(loss))(jnp.zeros(ends[-1]))
    found = blocks(risk, tuple(SIZES))
    for i, name in enumerate(SIZES):
        block = slice(ends[i], ends[i + 1])
        np.testing.assert_allclose(found[name], dense[block, block], atol=EXACT, err_msg=name)
    # Without inputs the matrix is the vector added to the outputs: E[M] summed over positions.
    operator = layer_hessian(risk, "added")
    assert operator.structure().shape == (4, 1)
    block = dense[ends[4] :: 2, ends[4] :: 2]
    np.testing.assert_allclose(operator.as_matrix(), block, atol=EXACT)


def test_a_tap_leaves_the_model_as_it_is(x64):
    params, x = {"W": jnp.eye(4), "U": jnp.eye(4), "V": jnp.ones((3, 4))}, jnp.arange(12.0)
    plain = lambda params: uncapturable(params, x, lambda name, outputs, inputs: outputs)[0]
    tapped = lambda params: uncapturable(params, x)[0]
    first, second = jax.jit(lambda params: [jax.grad(f)(params) for f in (plain, tapped)])(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))
    halves = jax.eval_shape(lambda: tap("half", jnp.ones(2, jnp.bfloat16), jnp.ones(3)))
    assert halves.dtype == jnp.bfloat16


def normalized_modules(key):
    first, second = jax.random.split(key)
    convolution = eqx.nn.Conv2d(2, 3, 2, padding=1, padding_mode="CIRCULAR", key=first)
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x.reshape(2, 2, 3)),
            eqx.nn.WeightNorm(convolution),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(lambda x: x.mean(axis=(1, 2))),
            eqx.nn.WeightNorm(eqx.nn.Linear(3, CLASSES, key=second)),
        ]
    )


def as_plain(module):
    """Return the layer of a `WeightNorm` with its weight, and any other module as it is."""
    if not isinstance(module, eqx.nn.WeightNorm):
        return module
    weight = np.array(module.layer.weight)
    norms = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)
    weight *= np.asarray(module.g) / norms.reshape(-1, *(1,) * (weight.ndim - 1))
    return eqx.tree_at(lambda layer: layer.weight, module.layer, jnp.asarray(weight))


def test_modules_that_compute_their_weight(x64):
    """Against the Hessian of plain modules that have this weight as a parameter."""
    model = drawn(eqx.filter_eval_shape(normalized_modules, jax.random.key(2)))
    plain = model
    for i in (1, 4):
        plain = eqx.tree_at(lambda model, i=i: model.layers[i], plain, as_plain(model[i]))
    call = lambda model, x: model(x)
    reference = risk_of(call, plain, 12)
    hessian, (flat, back, _) = dense_hessian(reference), loss_of(reference)
    places = back(jnp.arange(flat.size, dtype=float))
    risk = risk_of(call, tap_modules(model), 12)
    layers = find_layers(reference)
    for name, found in blocks(risk, ("layers.1", "layers.4")).items():
        matrix = layers[f"{name}.weight"].to_matrix(places, bias=True)
        at = np.asarray(matrix).astype(int).reshape(-1)
        np.testing.assert_allclose(found, hessian[np.ix_(at, at)], atol=EXACT, err_msg=name)


MODULES = {
    "linear": lambda key: eqx.nn.WeightNorm(eqx.nn.Linear(8, 3, key=key)),
    "strided": lambda key: eqx.nn.WeightNorm(
        eqx.nn.Conv2d(2, 3, (2, 1), stride=2, use_bias=False, key=key)
    ),
    "padded and dilated": lambda key: eqx.nn.Conv1d(
        2, 3, 3, padding=2, dilation=2, padding_mode="REFLECT", key=key
    ),
    "transposed": lambda key: eqx.nn.ConvTranspose1d(2, 3, 3, stride=2, key=key),
}


@pytest.mark.parametrize("row", MODULES)
def test_inputs_times_the_weight_are_the_outputs(row, monkeypatch):
    module = drawn(eqx.filter_eval_shape(MODULES[row], jax.random.key(0)))
    layer = as_plain(module)
    shape = (2, *(4,) * layer.num_spatial_dims) if hasattr(layer, "num_spatial_dims") else (8,)
    marked = []
    keep = lambda name, *both: (marked.append(both), both[0])[1]
    monkeypatch.setattr("metastep.curvature.layers.taps.tap", keep)

    @jax.jit
    def differences(x):
        returned = tap_modules(module)(x)
        (outputs, inputs), bias = marked[-1], 0 if layer.bias is None else layer.bias.reshape(-1)
        product = inputs @ layer.weight.reshape(3, -1).T + bias
        return returned - module(x), product - outputs

    for difference in differences(np.sin(np.arange(1.0, 1 + np.prod(shape))).reshape(shape)):
        assert np.max(np.abs(difference)) < 1e-5  # float32


W = {"W": jnp.eye(3)}


def in_a_loop(params, x):
    step = lambda hidden, _: (tap("a", params["W"] @ hidden, hidden), None)
    return jax.lax.scan(step, x, length=2)[0]


def dropped(params, x):
    outputs = params["W"] @ x
    tap("a", outputs, x)
    return outputs


def twice(params, x):
    return tap("a", tap("a", params["W"] @ x, x))


WRONG = {
    "in a loop": (in_a_loop, "a, which cannot be captured: it is used inside a scan"),
    "in a rule": (
        jax.custom_vjp(lambda params, x: tap("a", params["W"] @ x, x)),
        "inside a custom_vjp_call, which brings its own derivative",
    ),
    "dropped": (dropped, "does not use what tap returns"),
    "twice": (twice, "2 taps have this name; give each its own"),
    "no such tap": (lambda params, x: tap("b", params["W"] @ x), r"\['a'\]; allowed are W, b"),
}


@pytest.mark.parametrize("row", WRONG)
def test_a_wrong_tap_says_what_to_do(row):
    model, why = WRONG[row]
    if row == "in a rule":
        model.defvjp(lambda params, x: (params["W"] @ x, x), lambda x, slope: (W, x))
    risk = risk_of(model, W, 3)
    with pytest.raises(ValueError, match=why):
        find_layers(risk, ["a"])


def test_names_and_shapes_of_taps():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="paths of parameters and names of taps"):
        find_layers(risk_of(lambda params, x: tap("W", params["W"] @ x), W, 3), ["W"])
    risk = risk_of(lambda params, x: tap("a", 2 * params["W"] @ x, x), W, 3)
    with pytest.raises(ValueError, match="layer a is a tap, and no parameter is its matrix"):
        find_layers(risk, ["a"])["a"].to_matrix(W)
    with pytest.raises(ValueError, match="mark its output with `tap`, or use Hessian"):
        find_layers(risk)
    with pytest.raises(ValueError, match="name is ''"):
        tap("", x)
    with pytest.raises(ValueError, match=r"inputs of shape \[3, 3\]; allowed are shapes that"):
        tap("a", x, jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="no module of the kinds Linear"):
        tap_modules(W)
    grouped = lambda key: tap_modules(eqx.nn.Conv1d(2, 2, 3, groups=2, key=key))
    with pytest.raises(ValueError, match="the convolution model with 2 groups"):
        eqx.filter_eval_shape(grouped, jax.random.key(0))
