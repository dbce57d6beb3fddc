"""Every operator against the dense matrix by automatic differentiation."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metastep.compilation import compiled
from metastep.curvature import (
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    SymmetricMatrix,
    ekfac,
    factored_inverse,
    find_layers,
    input_autocorrelation,
    kfac,
    kronecker_hessian,
    layer_hessian,
    output_hessian,
)
from metastep.curvature.layers import layerwise
from tests.metastep.curvature.cases import CASES, EXAMPLES, dense_hessian, loss_of

EXACT = 1e-10  # float64, sums of a few hundred terms of size one


@pytest.fixture(scope="module", params=CASES)
def case(request):
    with jax.enable_x64(True):
        risk = CASES[request.param].make(jax.random.key(3))
        yield CASES[request.param], risk, dense_hessian(risk)


def positions(layer, risk, bias):
    """Return where the entries of a layer's matrix stand in the vector of all parameters."""
    flat, back, _ = loss_of(risk)
    return np.asarray(layer.to_matrix(back(jnp.arange(flat.size, dtype=float)), bias)).astype(int)


def gauss_newton(risk, flat, back):
    """Return E[J^T A J] by dense Jacobians of each example."""

    def one(x, y):
        outputs = lambda flat: risk.model(back(flat), x)
        j = jax.jacrev(outputs)(flat)
        return j.T @ jax.hessian(lambda z: risk.loss(z, y))(outputs(flat)) @ j

    return jnp.mean(jax.jit(jax.vmap(one))(*risk.data), axis=0)


def test_full_operators_equal_dense_matrices(x64):
    """In one batch, and in two of three examples and a last one of one."""
    risk = CASES["smooth"].make(jax.random.key(3))
    flat, back, _ = loss_of(risk)
    gradient = jax.grad(lambda flat, example: risk.example_loss(back(flat), example))
    gradients = jax.jit(jax.vmap(gradient, (None, 0)))(flat, risk.data)
    table = (
        (Hessian(risk, batch_size=3), dense_hessian(risk)),
        (GaussNewton(risk), gauss_newton(risk, flat, back)),
        (EmpiricalFisher(risk, batch_size=3), gradients.T @ gradients / EXAMPLES),
    )
    for operator, expected in table:
        np.testing.assert_allclose(operator.as_matrix(), expected, atol=EXACT)


def test_layer_hessian_equals_the_block_of_the_dense_hessian(x64, case, monkeypatch):
    case, risk, hessian = case
    monkeypatch.setattr(layerwise, "CACHED", 100)  # several batches, and examples that remain
    for name in case.layers:
        bias = case.bias and name == case.layers[0]
        layer = find_layers(risk, [name], bias)[name]
        at = positions(layer, risk, bias).reshape(-1)
        operator = layer_hessian(
            risk, name, bias=bias, second_order=not case.piecewise_linear, batch_size=3
        )
        block = hessian[np.ix_(at, at)]
        np.testing.assert_allclose(operator.as_matrix(), block, atol=EXACT)
        moved = jax.jit(type(operator).flat_mm)(operator, jnp.eye(len(block)))
        np.testing.assert_allclose(moved, block, atol=EXACT)


def test_kronecker_factors_of_a_single_example_are_exact(x64):
    """M and x x^T of one example do not vary, so that the mean of products is the product."""
    case = CASES["fully connected"]
    risk = case.make(jax.random.key(4))
    one = jax.tree.map(lambda leaf: leaf[:1], risk.data)
    risk = type(risk)(risk.model, risk.loss, risk.params, *one)
    hessian, kronecker = dense_hessian(risk), kronecker_hessian(risk, bias=True)
    blocks = kronecker.as_matrix()
    start = 0
    for layer in find_layers(risk, bias=True).values():
        at = positions(layer, risk, True).reshape(-1)
        block = slice(start, start + at.size)
        np.testing.assert_allclose(blocks[block, block], hessian[np.ix_(at, at)], atol=EXACT)
        start += at.size


@pytest.fixture(scope="module")
def operators():
    """One operator of every kind on one small network, in float64."""
    with jax.enable_x64(True):
        risk = CASES["fully connected"].make(jax.random.key(3))
        kronecker = kronecker_hessian(risk, bias=True)
        yield {
            "Hessian": Hessian(risk, where=lambda params: params["fc1"]),
            "GaussNewton": GaussNewton(risk, where=lambda params: params["fc2"]),
            "EmpiricalFisher": EmpiricalFisher(risk, batch_size=2),
            "layer": layer_hessian(risk, "fc1.weight"),
            "output": output_hessian(risk, "fc1.weight", second_order=True),
            "input": input_autocorrelation(risk, "fc2.weight", bias=True),
            "Kronecker": kronecker,
            "KFAC": kfac(kronecker).inverse(0.1),
            "EKFAC": ekfac(risk),
        }


NAMES = (
    "Hessian",
    "GaussNewton",
    "EmpiricalFisher",
    "layer",
    "output",
    "input",
    "Kronecker",
    "KFAC",
    "EKFAC",
)


@pytest.fixture(scope="module", params=NAMES)
def compiled_operator(request, operators):
    operator = operators[request.param]
    return operator, compiled(lambda operator, flat: operator.flat_mv(flat))


