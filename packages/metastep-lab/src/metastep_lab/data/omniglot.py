"""Omniglot, from its original archives or folders of PNG files or from `omniglot-242.npz`."""

import io
import os
from functools import partial
from pathlib import Path

import numpy as np

from metastep_lab.data.dataset import Dataset, Form, Recipe, first_file, load
from metastep_lab.data.reading import read_bytes, read_npz, read_zip, reading, require

SUBSET = "omniglot-242.npz"
SIDE = 105
DRAWERS = 20
FULL = (("background", "images_background"), ("evaluation", "images_evaluation"))
SMALL = (
    ("background", "images_background_small1"),
    ("background", "images_background_small2"),
)

Character = tuple[str, str]  # the alphabet and the character within it
Drawings = dict[Character, dict[str, bytes]]


def omniglot(folder: Path | None = None) -> Dataset:
    """Omniglot: characters of many alphabets, each drawn once by each of 20 people.

    The arrays are `images`, uint8 of shape (n, 20, 105, 105), 1 = ink and 0 = paper; `alphabets`
    and `characters`, strings of shape (n,), such as `"Greek"` and `"character01"`, which together
    name each of the n characters; `split`, strings of shape (n,), `"background"` or `"evaluation"`.
    Characters are sorted by split, alphabet and name. The originals give n = 964 + 659, which takes
    360 MB; the subset gives n = 242, all of them background.

    Accepted, the first that is there: `images_background` and `images_evaluation`, as `.zip` or
    extracted (one is enough); `images_background_small1` and `..._small2`, likewise;
    `omniglot-242.npz`. The home page is https://github.com/brendenlake/omniglot.

    A given folder is searched first, before `METASTEP_DATA` and the user's cache.

    Raises:
        DataNotFoundError: if it is in none of the places, or `folder` does not exist.
        DataCorruptError: if a file is damaged, or a character does not have its 20 drawings.

    Reference:
        Lake, Salakhutdinov, Tenenbaum, 2015, "Human-level concept learning through probabilistic
        program induction", Science 350.
    """
    return load(OMNIGLOT, folder)


def _part(place: Path, name: str) -> Path | None:
    if os.path.isdir(place / name):
        return place / name
    return first_file(place, (f"{name}.zip",))


def _locate_parts(place: Path, parts: tuple[tuple[str, str], ...]) -> Path | None:
    found = [path for _, name in parts if (path := _part(place, name)) is not None]
    return None if not found else found[0] if len(found) == 1 else place


def _read_parts(place: Path, parts: tuple[tuple[str, str], ...]) -> dict[str, np.ndarray]:
    characters: dict[tuple[str, str, str], np.ndarray] = {}
    for split, name in parts:
        path = _part(place, name)
        if path is None:
            continue
        drawings = _drawings(path)
        require(bool(drawings), path, "holds no drawings (alphabet/character/drawing.png)")
        for (alphabet, character), files in drawings.items():
            characters[split, alphabet, character] = _decode_character(
                files, path / alphabet / character
            )
    order = sorted(characters)
    return {
        "images": np.stack([characters[key] for key in order]),
        "alphabets": np.array([alphabet for _, alphabet, _ in order]),
        "characters": np.array([character for _, _, character in order]),
        "split": np.array([split for split, _, _ in order], "<U10"),
    }


def _drawings(path: Path) -> Drawings:
    """The PNG files of a folder or zip archive, by character and file name."""
    if path.is_dir():
        # Names below the folder, which may itself be in a hidden one: the cache is in ~/.cache.
        names = [file.relative_to(path).as_posix() for file in path.glob("*/*/*.png")]
        files = {name: read_bytes(path / name) for name in names if _is_drawing(name)}
    else:
        files = read_zip(path, _is_drawing)
    drawings: Drawings = {}
    for name, content in files.items():
        parts = name.split("/")
        require(len(parts) >= 3, path, f"has the drawing {name} outside of a character's folder")
        drawings.setdefault((parts[-3], parts[-2]), {})[parts[-1]] = content
    return drawings


def _is_drawing(name: str) -> bool:
    """Whether a file is a drawing, not one of the hidden files that macOS adds."""
    return name.endswith(".png") and "__MACOSX" not in name and "/." not in f"/{name}"


def _decode_character(files: dict[str, bytes], path: Path) -> np.ndarray:
    """The drawings of one character, uint8 of shape (20, 105, 105), in the order of file names."""
    require(len(files) == DRAWERS, path, f"has {len(files)} drawings, not {DRAWERS}")
    return np.stack([_decode(files[name], path / name) for name in sorted(files)])


def _decode(content: bytes, path: Path) -> np.ndarray:
    from PIL import Image  # only the originals need it

    # PNG only: a file that claims to be something else meets none of Pillow's other decoders.
    with reading(path, "a PNG image"), Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        require(image.size == (SIDE, SIDE), path, f"is {image.size[0]} x {image.size[1]} pixels")
        # Ink is black, 0 of 255, in the files.
        return (np.asarray(image.convert("L")) < 128).astype(np.uint8)


def _read_subset(place: Path) -> dict[str, np.ndarray]:
    path = place / SUBSET
    stored = read_npz(path, ("packed", "alphabets", "characters"))
    packed = stored["packed"]
    shape = (DRAWERS, SIDE, -(-SIDE // 8))
    require(packed.dtype == np.uint8, path, f"has packed bits of type {packed.dtype}, not uint8")
    wrong = f"has packed bits of shape {packed.shape}, not n x {' x '.join(map(str, shape))}"
    require(packed.shape[1:] == shape and len(packed) > 0, path, wrong)
    for name in ("alphabets", "characters"):
        good = stored[name].dtype.kind == "U" and stored[name].shape == packed.shape[:1]
        require(good, path, f"has {name} that do not name its {len(packed)} characters")
    return {
        # 105 bits of a row fill 13 bytes and one bit of another.
        "images": np.unpackbits(packed, axis=-1)[..., :SIDE],
        "alphabets": stored["alphabets"],
        "characters": stored["characters"],
        "split": np.full(len(packed), "background", "<U10"),
    }


OMNIGLOT = Recipe(
    name="omniglot",
    title="Omniglot",
    license="MIT",
    source="Lake, Salakhutdinov and Tenenbaum 2015, Human-level concept learning, Science 350",
    originals="images_background.zip and images_evaluation.zip (packed or extracted)",
    subset=SUBSET,
    forms=(
        Form(partial(_locate_parts, parts=FULL), partial(_read_parts, parts=FULL)),
        Form(
            partial(_locate_parts, parts=SMALL),
            partial(_read_parts, parts=SMALL),
            "the small background sets only",
        ),
        Form(
            partial(first_file, names=(SUBSET,)),
            _read_subset,
            "the 242 characters of the small background sets 1 and 2",
        ),
    ),
)
