"""Partition functions of log-linear models without their largest terms, and their histograms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metastep.checks import require_count

ROWS_AT_ONCE = 64  # rows whose largest logits are sorted together, which bounds the memory


def check_top(top: Sequence[int], vocabulary: int) -> tuple[int, ...]:
    """Return the numbers of excluded words as a tuple: distinct, from 0, below the vocabulary."""
    checked = tuple(top)
    whole = all(isinstance(k, int | np.integer) and k >= 0 for k in checked)
    if not checked or not whole or len(set(checked)) != len(checked):
        raise ValueError(f"top is {checked}; allowed are different integers from 0, at least one")
    if max(checked) >= vocabulary:
        raise ValueError(
            f"top is {checked} for a vocabulary of {vocabulary} words; allowed are integers below "
            f"{vocabulary}, so that a word is left"
        )
    return tuple(map(int, checked))


def log_bulk_partitions(logits: np.ndarray, top: Sequence[int]) -> np.ndarray:
    """Compute log sum exp of each row of logits without its k largest, for several k at once.

    The sum starts from the bulk without the largest `max(top)` logits. The parts between one bulk
    size and the next are added in ascending order, each scaled by its own maximum. A difference of
    two sums is never formed: it would lose every digit if a few words have all the probability.

    Exact up to rounding: each exponential in the dtype of the logits, every sum in float64. Time
    linear in the vocabulary.

    Example:
        >>> logits = np.log([[1.0, 2.0, 3.0, 4.0]])
        >>> np.exp(log_bulk_partitions(logits, (0, 1, 3))).round(12)
        array([[10.,  6.,  1.]])

    Args:
        logits: shape (tokens, vocabulary), float32 or float64. Overwritten: pass a copy to keep it.
        top: the numbers k of largest logits to exclude, each below the vocabulary; 0 gives log Z.

    Returns:
        Shape (tokens, len(top)), float64, the columns in the order of `top`.

    Raises:
        ValueError: for logits that are not a matrix, or a `top` that does not fit.

    Reference:
        Wu, Lee and Ge (2023); thesis of Wu, Definition 3.4.1, with the bulk of all words except
        the k most probable ones.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits has shape {logits.shape}; allowed: (tokens, vocabulary)")
    top = check_top(top, logits.shape[1])
    descending = np.argsort(top)[::-1]
    starts = logits.shape[1] - np.array(top)[descending]  # the first index of each next part
    found = np.empty((len(logits), len(top)))
    for start in range(0, len(logits), ROWS_AT_ONCE):
        rows = logits[start : start + ROWS_AT_ONCE]
        # Linear in the vocabulary; only the few largest logits are sorted.
        rows.partition(starts[0] - 1, axis=1)
        bulk, largest = rows[:, : starts[0]], np.sort(rows[:, starts[0] :], axis=1)
        total = _log_sum(bulk)
        found[start : start + ROWS_AT_ONCE, descending[0]] = total
        # The last part, the `min(top)` largest, is excluded by every bulk.
        parts = np.split(largest, starts[1:] - starts[0], axis=1)[:-1]
        for place, part in zip(descending[1:], parts, strict=True):
            total = np.logaddexp(total, _log_sum(part))
            found[start : start + ROWS_AT_ONCE, place] = total
    return found


def _log_sum(logits: np.ndarray) -> np.ndarray:
    """Return log sum exp of each row, and overwrite the rows."""
    # In place: a temporary array would double the largest memory of a fit.
    highest = logits.max(axis=1, keepdims=True)
    np.subtract(logits, highest, out=logits)
    np.exp(logits, out=logits)
    # Float32 sums of a large vocabulary would lose what the exponentials have kept.
    return highest[:, 0] + np.log(logits.sum(axis=1, dtype=np.float64))


@dataclass(frozen=True)
class Histograms:
    """Histograms with common edges.

    Attributes:
        edges: shape (bins + 1,), increasing, in nats.
        counts: shape (bulk sizes, bins).
    """

    edges: np.ndarray
    counts: np.ndarray


def partition_histograms(log_partitions: np.ndarray, bins: int = 60) -> Histograms:
    """Return histograms of the log partition function for each bulk size (Figure 3.3).

    `log_partitions` has the shape (tokens, bulk sizes), as `AnchorFit.log_partitions`. The bins are
    of equal width, from the smallest to the largest of all values.
    """
    if log_partitions.ndim != 2 or log_partitions.size == 0:
        shape = log_partitions.shape
        raise ValueError(f"log_partitions has shape {shape}; allowed: (tokens, bulk sizes), not 0")
    if not np.isfinite(log_partitions).all():
        raise ValueError("log_partitions holds infinities or NaN; allowed are finite numbers")
    require_count("bins", bins)
    # Common edges, so that bulk sizes can be compared bin by bin.
    edges = np.histogram_bin_edges(log_partitions, bins)
    counts = [np.histogram(column, edges)[0] for column in log_partitions.T]
    return Histograms(edges, np.stack(counts))
