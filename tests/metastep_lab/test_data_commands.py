"""`metastep data`: what it shows, and that whatever goes wrong is one line and status 2."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from metastep_lab.cli import invoke
from metastep_lab.data import RECIPES, mnist
from metastep_lab.data.fetching import HOMES, Home, RemoteFile
from tests.metastep_lab.data.server import CONTENT, SHA256, address, serving
from tests.metastep_lab.data.test_mnist import LABELS, put

ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `metastep data` in an empty folder; return its exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("METASTEP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments):
        status = invoke(["data", *arguments], ())
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def small(monkeypatch):
    """CIFAR-10 as a file that a test can send."""
    file = RemoteFile(ARCHIVE, len(CONTENT), SHA256)
    monkeypatch.setitem(HOMES, "cifar10", Home(HOMES["cifar10"].addresses, (file,)))


def test_list_shows_every_set_where_it_is_and_what_it_takes(command, tmp_path):
    status, output, _ = command("list", "--data", str(tmp_path))
    assert status == 0
    assert output.count("not found") == len(RECIPES)
    assert "170.1 MB" in output and "comes with scikit-learn" in output and "MIT" in output
    assert "Usage: metastep data" in command()[1]
    np.savez(tmp_path / "mnist-10k.npz", images=[1])
    assert "the test set only; originals of 11.6 MB" in command("list", "--data", str(tmp_path))[1]
    put(tmp_path, "t10k", 2)
    assert f"mnist      {tmp_path}\n" in command("list", "--data", str(tmp_path))[1]


def test_mnist_is_fetched_file_by_file_and_then_found(command, tmp_path, server, monkeypatch):
    """The whole way with files of MNIST's format: fetched, found, listed, read."""
    put(tmp_path, "train", 6, packed=True)
    put(tmp_path, "t10k", 4, packed=True)
    for path in tmp_path.glob("*.gz"):
        server.files[path.name] = path.read_bytes()
        path.unlink()
    files = tuple(
        RemoteFile(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in server.files.items()
    )
    monkeypatch.setitem(HOMES, "mnist", Home((address(server, "ranged/"),), files))
    status, output, errors = command("fetch", "mnist")
    assert (status, errors) == (0, "") and "CC BY-SA 3.0" in output
    assert "--data" not in output  # the cache is searched anyway
    assert str(tmp_path / "cache" / "metastep") in command("list")[1]
    np.testing.assert_array_equal(mnist().arrays["labels"], [*LABELS, *LABELS[:4]])


def test_another_folder_is_said_to_need_naming(command, server, monkeypatch):
    small(monkeypatch)
    status, output, _ = command(
        "fetch", "cifar10", "--data", "sets", "--from", address(server, "ranged")
    )
    assert status == 0 and f"sets/{ARCHIVE}" in output
    assert "--data sets" in output and "kB of" in output


WORLD = {
    "lost": "404",
    "page": "sends a web page, not the file",
    "other": "has the SHA-256",
    "truncated": "broke off",
    "halves": "broke off",
}


@pytest.mark.parametrize(("path", "message"), WORLD.items(), ids=WORLD)
def test_a_failure_is_one_line(command, tmp_path, server, monkeypatch, path, message):
    small(monkeypatch)
    status, _, errors = command(
        "fetch", "cifar10", "--data", "sets", "--from", address(server, path)
    )
    assert status == 2 and message in errors
    assert errors.startswith("metastep: ") and errors.count("\n") == 1 and len(errors) < 500
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert all(file.name.startswith(".") and file.suffix == ".part" for file in kept)
    assert bool(kept) == (message == "broke off") == ("same command goes on" in errors)
    assert command("list", "--data", str(tmp_path))[1].count("not found") == len(RECIPES)


def test_a_full_disk_is_one_line_and_leaves_nothing(command, tmp_path, server, monkeypatch):
    small(monkeypatch)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    status, _, errors = command("fetch", "cifar10", "--from", address(server, "ranged"))
    assert status == 2 and "no room" in errors and errors.count("\n") == 1
    assert list(tmp_path.rglob("*")) == []


BAD_INPUT = [
    (["fetch"], "Missing argument 'NAME'"),
    (["fetch", "mnits"], "unknown data set 'mnits' (did you mean 'mnist'?); there is: mnist"),
    (["fetch", "x" * 5000], "unknown data set"),
    (["fetch", "digits"], "comes with scikit-learn"),
    (["fetch", "cifar10", "--sha256", "abc"], "64 hexadecimal digits"),
    (["fetch", "mnist", "--sha256", SHA256], "one file; mnist has 4"),
    (["fetch", "mnist", "--from", "ftp://host/"], "Only http and https"),
    (["fetch", "mnist", "--from", ""], "Only http and https"),
    (["fetch", "mnist", "--from", "http://[::1/"], "Invalid IPv6"),
    (["fetch", "mnist", "--from", "http://127.0.0.1:1/"], "cannot be reached"),
    (["fetch", "mnist", "--data", ""], "it is empty"),
    (["fetch", "mnist", "--data", "file", "--from", "http://127.0.0.1:1/"], "file is no folder"),
    (["fetch", "mnist", "--data", "x" * 5000], "File name too long"),
    (["list", "--data", "nowhere"], "nowhere does not exist"),
    (["lst"], "No such command"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_writes_nothing(
    command, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "file").write_text("a file")
    status, _, errors = command(*arguments)
    assert status == 2 and message in errors
    assert errors.startswith("metastep: ") and errors.count("\n") == 1 and len(errors) < 600
    assert list(tmp_path.rglob("*")) == [tmp_path / "file"]


@pytest.mark.parametrize("name", [(), ("list",), ("fetch",)], ids=str)
def test_help_fits_80_columns_and_ends_with_examples(command, name):
    status, output, _ = command(*name, "--help")
    assert status == 0
    assert max(map(len, output.splitlines())) <= 80
    example = output.split("Examples:\n")[1].splitlines()[0]
    assert example.startswith("    metastep data " + " ".join(name))


def test_an_interrupted_command_is_resumed(command, tmp_path, server, monkeypatch):
    """Ctrl-C in the middle, by a signal to a process; the second call fetches only the rest."""
    small(monkeypatch)
    # A shell's background jobs ignore Ctrl-C, and their children inherit that.
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from metastep_lab.cli import main\n"
        "from metastep_lab.data.fetching import HOMES, Home, RemoteFile\n"
        f"file = RemoteFile({ARCHIVE!r}, {len(CONTENT)}, {SHA256!r})\n"
        "HOMES['cifar10'] = Home((), (file,))\n"
        "main()"
    )
    arguments = ["fetch", "cifar10", "--data", str(tmp_path), "--from"]
    part = tmp_path / ".cifar10.fetching" / f".{ARCHIVE}.{SHA256[:12]}.part"
    slow = subprocess.Popen(
        [sys.executable, "-c", code, "data", *arguments, address(server, "stalled")],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    with slow:
        os.kill(slow.pid, signal.SIGINT)
        _, errors = slow.communicate(timeout=60)
    assert slow.returncode == 130 and errors.startswith("metastep: interrupted; the same")
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert command(*arguments, address(server, "ranged"))[0] == 0
    assert server.ranges == [0, kept]
    assert [file.name for file in tmp_path.iterdir()] == [ARCHIVE]
    assert (tmp_path / ARCHIVE).read_bytes() == CONTENT
