"""Downloading a file, and keeping it only if its checksum is right."""

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from metastep_lab.data.dataset import DownloadError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows two processes are not kept apart
    fcntl = None

CHUNK = 2**20
LARGEST = 2**31

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those of the whole file, None where nobody says."""


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows redirections; closes the connection also for a redirection to an invalid address."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


# Without the handlers for files and FTP, so that no redirection leads out of HTTP.
HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    _Redirections,
    urllib.request.HTTPErrorProcessor,
)


class _UselessError(DownloadError):
    """The received part cannot be completed to the file."""


def download(
    url: str,
    destination: Path,
    sha256: str,
    timeout: float = 60.0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fetch a file over HTTP and keep it only if its checksum is the expected one.

    Nothing is fetched if `destination` has that checksum already. The file appears under its name
    in one step after the checksum matched; on any failure `destination` is unchanged. Until then
    the content is in a hidden file in the same folder, `.NAME.SHA.part`, which a failure removes
    unless `resume` is set. A file may have up to 2 GiB.

    Args:
        url: an `http` or `https` address.
        destination: the file to write, not a folder; missing parent folders are made.
        sha256: the expected SHA-256 of the content, 64 hexadecimal digits.
        timeout: seconds without any answer from the server after which to give up.
        resume: keep the received part if the connection breaks off or the process is interrupted,
            and continue from the part of an earlier call. A server that cannot send a part of a
            file sends all of it again.
        progress: called with the number of received bytes, and the size of the file.

    Returns:
        `destination`.

    Raises:
        ValueError: if the address is not HTTP or not in ASCII, the checksum is not one, or
            `destination` is a folder.
        DownloadError: if the server cannot be reached, answers with an error, breaks off or sends
            another file, if the file cannot be written or the disk has no room for it, or if
            another process is fetching it.
    """
    destination = Path(destination)
    if not url.isascii() or not url.isprintable() or urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"Only http and https addresses in ASCII can be downloaded, not {url!r}.")
    check_sha256(sha256)
    if destination.is_dir():
        raise ValueError(f"The destination {destination} is a folder: name a file in it.")
    sha256 = sha256.lower()
    if destination.is_file() and sha256_of(destination) == sha256:
        return destination
    # With the checksum in its name, a part is never continued by another version of the file.
    part = destination.with_name(f".{destination.name}.{sha256[:12]}.part")
    kept = part.stat().st_size if resume and part.is_file() else 0
    # If the part belongs to another file, the whole file is fetched again.
    for begin in (kept, 0) if kept else (0,):
        if _fetch(url, part, begin, timeout, resume, progress) and sha256_of(part) == sha256:
            os.replace(part, destination)
            return destination
    wrong = _wrong_content(part, sha256)
    part.unlink()
    raise DownloadError(f"{url} {wrong}")


def check_sha256(sha256: str) -> None:
    """Check that a text can be a SHA-256 checksum.

    Raises:
        ValueError: if it has not 64 hexadecimal digits.
    """
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"A SHA-256 checksum has 64 hexadecimal digits, unlike {sha256!r}.")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_content(part: Path, sha256: str) -> str:
    with part.open("rb") as file:
        head = file.read(1000).lower()
    if b"<html" in head or head.lstrip().startswith(b"<!doctype html"):
        return f"sends a web page, not the file with the SHA-256 {sha256}."
    return f"has the SHA-256 {sha256_of(part)}, not the expected {sha256}."


def _fetch(
    url: str, part: Path, begin: int, timeout: float, resume: bool, progress: Progress | None
) -> bool:
    """Complete the part from the byte `begin` on; False if the server will not begin there."""
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    try:
        with opener.open(request, timeout=timeout) as response:
            if response.status == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                    return False
            else:
                # Not every server sends parts: this answer is the whole file.
                begin = 0
            _receive(response, url, part, begin, resume, progress)
            return True
    # From the narrow to the wide: this is a URLError, and both are an OSError.
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and begin:  # nothing is left to send: the part is whole, or wrong
                return True
            raise DownloadError(f"{url} answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached: {error.reason}.") from error
    except DownloadError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirection
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{url} broke off: {reason}.") from error


def _receive(
    response: http.client.HTTPResponse,
    url: str,
    part: Path,
    begin: int,
    resume: bool,
    progress: Progress | None,
) -> None:
    length = response.headers.get("Content-Length")
    promised = int(length) if length is not None and length.isdigit() else None
    total = None if promised is None else begin + promised
    if total is not None:
        _check_room(part, total, total - begin, url)
    with _opened(part, begin, resume) as file:
        received = begin
        # With a size, `read` ends without an exception where the connection breaks off.
        while chunk := response.read(CHUNK):
            received += len(chunk)
            if received > LARGEST:
                raise _UselessError(f"{url} sends more than 2 GiB.")
            _write(file, chunk, part)
            if progress is not None:
                progress(received, total)
        if total is not None and received != total:
            raise DownloadError(f"{url} broke off after {received} of {total} bytes.")


def _check_room(part: Path, total: int, needed: int, url: str) -> None:
    if total > LARGEST:
        raise DownloadError(f"{url} sends more than 2 GiB.")
    folder = next(one for one in part.absolute().parents if one.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{folder} has no room for {url}: {needed} bytes, of {free} free.")


@contextmanager
def _opened(part: Path, begin: int, resume: bool) -> Iterator[BinaryIO]:
    """Open the file for received bytes, cut to `begin` bytes, for one process at a time."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer, so that what has arrived survives the end of the process; appending,
        # so that the file is not cut before it is locked.
        file = part.open("ab", buffering=0)
    except OSError as error:
        raise DownloadError(f"{part} cannot be written: {error.strerror}.") from error
    ours = False
    try:
        with file:
            # The position is the end. Where it is before `begin`, another process has begun anew.
            ours = _lock(file) and file.tell() >= begin
            if not ours:
                raise DownloadError(f"Another process is fetching {part}: wait until it is done.")
            file.truncate(begin)
            yield file
            # Before the file gets its name, which a crash could leave without its content.
            os.fsync(file.fileno())
    except BaseException as error:
        useless = not resume or isinstance(error, _UselessError) or not part.stat().st_size
        if ours and useless:
            part.unlink(missing_ok=True)
        raise


def _lock(file: BinaryIO) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _write(file: BinaryIO, chunk: bytes, part: Path) -> None:
    left = memoryview(chunk)
    try:
        while left:  # a disk that is almost full takes a part of them
            left = left[file.write(left) :]
    except OSError as error:
        raise _UselessError(f"{part} cannot be written: {error.strerror}.") from error
