"""The geometry of dictionaries against dense computations and known distributions."""

import numpy as np
import pytest

from metastep.anchors import dictionary, dictionary_statistics


def test_everything_equals_the_dense_computation(monkeypatch):
    monkeypatch.setattr(dictionary, "ROWS_AT_ONCE", 400)
    words = np.random.default_rng(9).normal(size=(500, 7)) + 0.5
    words[3] = 0.0  # padding
    found = dictionary_statistics(words.astype(np.float32), pairs=1000)
    words = words.astype(np.float32).astype(np.float64)
    values = np.linalg.svd(words, compute_uv=False)
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-12)
    np.testing.assert_allclose(found.norms, np.linalg.norm(words, axis=1), rtol=1e-12)
    assert found.stable_rank == pytest.approx(np.sum(values**2) / values[0] ** 2, rel=1e-12)
    units = np.delete(words, 3, axis=0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
    assert found.mean_cosine == pytest.approx(cosines.mean(), abs=1e-12)
    # 1000 random pairs, not quite independent ones: five standard errors.
    assert abs(found.cosines.mean() - cosines.mean()) < 5 * cosines.std() / 1000**0.5


def test_words_on_a_sphere_and_on_a_line():
    rng = np.random.default_rng(10)
    sphere = rng.normal(size=(4000, 5))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    found = dictionary_statistics(sphere)
    # Means over 4000 words: standard errors of 1.6% of what is averaged.
    assert found.stable_rank == pytest.approx(5, rel=0.1) and abs(found.mean_cosine) < 0.01
    line = dictionary_statistics(np.outer(np.arange(1.0, 50), np.ones(5)))
    assert line.stable_rank == pytest.approx(1) and np.allclose(line.cosines, 1)
    assert dictionary_statistics(np.eye(2, 5)).singular_values.shape == (2,)


def test_wrong_input():
    for words in (np.ones(3), np.ones((0, 3)), np.full((3, 3), np.inf), np.eye(1, 4)):
        with pytest.raises(ValueError, match="unembedding"):
            dictionary_statistics(words)
    with pytest.raises(ValueError, match="pairs is 0"):
        dictionary_statistics(np.eye(3), pairs=0)
