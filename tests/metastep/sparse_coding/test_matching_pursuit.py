"""Pursuit against scikit-learn's, by both forms and both kinds of arrays, and degenerate input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp
from threadpoolctl import threadpool_info, threadpool_limits

from metastep.sparse_coding import draw_signals, orthogonal_matching_pursuit, random_dictionary
from metastep.sparse_coding import matching_pursuit as module_under_test
from metastep.sparse_coding.matching_pursuit import BLOCK, SHORT
from metastep.sparse_coding.pursuit_searches import SEARCHED

# The Gram form is chosen for few atoms, the residual form for many.
SHAPES = {"gram": (40, 20, 40), "residual": (40, 12, 80)}


def problem(form, dtype):
    n, d, p = SHAPES[form]
    rng = np.random.default_rng(3)
    dictionary = random_dictionary(rng, d, p)
    signals = draw_signals(rng, dictionary, n, 3, noise=0.1).signals
    return signals.astype(dtype), dictionary.astype(dtype)


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", SHAPES)
def test_agrees_with_scikit_learn(form, dtype, module, x64):
    signals, dictionary = problem(form, dtype)
    codes = orthogonal_matching_pursuit(module.asarray(signals), module.asarray(dictionary), 3)
    expected = orthogonal_mp(dictionary, signals.T, n_nonzero_coefs=3).T
    assert isinstance(codes, module.asarray(signals).__class__) and codes.dtype == dtype
    np.testing.assert_array_equal(np.asarray(codes) != 0, expected != 0)
    # A few roundings of coefficients of order 1, times squared condition numbers up to about 30.
    np.testing.assert_allclose(codes, expected, atol=100 * np.finfo(dtype).eps)


def test_under_transformations():
    signals, dictionary = problem("gram", np.float32)
    halves = jnp.asarray(signals).reshape(2, 20, 20)
    batched = jax.jit(
        jax.vmap(lambda y: orthogonal_matching_pursuit(y, jnp.asarray(dictionary), 3))
    )
    expected = orthogonal_matching_pursuit(signals, dictionary, 3)
    # Rounding as above.
    np.testing.assert_allclose(batched(halves).reshape(40, 40), expected, atol=1e-5)


@pytest.mark.parametrize("form", SHAPES)
def test_many_blocks_are_one_after_the_other(form):
    signals, dictionary = problem(form, np.float64)
    many = np.tile(signals, (BLOCK // 20, 1))
    codes = orthogonal_matching_pursuit(many, dictionary, 3)
    expected = orthogonal_matching_pursuit(signals, dictionary, 3)
    # Matrix products of other sizes round differently.
    np.testing.assert_allclose(codes, np.tile(expected, (BLOCK // 20, 1)), atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", SHAPES)
def test_dependent_atoms_have_no_weight(form, dtype):
    signals, dictionary = problem(form, dtype)
    dim, atoms = dictionary.shape
    dictionary[:, 1] = dictionary[:, 0]
    dictionary[:, 2] = -dictionary[:, 0]
    dictionary[:, 3] = 0
    signals[0], signals[1] = 0, 2 * dictionary[:, 0]
    codes = orthogonal_matching_pursuit(signals, dictionary, min(dim + 5, atoms))
    assert np.all(np.isfinite(codes)) and not codes[0].any()
    # Exact reconstruction, up to rounding times condition numbers of up to about 1000.
    error = np.abs(codes @ dictionary.T - signals).max()
    assert error < 1e4 * np.finfo(dtype).eps
    assert codes[1, 0] == pytest.approx(2, rel=1e-6) and np.abs(codes[1, 1:]).max() < 1e-6
    assert np.count_nonzero(codes, axis=1).max() <= dim


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("form", SHAPES)
def test_no_signals_have_no_codes(form, module):
    signals, dictionary = problem(form, np.float32)
    codes = orthogonal_matching_pursuit(module.asarray(signals[:0]), dictionary, 3)
    assert codes.shape == (0, dictionary.shape[1])


def test_integers_and_mixed_dtypes():
    signals, dictionary = problem("gram", np.float32)
    assert orthogonal_matching_pursuit(signals.astype(np.float64), dictionary, 1).dtype == float
    assert orthogonal_matching_pursuit(np.eye(20, dtype=int), dictionary, 1).dtype == float


@pytest.mark.parametrize(
    ("signals", "dictionary", "n_nonzero", "message"),
    [
        ((5, 4), (3, 6), 1, r"\(5, 4\) and \(3, 6\)"),
        ((4,), (4, 6), 1, "signals and dictionary"),
        ((5, 4), (4,), 1, "signals and dictionary"),
        ((5, 4), (4, 6), 0, "n_nonzero is 0"),
        ((5, 4), (4, 6), 7, "n_nonzero is 7"),
    ],
)
def test_bad_input(signals, dictionary, n_nonzero, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_matching_pursuit(np.ones(signals), np.ones(dictionary), n_nonzero)


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("factors", [(1j, 1), (1, 1j)], ids=["signals", "dictionary"])
def test_complex_numbers_are_refused(factors, module):
    signals, dictionary = (
        module.asarray(x * factor)
        for x, factor in zip(problem("gram", float), factors, strict=True)
    )
    with pytest.raises(ValueError, match="allowed are real numbers"):
        orthogonal_matching_pursuit(signals, dictionary, 3)


NOT_FINITE = st.sampled_from([np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", ["signals", "dictionary"])
@pytest.mark.parametrize("form", SHAPES)
@given(data=st.data(), value=NOT_FINITE, again=NOT_FINITE, zeros=st.sampled_from([0, 1, 40]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_entries_that_are_not_finite_are_refused(form, name, module, data, value, again, zeros):
    """Wherever they are, and next to zeros, whose product with infinity is NaN."""
    arrays = dict(zip(("signals", "dictionary"), problem(form, np.float32), strict=True))
    arrays["signals"][:zeros] = 0
    arrays["dictionary"][:, 3] = 0
    matrix = arrays[name]
    row, column = (data.draw(st.integers(0, size - 1)) for size in matrix.shape)
    matrix[-1, -1], matrix[row, column] = again, value
    message = f"{name} has the entry {matrix[row, column]} in row {row}, column {column} "
    with pytest.raises(ValueError, match=message):
        orthogonal_matching_pursuit(*map(module.asarray, arrays.values()), 3)


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_a_dictionary_is_refused_without_signals(module):
    with pytest.raises(ValueError, match="dictionary has the entry nan in row 1, column 1 "):
        orthogonal_matching_pursuit(np.ones((0, 2)), module.array([[1, 0], [0, np.nan]]), 1)


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("factors", [(1, 1e30), (1e38, 1e15)], ids=["atoms", "signals"])
@pytest.mark.parametrize("form", SHAPES)
def test_overflow_is_refused(form, factors, module):
    signals, dictionary = problem(form, np.float32)
    scaled = (module.asarray(signals) * factors[0], module.asarray(dictionary) * factors[1])
    with pytest.raises(ValueError, match="products overflow; divide them by constants"):
        orthogonal_matching_pursuit(*scaled, 3)


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("form", SHAPES)
def test_an_atom_whose_norm_overflows_is_refused(form, module):
    """It would count as dependent on the others, and have the coefficient 0."""
    signals, dictionary = problem(form, np.float32)
    dictionary[:, 0] *= 1e25
    with pytest.raises(ValueError, match="products overflow; divide them by constants"):
        orthogonal_matching_pursuit(module.asarray(signals), module.asarray(dictionary), 1)


@pytest.mark.parametrize("form", SHAPES)
def test_traced_entries_that_are_not_finite_become_nan(form):
    signals, dictionary = problem(form, np.float32)
    traced = jax.jit(lambda y, atoms: orthogonal_matching_pursuit(y, atoms, 3))
    signals[7, 2] = np.inf
    wrong = np.isnan(traced(signals, dictionary)).any(axis=1)
    assert wrong[7] and wrong.sum() == 1
    dictionary[2, 5] = np.nan
    assert np.isnan(traced(signals, dictionary)).any(axis=1).all()


def blas_threads():
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]


@pytest.mark.parametrize("atoms", [SHORT // SEARCHED // 4, SHORT // SEARCHED // 4 + 1])
def test_blas_has_one_thread_for_short_products(atoms, monkeypatch):
    seen, pursue = [], module_under_test._pursue
    watch = lambda *arguments: seen.append(blas_threads()) or pursue(*arguments)
    monkeypatch.setattr(module_under_test, "_pursue", watch)
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        orthogonal_matching_pursuit(np.ones((1, 4)), np.ones((4, atoms)), 1)
        assert blas_threads() == before
    short = SEARCHED * 4 * atoms <= SHORT
    assert seen == [[1] * len(before) if short else before]
