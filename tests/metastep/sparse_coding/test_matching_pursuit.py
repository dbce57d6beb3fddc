"""Pursuit against scikit-learn's, by both forms and both kinds of arrays, and degenerate input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from metastep.sparse_coding import draw_signals, orthogonal_matching_pursuit, random_dictionary
from metastep.sparse_coding.matching_pursuit import BLOCK

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
