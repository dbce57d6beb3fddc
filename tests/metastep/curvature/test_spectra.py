"""Eigenpairs, traces, densities and subspaces against dense linear algebra."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep.curvature import (
    LOBPCG,
    Dual,
    Lanczos,
    SymmetricMatrix,
    correspondence,
    diagonal,
    find_layers,
    full_hessian_eigenpairs,
    hutchinson_trace,
    hutchpp_trace,
    kronecker_eigenpairs,
    layer_hessian,
    log_determinant,
    matricize,
    spectral_density,
    subspace_overlap,
    top_eigenpairs,
    xtrace,
)
from metastep.curvature.eigen import lanczos
from metastep.curvature.operators.base import AbstractOperator
from tests.metastep.curvature.cases import CASES, loss_of

SIZE = 60


@pytest.fixture(scope="module")
def matrix():
    """Eigenvalues 60, 59, ... 1 over 60, squared: a decay with no gaps."""
    with jax.enable_x64(True):
        basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(SIZE, SIZE)))
        yield jnp.asarray(basis * (np.arange(1, SIZE + 1) / SIZE) ** 2 @ basis.T)


METHODS = {
    "one vector": Lanczos(tolerance=1e-9, basis=20, block=1),
    "block": Lanczos(tolerance=1e-9, basis=24, block=3),
    "whole space": Lanczos(tolerance=1e-9, basis=SIZE),
    "LOBPCG": LOBPCG(tolerance=1e-5),
}


@pytest.mark.parametrize("method", METHODS)
def test_eigenpairs_equal_those_of_the_dense_matrix(x64, matrix, key, method, monkeypatch):
    monkeypatch.setattr(lanczos, "COLUMNS", 7)  # the last piece begins within the one before
    pairs = top_eigenpairs(SymmetricMatrix(matrix), 8, method=METHODS[method], key=key)
    assert jnp.all(pairs.converged)
    # A Ritz value is off by at most the square of its residual over a gap of 0.03.
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(matrix)[:-9:-1], atol=1e-8)
    residuals = jnp.linalg.norm(
        pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors, axis=1
    )
    # The residuals of the recurrence are the true ones, to rounding.
    np.testing.assert_allclose(pairs.residuals, residuals, atol=1e-12)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(8), atol=1e-8)


def test_pairs_that_have_not_converged_are_marked(x64, matrix, key):
    method = Lanczos(tolerance=1e-9, basis=20, block=1, restarts=0)
    pairs = top_eigenpairs(SymmetricMatrix(matrix), 8, method=method, key=key)
    assert not jnp.all(pairs.converged) and pairs.products == 20
    pairs = top_eigenpairs(SymmetricMatrix(matrix * jnp.nan), 8, method=method, key=key)
    assert not jnp.any(pairs.converged)


def test_pairs_below_the_rounding_of_the_products_have_not_converged(key):
    """One eigenvalue of 1e4 beside 1 to 2: in float32 its products are off by about 1e-3."""
    basis, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(200, 200)))
    values = np.append(np.linspace(1, 2, 199), 1e4)
    matrix = jnp.asarray(basis * values @ basis.T, jnp.float32)
    pairs = top_eigenpairs(SymmetricMatrix(matrix), 4, method=Lanczos(tolerance=1e-4), key=key)
    assert pairs.converged.tolist() == [True, False, False, False]
    vectors, found = np.asarray(pairs.vectors, float), np.asarray(pairs.values, float)
    true = np.linalg.norm(vectors @ np.asarray(matrix, float) - found[:, None] * vectors, axis=1)
    # Rounding adds up over 200 terms, so an estimate within a factor of ten is what one can have.
    assert np.all(pairs.residuals > true / 10)


def test_a_start_near_the_eigenvectors_takes_fewer_products(x64, matrix, key):
    method = METHODS["block"]
    cold = top_eigenpairs(SymmetricMatrix(matrix), 8, method=method, key=key)
    warm = top_eigenpairs(SymmetricMatrix(matrix), 8, method=method, key=key, start=cold.vectors)
    assert warm.products < cold.products


@pytest.mark.parametrize("name", ["block", "LOBPCG"])
def test_vectors_missing_at_the_start_are_drawn(x64, matrix, key, name):
    one = jnp.eye(SIZE)[:1]
    pairs = top_eigenpairs(SymmetricMatrix(matrix), 3, method=METHODS[name], key=key, start=one)
    assert jnp.all(pairs.converged)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(matrix)[:-4:-1], atol=1e-8)


def test_repeated_and_zero_eigenvalues(x64, key):
    """A block finds a double eigenvalue; a rank below the basis breaks nothing down."""
    values = jnp.zeros(SIZE).at[:4].set(jnp.array([3.0, 2.0, 2.0, 1.0]))
    method = METHODS["block"]
    pairs = top_eigenpairs(SymmetricMatrix(jnp.diag(values)), 4, method=method, key=key)
    np.testing.assert_allclose(pairs.values, values[:4], atol=1e-9)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(4), atol=1e-9)


def test_the_dual_problem_has_the_same_eigenpairs(x64, key):
    risk = CASES["fully connected"].make(jax.random.key(3))
    operator = layer_hessian(risk, "fc1.weight")
    expected = np.linalg.eigvalsh(operator.as_matrix())[:-6:-1]
    pairs = top_eigenpairs(operator, 5, method=Dual(tolerance=1e-7), key=key)
    assert jnp.all(pairs.converged)
    np.testing.assert_allclose(pairs.values, expected, atol=1e-10)
    fewer = top_eigenpairs(operator, 5, method=Dual(tolerance=1e-7, rows=6), key=key)
    assert not jnp.all(fewer.converged)


def test_the_dual_problem_of_a_layer_with_fewer_entries_than_rows(x64, key):
    small = layer_hessian(CASES["fully connected"].make(jax.random.key(3)), "fc2.weight")
    pairs = top_eigenpairs(small, 3, method=Dual(tolerance=1e-7), key=key)
    assert jnp.all(pairs.converged)
    expected = np.linalg.eigvalsh(small.as_matrix())[:-4:-1]
    np.testing.assert_allclose(pairs.values, expected, atol=1e-10)


class Counted(AbstractOperator):
    """A diagonal matrix that counts its products."""

    entries: jax.Array
    calls: list = eqx.field(static=True)

    def structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape, self.entries.dtype)

    def mv(self, vector):
        jax.debug.callback(lambda _: self.calls.append(1), vector[0])
        return self.entries * vector


def test_the_tolerance_decides_when_lobpcg_ends_and_products_are_counted(key):
    """The precision of float32 times the dimension, JAX's own limit, is no accuracy here."""
    operator = Counted(jnp.linspace(0, 1, 5000, dtype=jnp.float32) ** 8, [])
    pairs = top_eigenpairs(operator, 3, method=LOBPCG(tolerance=1e-3), key=key)
    assert jnp.all(pairs.converged)
    np.testing.assert_allclose(pairs.values, operator.entries[:-4:-1], rtol=1e-4)
    jax.effects_barrier()
    # JAX also multiplies one vector of zeros to see the shape, which goes unless it is counted.
    assert len(operator.calls) == pairs.products + 1


