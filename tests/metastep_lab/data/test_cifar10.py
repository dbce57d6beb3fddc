"""CIFAR-10 in every form: what is read, what a pickle cannot do, and damaged files."""

import pickle

import numpy as np
import pytest

from metastep_lab.data import DataCorruptError, cifar10
from metastep_lab.data.cifar10 import BATCHES
from tests.metastep_lab.data.places import write_archive, write_folder

RNG = np.random.default_rng(0)
SIZES = [2, 3, 1, 2, 1, 4]
IMAGES = [RNG.integers(0, 256, (size, 32, 32, 3)).astype(np.uint8) for size in SIZES]
LABELS = [RNG.integers(0, 10, size).astype(np.uint8) for size in SIZES]


def planes(images):
    """The layout of the originals: red, green and blue planes in one row."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)


def as_binary(images, labels):
    return np.concatenate([labels[:, None], planes(images)], axis=1).tobytes()


def as_pickle(images, labels, order="C", protocol=2):
    batch = {
        b"batch_label": b"a batch",
        b"labels": labels.tolist(),
        b"data": np.asarray(planes(images), order=order),
        b"filenames": [b"a.png"] * len(labels),
    }
    return pickle.dumps(batch, protocol=protocol)


def files(version):
    write = as_pickle if version == "py" else as_binary
    end = "" if version == "py" else ".bin"
    return {name + end: write(*pair) for name, *pair in zip(BATCHES, IMAGES, LABELS, strict=True)}


def put_folder(place, version, contents):
    return write_folder(place / f"cifar-10-batches-{version}", contents)


def put_archive(place, version, contents):
    path = place / f"cifar-10-{'python' if version == 'py' else 'binary'}.tar.gz"
    return write_archive(path, f"cifar-10-batches-{version}", contents)


@pytest.mark.parametrize("put", [put_folder, put_archive])
@pytest.mark.parametrize("version", ["py", "bin"])
def test_original_files(place, version, put):
    path = put(place, version, files(version))
    dataset = cifar10(place)
    np.testing.assert_array_equal(dataset.arrays["images"], np.concatenate(IMAGES))
    np.testing.assert_array_equal(dataset.arrays["labels"], np.concatenate(LABELS))
    assert dataset.arrays["split"].tolist() == ["train"] * sum(SIZES[:5]) + ["test"] * SIZES[5]
    assert dataset.arrays["classes"].shape == (10,)
    assert dataset.arrays["images"].dtype == dataset.arrays["labels"].dtype == np.uint8
    assert dataset.path == path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickles_of_every_age(place, order, protocol):
    contents = files("py")
    contents["test_batch"] = as_pickle(IMAGES[5], LABELS[5], order, protocol)
    put_folder(place, "py", contents)
    np.testing.assert_array_equal(cifar10(place).arrays["images"][-4:], IMAGES[5])


def test_a_pickle_of_python_2(place):
    """Written opcode by opcode: Python 2 stores texts and bytes alike as strings of bytes."""

    def text(content):
        return b"T" + len(content).to_bytes(4, "little") + content

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        b"(K\x01(K\x04M\x00\x0ctcnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\n" + text(planes(IMAGES[5]).tobytes())
        + b"tb"
    )  # fmt: skip
    labels = b"(l" + b"".join(b"I%d\na" % label for label in LABELS[5])
    content = b"\x80\x02(d" + text(b"data") + array + b"s" + text(b"labels") + labels + b"s."
    put_folder(place, "py", {**files("py"), "test_batch": content})
    np.testing.assert_array_equal(cifar10(place).arrays["images"][-4:], IMAGES[5])


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [eval, open, np.load, np.fromfile, getattr, bytearray])
def test_a_pickle_cannot_call_anything(place, function, tmp_path):
    mark = tmp_path / "mark"
    content = pickle.dumps({b"data": Attack(function, str(mark), "w"), b"labels": [1]}, protocol=2)
    put_folder(place, "py", {**files("py"), "data_batch_3": content})
    with pytest.raises(DataCorruptError, match=r"data_batch_3 .*it asks for .*, which no data"):
        cifar10(place)
    assert not mark.exists()


GOOD = files("py")["data_batch_1"]
BYTES = planes(IMAGES[0])
DAMAGED_PICKLES = {
    "empty": (b"", "damaged or not a CIFAR batch"),
    "text": (b"<html>not found</html>", "damaged or not a CIFAR batch"),
    "truncated": (GOOD[:-500], "damaged or not a CIFAR batch"),
    "list": (pickle.dumps([1, 2]), "holds no dict"),
    "no labels": (pickle.dumps({b"data": BYTES}, 2), "lacks the entry labels"),
    "no array": (pickle.dumps({b"data": [1], b"labels": [1]}), "no array under 'data'"),
    "bare dtype": (pickle.dumps({b"data": np.dtype("u1"), b"labels": [1]}, 2), "'data'"),
    "floats": (pickle.dumps({b"data": BYTES / 2, b"labels": [1]}, 2), "no array of bytes"),
    "objects": (pickle.dumps({b"data": BYTES.astype(object), b"labels": [1]}, 2), "no array of"),
    "shape": (pickle.dumps({b"data": BYTES[:, 1:], b"labels": [1]}, 2), "not n x 3072"),
    "count": (pickle.dumps({b"data": BYTES, b"labels": [1]}, 2), "2 images but labels of shape"),
    "label 10": (pickle.dumps({b"data": BYTES, b"labels": [1, 10]}, 2), "not 0 to 9"),
    "label 256": (pickle.dumps({b"data": BYTES, b"labels": [1, 256]}, 2), "not 0 to 9"),
    "label text": (pickle.dumps({b"data": BYTES, b"labels": ["a", "b"]}, 2), "no integers"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED_PICKLES.values(), ids=DAMAGED_PICKLES)
def test_damaged_pickle(place, content, message):
    put_folder(place, "py", {**files("py"), "data_batch_1": content})
    with pytest.raises(DataCorruptError, match=f"data_batch_1 .*{message}"):
        cifar10(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_binary(IMAGES[0], LABELS[0])[:-1], "not a multiple of 3073"),
        (b"", "holds no images"),
        (as_binary(IMAGES[0], np.array([1, 10], np.uint8)), "the label 10, beyond 9"),
    ],
)
def test_damaged_binary(place, content, message):
    put_folder(place, "bin", {**files("bin"), "data_batch_2.bin": content})
    with pytest.raises(DataCorruptError, match=f"data_batch_2.bin .*{message}"):
        cifar10(place)


@pytest.mark.parametrize("put", [put_folder, put_archive])
@pytest.mark.parametrize("version", ["py", "bin"])
def test_a_missing_batch_is_named(place, version, put):
    contents = files(version)
    del contents[next(name for name in contents if "4" in name)]
    put(place, version, contents)
    with pytest.raises(DataCorruptError, match="lacks the batch data_batch_4"):
        cifar10(place)


def test_damaged_archive(place):
    path = put_archive(place, "py", files("py"))
    whole = path.read_bytes()
    for content in (b"", b"some text", whole[: len(whole) // 2], whole[:500] + bytes(999)):
        path.write_bytes(content)
        with pytest.raises(
            DataCorruptError, match=r"cifar-10-python\.tar\.gz is damaged or not a tar"
        ):
            cifar10(place)


def test_subset_agrees_with_originals(place):
    put_archive(place, "bin", files("bin"))
    original = cifar10(place)
    (place / "cifar-10-binary.tar.gz").unlink()
    arrays = {
        "train_images": np.concatenate(IMAGES[:5]),
        "train_labels": np.concatenate(LABELS[:5]),
        "test_images": IMAGES[5],
        "test_labels": LABELS[5],
    }
    np.savez(place / "cifar10-7k.npz", **arrays)
    subset = cifar10(place)
    assert subset.checksum == original.checksum
    assert "JPEG" in subset.source and "JPEG" not in original.source
    np.savez(place / "cifar10-7k.npz", **{**arrays, "test_images": IMAGES[5][..., :2]})
    with pytest.raises(DataCorruptError, match="not n x 32 x 32 x 3"):
        cifar10(place)


def test_real_subset(real):
    folder = real("cifar10-7k.npz")
    dataset = cifar10(folder)
    train = dataset.arrays["split"] == "train"
    assert np.bincount(dataset.arrays["labels"][train]).tolist() == [500] * 10
    assert np.bincount(dataset.arrays["labels"][~train]).tolist() == [200] * 10
    with np.load(folder / "cifar10-7k.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(dataset.arrays["classes"], stored["classes"])
