"""Omniglot in every form, and damaged drawings and archives."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from metastep_lab.data import DataCorruptError, omniglot

RNG = np.random.default_rng(0)
NAMES = [("Greek", "character01"), ("Greek", "character02"), ("Latin", "character01")]
INK = (RNG.random((len(NAMES), 20, 105, 105)) < 0.1).astype(np.uint8)


def png(ink, mode="1"):
    """A drawing as the originals store it: black ink on white, one bit a pixel."""
    stream = io.BytesIO()
    Image.fromarray(255 * (1 - ink).astype(np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


DRAWINGS = {
    f"{alphabet}/{character}/{7 + number:04d}_{drawer + 1:02d}.png": png(INK[number, drawer])
    for number, (alphabet, character) in enumerate(NAMES)
    for drawer in range(20)
}


def put_zip(place, name, contents):
    path = place / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"__MACOSX/{name}/Greek/character01/._0007_01.png", b"no drawing")
        for file in reversed(contents):
            archive.writestr(f"{name}/{file}", contents[file])
    return path


def put_folder(place, name, contents):
    for file, content in contents.items():
        path = place / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (place / name).mkdir(exist_ok=True)
    (place / name / ".DS_Store").write_bytes(b"no drawing")
    return place / name


def of_alphabet(alphabet):
    return {name: content for name, content in DRAWINGS.items() if name.startswith(alphabet)}


@pytest.mark.parametrize("put", [put_zip, put_folder])
def test_original_files(place, put):
    put(place, "images_background", of_alphabet("Greek"))
    path = put(place, "images_evaluation", of_alphabet("Latin"))
    dataset = omniglot(place)
    np.testing.assert_array_equal(dataset.arrays["images"], INK)
    assert dataset.arrays["images"].dtype == np.uint8
    assert dataset.arrays["alphabets"].tolist() == ["Greek", "Greek", "Latin"]
    assert dataset.arrays["characters"].tolist() == [character for _, character in NAMES]
    assert dataset.arrays["split"].tolist() == ["background", "background", "evaluation"]
    assert dataset.path == place
    path.rename(place / "elsewhere")
    assert omniglot(place).arrays["images"].shape == (2, 20, 105, 105)


@pytest.mark.parametrize("put", [put_zip, put_folder])
def test_the_folder_may_be_in_a_hidden_one(place, put):
    """As the cache is, in ~/.cache; every drawing counted as hidden."""
    hidden = place / ".cache" / "metastep"
    hidden.mkdir(parents=True)
    put(hidden, "images_background", of_alphabet("Latin"))
    assert omniglot(hidden).arrays["images"].shape == (1, 20, 105, 105)


def test_overlapping_small_sets_are_joined(place):
    put_zip(place, "images_background_small1", DRAWINGS)
    put_folder(place, "images_background_small2", of_alphabet("Latin"))
    dataset = omniglot(place)
    np.testing.assert_array_equal(dataset.arrays["images"], INK)
    assert "small background sets" in dataset.source
    put_zip(place, "images_background", of_alphabet("Greek"))
    assert omniglot(place).path == place / "images_background.zip"


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_ink_is_one_in_every_color_mode(place, mode):
    name = "Greek/character01/0007_01.png"
    put_zip(place, "images_background", {**DRAWINGS, name: png(INK[0, 0], mode)})
    np.testing.assert_array_equal(omniglot(place).arrays["images"], INK)


def test_subset_agrees_with_originals(place):
    packed = np.packbits(INK, axis=-1)
    alphabets = np.array([alphabet for alphabet, _ in NAMES])
    characters = np.array([character for _, character in NAMES])
    np.savez(place / "omniglot-242.npz", packed=packed, alphabets=alphabets, characters=characters)
    subset = omniglot(place)
    put_zip(place, "images_background", DRAWINGS)
    assert omniglot(place).checksum == subset.checksum


FIRST = "Greek/character01/0007_01.png"
LOST = {name: content for name, content in DRAWINGS.items() if name != FIRST}
DAMAGED_DRAWINGS = {
    "none": ({}, "holds no drawings"),
    "nineteen": (LOST, "Greek/character01 has 19 drawings, not 20"),
    "text": ({**DRAWINGS, FIRST: b"<html>"}, f"{FIRST} is damaged or not a PNG"),
    "truncated": ({**DRAWINGS, FIRST: DRAWINGS[FIRST][:-200]}, f"{FIRST} is damaged"),
    "size": ({**DRAWINGS, FIRST: png(INK[0, 0, 1:])}, f"{FIRST} is 105 x 104 pixels"),
}


@pytest.mark.parametrize("put", [put_zip, put_folder])
@pytest.mark.parametrize(("contents", "message"), DAMAGED_DRAWINGS.values(), ids=DAMAGED_DRAWINGS)
def test_damaged_drawings(place, put, contents, message):
    put(place, "images_background", contents)
    with pytest.raises(DataCorruptError, match=message):
        omniglot(place)


def test_damaged_archive(place):
    path = put_zip(place, "images_background", DRAWINGS)
    whole = path.read_bytes()
    for content in (b"", b"some text", whole[:-100], whole[:900] + bytes(99) + whole[999:]):
        path.write_bytes(content)
        with pytest.raises(
            DataCorruptError, match=r"images_background\.zip is damaged or not a zip"
        ):
            omniglot(place)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stray.png", DRAWINGS[FIRST])
    with pytest.raises(DataCorruptError, match="outside of a character's folder"):
        omniglot(place)


PACKED = np.packbits(INK, axis=-1)
NAMED = {
    "packed": PACKED,
    "alphabets": np.array(["Greek"] * 3),
    "characters": np.array(["a", "b", "c"]),
}
DAMAGED_ARRAYS = {
    "missing": ({"packed": PACKED}, "lacks the array alphabets, characters"),
    "unpacked": ({**NAMED, "packed": INK}, "not n x 20 x 105 x 14"),
    "empty": ({**NAMED, "packed": PACKED[:0]}, "not n x 20"),
    "type": ({**NAMED, "packed": PACKED.astype(int)}, "type int64, not uint8"),
    "names": ({**NAMED, "alphabets": np.array(["a"])}, "alphabets that do not name its 3"),
    "numbers": ({**NAMED, "characters": np.arange(3)}, "characters that do not name"),
}


@pytest.mark.parametrize(("arrays", "message"), DAMAGED_ARRAYS.values(), ids=DAMAGED_ARRAYS)
def test_damaged_subset(place, arrays, message):
    np.savez(place / "omniglot-242.npz", **arrays)
    with pytest.raises(DataCorruptError, match=message):
        omniglot(place)


def test_real_subset(real):
    dataset = omniglot(real("omniglot-242.npz"))
    assert dataset.arrays["images"].shape == (242, 20, 105, 105)
    assert 0.01 < dataset.arrays["images"].mean() < 0.2
    assert len(set(dataset.arrays["alphabets"])) == 8
