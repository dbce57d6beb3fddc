"""Splitting and corrupting labels, the preparation that several experiments share."""

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def balanced_indices(labels: ArrayLike, sizes: Sequence[int], seed: int) -> tuple[np.ndarray, ...]:
    """Disjoint random sets of examples in which every class is equally frequent.

    Within one set the numbers of examples of any two classes differ by at most one; they are equal
    if the number of classes divides the size. The surplus goes to the classes with most examples
    left. What is in no set is `np.setdiff1d(np.arange(len(labels)), np.concatenate(sets))`.

    Args:
        labels: the class of each example, shape (n,), integers or strings.
        sizes: how many examples each set gets.
        seed: the same seed gives the same sets.

    Returns:
        One int64 array of shape (size,) for each size: positions in `labels`, in random order.

    Raises:
        ValueError: if a size is negative, `labels` is not a list of labels, or a class has too few
            examples.

    Example:
        >>> train, test = balanced_indices([0, 1, 0, 1, 0, 1], (4, 2), seed=0)
        >>> sorted(np.array([0, 1, 0, 1, 0, 1])[train].tolist())
        [0, 0, 1, 1]
        >>> sorted([*train.tolist(), *test.tolist()])
        [0, 1, 2, 3, 4, 5]
    """
    labels = np.asarray(labels)
    sizes = [operator.index(size) for size in sizes]
    if labels.size == 0 and any(sizes):
        raise ValueError(f"There are no labels to draw sets of {sizes} examples from.")
    if labels.ndim != 1 or labels.dtype.kind not in "iuUb":
        raise ValueError(f"Labels must have shape (n,), not {labels.shape} of {labels.dtype}.")
    if any(size < 0 for size in sizes):
        raise ValueError(f"The size of a set cannot be negative: {sizes}.")
    rng = np.random.default_rng(seed)
    classes, inverse = np.unique(labels, return_inverse=True)
    members = [rng.permutation(np.flatnonzero(inverse == number)) for number in range(len(classes))]
    counts = _balanced_counts(classes, np.array([len(member) for member in members]), sizes, rng)
    sets = []
    # Each set takes the next part of every class's random order, so no two share an example.
    for row, stop in zip(counts, np.cumsum(counts, axis=0), strict=True):
        parts = [
            member[end - count : end] for member, end, count in zip(members, stop, row, strict=True)
        ]
        # The empty array gives the type where there are no classes.
        sets.append(rng.permutation(np.concatenate([np.zeros(0, np.int64), *parts])))
    return tuple(sets)


def _balanced_counts(
    classes: np.ndarray, available: np.ndarray, sizes: list[int], rng: np.random.Generator
) -> np.ndarray:
    """How many examples of each class each set gets, shape (sets, classes)."""
    equal = np.array([size // max(len(classes), 1) for size in sizes], dtype=np.int64)
    counts = np.repeat(equal[:, None], len(classes), axis=1)
    left = available - counts.sum(axis=0)
    # A set's extra examples come from the classes with most left: if any choice works, this one
    # does, since swapping a fuller class for an emptier one never helps a later set.
    for row, size in zip(counts, sizes, strict=True):
        extra = size - int(row.sum())
        chosen = np.lexsort((rng.random(len(classes)), -left))[:extra]
        row[chosen] += 1
        left[chosen] -= 1
    if (left < 0).any():
        worst = int(np.argmin(left))
        raise ValueError(
            f"Balanced sets of {sizes} examples need {counts[:, worst].sum()} of class "
            f"{classes[worst]}, which has {available[worst]}: ask for smaller sets."
        )
    return counts


def corrupt_labels(
    labels: ArrayLike, classes: int, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Replace each label with probability `fraction` by a uniformly random class.

    The random class may be the same one again, so the expected fraction of wrong labels is
    `fraction * (classes - 1) / classes`; the mask says which were replaced, not which are wrong.

    Args:
        labels: integers from 0 to `classes - 1`, any shape. They are not changed.
        classes: the number of classes.
        fraction: the probability, 0 to 1.
        rng: the source of randomness.

    Returns:
        The new labels, of the same shape and dtype, and a boolean mask of the same shape.

    Raises:
        ValueError: if `fraction` is not a probability or a label is not one of the classes.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels, replaced = corrupt_labels(np.zeros(1000, int), 10, 0.5, rng)
        >>> bool(abs(replaced.mean() - 0.5) < 0.05), bool((labels[~replaced] == 0).all())
        (True, True)
    """
    labels = np.asarray(labels)
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"The fraction to corrupt must be between 0 and 1, not {fraction}.")
    if labels.dtype.kind not in "iu" or classes < 1 or classes - 1 > np.iinfo(labels.dtype).max:
        raise ValueError(f"Labels of type {labels.dtype} cannot hold {classes} classes.")
    if labels.size and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"Labels must be 0 to {classes - 1}: {labels.min()} to {labels.max()} found."
        )
    replaced = rng.random(labels.shape) < fraction
    # For every label, so that what is drawn next does not depend on how many are replaced.
    random = rng.integers(classes, size=labels.shape).astype(labels.dtype)
    return np.where(replaced, random, labels), replaced
