"""Lemmas 2 and 3 of Bernacchia (2021) and what its proofs take from them, by drawn matrices.

Each statement is "a matrix = a multiple of the identity + O(xi^order)". Both parts are checked: the
multiple is the mean over draws, and the deviations grow with xi at that order.
"""

from functools import cache

import numpy as np
import pytest

from metastep_lab.theory import maml
from metastep_lab.theory.maml_new_task import contraction

DRAWS, SMALL, LARGE = 400, 16, 48
RATE, NOISE, VARIABILITY = 0.4, 0.7, 0.5
KURTOSIS = 6.0

normal = np.random.Generator.standard_normal
turned = lambda x: np.swapaxes(x, -1, -2)


def lemma_2(rng, xi):
    """Two tasks of 2 rows; p and n_t grow. D has traces of order xi."""
    p, n = 2 * xi, xi
    middle = np.diag(np.resize([1.0, -0.5, 3.0], p))
    (v, w), (t, s) = normal(rng, (2, DRAWS, 2, p)), normal(rng, (2, DRAWS, n, p))
    trace, grown = np.trace(middle), n * (n + p + 1)
    seen, other = (v @ turned(t)) @ t, (w @ turned(s)) @ s
    return {
        "43": (v @ turned(v), p, 0.5),
        "44": (seen @ turned(v), p * n, 1.5),
        "45": (seen @ turned(seen), p * grown, 2.5),
        "46": (v @ turned(w), 0, 0.5),
        "47": (seen @ turned(w), 0, 1.5),
        "48": (seen @ turned(other), 0, 2.5),
        "49": (v @ middle @ turned(v), trace, 0.5),
        "50": (seen @ middle @ turned(v), trace * n, 1.5),
        "51": (seen @ middle @ turned(seen), trace * grown, 2.5),
        "52": (v @ middle @ turned(w), 0, 0.5),
        "53": (seen @ middle @ turned(w), 0, 1.5),
        "54": (seen @ middle @ turned(other), 0, 2.5),
    }


def lemma_3(rng, xi):
    """Three columns; n_v and n_t grow. Eq. 86 is judged with four tasks."""
    p, rows, n, tasks = 3, 16 * xi, 8 * xi, 4  # n (n + p + 1) is n^2 only for large n
    v, t = normal(rng, (DRAWS, tasks, rows, p)), normal(rng, (DRAWS, tasks, n, p))
    seen, given = turned(v) @ v, turned(t) @ t
    step = np.eye(p) - RATE / n * given
    gram = np.sum(step @ seen @ step, axis=1) / (rows * tasks)
    return {
        "55": (seen[:, 0], rows, 0.5),
        "56": (given[:, 0] @ seen[:, 0], n * rows, 1.5),
        "57": (given[:, 0] @ seen[:, 0] @ given[:, 0], rows * n * (n + p + 1), 2.5),
        "86": (gram, contraction(np.array(RATE), p, n), -0.5),
    }


def stacked(rng, xi, draw, center):
    """Return B and Gamma of two tasks with 2 validation rows, by Eqs. 67 to 73, and n_t."""
    n, p = xi, 2 * xi
    v, t = draw(rng, (DRAWS, 2, 2, p)), draw(rng, (DRAWS, 2, n, p))
    b = v - RATE / n * ((v @ turned(t)) @ t)
    noisy = np.eye(2) + (RATE / n) ** 2 * (v @ turned(t)) @ turned(v @ turned(t))
    gamma = np.zeros((DRAWS, 4, 4))
    for i in range(2):
        block = b[:, i] @ center @ turned(b[:, i]) + NOISE**2 * noisy[:, i]
        gamma[:, 2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return b.reshape(DRAWS, 4, p), gamma


def theorem_1(rng, xi):
    p, n = 2 * xi, xi
    b, gamma = stacked(rng, xi, normal, VARIABILITY**2 / p * np.eye(p))
    h = contraction(np.array(RATE), p, n)
    away = normal(rng, p)
    away *= xi**-0.25 / np.linalg.norm(away)
    moved = b @ away
    return {
        "75": (b @ turned(b) / p, h, -0.5),
        "76": (gamma, VARIABILITY**2 * h + NOISE**2 * (1 + RATE**2 * p / n), -0.5),
        "77": (moved[:, :, None] * moved[:, None], xi**-0.5 * h, -0.5),
    }


def theorem_3(rng, xi):
    """Correlated inputs of given kurtosis; the covariances have bounded eigenvalues."""
    p, n = 2 * xi, xi
    sigma = np.diag(np.resize([0.5, 1.0, 2.0], p)) + 0.2 * (np.eye(p, k=1) + np.eye(p, k=-1))
    values, vectors = np.linalg.eigh(sigma)
    root = (vectors * np.sqrt(values)) @ vectors.T
    spread = np.diag(np.resize([0.3, 0.1], p)) / p

    def draw(rng, shape):
        kept = rng.random(shape) * KURTOSIS < 1
        return (kept * rng.choice([-1, 1], shape) * KURTOSIS**0.5) @ root

    fourth, square = maml.fourth_moments(sigma, KURTOSIS), sigma @ sigma
    shrunk = lambda rate, n: (
        sigma - 2 * rate * square + rate**2 * (square @ sigma + (fourth - square @ sigma) / n)
    )
    ours, theirs = shrunk(RATE, n), shrunk(0.2, xi)
    b, gamma = stacked(rng, xi, draw, spread)
    drawn = np.trace(spread @ ours) + NOISE**2 * (1 + RATE**2 / n * np.trace(square))
    v, w, t, s = (draw(rng, (DRAWS, rows, p)) for rows in (2, 2, n, n))
    seen, other = (v @ turned(t)) @ t / p, (w @ turned(s)) @ s / p
    given = square @ sigma / p + (fourth - square @ sigma) / (n * p)
    return {
        "134": (v @ turned(v) / p, np.trace(sigma) / p, -0.5),
        "134, two tasks": (v @ turned(w) / p, 0, -0.5),
        "135": (seen @ turned(v) / p, np.trace(square) * n / p**2, -0.5),
        "135, two tasks": (seen @ turned(w) / p, 0, -0.5),
        "136": (seen @ turned(seen) / p, np.trace(given) * (n / p) ** 2, -0.5),
        "136, two tasks": (seen @ turned(other) / p, 0, -0.5),
        "137": (b @ turned(b), np.trace(ours), 0.5),
        "138": (gamma, drawn, -0.5),
        "139": (b @ theirs @ turned(b), np.trace(theirs @ ours), 0.5),
    }


@cache
def drawn(make, xi):
    return make(np.random.default_rng(xi), xi)


@pytest.mark.parametrize("make", [lemma_2, lemma_3, theorem_1, theorem_3])
def test_means_and_orders(make):
    small, large = drawn(make, SMALL), drawn(make, LARGE)
    for equation, (matrices, multiple, order) in large.items():
        away = matrices - multiple * np.eye(matrices.shape[-1])
        error = away.std(axis=0, ddof=1) / DRAWS**0.5
        # Of some 250 entries in all, the largest is expected at 3 standard errors.
        assert np.all(np.abs(away.mean(axis=0)) <= 4.5 * error), equation
        before = small[equation][0] - small[equation][1] * np.eye(matrices.shape[-1])
        grown = np.log(away.std() / before.std()) / np.log(LARGE / SMALL)
        # Two standard errors of an exponent from 400 draws are .06. Kurtosis adds terms to the
        # variance that fall faster, so that small sizes show a lower exponent.
        assert order - 0.25 < grown < order + 0.1, equation
