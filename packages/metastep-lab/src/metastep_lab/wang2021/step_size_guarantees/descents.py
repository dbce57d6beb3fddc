"""Theorem 4 by simulation: how many updates meta-gradient descent needs on random quadratics.

In the eigenbasis, f(w_t) = sum_i c_i^2 lambda_i (1 - eta lambda_i)^{2t} / 2. All problems and all
starts descend on F = (1/t) log f together, with the exact derivative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metastep.compilation import compiled
from metastep_lab.theory import quadratic_step_size as theory

STARTS = (0.0, 2.0, 4.0)
"""The first step sizes, in units of 1 / alpha; the theorem's M is the largest of it and 2."""
DISTANCES = (0.3, 0.1, 0.03, 0.01)
"""The distances epsilon from the best step size, in units of 1 / L."""


class Quadratics(NamedTuple):
    """Random problems: eigenvalues in ascending order, and squared coordinates of a unit w_0."""

    eigenvalues: np.ndarray
    squares: np.ndarray


def draw_quadratics(problems: int, dim: int, rng: np.random.Generator) -> Quadratics:
    """Draw H = X^T X / n from n = 4 dim standard normal rows, and w_0 uniform on the sphere."""
    # Footnote 2 has 2 dim rows. With 4 dim, alpha and L - alpha are further from zero, by powers
    # of which the bound of the proof grows.
    inputs = rng.standard_normal((problems, 4 * dim, dim))
    hessians = np.swapaxes(inputs, 1, 2) @ inputs / (4 * dim)
    eigenvalues, vectors = np.linalg.eigh(hessians)
    start = rng.standard_normal((problems, dim, 1))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    coordinates = np.swapaxes(vectors, 1, 2) @ start
    return Quadratics(eigenvalues, coordinates[..., 0] ** 2)


def settling(problems: Quadratics, horizon: int, updates: int) -> list[tuple]:
    """Descend with meta step sizes 1 / sqrt(k), and count the updates until eta stays near.

    Returns:
        Rows of problem, start, distance, updates (k_0: from there on eta stays within the distance;
        NaN if it does not within the updates made) and bound (of the proof).
    """
    lowest, highest = problems.eigenvalues[:, 0], problems.eigenvalues[:, -1]
    best = np.array([_optimum(*one, horizon) for one in zip(*problems, strict=True)])
    starts = np.multiply.outer(STARTS, 1 / lowest)
    near = np.multiply.outer(DISTANCES, 1 / highest)
    with jax.enable_x64(True):
        values, squares, best, starts, near = map(jnp.asarray, (*problems, best, starts, near))
        last = np.asarray(_descend(values, squares, best, starts, near, horizon, updates))
    rows = []
    for at, start, problem in np.ndindex(last.shape):
        eigenvalues, squares = (part[problem] for part in problems)
        most = max(STARTS[start], 2.0) / eigenvalues[0]
        bound = updates_bound(eigenvalues, squares, float(near[at, problem]), most)
        count = last[at, start, problem]
        # Still too far after the last update: k_0 is not known, only that it is larger.
        count = np.nan if count == updates else count + 1.0
        rows.append((problem, STARTS[start], DISTANCES[at], count, bound))
    return rows


@compiled
def _descend(
    eigenvalues: Array,
    squares: Array,
    best: Array,
    starts: Array,
    near: Array,
    horizon: int,
    updates: int,
) -> Array:
    """Return the last update after which eta is too far: shape (distances, starts, problems)."""

    def slope(eta: Array) -> Array:
        factors = 1 - eta[..., None] * eigenvalues
        # Claim 2 divides by the larger of |1 - eta alpha| and |1 - eta L|; both sums are then of
        # order one.
        scale = jnp.max(jnp.abs(factors), axis=-1)
        factors = factors / scale[..., None]
        numerator = jnp.sum(squares * eigenvalues**2 * factors ** (2 * horizon - 1), axis=-1)
        total = jnp.sum(squares * eigenvalues * factors ** (2 * horizon), axis=-1)
        return -2 * numerator / (scale * total)

    def step(carry: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
        eta, last = carry
        # Theorem 4 resets eta to zero once it is negative.
        eta = jnp.maximum(eta - slope(eta) / jnp.sqrt(k), 0)
        far = jnp.abs(eta - best) > near[:, None]
        return (eta, jnp.where(far, k, last)), None

    begin = starts, jnp.zeros((len(near), *starts.shape))
    (_, last), _ = jax.lax.scan(step, begin, jnp.arange(1.0, updates + 1.0))
    return last


def _optimum(eigenvalues: np.ndarray, squares: np.ndarray, horizon: int) -> float:
    return theory.optimal_step_size(np.diag(eigenvalues), np.sqrt(squares), horizon)


def updates_bound(
    eigenvalues: np.ndarray, squares: np.ndarray, distance: float, most: float
) -> float:
    """Return the number of updates after which the proof of Theorem 4 has eta near its best.

    It is k_2, the smallest with sum from k_1 to k_2 of 1 / sqrt(k) above R / D_min; as a float,
    since it may be very large. Eigenvalues ascend, `squares` are those of the coordinates of a unit
    w_0, and `most` is M, at least the first step size and 2 / alpha.

    Reference:
        Wang, Yuan, Wu and Ge (2020), appendix A.2, Claims 2 and 3 and what follows them.
    """
    low, high = eigenvalues[0], eigenvalues[-1]
    # c_min is that of the two extreme eigenvectors alone; it bounds the denominators of Claim 2.
    steepest = 4 * high**3 / (min(squares[0], squares[-1]) * low * (high - low))
    first = (steepest / distance) ** 2
    # M^ of the proof: eta never gets beyond it, since an update moves by at most D_max.
    reach = max(1 / low + steepest, most)
    # D_min(M^) of Claim 3 is the smaller of the two.
    left = 2 * distance * squares[0] * low**3 / high
    right = 2 * distance * squares[-1] * high**2 / (reach * high - 1) ** 2
    # R is the way from M^ to the smallest possible eta*, 1 / L. The sum of 1 / sqrt(k) is at least
    # 2 (sqrt(k_2) - sqrt(k_1)), which is solved for k_2.
    way = reach - 1 / high
    return float((np.sqrt(first) + way / min(left, right) / 2) ** 2)
