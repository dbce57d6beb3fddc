"""MNIST in every form, and damaged files."""

import gzip
import struct

import numpy as np
import pytest

from metastep_lab.data import DataCorruptError, mnist

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28)).astype(np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def idx(array, magic=None):
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def put(place, prefix, count, dot="-", packed=False):
    """Write the first `count` examples as one part of the original distribution."""
    end = ".gz" if packed else ""
    for name, array in (("images", IMAGES), ("labels", LABELS)):
        content = idx(array[:count])
        path = place / f"{prefix}-{name}{dot}idx{array.ndim}-ubyte{end}"
        path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize(("train", "test"), [(6, 4), (6, 0), (0, 4)])
def test_original_files(place, train, test, dot, packed):
    for prefix, count in (("train", train), ("t10k", test)):
        if count:
            put(place, prefix, count, dot, packed)
    dataset = mnist(place)
    expected = np.concatenate([IMAGES[:train], IMAGES[:test]])
    np.testing.assert_array_equal(dataset.arrays["images"], expected)
    np.testing.assert_array_equal(
        dataset.arrays["labels"], np.concatenate([LABELS[:train], LABELS[:test]])
    )
    assert dataset.arrays["split"].tolist() == ["train"] * train + ["test"] * test
    assert dataset.arrays["images"].dtype == dataset.arrays["labels"].dtype == np.uint8
    assert dataset.path == place


def test_a_packed_file_without_the_ending_is_read_too(place):
    put(place, "train", 2)
    path = place / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert mnist(place).arrays["images"].shape == (2, 28, 28)


def test_subset_and_originals_agree_and_originals_come_first(place):
    np.savez_compressed(place / "mnist-10k.npz", images=IMAGES, labels=LABELS)
    subset = mnist(place)
    assert set(subset.arrays["split"]) == {"test"} and "test set only" in subset.source
    put(place, "t10k", 6)
    assert mnist(place).checksum == subset.checksum
    assert mnist(place).path == place


PACKED = gzip.compress(idx(IMAGES), mtime=0)
DAMAGED_FILES = {
    "empty": ("images", b"", "is truncated"),
    "text": ("images", b"<html>404 not found</html>", "magic number 0x3c68746d, not 0x00000803"),
    "labels in place of images": ("images", idx(LABELS) + bytes(20), "magic number 0x00000801"),
    "images in place of labels": ("labels", idx(IMAGES), "magic number 0x00000803"),
    "truncated": ("images", idx(IMAGES)[:-1], "4719 bytes where its header promises 4720"),
    "too long": ("labels", idx(LABELS) + b"\0", "header promises 14"),
    "huge header": ("images", struct.pack(">4I", 0x803, *[2**32 - 1] * 3), "header promises"),
    "truncated gzip": ("images", PACKED[:-100], "damaged or not a gzip file"),
    "flipped gzip": ("images", PACKED[:60] + bytes(9) + PACKED[69:], "damaged or not a gzip"),
    "wrong size": ("images", idx(np.zeros((6, 28, 27), np.uint8)), "not n x 28 x 28"),
    "other count": ("labels", idx(LABELS[:5]), "6 images but labels of shape"),
    "label 10": ("labels", idx(LABELS + np.uint8(1)), "label 10, beyond 9"),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED_FILES.values(), ids=DAMAGED_FILES)
def test_damaged_original(place, name, content, message):
    put(place, "train", 6)
    path = place / f"train-{name}-idx{3 if name == 'images' else 1}-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataCorruptError, match=message) as caught:
        mnist(place)
    assert "train-" in str(caught.value) and "\n" not in str(caught.value)


def test_no_images_at_all(place):
    put(place, "train", 0)
    with pytest.raises(DataCorruptError, match="holds no images"):
        mnist(place)


@pytest.mark.parametrize("lost", ["images-idx3", "labels-idx1"])
def test_half_a_pair_names_the_other_half(place, lost):
    put(place, "t10k", 2)
    (place / f"t10k-{lost}-ubyte").unlink()
    with pytest.raises(DataCorruptError, match=f"lacks its companion t10k-{lost}-ubyte"):
        mnist(place)


DAMAGED_ARRAYS = {
    "missing": ({"images": IMAGES}, "lacks the array labels"),
    "float": ({"images": IMAGES / 255, "labels": LABELS}, "images of type float64"),
    "flat": ({"images": IMAGES.reshape(6, -1), "labels": LABELS}, r"shape \(6, 784\)"),
    "labels 2-d": ({"images": IMAGES, "labels": LABELS[:, None]}, "but labels of shape"),
    "object": ({"images": np.array([None]), "labels": LABELS}, "holds Python objects"),
}


@pytest.mark.parametrize(("arrays", "message"), DAMAGED_ARRAYS.values(), ids=DAMAGED_ARRAYS)
def test_damaged_subset(place, arrays, message):
    np.savez(place / "mnist-10k.npz", **arrays)
    with pytest.raises(DataCorruptError, match=message):
        mnist(place)


def test_files_that_are_no_npz(place):
    path = place / "mnist-10k.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    whole = path.read_bytes()
    for content in (b"", b"some text\n", whole[:-30], whole[:200] + bytes(99) + whole[299:]):
        path.write_bytes(content)
        with pytest.raises(DataCorruptError, match="npz"):
            mnist(place)
    with path.open("wb") as file:
        np.save(file, IMAGES)
    with pytest.raises(DataCorruptError, match="is not an npz file"):
        mnist(place)


def test_real_subset(real):
    dataset = mnist(real("mnist-10k.npz"))
    assert dataset.arrays["images"].shape == (10000, 28, 28)
    assert np.bincount(dataset.arrays["labels"]).min() == 892


def test_a_data_set_that_took_over_the_file_names_is_refused(place):
    """Fashion-MNIST and KMNIST have classes of equal sizes; those of MNIST differ."""
    images = np.zeros((10_000, 28, 28), np.uint8)
    images[0, 0, 0] = 1  # not all of one shade
    (place / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    labels = (np.arange(10_000) % 10).astype(np.uint8)
    (place / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataCorruptError, match=r"t10k-labels-idx1-ubyte .* Fashion-MNIST"):
        mnist(place)
    labels[0] = 1
    (place / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    assert len(mnist(place).arrays["labels"]) == 10_000
