"""Moments of X^T X for a matrix X of independent standard normal entries; fourth moments.

Every expectation of a product of X^T X with itself and its traces is a multiple of the identity;
the functions return the multiple. All are exact for every number of rows and columns.

Reference:
    Bernacchia (2021), Meta-learning with negative learning rates, Lemma 1 (Eqs. 31 to 42).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metastep_lab.theory.maml_checks import check_counts

FloatArray = NDArray[np.float64]


class GramMoments(NamedTuple):
    """Multiples of the identity, G = X^T X.

    Attributes:
        m1: E G (Eq. 31).
        m2: E G^2 (Eq. 32).
        m3: E G^3 (Eq. 33).
        m4: E G^4 (Eq. 34).
        m11: E G Tr(G) (Eq. 36).
        m21: E G^2 Tr(G), and E G Tr(G^2) (Eqs. 37 and 38).
        m22: E G^2 Tr(G^2) (Eq. 39).
    """

    m1: float
    m2: float
    m3: float
    m4: float
    m11: float
    m21: float
    m22: float


def gram_moments(rows: int, columns: int) -> GramMoments:
    """Return the moments of X^T X up to the fourth order, for numbers of rows and columns of X.

    Example:
        >>> from metastep_lab.theory.maml import gram_moments
        >>> gram_moments(30, 60).m2
        2730.0

    Raises:
        ValueError: for a number below 1.

    Reference:
        Bernacchia (2021), Lemma 1.
    """
    check_counts(rows=rows, columns=columns)
    n, p = float(rows), float(columns)
    fourth = n**3 + p**3 + 6 * n**2 * p + 6 * n * p**2 + 6 * n**2 + 6 * p**2 + 17 * n * p
    mixed = n**3 * p + n * p**3 + 2 * n**2 * p**2 + 2 * n**2 * p + 2 * n * p**2
    return GramMoments(
        m1=n,
        m2=n * (n + p + 1),
        m3=n * (n**2 + p**2 + 3 * n * p + 3 * n + 3 * p + 4),
        m4=n * (fourth + 21 * n + 21 * p + 20),
        m11=n**2 * p + 2 * n,
        m21=n * (n**2 * p + n * p**2 + n * p + 4 * n + 4 * p + 4),
        m22=n * (mixed + 8 * n**2 + 8 * p**2 + 21 * n * p + 20 * n + 20 * p + 20),
    )


def scaled_moments(rows: int, columns: int) -> GramMoments:
    """Return the moments of S = X^T X / n, with traces divided by p: mu_2, mu_3, ... of the paper.

    Each tends to 1 as n grows with p fixed.

    Raises:
        ValueError: for a number below 1.

    Reference:
        Bernacchia (2021), Eqs. 102 to 107.
    """
    moments = gram_moments(rows, columns)
    orders, traces = (1, 2, 3, 4, 2, 3, 4), (0, 0, 0, 0, 1, 1, 1)
    scaled = zip(moments, orders, traces, strict=True)
    return GramMoments(*(m / (float(rows) ** k * float(columns) ** t) for m, k, t in scaled))


def weighted_gram(weights: ArrayLike) -> float:
    """Return the multiple of the identity that is E X^T C X: the trace of C.

    Reference:
        Bernacchia (2021), Eq. 41.
    """
    return float(np.trace(np.asarray(weights, np.float64)))


def sandwiched_gram(rows: int, middle: ArrayLike) -> FloatArray:
    """Return E X^T X D X^T X = n (n + 1) D + n Tr(D) I for a symmetric D.

    Raises:
        ValueError: for fewer than 1 of the n rows.

    Reference:
        Bernacchia (2021), Eq. 42.
    """
    check_counts(rows=rows)
    matrix = np.asarray(middle, np.float64)
    return rows * (rows + 1) * matrix + rows * np.trace(matrix) * np.eye(matrix.shape[0])


def fourth_moments(covariance: ArrayLike, kurtosis: float = 3.0) -> FloatArray:
    """Return F = E (x^T Sigma x) x x^T for x = Sigma^{1/2} s with independent entries of s.

    F = 2 Sigma^3 + Sigma Tr(Sigma^2) + (kurtosis - 3) Sigma^{1/2} diag(Sigma^2) Sigma^{1/2}; the
    last term is ours. The kurtosis is E s^4, with E s = 0 and E s^2 = 1; 3 for normal x. The third
    moments of s have no part in it. Exact.

    Reference:
        Bernacchia (2021), section 5.3.
    """
    sigma = np.asarray(covariance, np.float64)
    square = sigma @ sigma
    values, vectors = np.linalg.eigh(sigma)
    # By rounding, zero eigenvalues come out negative.
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # x^T Sigma x = s^T A s with A = Sigma^2, and for independent entries of s
    # E (s^T A s) s s^T = 2 A + Tr(A) I + (kurtosis - 3) diag(A).
    rest = (kurtosis - 3) * (root * np.diag(square)) @ root
    # The last part is symmetric but for rounding, which checks of symmetry would notice.
    return 2 * square @ sigma + sigma * np.trace(square) + (rest + rest.T) / 2
