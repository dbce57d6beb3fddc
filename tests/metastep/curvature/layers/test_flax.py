"""Operators on flax models, as they are, against dense matrices by automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metastep.curvature import (
    EmpiricalRisk,
    GaussNewton,
    Hessian,
    find_layers,
    input_autocorrelation,
    kronecker_hessian,
    layer_hessian,
    output_hessian,
    tap,
)

nn = pytest.importorskip("flax.linen", reason="flax is not installed")
nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

EXACT = 1e-10  # float64, sums of a few hundred terms of size one
EXAMPLES, CLASSES, FEATURES = 5, 3, 2
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
CONVOLUTION, DENSE = "params.Conv_0.kernel", "params.DenseGeneral_0.kernel"


class Network(nn.Module):
    """Kernels of shape (height, width, in, out) and (height, width, in, out) of a dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(FEATURES, (3, 2), strides=(2, 1), padding=((1, 1), (0, 0)))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.DenseGeneral(CLASSES, axis=(-3, -2, -1))(x)


def drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.2, 2, leaf.shape) - 0.7), shapes)


def risk_of(model, variables, shape):
    x = np.random.default_rng(1).normal(size=(EXAMPLES, *shape))
    return EmpiricalRisk(model, CROSS_ENTROPY, variables, x, np.arange(EXAMPLES) % CLASSES)


def linen_risk(module, shape, collections=None):
    x = jnp.zeros((1, *shape))
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), x))
    apply = lambda variables, x: module.apply(variables, x[None])[0]
    return risk_of(apply, variables | (collections or {}), shape)


STATISTICS = {"mean": np.array([0.3, -0.2]), "var": np.array([0.5, 2.0])}


@pytest.fixture(scope="module")
def risk():
    with jax.enable_x64(True):
        yield linen_risk(Network(), (3, 3, 2), {"batch_stats": {"BatchNorm_0": STATISTICS}})


@pytest.fixture(scope="module")
def flat(risk):
    """The parameters as one array, and variables from such an array."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(risk.params["params"])
        yield flat, lambda flat: {**risk.params, "params": unravel(flat)}


@pytest.fixture(scope="module")
def hessian(risk, flat):
    with jax.enable_x64(True):
        loss = lambda at: risk.mean(flat[1](at), risk.data)
        yield np.asarray(jax.jit(jax.hessian(loss))(flat[0]))


def test_full_operators_equal_dense_matrices(x64, risk, flat, hessian):
    def one(x, y):
        outputs = lambda at: risk.model(flat[1](at), x)
        slopes = jax.jacrev(outputs)(flat[0])
        bent = jax.hessian(lambda z: risk.loss(z, y))(outputs(flat[0]))
        return slopes.T @ bent @ slopes

    gauss_newton = jax.jit(lambda data: jax.vmap(one)(*data).mean(axis=0))(risk.data)
    for operator, expected in ((Hessian, hessian), (GaussNewton, gauss_newton)):
        found = operator(risk, where=lambda variables: variables["params"]).as_matrix()
        np.testing.assert_allclose(found, expected, atol=EXACT)


LAYERS = {"convolution": (CONVOLUTION, nn.Conv, 4), "dense": (DENSE, nn.DenseGeneral, 1)}


@pytest.mark.parametrize("row", LAYERS)
def test_layer_operators_equal_dense_matrices(row, x64, risk, flat, hessian):
    """M by a shift of the layer's output, and x by the slopes of the first of its outputs."""
    name, kind, positions = LAYERS[row]
    shift = np.zeros((positions, CLASSES if row == "dense" else FEATURES))

    def shifted(variables, x, shift):
        kept = []

        def intercept(call, arguments, keywords, context):
            outputs = call(*arguments, **keywords)
            if isinstance(context.module, kind):
                outputs = outputs + shift.reshape(outputs.shape)
                kept.append(outputs.reshape(shift.shape))
            return outputs

        with nn.intercept_methods(intercept):
            return risk.model(variables, x), kept[0]

    def one(x, y):
        bent = jax.hessian(lambda shift: risk.loss(shifted(risk.params, x, shift)[0], y))(shift)
        first = lambda at: shifted(flat[1](at), x, shift)[1][:, 0]
        return jnp.einsum("pmpk->mk", bent) / positions, jax.jacrev(first)(flat[0])

    output, slopes = jax.jit(lambda data: jax.vmap(one)(*data))(risk.data)
    output = output.mean(axis=0)
    layer = find_layers(risk, [name])[name]
    places = layer.to_matrix(flat[1](jnp.arange(flat[0].size, dtype=float)), bias=True)
    places = np.asarray(places).astype(int)
    rows = np.asarray(slopes)[:, :, places[0]].reshape(-1, places.shape[1])
    moment = rows.T @ rows / EXAMPLES

    block = hessian[np.ix_(places.reshape(-1), places.reshape(-1))]
    found = layer_hessian(risk, name, bias=True, batch_size=None).as_matrix()
    np.testing.assert_allclose(found, block, atol=EXACT)
    found = output_hessian(risk, name, batch_size=None).matrix
    np.testing.assert_allclose(found, output, atol=EXACT)
    found = input_autocorrelation(risk, name, bias=True, batch_size=None).matrix
    np.testing.assert_allclose(found, moment, atol=EXACT)
    operator = kronecker_hessian(risk, layers=[name], bias=True, batch_size=None)
    np.testing.assert_allclose(operator.as_matrix(), np.kron(output, moment), atol=EXACT)


