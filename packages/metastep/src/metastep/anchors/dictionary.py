"""The geometry of a dictionary: singular values, norms and cosines of its words."""

from dataclasses import dataclass

import numpy as np

from metastep.anchors.checks import checked_matrix
from metastep.anchors.streaming import Triangle
from metastep.checks import require_count

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class DictionaryStatistics:
    """Statistics of a dictionary.

    Attributes:
        singular_values: in descending order, as many as the smaller side of the matrix.
        norms: Euclidean norm of each word, shape (vocabulary,).
        cosines: of random pairs of different words, shape (pairs,).
        mean_cosine: over all pairs of different words, exact.
        stable_rank: sum of squared singular values over the largest square.
    """

    singular_values: np.ndarray
    norms: np.ndarray
    cosines: np.ndarray
    mean_cosine: float
    stable_rank: float


def dictionary_statistics(
    unembedding: np.ndarray, pairs: int = 10_000, seed: int = 0
) -> DictionaryStatistics:
    """Measure singular values, norms and cosines of a dictionary (Figures 3.2, B.1, B.2).

    Words that are uniform on a sphere have nearly equal singular values, equal norms, cosines with
    mean zero, and a stable rank near the dimension.

    Example:
        >>> found = dictionary_statistics(np.array([[3.0, 0.0], [0.0, 4.0]]))
        >>> found.singular_values, found.mean_cosine, found.stable_rank
        (array([4., 3.]), 0.0, 1.5625)

    Args:
        unembedding: one row for each word, shape (vocabulary, hidden).
        pairs: the number of random pairs for the distribution of the cosine.
        seed: the seed of their choice.

    Returns:
        The statistics, in float64. Words that are zero (padding) have no cosine and are not
        included in it. Time of order vocabulary x hidden^2.

    Raises:
        ValueError: for a dictionary that is not a finite matrix or has fewer than two words that
            are not zero.

    Reference:
        Wu, Lee and Ge (2023); thesis of Wu, section 3.4.3 and Appendix B.3.
    """
    words = checked_matrix("unembedding", unembedding, "vocabulary, hidden")
    require_count("pairs", pairs)
    triangle = Triangle(words.shape[1])
    norms, direction = [], np.zeros(words.shape[1])
    for start in range(0, len(words), ROWS_AT_ONCE):
        rows = words[start : start + ROWS_AT_ONCE].astype(np.float64)
        triangle.add(rows)
        norms.append(np.linalg.norm(rows, axis=1))
        direction += np.sum(_units(rows, norms[-1]), axis=0)
    lengths = np.concatenate(norms)
    there = np.flatnonzero(lengths)
    if there.size < 2:
        raise ValueError(
            f"unembedding has {there.size} words that are not zero; allowed: 2 or more"
        )
    # Those of R are those of the dictionary; with few words R is square, and the rest are zeros.
    singular_values = np.linalg.svd(triangle.factor(), compute_uv=False)[: min(words.shape)]
    rng = np.random.default_rng(seed)
    first = rng.integers(there.size, size=pairs)
    # A shift that is not a whole turn: always another word, and every one as likely.
    second = (first + rng.integers(1, there.size, size=pairs)) % there.size
    unit = lambda rows: _units(words[rows].astype(np.float64), lengths[rows])
    left, right = unit(there[first]), unit(there[second])
    return DictionaryStatistics(
        singular_values=singular_values,
        norms=lengths,
        cosines=np.einsum("ij,ij->i", left, right),
        # |sum of units|^2 = n + the sum of the cosines of all ordered pairs: exact in one pass.
        mean_cosine=float((direction @ direction - there.size) / (there.size * (there.size - 1))),
        stable_rank=float(np.sum(singular_values**2) / singular_values[0] ** 2),
    )


def _units(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Scale rows to length one; rows of zeros are unchanged."""
    return rows / np.where(lengths > 0, lengths, 1.0)[:, None]
