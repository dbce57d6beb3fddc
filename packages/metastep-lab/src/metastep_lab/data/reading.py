"""Reading files that may be damaged: every error becomes a `DataCorruptError`.

The standard library and NumPy raise a dozen unrelated exceptions for a truncated or foreign file
(`EOFError`, `zlib.error`, `BadZipFile`, `struct.error`, ...), hence the broad `except` below.
"""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from metastep import files
from metastep.files import parse_arrays
from metastep_lab.data.dataset import DataCorruptError

LARGEST = 2**30  # bytes of one unpacked file; the largest genuine one, CIFAR's, has 184 MB
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn any exception of the body into a `DataCorruptError` that names the file.

    Args:
        path: the file that the body reads.
        what: what the file should be, with its article: `"an npz file"`.

    Yields:
        Nothing.

    Raises:
        DataCorruptError: for every exception of the body.
    """
    try:
        yield
    except DataCorruptError:
        raise
    except PermissionError as error:
        raise DataCorruptError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataCorruptError(f"{path} is damaged or not {what}: {reason}.") from error


def require(condition: bool, path: Path, wrong: str) -> None:
    """Check one property of a file.

    Args:
        condition: what must hold.
        path: the file.
        wrong: what is wrong otherwise, as the predicate of a sentence.

    Raises:
        DataCorruptError: if the condition does not hold.
    """
    if not condition:
        raise DataCorruptError(f"{path} {wrong}.")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is a gzip file, independently of its name.

    Args:
        path: the file.

    Returns:
        The bytes.

    Raises:
        DataCorruptError: if it cannot be read, or is a damaged gzip file, or unpacks to over 1 GiB.
    """
    with reading(path, "a gzip file"):
        return _unpacked(path)


def _unpacked(path: Path) -> bytes:
    content = files.read_bytes(path, LARGEST)
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as packed:
            content = packed.read(LARGEST + 1)
    require(len(content) <= LARGEST, path, "unpacks to more than 1 GiB")
    return content


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Named arrays of an npz file; pickled objects are refused.

    Args:
        path: the file.
        names: the arrays wanted.

    Returns:
        The arrays by name.

    Raises:
        DataCorruptError: if the file is not an npz file, is damaged, lacks an array or unpacks to
            over 1 GiB.
    """
    with reading(path, "an npz file"):
        content = files.read_bytes(path, LARGEST)
        whole = zipfile.is_zipfile(io.BytesIO(content))
        require(whole, path, "is not an npz file, or is truncated")
        stored = parse_arrays(content, names, LARGEST)
        missing = [name for name in names if name not in stored]
        require(not missing, path, f"lacks the array {', '.join(missing)}")
        return {name: stored[name] for name in names}


def read_zip(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a zip archive, read in memory; nothing is unpacked to the disk.

    Args:
        path: the archive.
        wanted: which names to read.

    Returns:
        The contents by name.

    Raises:
        DataCorruptError: if the archive is damaged or unpacks to over 1 GiB.
    """
    with reading(path, "a zip archive"):
        with zipfile.ZipFile(io.BytesIO(files.read_bytes(path, LARGEST))) as archive:
            members = [member for member in archive.infolist() if wanted(member.filename)]
            unpacked = sum(member.file_size for member in members)
            require(unpacked <= LARGEST, path, "unpacks to more than 1 GiB")
            known = {member.compress_type for member in members} <= METHODS
            require(known, path, "is packed by a method that is not zip's own")
            return {member.filename: archive.read(member) for member in members}


def read_tar(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a packed tar archive, read in memory; nothing is unpacked to the disk.

    Args:
        path: the archive.
        wanted: which names (without folders) to read.

    Returns:
        The contents by name without folders.

    Raises:
        DataCorruptError: if the archive is damaged or unpacks to over 1 GiB.
    """
    contents = {}
    unpacked = 0
    with reading(path, "a tar archive"):
        # Unpacked first, where the size is limited: headers of a tar archive may be of any size.
        with tarfile.open(fileobj=io.BytesIO(_unpacked(path)), mode="r:") as archive:
            for member in archive:
                unpacked += member.size
                require(unpacked <= LARGEST, path, "unpacks to more than 1 GiB")
                name = member.name.rsplit("/", 1)[-1]
                stream = archive.extractfile(member) if member.isfile() and wanted(name) else None
                if stream is not None:
                    contents[name] = stream.read()
    return contents


def check_labeled_images(
    images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...], path: Path, classes: int = 10
) -> None:
    """Check that images and their labels fit together.

    Args:
        images: should be uint8 of shape (n, *shape) with n > 0.
        labels: should be uint8 of shape (n,), each below `classes`.
        shape: the shape of one image.
        path: the file or folder they come from.
        classes: how many classes there are.

    Raises:
        DataCorruptError: if anything does not fit.
    """
    form = " x ".join(map(str, shape))
    for array, what in ((images, "images"), (labels, "labels")):
        require(array.dtype == np.uint8, path, f"has {what} of type {array.dtype}, not uint8")
    require(images.shape[1:] == shape, path, f"has images of shape {images.shape}, not n x {form}")
    require(len(images) > 0, path, "holds no images")
    require(
        labels.shape == images.shape[:1],
        path,
        f"has {len(images)} images but labels of shape {labels.shape}",
    )
    wrong = f"has the label {labels.max()}, beyond {classes - 1}"
    require(int(labels.max()) < classes, path, wrong)
