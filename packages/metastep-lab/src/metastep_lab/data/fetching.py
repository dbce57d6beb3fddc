"""The public addresses of each data set, and the checksums of its original files.

The checksums and sizes are those that TensorFlow Datasets publishes for MNIST, CIFAR-10, CIFAR-100
and Omniglot, and Hugging Face Datasets for WikiText-2. The addresses may change; the
checksums do not, so any mirror can be used.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metastep_lab.data.dataset import DownloadError, places
from metastep_lab.data.download import check_sha256, download, sha256_of


@dataclass(frozen=True)
class RemoteFile:
    """One original file.

    Attributes:
        name: under which its loader finds it.
        size: its bytes.
        sha256: its checksum.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Home:
    """Where the files of one data set are.

    Attributes:
        addresses: of folders that hold the files, each ending in `/`, in the order to try them.
        files: the files.
    """

    addresses: tuple[str, ...]
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)


CIFAR = ("https://www.cs.toronto.edu/~kriz/",)
HOMES = {
    "mnist": Home(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "cifar10": Home(
        CIFAR,
        (
            RemoteFile(
                "cifar-10-binary.tar.gz",
                170052171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
    "cifar100": Home(
        CIFAR,
        (
            RemoteFile(
                "cifar-100-binary.tar.gz",
                168513733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
    ),
    "omniglot": Home(
        ("https://github.com/brendenlake/omniglot/raw/master/python/",),
        (
            RemoteFile(
                "images_background.zip",
                9464212,
                "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
            ),
            RemoteFile(
                "images_evaluation.zip",
                6462886,
                "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
            ),
        ),
    ),
    "wikitext2": Home(
        (
            "https://wikitext.smerity.com/",
            "https://s3.amazonaws.com/research.metamind.io/wikitext/",
        ),
        (
            RemoteFile(
                "wikitext-2-v1.zip",
                4475746,
                "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
            ),
        ),
    ),
}


def fetch(
    name: str,
    folder: Path | None = None,
    address: str | None = None,
    sha256: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Fetch the original files of a data set, and keep them only if all of them are the right ones.

    The files appear in `folder` when the last has arrived. Until then they are in its hidden folder
    `.NAME.fetching`, where an interrupted call is resumed. Files that are there are not fetched
    again.

    Args:
        name: `mnist`, `cifar10`, `cifar100`, `omniglot` or `wikitext2`.
        folder: where the files go; made if it is missing. None for the folder that `METASTEP_DATA`
            names, else the user's cache, where the loaders look on their own.
        address: of a folder that holds the files under their own names, or of the file itself if
            there is one only; in place of the public ones.
        sha256: the checksum, in place of the published one, for a data set of one file that
            `address` holds packed anew.
        progress: told the file's name, how many bytes are there, and how many it has.

    Returns:
        The files.

    Raises:
        ValueError: if there is no such data set, or `sha256` is not a checksum or goes with more
            than one file.
        DownloadError: see `download`; or a file of that name is there, but another one.
    """
    if name not in HOMES:
        raise ValueError(f"There is no data set {name!r} to fetch; there is: {', '.join(HOMES)}.")
    home = HOMES[name]
    if sha256 is not None and len(home.files) > 1:
        raise ValueError(
            f"A checksum is allowed for a data set of one file; {name} has {len(home.files)}, and "
            "the published ones hold."
        )
    if sha256 is not None:
        check_sha256(sha256)
    folder = default_folder() if folder is None else Path(os.path.expanduser(folder))
    nearest = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise DownloadError(f"{nearest} is no folder: name one that holds data sets.")
    files = [(file, (sha256 or file.sha256).lower()) for file in home.files]
    missing = [pair for pair in files if not _is_there(folder / pair[0].name, pair[1])]
    hidden = staged(folder, name)
    # The innermost first, in which order they can be removed.
    made = [one for one in (hidden, folder, *folder.parents) if not one.exists()]
    try:
        for file, checksum in missing:
            sources = home.addresses if address is None else (address,)
            _fetch_one(file, checksum, sources, hidden, progress)
        for file, _ in missing:
            os.replace(hidden / file.name, folder / file.name)
        shutil.rmtree(hidden, ignore_errors=True)  # parts of files with other checksums
    finally:
        for one in made or [hidden]:
            with suppress(OSError):  # it holds something, or was never made
                one.rmdir()
    return [folder / file.name for file in home.files]


def staged(folder: Path, name: str) -> Path:
    """Return the hidden folder where the files of a data set are until all of them are there."""
    return Path(os.path.expanduser(folder)) / f".{name}.fetching"


def default_folder() -> Path:
    """Return where `fetch` puts files, if nobody says: `METASTEP_DATA`, else the user's cache.

    Raises:
        DownloadError: if there is neither.
    """
    found = places()
    if not found:
        raise DownloadError("There is no home for a cache: name a folder, or set METASTEP_DATA.")
    return found[0]


def _is_there(path: Path, sha256: str) -> bool:
    # A broken link counts as there: it is somebody's, and `os.replace` would remove it.
    if not os.path.lexists(path):
        return False
    if path.is_file() and sha256_of(path) == sha256:
        return True
    raise DownloadError(
        f"{path} is there, but is not the original file: move it away, or fetch into another "
        "folder."
    )


def _fetch_one(
    file: RemoteFile,
    sha256: str,
    sources: tuple[str, ...],
    hidden: Path,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Fetch one file from the first source that has it."""

    def report(done: int, total: int | None) -> None:
        if progress is not None:
            progress(file.name, done, file.size if total is None else total)

    failures = []
    for source in sources:
        whole = source.rsplit("/", 1)[-1] == file.name
        url = source if whole else f"{source.rstrip('/')}/{file.name}"
        try:
            download(url, hidden / file.name, sha256, resume=True, progress=report)
            return
        except DownloadError as error:
            failures.append(str(error))
    raise DownloadError(" ".join(failures))