@pytest.mark.parametrize(
    ("k", "method", "message"),
    [
        (61, None, "k is 61; allowed are the integers from 1 to the dimension 60"),
        (13, LOBPCG(), "below a fifth"),
        (2, Dual(), "allowed is a LayerHessian"),
    ],
)
def test_methods_that_do_not_fit_say_so(matrix, key, k, method, message):
    with pytest.raises(ValueError, match=message):
        top_eigenpairs(SymmetricMatrix(matrix), k, method=method, key=key)


ESTIMATORS = {
    "Hutchinson": hutchinson_trace,
    "Hutch++": hutchpp_trace,
    "XTrace": xtrace,
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trace_estimates_are_unbiased(x64, matrix, key, name):
    estimate = jax.vmap(lambda key: ESTIMATORS[name](SymmetricMatrix(matrix), 12, key=key))
    values = estimate(jax.random.split(key, 200)).value
    error = jnp.std(values) / jnp.sqrt(200)
    assert abs(jnp.mean(values) - jnp.trace(matrix)) < 4 * error


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trace_estimates_have_the_units_of_the_operator(x64, matrix, key, name):
    """Also where all products are far below the precision; a power of two rounds nothing."""
    small = ESTIMATORS[name](SymmetricMatrix(matrix * 2.0**-70), 12, key=key)
    estimate = ESTIMATORS[name](SymmetricMatrix(matrix), 12, key=key)
    found = [2.0**70 * one for one in (small.value, small.standard_error)]
    np.testing.assert_allclose(found, [estimate.value, estimate.standard_error], rtol=1e-12)


@pytest.mark.parametrize("estimate", [hutchpp_trace, xtrace])
@pytest.mark.parametrize("rank", [0, 3])
def test_trace_estimates_with_a_basis_are_exact_at_low_rank(x64, matrix, key, estimate, rank):
    low = SymmetricMatrix(matrix[:, :rank] @ matrix[:, :rank].T)
    np.testing.assert_allclose(estimate(low, 12, key=key).value, jnp.trace(low.matrix), rtol=1e-9)


@pytest.mark.parametrize("matrix", [np.zeros((8, 8)), np.eye(8), np.diag([2.0] * 5 + [0.0] * 3)])
def test_quadrature_outlives_its_krylov_space(x64, key, matrix):
    density = spectral_density(SymmetricMatrix(jnp.asarray(matrix)), steps=6, probes=16, key=key)
    np.testing.assert_allclose(jnp.sum(density.weights, axis=1), 1, rtol=1e-10)
    trace = density.trace_of(lambda nodes: nodes)
    assert abs(trace.value - np.trace(matrix)) <= 4 * trace.standard_error + 1e-12


def test_quadrature_of_nan_is_nan(key):
    operator = SymmetricMatrix(jnp.full((4, 4), jnp.nan))
    assert jnp.all(jnp.isnan(spectral_density(operator, steps=2, key=key).nodes))


def test_diagonal_density_and_log_determinant(x64, matrix, key):
    operator = SymmetricMatrix(matrix)
    estimate = diagonal(operator, 400, key=key)
    gaps = jnp.abs(estimate.value - jnp.diag(matrix)) / estimate.standard_error
    assert jnp.max(gaps) < 4.5  # standard errors, the largest of 60
    density = spectral_density(operator, steps=30, probes=8, key=key)
    np.testing.assert_allclose(jnp.sum(density.weights, axis=1), 1, rtol=1e-10)
    grid = jnp.linspace(-1, 2, 601)
    assert jnp.abs(jnp.trapezoid(density.on(grid, 0.05), grid) - 1) < 1e-6
    second = density.trace_of(lambda nodes: nodes**2)
    assert abs(second.value - jnp.sum(matrix**2)) < 4 * second.standard_error
    logs = log_determinant(operator, damping=0.1, steps=30, probes=8, key=key)
    exact = jnp.linalg.slogdet(matrix + 0.1 * jnp.eye(SIZE))[1]
    assert abs(logs.value - exact) < 4 * logs.standard_error


def test_kronecker_eigenpairs_are_those_of_the_product(x64):
    draws = np.random.default_rng(0).normal(size=(2, 4, 9))
    left, right = draws[0] @ draws[0].T, draws[1][:3] @ draws[1][:3].T
    pairs = kronecker_eigenpairs(jnp.asarray(left), jnp.asarray(right), 7)
    product = np.kron(left, right)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(product)[:-8:-1], rtol=1e-10)
    vectors = pairs.matrices().reshape(7, -1)
    np.testing.assert_allclose(vectors @ product, pairs.values[:, None] * vectors, atol=1e-10)


