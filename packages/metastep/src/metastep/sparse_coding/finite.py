"""Refusal of matrices with entries that are infinite or NaN."""

import numpy as np


def require_finite(name: str, matrix: np.ndarray) -> None:
    """Raise a `ValueError` that names the first entry that is infinite or NaN."""
    finite = np.isfinite(matrix)
    if not np.all(finite):
        row, column = np.argwhere(~finite)[0].tolist()
        raise ValueError(
            f"{name} has the entry {matrix[row, column]} in row {row}, column {column} (from 0); "
            "allowed are finite numbers"
        )
