"""CIFAR-10, from its original archives or folders or from the subset `cifar10-7k.npz`."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from metastep_lab.data.cifar_pickle import parse_pickle
from metastep_lab.data.dataset import Dataset, Form, Recipe, first_file, load
from metastep_lab.data.reading import check_labeled_images, read_bytes, read_npz, read_tar, require

SUBSET = "cifar10-7k.npz"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
SHAPE = (32, 32, 3)
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
RECORD = 1 + 3 * 32 * 32

Parser = Callable[[bytes, Path], tuple[np.ndarray, np.ndarray]]


def cifar10(folder: Path | None = None) -> Dataset:
    """CIFAR-10: color photographs of 32 x 32 pixels in ten classes.

    The arrays hold training examples first, then test examples: `images`, uint8 of shape
    (n, 32, 32, 3), channels red, green, blue; `labels`, uint8 of shape (n,), 0 to 9; `split`,
    strings of shape (n,), `"train"` or `"test"`; `classes`, strings of shape (10,), the names of
    the labels. The originals give n = 50000 + 10000, the subset 5000 + 2000 (balanced).

    Accepted, the first that is there: `cifar-10-batches-py` or `cifar-10-python.tar.gz` (the Python
    version, whose pickles are read without running anything they name), `cifar-10-batches-bin` or
    `cifar-10-binary.tar.gz` (the binary version), `cifar10-7k.npz`. The home page is
    https://www.cs.toronto.edu/~kriz/cifar.html.

    Args:
        folder: searched first, before `METASTEP_DATA` and the user's cache.

    Returns:
        The data set.

    Raises:
        DataNotFoundError: if it is in none of the places, or `folder` does not exist.
        DataCorruptError: if a file is damaged, or one of the six batches is missing.

    Reference:
        Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    return load(CIFAR10, folder)


def _parse_binary(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    wrong = f"has {len(content)} bytes, not a multiple of {RECORD}"
    require(len(content) % RECORD == 0, path, wrong)
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0]


def _locate_folder(place: Path, name: str, ending: str) -> Path | None:
    folder = place / name
    return folder if first_file(folder, tuple(batch + ending for batch in BATCHES)) else None


def _read_folder(place: Path, name: str, ending: str, parse: Parser) -> dict[str, np.ndarray]:
    names = [batch + ending for batch in BATCHES]
    found = [batch for batch in names if os.path.isfile(place / name / batch)]
    contents = {batch: read_bytes(place / name / batch) for batch in found}
    return _assemble(contents, place / name, ending, parse)


def _read_archive(place: Path, name: str, ending: str, parse: Parser) -> dict[str, np.ndarray]:
    names = {batch + ending for batch in BATCHES}
    return _assemble(read_tar(place / name, names.__contains__), place / name, ending, parse)


def _assemble(
    contents: dict[str, bytes], path: Path, ending: str, parse: Parser
) -> dict[str, np.ndarray]:
    """Join the six batches; each stores an image as three planes of 32 rows."""
    images, labels, split = [], [], []
    for batch in BATCHES:
        require(batch + ending in contents, path, f"lacks the batch {batch + ending}")
        pixels, numbers = parse(contents[batch + ending], path / (batch + ending))
        planes = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        check_labeled_images(planes, numbers, SHAPE, path / (batch + ending))
        images.append(planes)
        labels.append(numbers)
        split += ["test" if batch == "test_batch" else "train"] * len(numbers)
    return _arrays(np.concatenate(images), np.concatenate(labels), split)


def _read_subset(place: Path) -> dict[str, np.ndarray]:
    path = place / SUBSET
    names = ("train_images", "train_labels", "test_images", "test_labels")
    stored = read_npz(path, names)
    for part in ("train", "test"):
        check_labeled_images(stored[f"{part}_images"], stored[f"{part}_labels"], SHAPE, path)
    split = ["train"] * len(stored["train_labels"]) + ["test"] * len(stored["test_labels"])
    images = np.concatenate([stored["train_images"], stored["test_images"]])
    return _arrays(images, np.concatenate([stored["train_labels"], stored["test_labels"]]), split)


def _arrays(images: np.ndarray, labels: np.ndarray, split: list[str]) -> dict[str, np.ndarray]:
    return {
        "images": np.ascontiguousarray(images),
        "labels": labels,
        "split": np.array(split, "<U5"),
        "classes": np.array(CLASSES),
    }


def _version(folder: str, archive: str, ending: str, parse: Parser) -> tuple[Form, Form]:
    """The two forms of one version of the originals: extracted and packed."""
    return (
        Form(
            partial(_locate_folder, name=folder, ending=ending),
            partial(_read_folder, name=folder, ending=ending, parse=parse),
        ),
        Form(
            partial(first_file, names=(archive,)),
            partial(_read_archive, name=archive, ending=ending, parse=parse),
        ),
    )


CIFAR10 = Recipe(
    name="cifar10",
    title="CIFAR-10",
    license="no explicit license; its authors ask for the citation of Krizhevsky 2009",
    source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    originals="cifar-10-python.tar.gz or cifar-10-binary.tar.gz (packed or extracted)",
    subset=SUBSET,
    forms=(
        *_version("cifar-10-batches-py", "cifar-10-python.tar.gz", "", parse_pickle),
        *_version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _parse_binary),
        Form(
            partial(first_file, names=(SUBSET,)),
            _read_subset,
            "a balanced subset of 5000 + 2000 images, encoded as JPEG once on the way",
        ),
    ),
)
