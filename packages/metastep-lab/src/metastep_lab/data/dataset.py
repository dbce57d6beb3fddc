"""The data set that a loader returns, and the search that all loaders share.

A data set is described by a `Recipe`: its terms, and the forms in which it may lie in a folder.
`load` goes through the folders in a fixed order and reads the first form that it finds. There is no
fallback from one data set to another: a missing one is a `DataNotFoundError` of one sentence.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

VARIABLE = "METASTEP_DATA"


class DataError(Exception):
    """Data could not be loaded; the message is one sentence for the user."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The data set is in none of the places searched; the message says how to get it."""


class DataCorruptError(DataError, ValueError):
    """A file exists but its content is wrong; the message names the file and the reason."""


class DownloadError(DataError, OSError):
    """A file could not be downloaded, or is not the expected one."""


# Compared by identity: `==` of two arrays has no single truth value.
@dataclass(frozen=True, eq=False)
class Dataset:
    """NumPy arrays together with where they come from.

    Attributes:
        name: the name of the loader, such as `"mnist"`.
        arrays: the arrays by name; each loader documents names, shapes and dtypes. They are
            read-only, so that they stay what `checksum` says; copy one to change it.
        license: the terms under which the data may be used.
        source: who made the data, and for a subset what was left out or changed.
        path: the file or folder the arrays were read from; None if they are not from a file.
    """

    name: str
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    license: str
    source: str
    path: Path | None = None

    def __post_init__(self) -> None:
        for array in self.arrays.values():
            array.setflags(write=False)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hex) of names, dtypes, shapes and bytes of the arrays, in the order of names."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            # Flat first: an array without dimensions cannot be viewed as bytes.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Form:
    """One form in which a data set may lie in a folder.

    Attributes:
        locate: the file or folder found in the given folder, or None.
        read: the arrays, read from the same folder; raises `DataCorruptError`.
        remark: what a subset left out or changed, appended to the data set's `source`.
    """

    locate: Callable[[Path], Path | None]
    read: Callable[[Path], dict[str, np.ndarray]]
    remark: str = ""


@dataclass(frozen=True)
class Recipe:
    """The description of one data set.

    Attributes:
        name: the loader's name.
        title: the data set's own name, for sentences.
        license: the terms of use.
        source: origin and citation.
        originals: the accepted original files, as text for a sentence.
        subset: the subset's files, likewise; empty if there is none.
        forms: the forms, the most complete first.
    """

    name: str
    title: str
    license: str
    source: str
    originals: str
    subset: str
    forms: tuple[Form, ...]


def cache_folder() -> Path | None:
    """Return the user's cache: `$XDG_CACHE_HOME/metastep`, else `~/.cache/metastep`.

    It need not exist. None without a home. A relative `XDG_CACHE_HOME` is ignored, as its standard
    asks.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return Path(cache) / "metastep"
    try:
        return Path.home() / ".cache" / "metastep"
    except RuntimeError:
        return None


def places(folder: Path | None = None) -> list[Path]:
    """Return the folders searched for data: `folder`, `METASTEP_DATA`, the user's cache.

    Those from the environment need not exist.

    Raises:
        DataNotFoundError: if `folder` is given and is not a folder.
    """
    found = []
    if folder is not None:
        # A shell expands ~ at the beginning of a word only, and so not in --data=~/sets.
        folder = Path(os.path.expanduser(folder))
        if not os.path.isdir(folder):
            wrong = "is not a folder" if os.path.exists(folder) else "does not exist"
            raise DataNotFoundError(
                f"The data folder {folder} {wrong}: name a folder that holds data sets, "
                f"or none to search {VARIABLE} and the user's cache."
            )
        found.append(folder)
    if os.environ.get(VARIABLE):
        found.append(Path(os.path.expanduser(os.environ[VARIABLE])))
    cache = cache_folder()
    return [*found, cache] if cache is not None else found


def find(recipe: Recipe, folder: Path | None = None) -> tuple[Path, Path, Form] | None:
    """Return the first form of a data set in the first place that has one, after place and path.

    None if there is nothing.
    """
    for place in places(folder):
        for form in recipe.forms:
            path = form.locate(place)
            if path is not None:
                return place, path, form
    return None


def load(recipe: Recipe, folder: Path | None = None) -> Dataset:
    """Read the first form of a data set that is found in the places.

    Raises:
        DataNotFoundError: if it is nowhere. A damaged file raises `DataCorruptError` instead, and
            the search does not go on, so that a worse copy is never used in its place. Images that
            are all of one shade are damaged, too.
    """
    found = find(recipe, folder)
    if found is None:
        raise DataNotFoundError(_how_to_get(recipe, folder))
    place, path, form = found
    source = f"{recipe.source}; {form.remark}" if form.remark else recipe.source
    arrays = form.read(place)
    images = arrays.get("images")
    if images is not None and images.min() == images.max():
        raise DataCorruptError(
            f"{path} holds images that are all of one shade, {images.max()}: nothing can be "
            "learned from them."
        )
    return Dataset(recipe.name, arrays, recipe.license, source, path)


def _how_to_get(recipe: Recipe, folder: Path | None) -> str:
    searched = [
        str(place) if os.path.isdir(place) else f"{place} (no such folder)"
        for place in places(folder)
    ]
    subset = f", or take {recipe.subset}" if recipe.subset else ""
    return (
        f"{recipe.title} was not found in {' or '.join(searched) or 'any folder'}: "
        f"run metastep data fetch {recipe.name}, or get {recipe.originals} from the home page "
        f"named in help(metastep_lab.data.{recipe.name}){subset}, and point --data or {VARIABLE} "
        "to the folder that holds it."
    )


def first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of some names that is a file in a folder, or None."""
    # `Path.is_file` raises where a folder may not be entered, which is no reason to end the search.
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)
