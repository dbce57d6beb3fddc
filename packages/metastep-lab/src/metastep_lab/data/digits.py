"""The 8 x 8 digits that come with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from metastep_lab.data.dataset import Dataset


def digits_path() -> Path:
    """Return the folder of scikit-learn that holds the digits."""
    found = find_spec("sklearn")
    assert found is not None and found.origin is not None, "metastep-lab requires scikit-learn"
    return Path(found.origin).parent / "datasets"


def digits(folder: Path | None = None) -> Dataset:
    """Handwritten digits of 8 x 8 pixels, which come with scikit-learn.

    The arrays are `images`, uint8 of shape (1797, 8, 8) with values 0 to 16, and `labels`, uint8 of
    shape (1797,) with values 0 to 9.

    The folder, an argument of all loaders, is not used, since scikit-learn has the data.

    Reference:
        Alpaydin and Kaynak, 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
        Repository (https://archive.ics.uci.edu); the test part, as distributed by scikit-learn.

    Example:
        >>> data = digits()
        >>> data.arrays["images"].shape, data.arrays["labels"][:5]
        ((1797, 8, 8), array([0, 1, 2, 3, 4], dtype=uint8))
        >>> data.license
        'CC BY 4.0'
    """
    # Importing scikit-learn takes a second, which `metastep doctor` does not need.
    from sklearn.datasets import load_digits

    del folder
    images, labels = load_digits(return_X_y=True)
    arrays = {
        "images": np.asarray(images).reshape(-1, 8, 8).astype(np.uint8),
        "labels": np.asarray(labels).astype(np.uint8),
    }
    return Dataset(
        name="digits",
        arrays=arrays,
        license="CC BY 4.0",
        source="Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test part",
        path=digits_path(),
    )
