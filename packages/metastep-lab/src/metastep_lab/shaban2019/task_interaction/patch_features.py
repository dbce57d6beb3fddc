"""Features of images without a trained network: convolution with random whitened patches."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8

from metastep.files import parse_arrays, read_bytes

PATCHES = 20_000  # to estimate mean and covariance from
CONTRAST_FLOOR = (10 / 255) ** 2  # added to the variance of a patch, for pixels in [0, 1]
WHITENING_FLOOR = 0.1  # added to the eigenvalues of the covariance of normalized patches
IMAGES_AT_ONCE = 200


def patch_features(
    images: UInt8[np.ndarray, "images height width *channels"],
    *,
    filters: int,
    size: int,
    seed: int,
    pool: int = 2,
    threshold: float = 0.25,
) -> Float[np.ndarray, "images features"]:
    """Return standardized features of images from convolutions with random whitened patches.

    Patches of the images themselves, normalized in brightness and contrast, whitened and scaled to
    unit length, are the filters. Every patch of an image is normalized and whitened likewise; its
    products z with the filters become max(0, z - threshold) and are averaged over a grid of pool x
    pool regions. Labels are never seen. No training, and about the quality of a shallow network.
    Images are in gray or with channels last; every feature has mean 0 and variance 1 over them, or
    is 0 if it was constant. The same seed gives the same features.

    Example:
        >>> from metastep_lab.data import digits
        >>> from metastep_lab.shaban2019.task_interaction.patch_features import patch_features
        >>> patch_features(digits().arrays["images"], filters=16, size=3, seed=0).shape
        (1797, 64)

    Raises:
        ValueError: for a number out of range, or images that are empty or black.

    Reference:
        Coates, Lee and Ng (2011), An analysis of single-layer networks in unsupervised feature
        learning; Coates and Ng (2011), The importance of encoding versus training, for patches as
        filters and the soft threshold.
    """
    _check(images, filters, size, pool)
    windows = _windows(images, size)
    rng = np.random.default_rng(seed)
    mean, basis = _whitening(_normalized(_drawn(windows, rng)))
    whitened = (_normalized(_drawn(windows, rng, filters)) - mean) @ basis
    # A patch without contrast is zero.
    chosen = whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-6)
    # ((p - mean) basis).c = p.(basis c) - mean.(basis c): whitening every patch costs nothing.
    kernel = basis @ chosen.T
    offset = mean @ kernel + threshold
    pieces = []
    for first in range(0, len(images), IMAGES_AT_ONCE):
        patches = windows[first : first + IMAGES_AT_ONCE]
        # The reshape copies the view, every pixel size^2 times: hence some images at once.
        products = _normalized(patches.reshape(-1, kernel.shape[0])) @ kernel - offset
        pieces.append(_pooled(np.maximum(products, 0).reshape(*patches.shape[:3], -1), pool))
    features = np.concatenate(pieces)
    spread = features.std(axis=0)
    centered = features - features.mean(axis=0)
    return np.where(spread > 0, centered / np.where(spread > 0, spread, 1), 0).astype(np.float32)


def _check(images: np.ndarray, filters: int, size: int, pool: int) -> None:
    if images.size == 0 or images.max() == 0:
        raise ValueError(f"images has shape {images.shape} and nothing in it; allowed: ink")
    side = min(images.shape[1:3])
    for name, value, most in (
        ("filters", filters, None),
        ("size", size, side),
        ("pool", pool, max(1, side - size + 1)),
    ):
        if value < 1 or (most is not None and value > most):
            bound = "" if most is None else f" to {most}"
            raise ValueError(f"{name} is {value!r}; allowed are integers from 1{bound}")


def _windows(images: np.ndarray, size: int) -> np.ndarray:
    """Return all patches as a view, shape (images, rows, columns, size, size, channels)."""
    pixels = (images / images.max()).astype(np.float32)
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(1, 2))
    return np.moveaxis(windows, 3, -1)


def _drawn(windows: np.ndarray, rng: np.random.Generator, count: int = PATCHES) -> np.ndarray:
    places = tuple(rng.integers(0, length, count) for length in windows.shape[:3])
    return windows[places].reshape(count, -1)


def _normalized(patches: np.ndarray) -> np.ndarray:
    centered = patches - patches.mean(axis=1, keepdims=True)
    return centered / np.sqrt(centered.var(axis=1, keepdims=True) + CONTRAST_FLOOR)


def _whitening(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and symmetric inverse square root of the covariance."""
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False).astype(np.float64))
    # The mean of every patch was removed, so that one eigenvalue is zero up to rounding.
    basis = (vectors / np.sqrt(np.maximum(values, 0) + WHITENING_FLOOR)) @ vectors.T
    return mean, basis.astype(np.float32)


def _pooled(maps: np.ndarray, pool: int) -> np.ndarray:
    """Average maps of shape (images, rows, columns, filters) over a grid of regions."""
    rows, columns = (np.linspace(0, length, pool + 1).astype(int) for length in maps.shape[1:3])
    regions = [
        maps[:, rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean(axis=(1, 2))
        for i in range(pool)
        for j in range(pool)
    ]
    return np.concatenate(regions, axis=1)


def read_features(
    path: Path,
) -> tuple[Float[np.ndarray, "examples features"], Integer[np.ndarray, " examples"]]:
    """Read features (float32) and labels (int32) that were computed elsewhere.

    The `.npz` file has `features` of shape (examples, features) and `labels` of shape (examples,),
    integers from 0 without gaps.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it lacks these arrays, or has numbers that are not finite.
    """
    try:
        archive = parse_arrays(read_bytes(path), ("features", "labels"))
        features, labels = archive["features"], archive["labels"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no .npz file with features and labels: {error}") from error
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.size == 0:
        raise ValueError(
            f"{path} holds features of shape {features.shape} and labels of shape {labels.shape}; "
            "allowed are (examples, features) and (examples,) with at least one example"
        )
    if labels.dtype.kind not in "iu" or set(np.unique(labels)) != set(range(labels.max() + 1)):
        raise ValueError(f"labels of {path} are allowed to be integers from 0 without gaps")
    if features.dtype.kind not in "fiu" or not np.all(np.isfinite(features)):
        raise ValueError(f"features of {path} are allowed to be finite numbers")
    return features.astype(np.float32), labels.astype(np.int32)
