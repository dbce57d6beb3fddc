"""Downloading a file, and keeping it only if its checksum is right."""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metastep.files import write_atomically
from metastep_lab.data.dataset import DownloadError

CHUNK = 2**20
LARGEST = 2**31


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


def download(url: str, destination: Path, sha256: str, timeout: float = 60.0) -> Path:
    """Fetch a file over HTTP and keep it only if its checksum is the expected one.

    Nothing is fetched if `destination` has that checksum already. The file appears under its name
    in one step after the checksum matched; on any failure `destination` is
    unchanged. The file is held in memory until then, and may have up to 2 GiB.

    Args:
        url: an `http` or `https` address.
        destination: the file to write, not a folder; missing parent folders are made.
        sha256: the expected SHA-256 of the content, 64 hexadecimal digits.
        timeout: seconds without any answer from the server after which to give up.

    Returns:
        `destination`.

    Raises:
        ValueError: if the address is not HTTP or not in ASCII, the checksum is not one, or
            `destination` is a folder.
        DownloadError: if the server cannot be reached, answers with an error, breaks off or sends
            another file, or the file cannot be written.
    """
    destination = Path(destination)
    if not url.isascii() or not url.isprintable() or urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"Only http and https addresses in ASCII can be downloaded, not {url!r}.")
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"A SHA-256 checksum has 64 hexadecimal digits, unlike {sha256!r}.")
    if destination.is_dir():
        raise ValueError(f"The destination {destination} is a folder: name a file in it.")
    if destination.is_file() and _sha256(destination) == sha256.lower():
        return destination
    content = _fetch(url, timeout)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        raise DownloadError(f"{url} has the SHA-256 {found}, not the expected {sha256.lower()}.")
    try:
        write_atomically(destination, content)
    except OSError as error:
        raise DownloadError(f"{destination} cannot be written: {error.strerror}.") from error
    return destination


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, timeout: float) -> bytes:
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    try:
        with opener.open(url, timeout=timeout) as response:
            return _receive(response, url)
    except urllib.error.HTTPError as error:
        with error:
            raise DownloadError(f"{url} answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached: {error.reason}.") from error
    except DownloadError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a redirection
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{url} broke off: {reason}.") from error


def _receive(response: http.client.HTTPResponse, url: str) -> bytes:
    content = bytearray()
    while chunk := response.read(CHUNK):
        content += chunk
        if len(content) > LARGEST:
            raise DownloadError(f"{url} sends more than 2 GiB.")
    promised = response.headers.get("Content-Length")
    if promised is not None and promised.isdigit() and len(content) != int(promised):
        raise DownloadError(f"{url} broke off after {len(content)} of {promised} bytes.")
    return bytes(content)
