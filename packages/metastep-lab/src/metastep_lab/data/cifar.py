"""The original files that CIFAR-10 and CIFAR-100 share: batches in an archive or in a folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from metastep_lab.data.cifar_pickle import parse_pickle
from metastep_lab.data.dataset import Form, first_file
from metastep_lab.data.reading import check_labeled_images, read_bytes, read_tar, require

SHAPE = (32, 32, 3)
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Labels:
    """The labels that every image has of one kind.

    Attributes:
        entry: their name in a pickle.
        array: the name of the array that they become; one of `classes` is called likewise.
        classes: the names of the labels 0, 1, ...
    """

    entry: str
    array: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """How one of the two data sets is stored.

    Attributes:
        batches: the names of its batches, each with its part of the split.
        labels: its labels, in the order in which they precede an image in the binary version.
    """

    batches: tuple[tuple[str, str], ...]
    labels: tuple[Labels, ...]


@dataclass(frozen=True)
class _Version:
    """One version of the originals: Python's pickles or binary records."""

    layout: Layout
    folder: str
    archive: str
    ending: str
    parse: Callable[[bytes, Path, Layout], tuple[np.ndarray, list[np.ndarray]]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(batch + self.ending for batch, _ in self.layout.batches)


def original_forms(
    layout: Layout, python: tuple[str, str], binary: tuple[str, str]
) -> tuple[Form, ...]:
    """Return the forms of the originals, extracted and packed, the Python version first.

    `python` and `binary` are the folder and the archive of both versions. The forms give `images`,
    `split` and the arrays of `layout.labels`.
    """
    return (
        *_forms(_Version(layout, *python, "", _parse_pickle)),
        *_forms(_Version(layout, *binary, ".bin", _parse_binary)),
    )


def _forms(version: _Version) -> tuple[Form, Form]:
    return (
        Form(partial(_locate_folder, version=version), partial(_read_folder, version=version)),
        Form(
            partial(first_file, names=(version.archive,)),
            partial(_read_archive, version=version),
        ),
    )


def _parse_pickle(content: bytes, path: Path, layout: Layout) -> tuple[np.ndarray, list]:
    entries = {labels.entry: len(labels.classes) for labels in layout.labels}
    return parse_pickle(content, path, entries)


def _parse_binary(content: bytes, path: Path, layout: Layout) -> tuple[np.ndarray, list]:
    count = len(layout.labels)
    record = count + PIXELS
    wrong = f"has {len(content)} bytes, not a multiple of {record}"
    require(len(content) % record == 0, path, wrong)
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, count:], [records[:, place] for place in range(count)]


def _locate_folder(place: Path, version: _Version) -> Path | None:
    folder = place / version.folder
    return folder if first_file(folder, version.names) else None


def _read_folder(place: Path, version: _Version) -> dict[str, np.ndarray]:
    folder = place / version.folder
    found = [name for name in version.names if os.path.isfile(folder / name)]
    return _assemble({name: read_bytes(folder / name) for name in found}, folder, version)


def _read_archive(place: Path, version: _Version) -> dict[str, np.ndarray]:
    path = place / version.archive
    return _assemble(read_tar(path, set(version.names).__contains__), path, version)


def _assemble(contents: dict[str, bytes], path: Path, version: _Version) -> dict[str, np.ndarray]:
    """Join the batches; each stores an image as three planes of 32 rows."""
    layout = version.layout
    images, numbers, split = [], [], []
    for batch, part in layout.batches:
        name = batch + version.ending
        require(name in contents, path, f"lacks the batch {name}")
        pixels, found = version.parse(contents[name], path / name, layout)
        planes = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for labels, values in zip(layout.labels, found, strict=True):
            check_labeled_images(planes, values, SHAPE, path / name, len(labels.classes))
        images.append(planes)
        numbers.append(found)
        split += [part] * len(planes)
    # `concatenate` keeps the planes apart in memory, which makes every image slow to read.
    arrays = {"images": np.ascontiguousarray(np.concatenate(images))}
    for labels, values in zip(layout.labels, zip(*numbers, strict=True), strict=True):
        arrays[labels.array] = np.concatenate(values)
        arrays[labels.array.replace("labels", "classes")] = np.array(labels.classes)
    return {**arrays, "split": np.array(split, "<U5")}
