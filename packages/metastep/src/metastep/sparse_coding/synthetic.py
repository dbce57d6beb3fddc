"""Noisy sparse combinations of the atoms of a random dictionary, and initial dictionaries."""

from dataclasses import dataclass

import numpy as np

from metastep.checks import require, require_count


@dataclass(frozen=True)
class SparseSignals:
    """Signals whose sparse codes are known.

    Attributes:
        signals: (n, d).
        codes: (n, p).
    """

    signals: np.ndarray
    codes: np.ndarray


def random_dictionary(rng: np.random.Generator, dim: int, atoms: int) -> np.ndarray:
    """Draw a Gaussian dictionary of `atoms` columns of unit norm, shape (dim, atoms), float64.

    Reference:
        Chidambaram, Wu, Cheng and Ge (2023), section 4; thesis of Wu, section 2.4.
    """
    require_count("dim", dim)
    require_count("atoms", atoms)
    return unit_columns(rng.standard_normal((dim, atoms)))


def draw_signals(
    rng: np.random.Generator,
    dictionary: np.ndarray,
    samples: int,
    n_nonzero: int,
    noise: float,
    *,
    scale: float | None = None,
) -> SparseSignals:
    """Draw signals y = A z + noise with random supports and codes z, of unit norm by default.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> drawn = draw_signals(rng, random_dictionary(rng, 20, 40), 5, 3, noise=0.1)
        >>> drawn.signals.shape, np.count_nonzero(drawn.codes, axis=1)
        ((5, 20), array([3, 3, 3, 3, 3]))

    Args:
        rng: source of randomness.
        dictionary: A, (d, p).
        samples: n, the number of signals.
        n_nonzero: the size of each support, from 1 to p; uniform over supports, Gaussian entries.
        noise: standard deviation of the noise in each coordinate.
        scale: standard deviation of the entries of z, which then have no fixed norm (Assumption
            2.3.5 of the thesis); None for a norm of 1.

    Returns:
        Signals (n, d) and codes (n, p), float64.

    Reference:
        Chidambaram, Wu, Cheng and Ge (2023), section 4; thesis of Wu, section 2.4.
    """
    dim, atoms = dictionary.shape
    require_count("samples", samples)
    require_count("n_nonzero", n_nonzero, most=atoms)
    require(noise >= 0, "noise", noise, "numbers from 0")
    require(scale is None or scale > 0, "scale", scale, "positive numbers")
    # The first places of a random order are a uniform support, for all signals in one call.
    supports = np.argsort(rng.random((samples, atoms)), axis=1)[:, :n_nonzero]
    entries = rng.standard_normal((samples, n_nonzero))
    entries *= 1 / np.linalg.norm(entries, axis=1, keepdims=True) if scale is None else scale
    codes = np.zeros((samples, atoms))
    np.put_along_axis(codes, supports, entries, axis=1)
    noises = noise * rng.standard_normal((samples, dim))
    return SparseSignals(codes @ dictionary.T + noises, codes)


def sample_start(signals: np.ndarray) -> np.ndarray:
    """Return a dictionary (d, p') with one normalized atom for each signal, of shape (p', d).

    The signals are usually held out from training. A signal of 0 gives an atom of 0.
    """
    return unit_columns(signals.T)


def local_start(truth: np.ndarray, signals: np.ndarray) -> np.ndarray:
    """Return the true dictionary (d, p), completed by normalized signals; for analysis only."""
    return np.concatenate([truth, sample_start(signals)], axis=1)


def unit_columns(matrix: np.ndarray) -> np.ndarray:
    """Divide every column by its norm; columns of 0 stay 0."""
    # In float64: in float32 the squares of 1e-24 are 0, and such a column would stay as it is.
    norms = np.linalg.norm(matrix.astype(np.float64, copy=False), axis=0)
    return matrix / np.where(norms > 0, norms, 1).astype(np.result_type(matrix, np.float32))
