"""The losses of the true dictionary, and of the one that the proof of Theorem 2.3.2 builds.

The built dictionary has, for every pair of true atoms, vectors at equal angles in their plane. One
of its atoms approximates any combination of two true ones: k of them do what 2 k true ones can. The
distance d_R counts the lengths of atoms, on which no loss depends: atoms of length 2 are all far
from the truth. Among atoms of length 1 those near the truth have to be left out for that.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from metastep.sparse_coding import orthogonal_matching_pursuit

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
CHUNK = 250
"""Signals that are decoded together."""


def built_dictionary(truth: Matrix, angles: int, *, apart: bool) -> Matrix:
    """Return unit vectors in the planes of all pairs of atoms of A, at some angles in each.

    `apart` leaves out those that are closer than half an angle to a true atom. Shape (d, q), q at
    most angles p (p - 1) / 2.
    """
    first, second = np.array(list(combinations(range(truth.shape[1]), 2))).T
    one = truth[:, first]
    other = truth[:, second] - one * np.sum(one * truth[:, second], axis=0)
    other /= np.linalg.norm(other, axis=0)
    # Half a turn of a circle, since signs do not matter; half a step away from the first atom.
    turns = (np.arange(angles) + 0.5) * np.pi / angles
    planes = one[:, :, None] * np.cos(turns) + other[:, :, None] * np.sin(turns)
    built = planes.reshape(len(truth), -1)
    if not apart:
        return built
    nearest = np.abs(truth.T @ built).max(axis=0)
    # The vectors next to an atom are exactly half a step away, up to rounding.
    return built[:, nearest <= np.cos(np.pi / (2 * angles)) + 1e-12]


def least_errors(signals: Matrix, dictionary: Matrix, n_nonzero: int) -> Vector:
    """Return min |y - D z|^2 over z with k entries, for k of 1 and 2, by trying every support.

    The columns of D are unit vectors. Exact, for each signal.
    """
    products = signals @ dictionary
    lengths = np.sum(signals**2, axis=1)
    if n_nonzero == 1:
        return lengths - np.max(products**2, axis=1)
    first, second = np.array(list(combinations(range(dictionary.shape[1]), 2))).T
    overlap = np.sum(dictionary[:, first] * dictionary[:, second], axis=0)
    one, other = products[:, first], products[:, second]
    # The squared projection on the plane of two unit vectors.
    explained = (one**2 + other**2 - 2 * overlap * one * other) / (1 - overlap**2)
    return lengths - explained.max(axis=1)


def pursued_errors(signals: Matrix, dictionary: Matrix, n_nonzero: int) -> Vector:
    """Return |y - D z|^2 for the z of matching pursuit: `least_errors` at k = 1, else at least."""
    found = []
    for at in range(0, len(signals), CHUNK):
        part = signals[at : at + CHUNK]
        if n_nonzero == 1:
            found.append(least_errors(part, dictionary, 1))
        else:
            codes = orthogonal_matching_pursuit(part, dictionary, n_nonzero)
            found.append(np.sum((part - codes @ dictionary.T) ** 2, axis=1))
    return np.concatenate(found)


def masked_errors(signals: Matrix, dictionary: Matrix, n_nonzero: int, visible: int) -> Vector:
    """Return the squared errors on the hidden, last coordinates, decoded from the visible ones."""
    found = []
    for at in range(0, len(signals), CHUNK):
        part = signals[at : at + CHUNK]
        codes = orthogonal_matching_pursuit(part[:, :visible], dictionary[:visible], n_nonzero)
        missed = part[:, visible:] - codes @ dictionary[visible:].T
        found.append(np.sum(missed**2, axis=1))
    return np.concatenate(found)


def oracle_errors(
    signals: Matrix, codes: Matrix, truth: Matrix, visible: int, ridge: float
) -> Vector:
    """Return the errors of the best prediction that knows every support, which bounds all others.

    Args:
        signals: y, shape (n, d).
        codes: the true ones, of which the support is used, shape (n, p).
        truth: A.
        visible: the number of visible coordinates.
        ridge: the variance of the noise over that of the entries of the codes.
    """
    count = int((codes[0] != 0).sum())
    supports = np.argsort(codes == 0, axis=1, kind="stable")[:, :count]
    atoms = truth.T[supports]  # (n, k, d)
    seen, hidden = atoms[..., :visible], atoms[..., visible:]
    # Given the support, codes and noise are normal: the posterior mean is a ridge regression,
    # which the proof of Theorem 2.3.6 has as its lower bound.
    gram = seen @ np.swapaxes(seen, 1, 2) + ridge * np.eye(count)
    right = seen @ signals[:, :visible, None]
    predicted = np.swapaxes(hidden, 1, 2) @ np.linalg.solve(gram, right)
    return np.sum((signals[:, visible:] - predicted[..., 0]) ** 2, axis=1)
