"""Where data sets are searched, and what is said where there are none."""

import dataclasses
import hashlib
import re

import numpy as np
import pytest

from metastep_lab import data
from metastep_lab.data import DataCorruptError, DataNotFoundError, Dataset

LOADERS = {
    "mnist": data.mnist,
    "cifar10": data.cifar10,
    "cifar100": data.cifar100,
    "omniglot": data.omniglot,
    "wikitext2": data.wikitext2,
}


def put_mnist(folder, label):
    """A one-image MNIST whose label tells which folder was read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mnist-10k.npz"
    np.savez(path, images=np.eye(28, dtype=np.uint8)[None], labels=np.array([label], np.uint8))
    return path


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("given", [True, False])
def test_missing_is_one_sentence_that_says_what_to_do(name, given, place, cache, monkeypatch):
    monkeypatch.setenv("METASTEP_DATA", "/nowhere/at/all")
    with pytest.raises(DataNotFoundError) as caught:
        LOADERS[name](place if given else None)
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert "\n" not in message and message.endswith(".") and not re.search(r"\. [A-Z]", message)
    assert ("/place or " in message) == given
    for words in ("/nowhere/at/all (no such folder)", str(cache), "METASTEP_DATA", "--data", name):
        assert words in message


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_that_was_asked_for_must_exist(name, place):
    (place / "file").touch()
    for folder, wrong in ((place / "typo", "does not exist"), (place / "file", "is not a folder")):
        with pytest.raises(DataNotFoundError, match=f"{folder} {wrong}"):
            LOADERS[name](folder)
        with pytest.raises(DataNotFoundError, match=wrong):
            data.available(folder)


def test_search_order_is_argument_then_variable_then_cache(place, cache, tmp_path, monkeypatch):
    put_mnist(cache, 3)
    assert data.mnist(place).arrays["labels"] == [3]
    variable = put_mnist(tmp_path / "variable", 2).parent
    monkeypatch.setenv("METASTEP_DATA", str(variable))
    assert data.mnist(place).arrays["labels"] == [2]
    path = put_mnist(place, 1)
    assert data.mnist(place).arrays["labels"] == [1]
    assert data.mnist(place).path == path
    assert data.mnist().path == variable / "mnist-10k.npz"


def test_a_damaged_file_stops_the_search(place, cache):
    put_mnist(cache, 3)
    (place / "mnist-10k.npz").write_bytes(b"")
    with pytest.raises(data.DataCorruptError, match=r"place/mnist-10k\.npz"):
        data.mnist(place)


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_cache_without_a_usable_variable_is_in_the_home(value, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / ".cache" / "metastep"


def test_paths_may_begin_with_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("METASTEP_DATA", "~/sets")
    put_mnist(tmp_path / "sets", 5)
    assert data.mnist().path == tmp_path / "sets" / "mnist-10k.npz"


def test_available_lists_all_sets_and_reads_none(place):
    (place / "mnist-10k.npz").write_bytes(b"damaged")
    (place / "wiki.test.tokens").write_bytes(b"")
    found = dict(data.available(place))
    assert list(found) == ["digits", "mnist", "cifar10", "cifar100", "omniglot", "wikitext2"]
    assert found["digits"] is not None and found["digits"].is_dir()
    assert found["mnist"] == place / "mnist-10k.npz"
    assert found["wikitext2"] == place / "wiki.test.tokens"
    assert found["cifar10"] is None and found["omniglot"] is None


def make(**arrays):
    return Dataset("set", arrays, "license", "source")


def test_checksum_is_the_documented_sha256():
    numbers = np.arange(3, dtype="<i4")
    by_hand = b"a\0|u1\0(1, 1)\0\x07" + b"b\0<i4\0(3,)\0" + numbers.tobytes()
    found = make(b=numbers, a=np.array([[7]], np.uint8)).checksum
    assert found == hashlib.sha256(by_hand).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.array([[1, 2, 3, 5]], np.int32)},
        {"a": np.array([[1, 2], [3, 4]], np.int32)},
        {"a": np.array([[1, 2, 3, 4]], np.uint32)},
        {"b": np.array([[1, 2, 3, 4]], np.int32)},
        {"a": np.array([[1, 2, 3, 4]], np.int32), "b": np.zeros(0)},
    ],
    ids=["bytes", "shape", "dtype", "name", "extra"],
)
def test_checksum_sees_every_difference(other):
    original = np.array([[1, 2, 3, 4]], np.int32)
    assert make(a=original).checksum != make(**other).checksum
    assert make(a=original).checksum == make(a=np.asfortranarray(original.copy())).checksum


def test_dataset_is_frozen_and_so_are_its_arrays():
    dataset = make(a=np.zeros(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        dataset.arrays["a"][0] = 1.0


TWO = np.zeros(2, np.uint8)
SUBSETS = {
    "mnist": ("mnist-10k.npz", {"images": np.zeros((2, 28, 28), np.uint8), "labels": TWO}),
    "cifar10": (
        "cifar10-7k.npz",
        {
            **{f"{part}_images": np.zeros((2, 32, 32, 3), np.uint8) for part in ("train", "test")},
            **{f"{part}_labels": TWO for part in ("train", "test")},
            "classes": np.array(list("abcdefghij")),
        },
    ),
    "omniglot": (
        "omniglot-242.npz",
        {
            "packed": np.zeros((2, 20, 105, 14), np.uint8),
            "alphabets": np.array(["Greek", "Greek"]),
            "characters": np.array(["a", "b"]),
        },
    ),
}


@pytest.mark.parametrize("shade", [0, 255])
@pytest.mark.parametrize("name", SUBSETS)
def test_images_of_one_shade_are_refused(name, shade, place):
    file, arrays = SUBSETS[name]
    arrays = {
        key: array + np.uint8(shade) if array.ndim > 1 else array for key, array in arrays.items()
    }
    np.savez(place / file, **arrays)
    with pytest.raises(DataCorruptError, match="images that are all of one shade") as caught:
        LOADERS[name](place)
    assert str(place / file) in str(caught.value) and "\n" not in str(caught.value)


def test_the_digits_are_found_without_importing_what_holds_them():
    path = data.digits().path
    assert path is not None and (path / "data" / "digits.csv.gz").exists()
