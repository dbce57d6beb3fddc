"""WikiText-2, from its original files of tokens or from plain-text copies of single parts."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from metastep_lab.data.dataset import DataCorruptError, Dataset, Form, Recipe, first_file, load
from metastep_lab.data.reading import read_bytes, read_zip, require

PARTS = (("train", "train"), ("validation", "valid"), ("test", "test"))
ARCHIVE = "wikitext-2-v1.zip"
END_OF_LINE = "<eos>"
LARGEST = 2088628  # words of the largest part


def wikitext2(folder: Path | None = None) -> Dataset:
    """WikiText-2: verified Wikipedia articles as a sequence of words.

    The arrays are `vocabulary`, distinct strings of shape (v,) in sorted order, and for each part
    that is there (`train`, `validation`, `test`) the words as positions in the vocabulary, int32 of
    shape (n,): `vocabulary[test]` gives the words back. Each line ends with the word `<eos>`, so
    that the originals have the customary 2088628, 217646 and 245569 words. The vocabulary is that
    of the parts found, so the positions of one word differ between folders that hold different
    parts.

    Accepted, the first that is there: `wiki.train.tokens`, `wiki.valid.tokens`, `wiki.test.tokens`,
    in the folder itself or in `wikitext-2`; `wikitext-2-v1.zip`; `wikitext2-train.txt`,
    `wikitext2-valid.txt`, `wikitext2-test.txt`. One part is enough. The home is Salesforce
    Research, "The WikiText long term dependency language modeling dataset".

    A given folder is searched first, before `METASTEP_DATA` and the user's cache.

    Raises:
        DataNotFoundError: if it is in none of the places, or `folder` does not exist.
        DataCorruptError: if a file is not UTF-8 text, is empty, breaks off in the middle of a
            line, or has more words than WikiText-2: WikiText-103 has files of the same names.

    Reference:
        Merity, Xiong, Bradbury, Socher, 2016, "Pointer Sentinel Mixture Models".
    """
    return load(WIKITEXT2, folder)


def _locate_files(place: Path, pattern: str) -> Path | None:
    found = [place / pattern.format(name) for _, name in PARTS]
    found = [path for path in found if os.path.isfile(path)]
    return None if not found else found[0] if len(found) == 1 else found[0].parent


def _read_files(place: Path, pattern: str) -> dict[str, np.ndarray]:
    paths = {part: place / pattern.format(name) for part, name in PARTS}
    return _arrays({
        part: _words(read_bytes(path), path) for part, path in paths.items() if os.path.isfile(path)
    })  # fmt: skip


def _read_archive(place: Path) -> dict[str, np.ndarray]:
    path = place / ARCHIVE
    members = {f"wiki.{name}.tokens": part for part, name in PARTS}
    contents = read_zip(path, lambda name: name.rsplit("/", 1)[-1] in members)
    require(bool(contents), path, "holds none of wiki.train.tokens and so on")
    return _arrays({
        members[name.rsplit("/", 1)[-1]]: _words(content, path / name)
        for name, content in contents.items()
    })  # fmt: skip


def _words(content: bytes, path: Path) -> list[str]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataCorruptError(f"{path} is not UTF-8 text: {error.reason}.") from error
    require(bool(text.strip()), path, "is empty")
    require("\0" not in text, path, "is not a text file: it holds zero bytes")
    require(text.endswith("\n"), path, "is truncated: its last line has no end")
    words = text.replace("\n", f" {END_OF_LINE} ").split()
    wrong = f"has {len(words)} words, more than WikiText-2: it may be of WikiText-103"
    require(len(words) <= LARGEST, path, wrong)
    return words


def _arrays(words: dict[str, list[str]]) -> dict[str, np.ndarray]:
    # Sorted: the order of a set differs from process to process.
    vocabulary = sorted(set().union(*words.values()))
    position = {word: number for number, word in enumerate(vocabulary)}
    encoded = {
        part: np.fromiter((position[word] for word in sequence), np.int32, len(sequence))
        for part, sequence in words.items()
    }
    return {"vocabulary": np.array(vocabulary), **encoded}


def _files(pattern: str) -> Form:
    return Form(partial(_locate_files, pattern=pattern), partial(_read_files, pattern=pattern))


WIKITEXT2 = Recipe(
    name="wikitext2",
    title="WikiText-2",
    license="CC BY-SA 3.0",
    source="Merity, Xiong, Bradbury and Socher 2016, Pointer Sentinel Mixture Models",
    originals=f"{ARCHIVE} (packed or extracted)",
    subset="wikitext2-valid.txt and wikitext2-test.txt",
    forms=(
        _files("wiki.{}.tokens"),
        _files("wikitext-2/wiki.{}.tokens"),
        Form(partial(first_file, names=(ARCHIVE,)), _read_archive),
        _files("wikitext2-{}.txt"),
    ),
)
