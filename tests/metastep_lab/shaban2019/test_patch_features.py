"""Features from random patches: what they do not see, their scale, and files of the user."""

import numpy as np
import pytest

from metastep_lab.shaban2019.task_interaction.patch_features import (
    _normalized,
    _whitening,
    patch_features,
    read_features,
)

RNG = np.random.default_rng(3)
IMAGES = RNG.integers(0, 200, (40, 9, 8, 3)).astype(np.uint8)
IMAGES[0, 0, 0, 0] = 255
SIZES = dict(filters=5, size=4, seed=1)


def test_columns_are_standardized_and_the_seed_decides():
    features = patch_features(IMAGES, **SIZES)
    assert features.shape == (40, 20) and features.dtype == np.float32
    # Sums of 40 numbers in float32.
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(features.var(axis=0), 1, atol=1e-5)
    assert np.array_equal(features, patch_features(IMAGES, **SIZES))
    assert not np.array_equal(features, patch_features(IMAGES, **SIZES | {"seed": 2}))


def test_brightness_is_not_seen():
    twice = np.concatenate([IMAGES, IMAGES[1:] + 50]).astype(np.uint8)
    features = patch_features(twice, **SIZES)
    # Rounding of the mean of a patch's 48 pixels.
    np.testing.assert_allclose(features[1:40], features[40:], atol=2e-4)


def test_gray_images_and_constant_features():
    gray = patch_features(IMAGES[..., 0], **SIZES | {"filters": 2}, pool=3)
    assert gray.shape == (40, 18)
    none = patch_features(IMAGES, **SIZES, threshold=1e6)
    assert np.all(none == 0)


def test_whitening_leaves_what_its_floor_says():
    patches = _normalized(RNG.random((3000, 12)) @ RNG.random((12, 12)))
    mean, basis = _whitening(patches)
    before = np.linalg.eigvalsh(np.cov(patches, rowvar=False))
    after = np.linalg.eigvalsh(np.cov((patches - mean) @ basis, rowvar=False))
    # The basis is float32.
    np.testing.assert_allclose(after, before / (before + 0.1), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"filters": 0}, "filters is 0"),
        ({"size": 9}, "size is 9; allowed are integers from 1 to 8"),
        ({"pool": 6}, "pool is 6; allowed are integers from 1 to 5"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "images has shape"),
    ],
)
def test_wrong_use(changed, message):
    with pytest.raises(ValueError, match=message):
        patch_features(**({"images": IMAGES} | SIZES | changed))


def test_features_of_the_user(tmp_path):
    path = tmp_path / "features.npz"
    features, labels = RNG.random((6, 3)), np.array([0, 1, 2, 2, 1, 0])
    np.savez(path, features=features, labels=labels)
    found = read_features(path)
    assert found[0].dtype == np.float32 and np.allclose(found[0], features)
    assert np.array_equal(found[1], labels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.ones((3, 2))}, "file with features and labels"),
        ({"features": np.ones((3, 2)), "labels": np.zeros(2, int)}, "labels of shape"),
        ({"features": np.ones((2, 2)), "labels": np.array([0, 2])}, "without gaps"),
        ({"features": np.array([[np.nan]]), "labels": np.zeros(1, int)}, "finite"),
    ],
)
def test_bad_files(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_features(tmp_path / "bad.npz")


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "bad.npz").write_text("features")
    with pytest.raises(ValueError, match="is no"):
        read_features(tmp_path / "bad.npz")
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "none.npz")
