"""Data sets as NumPy arrays with their license and checksum, and how to split and corrupt them.

Every loader searches the given folder, then the folder that the environment variable
`METASTEP_DATA` names, then the user's cache (`$XDG_CACHE_HOME/metastep` or `~/.cache/metastep`).
A data set that is in none of them raises `DataNotFoundError` with one sentence that says how to get
it. Nothing is downloaded automatically, and no other data set is used in its place. `fetch` gets
the originals.
"""

from pathlib import Path

from metastep_lab.data.cifar10 import CIFAR10, cifar10
from metastep_lab.data.cifar100 import CIFAR100, cifar100
from metastep_lab.data.dataset import (
    DataCorruptError,
    DataError,
    DataNotFoundError,
    Dataset,
    DownloadError,
    cache_folder,
    find,
)
from metastep_lab.data.digits import digits, digits_path
from metastep_lab.data.download import download
from metastep_lab.data.fetching import fetch
from metastep_lab.data.mnist import MNIST, mnist
from metastep_lab.data.omniglot import OMNIGLOT, omniglot
from metastep_lab.data.preparation import balanced_indices, corrupt_labels
from metastep_lab.data.wikitext2 import WIKITEXT2, wikitext2

__all__ = [
    "DataCorruptError",
    "DataError",
    "DataNotFoundError",
    "Dataset",
    "DownloadError",
    "available",
    "balanced_indices",
    "cache_folder",
    "cifar10",
    "cifar100",
    "corrupt_labels",
    "digits",
    "download",
    "fetch",
    "mnist",
    "omniglot",
    "wikitext2",
]


RECIPES = (MNIST, CIFAR10, CIFAR100, OMNIGLOT, WIKITEXT2)


def available(folder: Path | None = None) -> list[tuple[str, Path | None]]:
    """List by name what the loader of each data set would read, or None, without reading it.

    A given folder is searched first, as by the loaders.

    Raises:
        DataNotFoundError: if `folder` is given and does not exist.
    """
    found: list[tuple[str, Path | None]] = [("digits", digits_path())]
    for recipe in RECIPES:
        hit = find(recipe, folder)
        found.append((recipe.name, hit[1] if hit else None))
    return found
