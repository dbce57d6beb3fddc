"""Damaged files and command lines by the hundred: a documented error, or none.

Each has a short form and a long one for `make test-slow`; both draw the same examples each time.
"""

import gzip
import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metastep import saving as checkpoint
from metastep.learned import OptimizerFileError, read
from metastep.pac_bayes import Certificate
from metastep_lab.cli import invoke
from metastep_lab.data import DataCorruptError
from metastep_lab.data.cifar_pickle import parse_pickle
from metastep_lab.data.reading import read_bytes, read_npz, read_tar, read_zip
from metastep_lab.report.pictures import PictureError, Pictures
from metastep_lab.report.plots import PlotError, checked
from metastep_lab.runs.records import RunDirectoryError, read_arrays, read_result, read_table
from metastep_lab.runs.running import Request, execute
from metastep_lab.shaban2019.task_interaction.patch_features import read_features
from metastep_lab.sweep.record import read_list
from metastep_lab.wang2021.step_size_quadratic.experiment import load_problem
from tests.hostile_arrays import JSON, archive, whole
from tests.metastep_lab.report.fake_experiment import EXPERIMENT, Config
from tests.metastep_lab.report.hostile import HONEST
from tests.test_hostile_files import CERTIFICATE, HEADER, STATE, optimizer_file, sealed, structure

EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**20),
        st.sampled_from(["flip", "insert", "delete", "end", "twice"]),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 2**20), st.sampled_from(sorted(JSON))), min_size=1, max_size=3
)


