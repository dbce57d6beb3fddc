import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metastep_lab.data import DownloadError, download

CONTENT = bytes(range(256)) * 8192 + b"the end"  # two chunks and a bit
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        getattr(self, f"answer_{self.path.strip('/')}")()

    def begin(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def answer_good(self):
        self.begin(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT)

    def answer_lengthless(self):
        self.begin()
        self.wfile.write(CONTENT)

    def answer_redirected(self):
        self.begin(302, Location="/good", Content_Length=0)

    def answer_outside(self):
        self.begin(302, Location="ftp://127.0.0.1/file", Content_Length=0)

    def answer_local(self):
        self.begin(302, Location="file:///etc/hostname", Content_Length=0)

    def answer_bracket(self):
        self.begin(302, Location="http://[::1/file", Content_Length=0)

    def answer_port(self):
        self.begin(302, Location="http://127.0.0.1:port/file", Content_Length=0)

    def answer_accent(self):
        self.begin(302, Location="http://caf\xe9.invalid/\xb2", Content_Length=0)

    def answer_label(self):
        self.begin(302, Location=f"http://{'a' * 70}.invalid/", Content_Length=0)

    def answer_power(self):
        self.begin(Content_Length="\xb2")
        self.wfile.write(CONTENT)

    def answer_lost(self):
        self.send_error(404)

    def answer_broken(self):
        self.send_error(500)

    def answer_other(self):
        self.begin(Content_Length=5)
        self.wfile.write(b"other")

    def answer_truncated(self):
        self.begin(Content_Length=len(CONTENT))
        self.wfile.write(CONTENT[:-1])

    def answer_chunked(self):
        self.begin(Transfer_Encoding="chunked")
        self.wfile.write(b"ff\r\nonly these")

    def answer_slow(self):
        self.begin(Content_Length=len(CONTENT))
        self.wfile.flush()
        time.sleep(0.6)

    def log_message(self, *arguments):
        del arguments


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def address(server, path):
    return f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize("path", ["good", "lengthless", "redirected"])
def test_a_good_file_arrives_whole(server, path, tmp_path):
    destination = tmp_path / "new" / "folder" / "file"
    assert download(address(server, path), destination, SHA256.upper()) == destination
    assert destination.read_bytes() == CONTENT
    assert [file.name for file in destination.parent.iterdir()] == ["file"]


FAILURES = {
    "lost": "answers 404 Not Found",
    "broken": "answers 500",
    "other": f"has the SHA-256 [0-9a-f]{{64}}, not the expected {SHA256}",
    "truncated": f"broke off after {len(CONTENT) - 1} of|broke off: IncompleteRead",
    "chunked": "broke off: IncompleteRead",
    "outside": "unknown url type: ftp",
    "local": "not allowed",
    "slow": "broke off: timed out",
    "bracket": "Invalid IPv6 URL",
    "port": "nonnumeric port",
    "accent": "cannot be reached|broke off",
    "label": "cannot be reached|broke off",
    "power": "broke off",
}


@pytest.mark.parametrize("before", [None, b"an older file"])
@pytest.mark.parametrize(("path", "message"), FAILURES.items(), ids=FAILURES)
def test_a_failure_leaves_everything_as_it_was(server, path, message, before, place):
    destination = place / "file"
    if before is not None:
        destination.write_bytes(before)
    with pytest.raises(DownloadError, match=message) as caught:
        download(address(server, path), destination, SHA256, timeout=0.3)
    assert isinstance(caught.value, OSError) and address(server, path) in str(caught.value)
    after = {file.name: file.read_bytes() for file in place.iterdir()}
    assert after == ({} if before is None else {"file": before})


def test_nothing_is_fetched_twice_and_a_wrong_file_is_replaced(server, place):
    destination = place / "file"
    destination.write_bytes(b"an older file")
    for _ in range(2):
        download(address(server, "good"), destination, SHA256)
        assert destination.read_bytes() == CONTENT
    assert server.requests == ["/good"]


def test_a_server_that_is_not_there(server, place):
    url = address(server, "good")
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="cannot be reached"):
        download(url, place / "file", SHA256)


def test_a_destination_that_cannot_be_written(server, place):
    (place / "file").touch()
    with pytest.raises(DownloadError, match="cannot be written"):
        download(address(server, "good"), place / "file" / "below", SHA256)


@pytest.mark.parametrize(
    ("url", "name", "sha256", "message"),
    [
        ("file:///etc/hostname", "file", SHA256, "Only http and https"),
        ("ftp://127.0.0.1/file", "file", SHA256, "Only http and https"),
        ("127.0.0.1/file", "file", SHA256, "Only http and https"),
        ("http://127.0.0.1/caf\xe9", "file", SHA256, "Only http and https"),
        ("http://caf\xe9.invalid/", "file", SHA256, "Only http and https"),
        ("http://127.0.0.1/a b\n", "file", SHA256, "Only http and https"),
        ("http://[::1/file", "file", SHA256, "Invalid IPv6 URL"),
        ("http://127.0.0.1/file", "file", "abc", "64 hexadecimal digits"),
        ("http://127.0.0.1/file", "file", SHA256 + "\n", "64 hexadecimal digits"),
        ("http://127.0.0.1/file", "", SHA256, "is a folder"),
    ],
)
def test_wrong_use(url, name, sha256, message, place):
    with pytest.raises(ValueError, match=message):
        download(url, place / name, sha256)


def test_more_than_the_limit_is_refused(server, place, monkeypatch):
    monkeypatch.setitem(download.__globals__, "LARGEST", 1000)
    with pytest.raises(DownloadError, match="more than 2 GiB"):
        download(address(server, "good"), place / "file", SHA256)
