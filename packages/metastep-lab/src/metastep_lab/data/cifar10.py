"""CIFAR-10, from its original archives or folders or from the subset `cifar10-7k.npz`."""

from functools import partial
from pathlib import Path

import numpy as np

from metastep_lab.data.cifar import SHAPE, Labels, Layout, original_forms
from metastep_lab.data.dataset import Dataset, Form, Recipe, first_file, load
from metastep_lab.data.reading import check_labeled_images, read_npz

SUBSET = "cifar10-7k.npz"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
LAYOUT = Layout(
    tuple((batch, "test" if batch == "test_batch" else "train") for batch in BATCHES),
    (Labels("labels", "labels", CLASSES),),
)


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

    A given folder is searched first, before `METASTEP_DATA` and the user's cache.

    Raises:
        DataNotFoundError: if it is in none of the places, or `folder` does not exist.
        DataCorruptError: if a file is damaged, or one of the six batches is missing.

    Reference:
        Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny Images".
    """
    return load(CIFAR10, folder)


def _read_subset(place: Path) -> dict[str, np.ndarray]:
    path = place / SUBSET
    names = ("train_images", "train_labels", "test_images", "test_labels")
    stored = read_npz(path, names)
    for part in ("train", "test"):
        check_labeled_images(stored[f"{part}_images"], stored[f"{part}_labels"], SHAPE, path)
    counts = [len(stored[f"{part}_labels"]) for part in ("train", "test")]
    return {
        "images": np.concatenate([stored["train_images"], stored["test_images"]]),
        "labels": np.concatenate([stored["train_labels"], stored["test_labels"]]),
        "split": np.repeat(["train", "test"], counts),
        "classes": np.array(CLASSES),
    }


CIFAR10 = Recipe(
    name="cifar10",
    title="CIFAR-10",
    license="no explicit license; its authors ask for the citation of Krizhevsky 2009",
    source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    originals="cifar-10-python.tar.gz or cifar-10-binary.tar.gz (packed or extracted)",
    subset=SUBSET,
    forms=(
        *original_forms(
            LAYOUT,
            ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
            ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        ),
        Form(
            partial(first_file, names=(SUBSET,)),
            _read_subset,
            "a balanced subset of 5000 + 2000 images, encoded as JPEG once on the way",
        ),
    ),
)
