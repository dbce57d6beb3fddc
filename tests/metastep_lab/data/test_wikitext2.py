"""WikiText-2 in every form, and damaged files."""

import zipfile

import numpy as np
import pytest

from metastep_lab.data import DataCorruptError, wikitext2

TEXTS = {"train": " \n = A = \n b c é . \n", "valid": " c c \n", "test": " z <unk> \n \n"}
WORDS = {
    "train": "<eos> = A = <eos> b c é . <eos>".split(),
    "validation": "c c <eos>".split(),
    "test": "z <unk> <eos> <eos>".split(),
}


def put_files(place, pattern, names):
    for name in names:
        path = place / pattern.format(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEXTS[name], encoding="utf-8")


def put_zip(place, pattern, names):
    with zipfile.ZipFile(place / "wikitext-2-v1.zip", "w") as archive:
        for name in names:
            archive.writestr(pattern.format(name), TEXTS[name])


FORMS = {
    "files": (put_files, "wiki.{}.tokens"),
    "extracted": (put_files, "wikitext-2/wiki.{}.tokens"),
    "archive": (put_zip, "wikitext-2/wiki.{}.tokens"),
    "copies": (put_files, "wikitext2-{}.txt"),
}


@pytest.mark.parametrize("names", [["train", "valid", "test"], ["valid", "test"], ["test"]])
@pytest.mark.parametrize(("put", "pattern"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_words(place, put, pattern, names):
    put(place, pattern, names)
    dataset = wikitext2(place)
    parts = ["validation" if name == "valid" else name for name in names]
    assert set(dataset.arrays) == {"vocabulary", *parts}
    vocabulary = dataset.arrays["vocabulary"]
    assert vocabulary.tolist() == sorted({word for part in parts for word in WORDS[part]})
    for part in parts:
        assert dataset.arrays[part].dtype == np.int32
        assert vocabulary[dataset.arrays[part]].tolist() == WORDS[part]
    assert dataset.path is not None and dataset.path.exists()


DAMAGED = {
    "empty": (b"", "is empty"),
    "blank": (b" \n \n", "is empty"),
    "not text": (b"\xff\xfe\x00", "is not UTF-8 text"),
    "zero bytes": (b"a \x00 b\n", "is not a text file: it holds zero bytes"),
    "cut within a character": (TEXTS["train"].encode()[:16], "is not UTF-8 text"),
    "cut within a line": (b" = A = \n b", "is truncated"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_text(place, content, message):
    (place / "wiki.test.tokens").write_bytes(content)
    with pytest.raises(DataCorruptError, match=f"wiki.test.tokens {message}"):
        wikitext2(place)


def test_damaged_archive(place):
    put_zip(place, "wikitext-2/wiki.{}.tokens", ["test"])
    path = place / "wikitext-2-v1.zip"
    for content in (b"", b"some text", path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(DataCorruptError, match="is damaged or not a zip archive"):
            wikitext2(place)
    put_zip(place, "wikitext-2-raw/wiki.{}.raw", ["test"])
    with pytest.raises(DataCorruptError, match=r"holds none of wiki\.train\.tokens"):
        wikitext2(place)


def test_real_parts_have_the_customary_lengths(real):
    real("wikitext2-test.txt")
    arrays = wikitext2(real("wikitext2-valid.txt")).arrays
    assert arrays["validation"].shape == (217646,)
    assert arrays["test"].shape == (245569,)


def test_the_larger_wikitext_with_the_same_file_names_is_refused(place, monkeypatch):
    monkeypatch.setitem(wikitext2.__globals__, "LARGEST", 3)
    put_files(place, "wiki.{}.tokens", ["valid"])
    assert len(wikitext2(place).arrays["validation"]) == 3
    put_files(place, "wiki.{}.tokens", ["test"])
    with pytest.raises(DataCorruptError, match=r"wiki\.test\.tokens has 4 words, .*WikiText-103"):
        wikitext2(place)