def edited(content, edits):
    """Change bytes."""
    for where, kind, data in edits:
        at = where % (len(content) + 1)
        before, after = content[:at], content[at:]
        content = {
            "flip": before + data + after[len(data) :],
            "insert": before + data * 100 + after,
            "delete": before + after[len(data) :],
            "end": before,
            "twice": before + content[at // 2 : at] + after,
        }[kind]
    return content


def changed(text, changes):
    """Put a text in the place of a value somewhere in JSON."""
    value = json.loads(text)
    marks = {}
    for where, name in changes:
        places = _places(value)
        holder, key = places[where % len(places)]
        mark = f"mark {len(marks)}"
        holder[key], marks[json.dumps(mark)] = mark, JSON[name]
    text = json.dumps(value)
    for mark, replacement in marks.items():
        text = text.replace(mark, replacement)
    return text.encode()


def _places(value):
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, part in pairs:
        found.append((value, key))
        if isinstance(part, dict | list):
            found += _places(part)
    return found


def svg():
    body = '<defs><path id="a" d="M 0 0" transform="scale(0.015625)"/></defs><g style="fill:#fff">'
    link = 'xmlns:l="http://www.w3.org/1999/xlink" l:href="#a"'
    use = f'<use {link} x="1" transform="translate(1.5 2)" style="clip-path: url(#b)"/></g>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">{body}{use}</svg>'.encode()


def tar():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        info = tarfile.TarInfo("folder/name")
        info.size = 5
        file.addfile(info, io.BytesIO(b"12345"))
    return content.getvalue()


def batch():
    pixels = np.zeros((2, 3072), np.uint8)
    return pickle.dumps({b"data": pixels, b"labels": [1, 2]}, protocol=2)


def certificate(path):
    Certificate.load(path).check()


ARRAY = whole(np.arange(4.0).reshape(2, 2))
NAMES = ("header", "features", "H")


def arrays(content):
    return archive(*((f"{name}.npy", content) for name in (*NAMES, "labels", "w0")))


def table(path):
    return {name: column.tolist() for name, column in read_table(path).items()}


def pickled(path):
    return parse_pickle(path.read_bytes(), path, {"labels": 10})


def same(content):
    return content


# The file's name, what is changed, how it is packed afterwards, who reads it, and its errors.
BYTES = {
    "npz": ("a.npz", ARRAY, arrays, lambda path: read_npz(path, NAMES), DataCorruptError),
    "packed npz": ("a.npz", arrays(ARRAY), same, lambda p: read_npz(p, NAMES), DataCorruptError),
    "arrays": ("arrays.npz", ARRAY, arrays, lambda p: read_arrays(p.parent), RunDirectoryError),
    "features": ("a.npz", ARRAY, arrays, read_features, ValueError),
    "problem": ("a.npz", ARRAY, arrays, lambda path: load_problem(str(path)), ValueError),
    "optimizer": ("a.npz", optimizer_file(json.dumps(HEADER)), same, read, OptimizerFileError),
    "pickle": ("a", batch(), same, pickled, DataCorruptError),
    "tar": ("a", tar(), same, lambda path: read_tar(path, bool), DataCorruptError),
    "packed tar": ("a", tar(), gzip.compress, lambda p: read_tar(p, bool), DataCorruptError),
    "zip": ("a", archive(("a", b"12345")), same, lambda p: read_zip(p, bool), DataCorruptError),
    "gzip": ("a", gzip.compress(b"12345"), same, read_bytes, DataCorruptError),
    "table": ("a.csv", b'a,b\n1,"x, y"\n-2.5e3,z\n', same, table, RunDirectoryError),
    "picture": ("a", svg(), same, lambda p: Pictures().inline(p.read_bytes(), ""), PictureError),
    "result": ("result.json", b"{}", same, lambda p: read_result(p.parent), RunDirectoryError),
    "checkpoint": ("a", b"", sealed, lambda path: checkpoint.load(path, STATE), ValueError),
}


def body_of_checkpoint(folder):
    head, body = structure(folder)
    return json.dumps(head).encode() + b"\n" + body


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def damage_bytes(name, folder, examples):
    file, content, pack, reader, error = BYTES[name]
    content = body_of_checkpoint(folder) if name == "checkpoint" else content
    path = folder / file

    @settings(max_examples=examples, deadline=None)
    @given(EDITS)
    def damage(edits):
        path.write_bytes(pack(edited(content, edits)))
        try:
            reader(path)
        except error:
            pass

    damage()


@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes(folder, name):
    damage_bytes(name, folder, 60)


@pytest.mark.parametrize("name", BYTES)
def test_many_damaged_bytes(folder, name):
    damage_bytes(name, folder, 1000)


SWEEP = {
    "schema": 1,
    "experiment": "fake-walk",
    "runs": [{"key": "a", "values": {"rate": 1.0}, "seed": 0}],
}


def sealed_head(content, folder):
    return sealed(content + b"\n" + structure(folder)[1])


# Here a value of JSON is changed.
VALUES = {
    "sweep": ("sweep.json", SWEEP, lambda p: read_list(p.parent), RunDirectoryError),
    "plot": ("a", json.loads(HONEST), lambda p: checked(p.read_bytes(), "3"), PlotError),
    "certificate": ("a", CERTIFICATE, certificate, ValueError),
    "optimizer": ("a.npz", HEADER, read, OptimizerFileError),
    "checkpoint": ("a", None, lambda path: checkpoint.load(path, STATE), ValueError),
}


def damage_values(name, folder, examples):
    file, value, reader, error = VALUES[name]
    pack = {
        "optimizer": lambda content: optimizer_file(content.decode()),
        "checkpoint": lambda content: sealed_head(content, folder),
    }.get(name, same)
    text = json.dumps(structure(folder)[0] if value is None else value)

    @settings(max_examples=examples, deadline=None)
    @given(CHANGES)
    def damage(changes):
        path = folder / file
        path.write_bytes(pack(changed(text, changes)))
        try:
            reader(path)
        except error:
            pass

    damage()


@pytest.mark.parametrize("name", VALUES)
def test_damaged_values(folder, name):
    damage_values(name, folder, 40)


@pytest.mark.parametrize("name", VALUES)
def test_many_damaged_values(folder, name):
    damage_values(name, folder, 500)


def damage_runs(folder, capsys, examples):
    """Every command that reads a run, of one whose `result.json` is changed."""
    run = folder / "sweep" / "runs" / "a"
    shutil.rmtree(run, ignore_errors=True)  # the folder is that of all tests of this file
    execute(Request(EXPERIMENT, Config(steps=1), "quick", (), 0, run))
    text = (run / "result.json").read_text()
    (folder / "sweep" / "sweep.json").write_text(json.dumps(SWEEP))
    commands = (
        ["check", str(run)],
        ["report", str(run), "--out", str(folder / "page.html")],
        ["run", "fake-walk", "--set", "steps=1", "--out", str(run), "--resume"],
        ["sweep", "--status", str(folder / "sweep")],
    )

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(CHANGES, st.sampled_from(commands))
    def damage(changes, command):
        (run / "result.json").write_bytes(changed(text, changes))
        assert invoke(command, (EXPERIMENT.listing,)) in (0, 1, 2)
        assert capsys.readouterr().err.count("\n") <= 1

    damage()


def test_damaged_runs(folder, capsys):
    damage_runs(folder, capsys, 60)


def test_many_damaged_runs(folder, capsys):
    damage_runs(folder, capsys, 500)


WORDS = st.sampled_from([
    *("", ".", "..", "-", "--", "fake-walk", "run", "nowhere", "file", "/dev/null", "/proc/x/y"),
    *("0", "-1", "1" * 400, "1" * 5000, "x" * 5000, "nan", "inf", "1e999", "true", "none", "0:2"),
    *("steps=1", "steps=0", f"steps={'1' * 400}", "rate=nan", "rate=1e999", "windows=1,,2"),
    *("label=\udcff", "label=\0", "mode=clumsy", "mode=missing", "=", "steps=", "steps=1=2"),
    *("a\0b", "\udcff", "\N{SUPERSCRIPT TWO}", "steps=1,2", "1;2", "steps=1;2", "--set"),
])  # fmt: skip
OPTIONS = st.sampled_from([
    *("--set", "--seed", "--out", "--data", "--preset", "--resume", "--grid", "--seeds", "--jobs"),
    *("--cpus", "--gpus", "--retries", "--status", "--engine", "--address", "--along", "--json"),
    *("--help", "--nothing", "-x"),
])  # fmt: skip
COMMANDS = st.sampled_from(["list", "run", "check", "report", "sweep", "doctor", "nothing", ""])
LINES = st.tuples(
    COMMANDS, st.lists(WORDS, max_size=2), st.lists(st.tuples(OPTIONS, WORDS), max_size=3)
)


def try_commands(folder, monkeypatch, capsys, examples):
    """No line starts a sweep or reaches for a cluster: both have tests of their own."""
    place = folder / "here"
    place.mkdir(exist_ok=True)
    (place / "file").write_text("mine")
    monkeypatch.chdir(place)
    monkeypatch.setattr("metastep_lab.sweep.command._drive", lambda sweep, console: 0)
    monkeypatch.setattr("metastep_lab.doctor.error_of_default_kernels", lambda: 0.0)

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(LINES)
    def attempt(line):
        command, words, options = line
        arguments = [command, *words, *(part for pair in options for part in pair)]
        status = invoke(arguments, (EXPERIMENT.listing,))
        errors = capsys.readouterr().err
        assert status in (0, 1, 2), arguments
        assert errors.count("\n") <= 1 and len(errors) < 1000, arguments
        assert bool(errors) == bool(status), arguments
        assert (place / "file").read_text() == "mine"

    attempt()


def test_command_lines(folder, monkeypatch, capsys):
    try_commands(folder, monkeypatch, capsys, 150)


def test_many_command_lines(folder, monkeypatch, capsys):
    try_commands(folder, monkeypatch, capsys, 1000)
