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
    """Turn any exception of the body, which reads a file, into a `DataCorruptError` that names it.

    `what` says what the file should be, with its article: `"an npz file"`.
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
    """Raise `DataCorruptError` unless a condition holds; `wrong` is the sentence's predicate."""
    if not condition:
        raise DataCorruptError(f"{path} {wrong}.")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is a gzip file, independently of its name.

    Raises:
        DataCorruptError: if it cannot be read, or is a damaged gzip file, or unpacks to over 1 GiB.
    """
    with reading(path, "a gzip file"):
        return _unpacked(path)


def _unpacked(path: Path) -> bytes:
    content = files.read_bytes(path, LARGEST)
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as packed:
            # One byte more shows that the file is too large.
            content = packed.read(LARGEST + 1)
    require(len(content) <= LARGEST, path, "unpacks to more than 1 GiB")
    return content


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return named arrays of an npz file; pickled objects are refused.

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
    """Return wanted files of a zip archive by name; nothing is unpacked to the disk.

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
            return {member.filename: _member(archive, member) for member in members}


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        # Without a limit a member that states too small a size is unpacked up to 2 GiB before it
        # is cut; one byte more than stated reaches the end, where the checksum is compared.
        return stream.read(member.file_size + 1)


def read_tar(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return wanted files of a packed tar archive by name, without folders, read in memory.

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
    """Check that images are uint8 of shape (n, *shape), n > 0, and labels uint8 below `classes`.

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
