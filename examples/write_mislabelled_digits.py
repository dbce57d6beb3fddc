"""Write 800 digits as pictures, of which a fifth have a wrong label, for `metastep clean`.

Run it as `python examples/write_mislabelled_digits.py FOLDER`. The folder gets one PNG file for
each digit, and `labels.csv` with the columns file and digit. `truth.csv`, beside the folder, has
the true labels.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

COUNT = 800
WRONG = 160


def main(folder: Path) -> None:
    """Write pictures and labels."""
    digits: Any = load_digits()
    images, true = digits["images"][:COUNT], digits["target"][:COUNT]
    rng = np.random.default_rng(0)
    given, rows = true.copy(), rng.choice(COUNT, WRONG, replace=False)
    given[rows] = (given[rows] + rng.integers(1, 10, WRONG)) % 10
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{row:03d}.png" for row in range(COUNT)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray((255 - 15 * image).astype(np.uint8)).save(folder / name)
    for path, labels in ((folder / "labels.csv", given), (folder.parent / "truth.csv", true)):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "digit"), *zip(names, labels, strict=True)])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "digits"))
