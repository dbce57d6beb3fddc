"""Scikit-learn's own checks, model selection without clean data, and bad parameters."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from metastep.sklearn import MaskedDictionaryLearning
from metastep.sparse_coding import draw_signals, random_dictionary

SHORT = {"max_iter": 20, "random_state": 0}


def signals(samples=200, noise=0.05, dim=20, atoms=20):
    rng = np.random.default_rng(4)
    return draw_signals(rng, random_dictionary(rng, dim, atoms), samples, 2, noise).signals


@parametrize_with_checks(
    [MaskedDictionaryLearning(max_iter=20), MaskedDictionaryLearning(max_iter=20, mask_fraction=0)]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_a_grid_search_finds_the_sparsity_without_clean_data():
    model = MaskedDictionaryLearning(20, max_iter=150, learning_rate=0.01, random_state=0)
    search = GridSearchCV(model, {"transform_n_nonzero_coefs": [1, 2, 6]}, cv=2)
    search.fit(signals(600).astype(np.float32))
    assert search.best_params_ == {"transform_n_nonzero_coefs": 2}


def test_attributes_and_shapes():
    data = signals().astype(np.float32)
    model = MaskedDictionaryLearning(30, transform_n_nonzero_coefs=2, **SHORT).fit(data)
    assert model.components_.shape == (30, 20) and model.components_.dtype == np.float32
    # Unit rows up to a rounding of the norm.
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-6)
    assert model.loss_curve_.shape == (20,) and (model.n_iter_, model.n_steps_) == (20, 20)
    codes = model.transform(data)
    assert codes.dtype == np.float32 and np.count_nonzero(codes, axis=1).max() == 2
    np.testing.assert_allclose(model.inverse_transform(codes), codes @ model.components_)
    assert model.get_feature_names_out()[0] == "maskeddictionarylearning0"
    again = pickle.loads(pickle.dumps(clone(model).fit(data)))
    assert np.array_equal(again.components_, model.components_)


@pytest.mark.parametrize("factor", [1e-8, 1e6])
def test_the_scale_of_the_data_does_not_matter(factor):
    data = signals()
    plain = MaskedDictionaryLearning(**SHORT).fit(data)
    scaled = MaskedDictionaryLearning(**SHORT).fit(factor * data)
    # Rounding of the division by the scale, through 20 steps.
    np.testing.assert_allclose(scaled.components_, plain.components_, atol=1e-10)
    np.testing.assert_allclose(scaled.loss_curve_, factor**2 * plain.loss_curve_, rtol=1e-9)
    assert scaled.score(factor * data) == pytest.approx(factor**2 * plain.score(data), rel=1e-9)


@pytest.mark.parametrize("factor", [2.0**-80, 2.0**70])
def test_squares_outside_of_float32(factor):
    """They were 0, with which data were not scaled and every model was perfect, or infinite."""
    data = signals().astype(np.float32)
    plain = MaskedDictionaryLearning(**SHORT).fit(data)
    scaled = MaskedDictionaryLearning(**SHORT).fit(np.float32(factor) * data)
    np.testing.assert_array_equal(scaled.components_, plain.components_)
    np.testing.assert_allclose(scaled.loss_curve_, factor**2 * plain.loss_curve_, rtol=1e-9)
    found = scaled.score(np.float32(factor) * data)
    assert found == pytest.approx(factor**2 * plain.score(data), rel=1e-6, abs=0)


def test_given_atoms_are_where_it_starts():
    start = np.eye(20)[:5] * 3
    model = MaskedDictionaryLearning(5, dict_init=start, learning_rate=1e-12, **SHORT)
    # The steps are below 20 * 1e-12.
    np.testing.assert_allclose(model.fit(signals()).components_, np.eye(20)[:5], atol=1e-10)


@pytest.mark.parametrize(
    ("data", "atoms"),
    [
        (np.zeros((6, 4)), 3),  # nothing to start from
        (np.full((6, 4), 2.0), 8),  # constant features, more atoms than samples
        (np.arange(6.0)[:, None], 2),  # one feature: nothing to hide
        (np.eye(4)[[0, 0, 0]], 4),  # parallel atoms
    ],
)
def test_degenerate_data(data, atoms):
    model = MaskedDictionaryLearning(atoms, **SHORT).fit(data)
    assert np.all(np.isfinite(model.components_)) and np.isfinite(model.score(data))
    assert np.all(np.isfinite(model.transform(data)))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components == 0"),
        ({"n_components": 2.5}, TypeError, "n_components must be an instance of"),
        ({"transform_n_nonzero_coefs": 0}, ValueError, "transform_n_nonzero_coefs == 0"),
        ({"transform_n_nonzero_coefs": 19}, ValueError, "transform_n_nonzero_coefs is 19"),
        ({"n_components": 3, "transform_n_nonzero_coefs": 4}, ValueError, "visible features, 3"),
        ({"mask_fraction": 1.0}, ValueError, "mask_fraction == 1.0"),
        ({"mask_fraction": -0.1}, ValueError, "mask_fraction == -0.1"),
        ({"max_iter": 0}, ValueError, "max_iter == 0"),
        ({"batch_size": 0}, ValueError, "batch_size == 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate == 0.0"),
        ({"dict_init": np.ones((3, 20))}, ValueError, r"\(3, 20\); expected .* \(20, 20\)"),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        MaskedDictionaryLearning(**parameters).fit(signals(30))


def test_missing_numbers():
    with pytest.raises(ValueError, match="Input X contains NaN"):
        MaskedDictionaryLearning(**SHORT).fit(np.where(np.eye(30, 20), np.nan, signals(30)))


def test_codes_of_another_dictionary():
    model = MaskedDictionaryLearning(**SHORT).fit(signals(30))
    with pytest.raises(ValueError, match="X has 7 codes per sample; expected 20"):
        model.inverse_transform(np.ones((2, 7)))
