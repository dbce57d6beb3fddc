"""Whole data sets from a server: all files appear, or none."""

import hashlib

import pytest

from metastep_lab import data
from metastep_lab.data import DownloadError, fetch
from metastep_lab.data.dataset import find
from metastep_lab.data.fetching import HOMES, Home, RemoteFile
from tests.metastep_lab.data.server import CONTENT, SHA256, address

FIRST = b"the first file"
ONE, TWO = "one.tar.gz", "two.tar.gz"


def described(name, content):
    return RemoteFile(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def homes(server, monkeypatch):
    """A data set of two files and one of a single file, at home on the server of this machine."""
    server.files |= {ONE: FIRST, TWO: CONTENT}
    pair = described(ONE, FIRST), described(TWO, CONTENT)
    monkeypatch.setitem(HOMES, "pair", Home((address(server, "ranged/"),), pair))
    monkeypatch.setitem(HOMES, "single", Home((address(server, "lost/"),), pair[1:]))
    return server


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_every_file_is_one_that_its_loader_finds(place):
    for recipe in data.RECIPES:
        for file in HOMES[recipe.name].files:
            folder = place / file.name
            folder.mkdir()
            (folder / file.name).touch()
            found = find(recipe, folder)
            assert found is not None and found[0] == folder and not found[2].remark


def test_the_table_is_whole():
    assert set(HOMES) == {recipe.name for recipe in data.RECIPES}
    for home in HOMES.values():
        assert all(one.startswith("https://") and one.endswith("/") for one in home.addresses)
        for file in home.files:
            assert len(file.sha256) == 64 and int(file.sha256, 16) and file.size < 2**31


def test_all_files_appear_and_nothing_else(homes, place):
    seen = []
    files = fetch("pair", place, progress=lambda *now: seen.append(now))
    assert files == [place / ONE, place / TWO] and names(place) == [ONE, TWO]
    assert [file.read_bytes() for file in files] == [FIRST, CONTENT]
    size = len(CONTENT)
    assert seen[0] == (ONE, len(FIRST), len(FIRST)) and seen[-1] == (TWO, size, size)
    fetch("pair", place)
    assert len(homes.requests) == 2  # nothing is fetched again


def test_a_new_folder_is_made(homes, place):
    fetch("pair", place / "a" / "b")
    assert names(place / "a" / "b") == [ONE, TWO]


@pytest.mark.parametrize("variable", [False, True])
def test_the_folder_is_where_loaders_look(homes, place, cache, variable, monkeypatch):
    if variable:
        monkeypatch.setenv("METASTEP_DATA", str(place))
    assert fetch("pair")[0].parent == (place if variable else cache)


def test_half_a_data_set_is_never_seen_and_is_resumed(homes, place):
    with pytest.raises(DownloadError, match="broke off after"):
        fetch("pair", place, address(homes, "halves/"))
    assert names(place)[0] == ".pair.fetching" and len(names(place)) == 2  # one part of `ONE`
    with pytest.raises(DownloadError, match="404"):
        fetch("pair", place, address(homes, "lost/"))
    assert len(names(place)) == 2
    fetch("pair", place)
    assert names(place) == [ONE, TWO] and homes.ranges[-2:] == [len(FIRST) // 2, 0]


def test_a_later_file_that_fails_shows_none(homes, place):
    homes.files[TWO] = b"another file"
    with pytest.raises(DownloadError, match="has the SHA-256"):
        fetch("pair", place)
    assert names(place) == [".pair.fetching", f".pair.fetching/{ONE}"]
    homes.files[TWO] = CONTENT
    fetch("pair", place)
    assert names(place) == [ONE, TWO]
    assert [path.rsplit("/", 1)[-1] for path in homes.requests] == [ONE, TWO, TWO]


@pytest.mark.parametrize("path", ["lost", "page", "other"])
def test_what_is_of_no_use_leaves_nothing_not_even_a_folder(homes, place, path):
    with pytest.raises(DownloadError):
        fetch("pair", place / "new" / "folder", address(homes, path))
    assert names(place) == []


def test_the_second_address_is_tried(homes, place, monkeypatch):
    both = address(homes, "lost/"), address(homes, "ranged/")
    monkeypatch.setitem(HOMES, "pair", Home(both, HOMES["pair"].files))
    fetch("pair", place)
    assert names(place) == [ONE, TWO]
    monkeypatch.setitem(HOMES, "pair", Home(both[:1] * 2, HOMES["pair"].files))
    with pytest.raises(DownloadError, match=r"404.*404"):
        fetch("pair", place / "elsewhere")


@pytest.mark.parametrize("end", ["", "/", f"/{TWO}"])
def test_a_mirror_is_a_folder_or_the_file(homes, place, end):
    fetch("single", place, address(homes, f"ranged{end}"))
    assert names(place) == [TWO]


def test_a_file_that_was_packed_anew_needs_its_own_checksum(homes, place):
    homes.files[TWO] = b"packed anew"
    mirror = address(homes, "ranged")
    with pytest.raises(DownloadError, match="has the SHA-256"):
        fetch("single", place, mirror)
    fetch("single", place, mirror, hashlib.sha256(b"packed anew").hexdigest().upper())
    assert (place / TWO).read_bytes() == b"packed anew"


def test_a_part_of_a_file_that_was_given_up_goes_with_the_others(homes, place):
    homes.files[TWO] = b"packed anew"
    with pytest.raises(DownloadError, match="broke off"):
        fetch("single", place, address(homes, "halves"), SHA256.replace("0", "1"))
    assert len(names(place)) == 2
    fetch("single", place, address(homes, "ranged"), hashlib.sha256(b"packed anew").hexdigest())
    assert names(place) == [TWO]


def test_a_file_of_the_user_is_never_replaced(homes, place):
    (place / ONE).write_bytes(b"mine")
    with pytest.raises(DownloadError, match=f"{ONE} is there, but is not the original file"):
        fetch("pair", place)
    assert (place / ONE).read_bytes() == b"mine" and homes.requests == []


def test_a_file_that_is_there_is_not_fetched(homes, place):
    (place / TWO).write_bytes(CONTENT)
    fetch("pair", place)
    assert [path.rsplit("/", 1)[-1] for path in homes.requests] == [ONE]


@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("mnits", None, "no data set 'mnits' to fetch; there is: mnist, cifar10"),
        ("pair", SHA256, "a data set of one file; pair has 2"),
        ("single", "abc", "64 hexadecimal digits"),
    ],
)
def test_wrong_use(homes, place, name, sha256, message):
    with pytest.raises(ValueError, match=message):
        fetch(name, place, sha256=sha256)
    assert names(place) == [] and homes.requests == []
