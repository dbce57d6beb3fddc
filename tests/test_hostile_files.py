"""Files of strangers, one reader after another: each ends with its documented error."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metastep import saving as checkpoint
from metastep.files import has_type, parse_arrays, read_bytes
from metastep.learned import CoordinatewiseLSTM, OptimizerFileError, TrainedOptimizer, read, save
from metastep.pac_bayes import Certificate
from metastep_lab.data import DataCorruptError
from metastep_lab.data.cifar_pickle import ALLOWED, parse_pickle
from metastep_lab.data.reading import read_npz, read_tar, read_zip
from metastep_lab.runs.records import RunDirectoryError, read_arrays
from metastep_lab.shaban2019.task_interaction.patch_features import read_features
from metastep_lab.wang2021.step_size_quadratic.experiment import load_problem
from tests.hostile_arrays import ARCHIVES, BOMB, JSON, archive, replaced, whole

STATE = {"weights": jnp.arange(3.0), "count": jnp.array(2)}
CERTIFICATE = {
    "schema": "metastep certificate 1",
    **dict.fromkeys(("bound", "uncorrected", "confidence", "delta", "draw_delta"), 0.5),
    **dict.fromkeys(("examples", "draws", "parameters", "j"), 3),
    **dict.fromkeys(("error_sum", "kl", "distance_squared", "variance_sum"), 0.5),
    **dict.fromkeys(("log_variance_sum", "prior_ceiling", "test_error"), 0.5),
    **dict.fromkeys(("prior_precision", "test_examples", "test_draws"), 3),
    "data_digest": "0",
    "prior_examples": 3,
    "prior_rows": "e0",
    "prior_repeats": 3,
}
READERS = {
    "npz": (lambda path: read_npz(path, ("header",)), DataCorruptError),
    "arrays of a run": (lambda path: read_arrays(path.parent), RunDirectoryError),
    "optimizer": (read, OptimizerFileError),
    "features": (read_features, ValueError),
    "problem": (lambda path: load_problem(str(path)), ValueError),
}


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
@pytest.mark.parametrize("reader", READERS)
def test_archives_that_are_not_what_they_say(tmp_path, reader, content):
    read_it, error = READERS[reader]
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(error, match=r"arrays\.npz"):
        read_it(path)


@pytest.mark.parametrize("reader", READERS)
def test_nothing_beyond_the_limit_is_unpacked(tmp_path, reader, monkeypatch):
    """The sizes are refused before any byte is unpacked."""
    read_it, error = READERS[reader]
    path = tmp_path / "arrays.npz"
    path.write_bytes(BOMB)
    monkeypatch.setattr("zipfile.ZipFile.open", None)
    with pytest.raises(error, match=r"arrays\.npz"):
        read_it(path)


def test_no_more_is_unpacked_than_a_member_states():
    content, size = io.BytesIO(), 2**14
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.npy", whole(np.zeros(size, np.uint8)) + bytes(2**24))
        packed.getinfo("a.npy").file_size = len(whole(np.zeros(size, np.uint8)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="CRC"):
            parse_arrays(content.getvalue(), largest=2**15)
        # A few copies of what is stated, and not the 16 MiB behind it.
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_is_not_wanted_stays_packed(tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(archive(("junk", b"x"), ("a.npy", whole(np.arange(3)))))
    assert np.array_equal(read_npz(path, ("a",))["a"], np.arange(3))


@pytest.mark.parametrize(
    "value",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3)),
        np.array(3, np.int16),
        np.array(["é", ""]),
        np.array([True]),
        np.array([1 + 2j]),
    ],
    ids=lambda value: value.dtype.str,
)
def test_honest_arrays_come_back(value):
    for write in (np.savez, np.savez_compressed):
        content = io.BytesIO()
        write(content, **{"a/b": value})
        found = parse_arrays(content.getvalue())["a/b"]
        assert (found.dtype, found.shape) == (value.dtype, value.shape) and found.flags.writeable
        np.testing.assert_array_equal(found, value)


HEADER = {
    "schema": "metastep learned optimizer 1",
    "optimizer": "CoordinatewiseLSTM",
    "settings": {"units": 2, "layers": 1, "output_scale": 0.01, "precision": 10.0},
    "horizon": 9,
    "description": "",
}


def optimizer_file(text):
    family = CoordinatewiseLSTM(2, 1)
    weights = family.initial_weights(jax.random.key(0))
    arrays = {
        f"{layer}/{name}": np.array(leaf)
        for layer, both in weights.items()
        for name, leaf in both.items()
    }
    content = io.BytesIO()
    np.savez(content, header=np.array(text), **arrays)
    return content.getvalue()


def test_the_header_of_an_optimizer_is_honest(tmp_path):
    (tmp_path / "one.npz").write_bytes(optimizer_file(json.dumps(HEADER)))
    assert read(tmp_path / "one.npz").horizon == 9


@pytest.mark.parametrize("key", HEADER)
def test_the_header_of_an_optimizer(tmp_path, key):
    allowed = {("description", JSON["a text"])}
    for text in (*JSON.values(), "0", "-1", "2.7", str(2**31)):
        if (key, text) not in allowed:
            (tmp_path / "one.npz").write_bytes(optimizer_file(replaced(HEADER, key, text)))
            with pytest.raises(OptimizerFileError, match=r"one\.npz"):
                read(tmp_path / "one.npz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("units", text) for text in ("1000000000", "true", "0", "2.0", '"2"', "null")),
        *(("layers", text) for text in ("1000000000", "[1]")),
        *(("precision", text) for text in ("Infinity", "true", '"1"', "1e999", "null")),
    ],
)
def test_a_setting_of_an_optimizer(tmp_path, name, text):
    settings = replaced(HEADER["settings"], name, text)
    (tmp_path / "one.npz").write_bytes(optimizer_file(replaced(HEADER, "settings", settings)))
    with pytest.raises(OptimizerFileError, match=r"one\.npz"):
        read(tmp_path / "one.npz")


def test_weights_that_this_precision_cannot_hold(tmp_path):
    family = CoordinatewiseLSTM(2, 1)
    weights = jax.tree.map(np.array, family.initial_weights(jax.random.key(0)))
    weights["output"]["bias"] = np.array([1e300])
    save(tmp_path / "one.npz", TrainedOptimizer(family, weights, 9))
    with pytest.raises(OptimizerFileError, match="beyond float32"):
        read(tmp_path / "one.npz")


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_certificates(tmp_path, text):
    path = tmp_path / "certificate.json"
    for key in CERTIFICATE:
        if (key, text) in {("data_digest", '"5"'), ("prior_rows", '"5"'), ("test_error", "null")}:
            continue
        path.write_text(replaced(CERTIFICATE, key, text))
        with pytest.raises(ValueError, match=r"certificate\.json"):
            Certificate.load(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"certificate\.json"):
        Certificate.load(path)


def test_an_impossible_certificate_is_one_that_does_not_hold(tmp_path):
    path = tmp_path / "certificate.json"
    for value in (0, -1, 2**63, -(2**63), 1e308, -1e308, 1e-320):
        for key in CERTIFICATE.keys() - {"schema", "data_digest", "prior_rows"}:
            path.write_text(json.dumps({**CERTIFICATE, key: value}))
            try:
                certificate = Certificate.load(path)
            except ValueError as error:
                assert "type int" in str(error)
                continue
            assert not certificate.check().holds


def test_a_certificate_of_any_size(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(" " * 2**20)
    with pytest.raises(ValueError, match=r"certificate\.json"):
        Certificate.load(path)


def sealed(body):
    digest = hashlib.sha256(body).hexdigest().encode()
    return checkpoint.FORMAT.encode() + b" sha256 " + digest + b"\n" + body


def structure(tmp_path):
    checkpoint.save(tmp_path / "honest", STATE, {})
    _, head, body = (tmp_path / "honest").read_bytes().split(b"\n", 2)
    return json.loads(head), body


FOREIGN = {
    "nothing": lambda head, body: (b"", b""),
    "a list": lambda head, body: (b"[1]", body),
    "an empty object": lambda head, body: (b"{}", body),
    "deep": lambda head, body: (b"[" * 100_000, body),
    "notes of another kind": lambda head, body: ({**head, "notes": 1}, body),
    "a structure of another kind": lambda head, body: ({**head, "structure": 1}, body),
    "no archive": lambda head, body: (head, b"no archive"),
    "no array": lambda head, body: (head, archive(("arr_0.npy", b"x"))),
    "too few arrays": lambda head, body: (head, archive(("a.npy", whole(np.zeros(8, np.uint8))))),
    "arrays of other sizes": lambda head, body: (
        head,
        archive(*((f"{i}.npy", whole(np.zeros(5, np.uint8))) for i in range(2))),
    ),
    "a bomb": lambda head, body: (head, BOMB),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_a_valid_seal_with_a_foreign_body(tmp_path, change):
    path = tmp_path / "state"
    head, body = change(*structure(tmp_path))
    line = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(sealed(line + b"\n" + body))
    with pytest.raises(checkpoint.CheckpointError, match="state"):
        checkpoint.load(path, STATE)


def test_notes_may_hold_what_is_not_finite(tmp_path):
    notes = {"seconds": [float("inf"), float("-inf")]}
    checkpoint.save(tmp_path / "state", STATE, notes)
    assert checkpoint.load(tmp_path / "state", STATE)[1] == notes


BUILDS = {
    "a function": b"\x80\x02c_codecs\nencode\nq\x01}q\x02X\x01\x00\x00\x00aq\x03K\x01sb.",
    "slots of a function": b"\x80\x02c_codecs\nencode\n(N}X\x01\x00\x00\x00aK\x01stb.",
    "a class": b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
    "slots of a class": b"\x80\x02cnumpy\nndarray\n(N}X\x01\x00\x00\x00aK\x01stb.",
    "a place far away": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a name by its code": b"\x80\x02\x82\x01.",
    "a persistent name": b"\x80\x02Pname\n.",
    "deep": b"\x80\x02" + b"(" * 10_000 + b"]" + b"t" * 10_000 + b".",
}


@pytest.mark.parametrize("content", BUILDS.values(), ids=BUILDS)
def test_a_pickle_can_set_nothing(content):
    before = {name: sorted(dir(allowed)) for name, allowed in ALLOWED.items()}
    with pytest.raises(DataCorruptError):
        parse_pickle(content, Path("batch"), {"labels": 10})
    assert before == {name: sorted(dir(allowed)) for name, allowed in ALLOWED.items()}


def test_a_header_of_a_tar_archive_that_unpacks_to_gigabytes(tmp_path, monkeypatch):
    """An extended header says how long it is; it may not be longer than what is unpacked."""
    monkeypatch.setattr("metastep_lab.data.reading.LARGEST", 2**20)
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**24
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf() + bytes(2**24)))
    with pytest.raises(DataCorruptError, match="more than 1 GiB"):
        read_tar(tmp_path / "a.tar.gz", lambda name: True)


def test_a_member_of_a_zip_archive_that_says_it_is_small(tmp_path, monkeypatch):
    """All of it would be unpacked before the excess is noticed."""
    monkeypatch.setattr("metastep_lab.data.reading.LARGEST", 2**20)  # room that is set aside
    packed = bytearray(archive(("a", bytes(2**26)), compression=zipfile.ZIP_DEFLATED))
    directory = packed.rfind(b"PK\x01\x02")
    packed[directory + 24 : directory + 28] = (10).to_bytes(4, "little")  # the unpacked size
    (tmp_path / "a.zip").write_bytes(packed)
    tracemalloc.start()
    with pytest.raises(DataCorruptError, match="damaged"):
        read_zip(tmp_path / "a.zip", bool)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 2**23


def test_devices_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="device or a pipe"):
            read_bytes(path)
        for read_it in (lambda path: read_npz(path, ()), lambda path: read_zip(path, bool)):
            with pytest.raises(DataCorruptError):
                read_it(path)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_bytes(tmp_path / "large", 10)


def test_types_of_json():
    assert has_type(1, float) and has_type(None, int | None) and has_type([1, 2], tuple[int, ...])
    for value, kind in [(True, int), (1.0, int), ("1", float), ([1.5], tuple[int, ...]), (1, None)]:
        assert not has_type(value, kind)