def test_overlap_and_correspondence(x64):
    basis = [np.linalg.qr(np.random.default_rng(i).normal(size=(12, 12)))[0] for i in (0, 1)]
    first, second = jnp.asarray(basis[0].T[:5]), jnp.asarray(basis[1].T[:5])
    slow = [np.linalg.norm(first[:j] @ second[:j].T) ** 2 / j for j in range(1, 6)]
    np.testing.assert_allclose(subspace_overlap(first, second), slow, atol=1e-12)
    np.testing.assert_allclose(subspace_overlap(first, first), 1, atol=1e-12)
    matrices = matricize(first, 3, 4)
    left, right = (jnp.asarray(np.linalg.qr(np.ones((n, n)) + np.eye(n))[0]) for n in (3, 4))
    for found in (correspondence(matrices, left=left), correspondence(matrices, right=right)):
        np.testing.assert_allclose(jnp.sum(found, axis=0), 1, atol=1e-12)
    one = jnp.sum((matrices[1] @ right[:, 2]) ** 2)
    np.testing.assert_allclose(correspondence(matrices, right=right)[2, 1], one, atol=1e-12)


def test_the_full_hessian_is_exact_for_one_example(x64):
    """With one example the mean of the inputs is the input, and only its span counts."""
    risk = CASES["fully connected"].make(jax.random.key(3))
    one = jax.tree.map(lambda leaf: leaf[:1], risk.data)
    risk = type(risk)(risk.model, risk.loss, risk.params, *one)
    pairs = full_hessian_eigenpairs(risk, 2, bias=True, weighted=True)
    matrix = dense_layers(risk)
    vectors = np.concatenate([v.reshape(2, -1) for v in pairs.vectors.values()], axis=1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(matrix)[:-3:-1], atol=1e-10)
    np.testing.assert_allclose(vectors @ matrix, pairs.values[:, None] * vectors, atol=1e-10)
    # The other variant takes the stacked outputs for a basis, which is a bias here already.
    plain = full_hessian_eigenpairs(risk, 2, bias=True)
    vectors = np.concatenate([v.reshape(2, -1) for v in plain.vectors.values()], axis=1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-10)


def test_the_full_hessian_above_a_layer_without_active_units(x64):
    """Its outputs are all 0, and so is their mean, which has no direction."""
    risk = CASES["fully connected"].make(jax.random.key(3))
    params = eqx.tree_at(lambda p: p["fc1"]["bias"], risk.params, jnp.full(4, -100.0))
    risk = type(risk)(risk.model, risk.loss, params, *risk.data)
    for weighted in (True, False):
        pairs = full_hessian_eigenpairs(risk, 2, weighted=weighted)
        np.testing.assert_array_equal(pairs.values, 0)
        assert all(jnp.all(jnp.isfinite(one)) for one in jax.tree.leaves(pairs.vectors))


def dense_layers(risk):
    """Return E[J^T A J] over [W b] of all layers in turn; one Hessian where no layer bends."""
    flat, back, _ = loss_of(risk)
    places = back(jnp.arange(flat.size, dtype=float))
    layers = find_layers(risk, bias=True).values()
    order = [layer.to_matrix(places, bias=True).reshape(-1) for layer in layers]
    at = np.concatenate(order).astype(int)
    outputs = lambda flat: risk.model(back(flat), risk.example()[0])
    j = jax.jit(jax.jacrev(outputs))(flat)[:, at]
    bent = jax.jit(jax.hessian(lambda z: risk.loss(z, risk.example()[1])))(outputs(flat))
    return np.asarray(j.T @ bent @ j)
