"""Every test sees an empty environment and an empty cache; `real` finds the real files."""

import os
from pathlib import Path

import pytest

from tests.metastep_lab.data.server import serving

ROOT = Path(__file__).resolve().parents[3]
CANDIDATES = [
    *([Path(os.environ["METASTEP_DATA"])] if os.environ.get("METASTEP_DATA") else []),
    ROOT.parent / "shared" / "data",
    ROOT / "shared" / "data",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache for this test, which does not exist yet."""
    monkeypatch.delenv("METASTEP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metastep"


@pytest.fixture
def place(tmp_path):
    """An empty folder to put data in."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def real():
    """A function that gives the folder of the real data, and skips the test without the file."""

    def folder_with(name):
        for candidate in CANDIDATES:
            if (candidate / name).is_file():
                return candidate
        pytest.skip(f"{name} is not on this machine")

    return folder_with


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, of `server.py`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running
