"""The distance of a learned dictionary from the true one, and the conditioning of dictionaries."""

from collections.abc import Iterable
from itertools import combinations
from math import comb

import numpy as np

from metastep.checks import require_count
from metastep.sparse_coding.synthetic import unit_columns

MOST_SUPPORTS = 200_000


def recovery_error(truth: np.ndarray, learned: np.ndarray) -> float:
    """Return the mean squared distance of each true atom to the nearest learned one, up to sign.

    Example:
        >>> import numpy as np
        >>> recovery_error(np.eye(2), np.array([[-1.0, 0.0, 0.6], [0.0, 0.5, 0.8]]))
        0.125

    Args:
        truth: A, (d, p).
        learned: B, (d, p').

    Returns:
        The mean over i of min over j and sign c of |A_i - c B_j|^2. Exact; cost d p p'.

    Reference:
        Thesis of Wu, (2.2); Sulam, You and Zhu (2020).
    """
    products = np.abs(_products(truth, learned))
    # The absolute product takes the better sign. For equal atoms rounding may leave less than 0.
    squares = np.sum(truth**2, axis=0)[:, None] + np.sum(learned**2, axis=0) - 2 * products
    return float(np.maximum(squares, 0).min(axis=1).mean())


def cosine_recovery_error(truth: np.ndarray, learned: np.ndarray) -> float:
    """Return the mean over the true atoms of 1 - |cosine| with the most similar learned one.

    For atoms of unit norm it is half of `recovery_error`, which has the same arguments. Norms do
    not matter, and the cosine with an atom of 0 is 0. The thesis plots this error, from 0 (every
    true atom recovered) to 1.
    """
    cosines = np.abs(_products(unit_columns(truth), unit_columns(learned)))
    return float(np.maximum(1 - cosines.max(axis=1), 0).mean())


def _products(truth: np.ndarray, learned: np.ndarray) -> np.ndarray:
    if truth.ndim != 2 or learned.ndim != 2 or truth.shape[0] != learned.shape[0]:
        raise ValueError(
            f"truth and learned have the shapes {truth.shape} and {learned.shape}; allowed are "
            "(d, p) and (d, p')"
        )
    if 0 in truth.shape or 0 in learned.shape:
        raise ValueError("truth and learned need at least one atom and one coordinate")
    return truth.T @ learned


def coherence(dictionary: np.ndarray) -> float:
    """Return the largest |cosine| between two different atoms: the smallest mu of (2.6).

    From 0 (orthogonal atoms) to 1 (two parallel ones). `dictionary` has the shape (d, p) with p
    from 2; the norms of the atoms do not matter.

    Reference:
        Thesis of Wu, Definition 2.2.2.
    """
    if dictionary.ndim != 2 or dictionary.shape[1] < 2:
        raise ValueError(f"dictionary has the shape {dictionary.shape}; allowed: (d, p), p from 2")
    atoms = unit_columns(dictionary)
    cosines = np.abs(_products(atoms, atoms))
    np.fill_diagonal(cosines, 0)
    return float(cosines.max())


def restricted_isometry_constant(dictionary: np.ndarray, n_nonzero: int) -> float:
    """Return the smallest delta with |Ax|^2 = (1 +- delta) |x|^2 for `n_nonzero`-sparse x.

    Exact, by enumerating all supports, hence for small dictionaries only (the problem is NP-hard).
    For others use `restricted_isometry_bounds`.

    Example:
        >>> import numpy as np
        >>> round(restricted_isometry_constant(np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]]), 2), 3)
        0.8

    Args:
        dictionary: (d, p).
        n_nonzero: sparsity s, from 1 to p.

    Returns:
        delta_s; below 1 exactly when every s atoms are linearly independent.

    Raises:
        ValueError: if there are more than 200000 supports.

    Reference:
        Candes and Tao (2005); thesis of Wu, (2.5).
    """
    atoms = dictionary.shape[1]
    require_count("n_nonzero", n_nonzero, most=atoms)
    supports = comb(atoms, n_nonzero)
    if supports > MOST_SUPPORTS:
        raise ValueError(
            f"n_nonzero is {n_nonzero}; with {atoms} atoms there are {supports} supports, allowed "
            f"are {MOST_SUPPORTS}. Use restricted_isometry_bounds"
        )
    return _largest_deviation(dictionary, combinations(range(atoms), n_nonzero))


def restricted_isometry_bounds(
    dictionary: np.ndarray, n_nonzero: int, *, supports: int = 1000, rng: np.random.Generator
) -> tuple[float, float]:
    """Bracket the restricted isometry constant of a dictionary of any size.

    Args:
        dictionary: (d, p).
        n_nonzero: sparsity s, from 1 to p.
        supports: the number of random supports for the lower bound.
        rng: source of the supports.

    Returns:
        A lower bound, the largest deviation on the supports drawn, and an upper bound by
        Gershgorin's circles: the largest deviation of a squared norm from 1, plus the sum of the
        s - 1 largest |inner products| of one atom with others.

    Reference:
        Thesis of Wu, section 2.2.3.
    """
    atoms = dictionary.shape[1]
    require_count("n_nonzero", n_nonzero, most=atoms)
    require_count("supports", supports)
    drawn = (rng.choice(atoms, n_nonzero, replace=False) for _ in range(supports))
    products = np.abs(dictionary.T @ dictionary)
    norms = np.abs(np.diagonal(products) - 1)
    np.fill_diagonal(products, 0)
    # A row of a support's Gram matrix has s - 1 other entries, at most its largest ones.
    circles = np.sort(products, axis=1)[:, atoms - n_nonzero + 1 :].sum(axis=1)
    return _largest_deviation(dictionary, drawn), float(norms.max() + circles.max())


def _largest_deviation(dictionary: np.ndarray, supports: Iterable) -> float:
    gram = dictionary.T @ dictionary
    index = np.array(list(supports))
    # |Ax|^2 / |x|^2 on a support lies between the eigenvalues of its part of the Gram matrix.
    eigenvalues = np.linalg.eigvalsh(gram[index[:, :, None], index[:, None, :]])
    return float(np.abs(eigenvalues - 1).max())
