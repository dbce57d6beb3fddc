"""The images that a table of labels names."""

import base64
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from metastep_lab.errors import RefusedError
from metastep_lab.tables import Frame

SIDE = 24  # pixels of a side for the model
SHOWN = 96  # pixels of a side on the page


@dataclass(frozen=True)
class Images:
    """The paths of the images, and their pixels as the model takes them.

    Attributes:
        paths: one for each row of the table.
        pixels: (images, features), from 0 to 1.
    """

    paths: list[Path]
    pixels: np.ndarray

    def as_data(self, row: int) -> str:
        """Return the reduced image of a row, counted from 0, as a `data:` address of a PNG file."""
        picture = _open(self.paths[row])
        factor = max(1, SHOWN // max(picture.size))
        width, height = (min(SHOWN, factor * side) for side in picture.size)
        # Enlarged pixels stay squares, which shows what the model sees.
        resampling = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR
        buffer = io.BytesIO()
        picture.resize((width, height), resampling).save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_images(folder: Path, table: Frame) -> Images:
    """Read the images of a folder that a column of the table, without the labels, names.

    They are in the order of the rows, and in gray if all of them are gray.

    Raises:
        RefusedError: if no column names files of the folder, or a file is not an image.
    """
    names = {name: [folder / str(cell) for cell in table[name]] for name in table.columns}
    # The column of most files, not of the first row's file: that one may be the missing one.
    # `Path.is_file` would raise for a text that is too long to be a name.
    hits = {name: sum(map(os.path.isfile, paths)) for name, paths in names.items()}
    best = max(hits, key=lambda name: hits[name], default=None)
    if best is None or not hits[best]:
        raise RefusedError(f"{folder}: no column of its .csv file names files of the folder")
    # A page with pictures must not show files that happen to be reachable from the folder.
    root = folder.resolve()
    paths = names[best]
    for row, path in enumerate(paths, start=1):
        if not path.resolve().is_relative_to(root):
            raise RefusedError(f"{path} (row {row}) is outside of {folder}")
    pictures = [_open(path) for path in paths]
    kind = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    largest = max(max(picture.size) for picture in pictures)
    # One size for all, as the features must be; small images are not enlarged.
    side = min(SIDE, largest)
    # Box: every pixel counts, also where a large image is made much smaller.
    pixels = [
        np.asarray(picture.convert(kind).resize((side, side), Image.Resampling.BOX)).ravel()
        for picture in pictures
    ]
    return Images(paths, np.stack(pixels) / 255.0)


def _open(path: Path) -> Image.Image:
    """Read an image, gray or in colors."""
    try:
        with warnings.catch_warnings():
            # A small file may claim billions of pixels and take all memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.mode.startswith("I;16"):
                    # Pillow's conversion cuts 16 bits at 255, which makes nearly all pixels white.
                    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
                if picture.mode in ("I", "F"):
                    raise ValueError("its pixels have 32 bits; allowed are 8 and 16")
                kind = "L" if picture.mode in ("1", "L", "LA") else "RGB"
                if picture.has_transparency_data:
                    # Beneath transparent pixels any color may be stored, most often black alone.
                    white = Image.new("RGBA", picture.size, "white")
                    return Image.alpha_composite(white, picture.convert("RGBA")).convert(kind)
                return picture.convert(kind)
    except FileNotFoundError as error:
        raise RefusedError(f"{path} does not exist, but the table names it") from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as error:
        raise RefusedError(f"{path} is no image that can be read: {error}") from error