class Modules(nnx.Module):
    """The same network with modules that hold their parameters."""

    def __init__(self, rngs):
        padding = ((1, 1), (0, 0))
        self.conv = nnx.Conv(2, FEATURES, (3, 2), strides=(2, 1), padding=padding, rngs=rngs)
        self.norm = nnx.BatchNorm(FEATURES, use_running_average=True, rngs=rngs)
        self.dense = nnx.LinearGeneral((2, 2, FEATURES), CLASSES, axis=(-3, -2, -1), rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.norm(self.conv(x))))


def test_an_nnx_model_is_the_same_network(x64, risk):
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Modules(nnx.Rngs(0))))
    theirs = risk.params["params"]
    values = {
        "conv": theirs["Conv_0"],
        "norm": theirs["BatchNorm_0"] | STATISTICS,
        "dense": theirs["DenseGeneral_0"],
    }
    state = drawn(shapes)
    nnx.replace_by_pure_dict(state, values)
    model = lambda state, x: nnx.merge(graph, state)(x[None])[0]
    same = EmpiricalRisk(model, risk.loss, state, *risk.data)
    assert list(find_layers(same, bias=True)) == ["conv.kernel.value", "dense.kernel.value"]
    found = kronecker_hessian(same, layers=["conv.kernel.value"], bias=True, batch_size=None)
    expected = kronecker_hessian(risk, layers=[CONVOLUTION], bias=True, batch_size=None)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    assert all(np.max(np.abs(one - other)) < EXACT for one, other in pairs)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.MultiHeadDotProductAttention)(num_heads=2, name="heads")(x)
        return nn.Dense(CLASSES)(x.mean(axis=-2))


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.WeightNorm(nn.Dense(CLASSES))(x)


def test_names_and_shapes_of_linen_layers():
    """Of attention heads, in recomputed code; and a computed weight by `intercept_methods`."""
    layers = find_layers(linen_risk(Attention(), (4, 6)), bias=True)
    heads = {f"params.heads.{part}.kernel": (6, 7) for part in ("key", "out", "query", "value")}
    shapes = {name: layer.shape(bias=True) for name, layer in layers.items()}
    assert shapes == {"params.Dense_0.kernel": (CLASSES, 7), **heads}
    risk = linen_risk(Normalized(), (4,))
    with pytest.raises(ValueError, match="kernel, which cannot be captured: it is used by the op"):
        find_layers(risk)

    def intercept(call, arguments, keywords, context):
        outputs = call(*arguments, **keywords)
        is_call = isinstance(context.module, nn.Dense) and context.method_name == "__call__"
        return tap("dense", outputs, *arguments) if is_call else outputs

    def tapped(variables, x):
        with nn.intercept_methods(intercept):
            return risk.model(variables, x)

    marked = EmpiricalRisk(tapped, risk.loss, risk.params, *risk.data)
    assert find_layers(marked, ["dense"])["dense"].shape() == (CLASSES, 4)
