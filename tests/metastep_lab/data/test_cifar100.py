"""CIFAR-100 in both forms: two kinds of labels, their names, and damaged files."""

import pickle

import numpy as np
import pytest

from metastep_lab.data import DataCorruptError, cifar10, cifar100
from tests.metastep_lab.data.places import write_archive, write_folder
from tests.metastep_lab.data.test_cifar10 import planes

RNG = np.random.default_rng(1)
SIZES = {"train": 5, "test": 3}
IMAGES = {part: RNG.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8) for part, n in SIZES.items()}
FINE = {part: RNG.integers(0, 100, n).astype(np.uint8) for part, n in SIZES.items()}
COARSE = {part: RNG.integers(0, 20, n).astype(np.uint8) for part, n in SIZES.items()}
FOLDERS = {"python": "cifar-100-python", "binary": "cifar-100-binary"}


def as_pickle(part, **changes):
    entries = {
        "data": planes(IMAGES[part]),
        "fine_labels": FINE[part].tolist(),
        "coarse_labels": COARSE[part].tolist(),
        "filenames": ["a.png"] * SIZES[part],
    } | changes
    return pickle.dumps({key.encode(): value for key, value in entries.items()}, protocol=2)


def as_binary(part, coarse=COARSE, fine=FINE):
    """The coarse label, the fine label, and the pixels."""
    columns = coarse[part][:, None], fine[part][:, None], planes(IMAGES[part])
    return np.concatenate(columns, axis=1).tobytes()


def files(version):
    write, end = (as_pickle, "") if version == "python" else (as_binary, ".bin")
    return {part + end: write(part) for part in SIZES}


def put_folder(place, version, contents):
    return write_folder(place / FOLDERS[version], contents)


def put_archive(place, version, contents):
    return write_archive(place / f"{FOLDERS[version]}.tar.gz", FOLDERS[version], contents)


@pytest.mark.parametrize("put", [put_folder, put_archive])
@pytest.mark.parametrize("version", FOLDERS)
def test_original_files(place, version, put):
    path = put(place, version, files(version))
    dataset = cifar100(place)
    expected = {"images": IMAGES, "labels": FINE, "coarse_labels": COARSE}
    for name, parts in expected.items():
        both = np.concatenate([parts["train"], parts["test"]])
        np.testing.assert_array_equal(dataset.arrays[name], both)
        assert dataset.arrays[name].dtype == np.uint8
    assert dataset.arrays["split"].tolist() == ["train"] * 5 + ["test"] * 3
    assert dataset.path == path


def test_the_names_of_the_classes(place):
    put_folder(place, "binary", files("binary"))
    arrays = cifar100(place).arrays
    assert arrays["classes"].shape == (100,) and arrays["coarse_classes"].shape == (20,)
    for name in ("classes", "coarse_classes"):
        assert arrays[name].tolist() == sorted(set(arrays[name].tolist()))
    # The entries of the original list of names at a few places.
    assert arrays["classes"][[0, 19, 41, 99]].tolist() == ["apple", "cattle", "lawn_mower", "worm"]


def changed(labels, part, value):
    return labels | {part: np.append(labels[part][:-1], value).astype(np.uint8)}


DAMAGED = {
    "record": ("binary", "test.bin", as_binary("test")[:-1], "not a multiple of 3074"),
    "no images": ("binary", "test.bin", b"", "holds no images"),
    "coarse": (
        "binary",
        "test.bin",
        as_binary("test", coarse=changed(COARSE, "test", 20)),
        "the label 20, beyond 19",
    ),
    "fine": (
        "binary",
        "train.bin",
        as_binary("train", fine=changed(FINE, "train", 100)),
        "the label 100, beyond 99",
    ),
    "pickle": ("python", "train", as_pickle("train")[:-500], "damaged or not a CIFAR batch"),
    "of CIFAR-10": (
        "python",
        "train",
        pickle.dumps({b"data": planes(IMAGES["train"]), b"labels": [1] * 5}, protocol=2),
        "lacks the entry coarse_labels, fine_labels",
    ),
    "pickled label": (
        "python",
        "train",
        as_pickle("train", coarse_labels=[1, 2, 3, 4, 20]),
        "not 0 to 19",
    ),
    "count": ("python", "train", as_pickle("train", fine_labels=[1]), "5 images but labels of"),
}


@pytest.mark.parametrize(("version", "name", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(place, version, name, content, message):
    put_folder(place, version, {**files(version), name: content})
    with pytest.raises(DataCorruptError, match=f"{name} .*{message}") as caught:
        cifar100(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("put", [put_folder, put_archive])
@pytest.mark.parametrize("version", FOLDERS)
def test_a_missing_batch_is_named(place, version, put):
    contents = files(version)
    contents.pop(next(name for name in contents if "test" in name))
    put(place, version, contents)
    with pytest.raises(DataCorruptError, match="lacks the batch test"):
        cifar100(place)


def test_the_other_cifar_under_this_name_is_refused(place):
    path = put_archive(place, "python", files("python"))
    path.rename(place / "cifar-10-python.tar.gz")
    with pytest.raises(DataCorruptError, match="lacks the batch data_batch_1"):
        cifar10(place)
