"""One file from a server: whole, or everything is left as it was."""

import errno
import os
import resource

import pytest

from metastep_lab.data import DownloadError, download
from tests.metastep_lab.data.server import CONTENT, SHA256, address


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


def part_of(destination):
    """What an interrupted call leaves."""
    return destination.with_name(f".{destination.name}.{SHA256[:12]}.part")


def test_what_broke_off_is_resumed(server, place):
    destination = place / "file"
    size = len(CONTENT)
    with pytest.raises(DownloadError, match=f"broke off after {size // 2} of {size}"):
        download(address(server, "halves"), destination, SHA256, resume=True)
    assert [file.name for file in place.iterdir()] == [part_of(destination).name]
    with pytest.raises(DownloadError, match=f"broke off after {3 * size // 4} of {size}"):
        download(address(server, "halves"), destination, SHA256, resume=True)
    seen = []
    told = lambda *now: seen.append(now)
    download(address(server, "ranged"), destination, SHA256, resume=True, progress=told)
    assert destination.read_bytes() == CONTENT and list(place.iterdir()) == [destination]
    assert server.ranges == [0, size // 2, 3 * size // 4]
    assert seen[-1] == (size, size) and seen == sorted(seen) and seen[0][0] > 3 * size // 4


ANSWERS = {
    "ranged": [1000],
    "whole": [1000],  # it sends everything, from the beginning
    "elsewhere": [1000, 0],
}


@pytest.mark.parametrize(("path", "ranges"), ANSWERS.items(), ids=ANSWERS)
def test_a_part_is_resumed_by_what_the_server_sends(server, place, path, ranges):
    destination = place / "file"
    part_of(destination).write_bytes(CONTENT[:1000])
    download(address(server, path), destination, SHA256, resume=True)
    assert destination.read_bytes() == CONTENT and list(place.iterdir()) == [destination]
    assert server.ranges == ranges


@pytest.mark.parametrize(
    ("kept", "ranges"),
    [
        (CONTENT, [len(CONTENT)]),
        (b"x" * 1000, [1000, 0]),
        (b"x" * len(CONTENT), [len(CONTENT), 0]),
        (CONTENT + b"x", [len(CONTENT) + 1, 0]),
        (b"", [0]),
    ],
    ids=["whole", "of another file", "as long", "longer", "empty"],
)
def test_a_part_that_is_whole_or_wrong(server, place, kept, ranges):
    destination = place / "file"
    part_of(destination).write_bytes(kept)
    download(address(server, "ranged"), destination, SHA256, resume=True)
    assert destination.read_bytes() == CONTENT and list(place.iterdir()) == [destination]
    assert server.ranges == ranges


def test_without_resume_an_earlier_part_is_not_used(server, place):
    part_of(place / "file").write_bytes(b"x" * 1000)
    download(address(server, "ranged"), place / "file", SHA256)
    assert server.ranges == [0]


@pytest.mark.parametrize("path", ["lost", "broken"])
def test_a_server_without_the_file_leaves_the_part(server, place, path):
    part = part_of(place / "file")
    part.write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="answers"):
        download(address(server, path), place / "file", SHA256, resume=True)
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    ("path", "message"),
    [("other", "has the SHA-256"), ("page", "sends a web page, not the file")],
)
def test_a_wrong_file_is_not_kept_for_later(server, place, path, message):
    part_of(place / "file").write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match=message):
        download(address(server, path), place / "file", SHA256, resume=True)
    assert list(place.iterdir()) == []


def test_ctrl_c_keeps_what_arrived(server, place):
    def interrupt(done, total):
        raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            download(address(server, "ranged"), place / "file", SHA256, 60.0, resume, interrupt)
        assert [file.stat().st_size for file in place.iterdir()] == [2**20] * resume


@pytest.mark.parametrize("resume", [False, True])
def test_a_disk_without_room_is_seen_before_anything_is_written(server, place, resume, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DownloadError, match=f"no room for .*: {len(CONTENT)} bytes, of 1000 free"):
        download(address(server, "good"), place / "new" / "file", SHA256, resume=resume)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("path", ["good", "lengthless"])
def test_a_disk_that_fills_up_keeps_nothing(server, place, path):
    """A limit on the size of files fails as a full disk does: in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 + 10, hard))
    try:
        with pytest.raises(DownloadError, match=f"cannot be written: {os.strerror(errno.EFBIG)}"):
            download(address(server, path), place / "file", SHA256, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(place.iterdir()) == []


def test_two_processes_do_not_write_one_part(server, place):
    """The second is a call while the first is under way, which the lock tells apart as well."""
    refused = []

    def second(done, total):
        if not refused:
            with pytest.raises(DownloadError, match="Another process is fetching") as caught:
                download(address(server, "ranged"), place / "file", SHA256, resume=True)
            refused.append(caught)

    download(address(server, "ranged"), place / "file", SHA256, resume=True, progress=second)
    assert refused and (place / "file").read_bytes() == CONTENT