@given(seed=st.integers(0, 2**31 - 1), factor=st.floats(-3, 3))
@settings(max_examples=5, deadline=None)
def test_operators_are_linear_and_self_adjoint(compiled_operator, seed, factor):
    with jax.enable_x64(True):
        operator, product = compiled_operator
        draws = np.random.default_rng(seed).normal(size=(2, operator.size))
        first, second = jnp.asarray(draws)
        moved = product(operator, first), product(operator, second)
        together = product(operator, first + factor * second)
        np.testing.assert_allclose(together, moved[0] + factor * moved[1], atol=EXACT, rtol=EXACT)
        assert abs(first @ moved[1] - second @ moved[0]) < EXACT * (1 + abs(first @ moved[1]))


def test_factors_are_means_over_the_examples(x64):
    """E[M] by second derivatives with respect to the output, E[x x^T] from the activations."""
    risk = CASES["smooth"].make(jax.random.key(5))
    params = risk.params

    def from_output(z, example):
        hidden = jnp.tanh(z)
        logits = hidden @ params["fc2"]["weight"] + params["fc2"]["bias"]
        return risk.loss(logits, example[1])

    def output(example):
        return params["fc1"]["weight"] @ example[0] + params["fc1"]["bias"]

    bent = lambda e: jax.hessian(from_output)(output(e), e)
    exact = jax.jit(jax.vmap(bent))(risk.data).mean(axis=0)
    found = output_hessian(risk, "fc1.weight", second_order=True, batch_size=None)
    np.testing.assert_allclose(found.matrix, exact, atol=EXACT)
    rows = jnp.concatenate([jnp.tanh(jax.vmap(output)(risk.data)), jnp.ones((EXAMPLES, 1))], 1)
    found = input_autocorrelation(risk, "fc2.weight", bias=True)
    np.testing.assert_allclose(found.matrix, rows.T @ rows / EXAMPLES, atol=EXACT)


def test_damped_inverses_and_the_corrected_diagonal(x64, operators):
    kronecker = operators["Kronecker"]
    size, damping = kronecker.size, 0.1
    matrix = kronecker.as_matrix()
    np.testing.assert_allclose(kfac(kronecker).as_matrix(), matrix, atol=EXACT)
    inverse = jnp.linalg.inv(matrix + damping * jnp.eye(size))
    np.testing.assert_allclose(operators["KFAC"].as_matrix(), inverse, atol=1e-8)
    logs = jnp.linalg.slogdet(matrix + damping * jnp.eye(size))[1]
    np.testing.assert_allclose(kfac(kronecker).log_determinant(damping), logs, atol=1e-8)
    heuristic = factored_inverse(kronecker, damping).as_matrix()
    assert np.linalg.norm(heuristic - inverse) < np.linalg.norm(inverse)
    single = jax.tree.map(lambda matrix: matrix.astype(jnp.float32), kronecker)
    assert factored_inverse(single, damping).output["fc1.weight"].dtype == jnp.float32
    # The Hessian of a layer without active units is 0, and its damped inverse I / damping.
    dead = factored_inverse(jax.tree.map(jnp.zeros_like, kronecker), damping).as_matrix()
    np.testing.assert_allclose(dead, jnp.eye(size) / damping, rtol=1e-12)

    risk = CASES["fully connected"].make(jax.random.key(3))
    block = operators["layer"].as_matrix()
    left, right = kronecker_hessian(risk, layers=["fc1.weight"]).eigenbasis()
    basis = jnp.kron(left["fc1.weight"], right["fc1.weight"])
    corrected = operators["EKFAC"].values["fc1.weight"].reshape(-1)
    np.testing.assert_allclose(corrected, jnp.diag(basis.T @ block @ basis), atol=EXACT)


def test_export_to_scipy_and_lineax(x64, operators):
    operator = operators["Hessian"]
    matrix, vector = operator.as_matrix(), np.linspace(-1, 1, operator.size)
    np.testing.assert_allclose(operator.to_scipy() @ vector, matrix @ vector, atol=EXACT)
    rows = jnp.stack([vector, vector**2])
    for some in (rows, rows[:1]):
        np.testing.assert_allclose(operator.flat_mm(some), some @ matrix, atol=EXACT)
    exported = operator.to_lineax()
    moved = operator.ravel(exported.mv(operator.unravel(jnp.asarray(vector))))
    np.testing.assert_allclose(moved, matrix @ vector, atol=EXACT)
    assert lx.is_symmetric(exported)


@pytest.mark.parametrize("options", [{}, {"positive": True}])
def test_only_who_says_so_gets_a_positive_operator_of_lineax(options):
    exported = SymmetricMatrix(jnp.eye(2)).to_lineax(**options)
    assert lx.is_positive_semidefinite(exported) == bool(options)


def test_a_matrix_goes_into_the_parameters_and_back(x64):
    risk = CASES["convolution"].make(jax.random.key(5))
    layer = find_layers(risk, ["conv.kernel"])["conv.kernel"]
    matrix = layer.to_matrix(risk.params, bias=True)
    assert matrix.shape == layer.shape(bias=True) == (2, 19)
    zeros = jax.tree.map(jnp.zeros_like, risk.params)
    back = layer.to_params(matrix, zeros)
    np.testing.assert_array_equal(back["conv"]["kernel"], risk.params["conv"]["kernel"])
    np.testing.assert_array_equal(back["conv"]["bias"], risk.params["conv"]["bias"])
    assert not jnp.any(back["fc2"]["weight"])
