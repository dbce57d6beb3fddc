"""MNIST, from its original IDX files or from the subset `mnist-10k.npz`."""

import struct
from pathlib import Path

import numpy as np

from metastep_lab.data.dataset import DataCorruptError, Dataset, Form, Recipe, first_file, load
from metastep_lab.data.reading import check_labeled_images, read_bytes, read_npz, require

SUBSET = "mnist-10k.npz"
PARTS = (("train", "train"), ("test", "t10k"))
SHAPE = (28, 28)


def mnist(folder: Path | None = None) -> Dataset:
    """MNIST: handwritten digits of 28 x 28 pixels.

    The arrays hold every part that is there, training examples first: `images`, uint8 of shape
    (n, 28, 28), 0 = paper and 255 = ink; `labels`, uint8 of shape (n,), 0 to 9; `split`, strings of
    shape (n,), `"train"` or `"test"`. The originals give n = 70000, the subset the 10000 of the
    test set.

    Accepted files, the first that is there: the original IDX files (`train-images-idx3-ubyte`,
    `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, also spelled
    `train-images.idx3-ubyte`, plain or `.gz`; one of the two parts is enough); `mnist-10k.npz`. The
    home page is http://yann.lecun.com/exdb/mnist/.

    A given folder is searched first, before `METASTEP_DATA` and the user's cache.

    Raises:
        DataNotFoundError: if it is in none of the places, or `folder` does not exist.
        DataCorruptError: if a file is damaged, or one of a pair of images and labels is missing.

    Reference:
        LeCun, Cortes, Burges, 1998, "The MNIST database of handwritten digits".
    """
    return load(MNIST, folder)


def _idx_file(place: Path, prefix: str, what: str, rank: int) -> Path | None:
    stems = (f"{prefix}-{what}-idx{rank}-ubyte", f"{prefix}-{what}.idx{rank}-ubyte")
    return first_file(place, tuple(f"{stem}{end}" for stem in stems for end in ("", ".gz")))


def _locate_idx(place: Path) -> Path | None:
    for _, prefix in PARTS:
        for what, rank in (("images", 3), ("labels", 1)):
            if _idx_file(place, prefix, what, rank):
                return place
    return None


def _read_idx(place: Path) -> dict[str, np.ndarray]:
    images, labels, split = [], [], []
    for part, prefix in PARTS:
        image_path = _idx_file(place, prefix, "images", 3)
        label_path = _idx_file(place, prefix, "labels", 1)
        if image_path is None and label_path is None:
            continue
        if image_path is None or label_path is None:
            lacking = "images-idx3-ubyte" if image_path is None else "labels-idx1-ubyte"
            raise DataCorruptError(
                f"{image_path or label_path} lacks its companion {prefix}-{lacking}."
            )
        pair = _parse_idx(image_path, 3), _parse_idx(label_path, 1)
        check_labeled_images(*pair, SHAPE, image_path)
        _check_counts(pair[1], label_path)
        images.append(pair[0])
        labels.append(pair[1])
        split += [part] * len(pair[0])
    return {
        "images": np.concatenate(images),
        "labels": np.concatenate(labels),
        # The width is given: it is part of the checksum, and one part alone would have another.
        "split": np.array(split, "<U5"),
    }


def _check_counts(labels: np.ndarray, path: Path) -> None:
    """Refuse the data sets that took over MNIST's file names: their classes have equal sizes."""
    # Parts of a data set may well be balanced on purpose, so the whole sets only.
    balanced = len(labels) >= 10_000 and np.ptp(np.bincount(labels, minlength=10)) == 0
    wrong = "has as many labels of each class, as Fashion-MNIST and KMNIST have but MNIST has not"
    require(not balanced, path, wrong)


def _parse_idx(path: Path, rank: int) -> np.ndarray:
    """The array of an IDX file of bytes: a magic number, `rank` big-endian sizes, the values."""
    content = read_bytes(path)
    header = 4 + 4 * rank
    require(len(content) >= header, path, f"is truncated: {len(content)} bytes")
    magic, *shape = struct.unpack(f">{1 + rank}I", content[:header])
    expected = 0x800 + rank
    require(magic == expected, path, f"has the magic number {magic:#010x}, not {expected:#010x}")
    # In Python's integers: three sizes of a damaged header may overflow 64 bits.
    promised = header + int(np.prod(shape, dtype=object))
    wrong = f"has {len(content)} bytes where its header promises {promised}"
    require(len(content) == promised, path, wrong)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_subset(place: Path) -> dict[str, np.ndarray]:
    path = place / SUBSET
    arrays = read_npz(path, ("images", "labels"))
    check_labeled_images(arrays["images"], arrays["labels"], SHAPE, path)
    return {**arrays, "split": np.full(len(arrays["images"]), "test", "<U5")}


MNIST = Recipe(
    name="mnist",
    title="MNIST",
    license="CC BY-SA 3.0",
    source="LeCun, Cortes and Burges 1998, the MNIST database of handwritten digits",
    originals="train-images-idx3-ubyte and its companions (plain or .gz)",
    subset=SUBSET,
    forms=(
        Form(_locate_idx, _read_idx),
        Form(lambda place: first_file(place, (SUBSET,)), _read_subset, "the test set only"),
    ),
)
