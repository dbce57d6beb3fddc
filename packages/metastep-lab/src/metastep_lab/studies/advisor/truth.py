"""The reference for a problem: its hypergradient in float64, computed independently of `diagnose`.

The derivative is that of a plain loop over the steps. Central differences in float64 say whether it
is right, and for which step length it holds. The loss of float32 is the distance to the same
derivative in float32, at four neighbouring points, since the error of one gradient is one draw.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from metastep.compilation import compiled
from metastep.problems import AbstractProblem
from metastep.problems.base import initial, split_keys
from metastep.types import Outer, RandomKey, Scalar
from metastep_lab.studies.advisor.problems.table import Case

SHIFTS = (0.0, 0.01, 0.02, 0.03)
"""Of every hyperparameter: where the derivatives of both precisions are compared."""

SMALL, LARGE = (1e-4, 1e-6), (1e-2, 1e-1)
"""Distances of central differences: for the derivative, and for what a step would see."""

DIGITS = float(-np.log10(np.finfo(np.float32).eps))
AGREEING = 0.1
"""The relative distance of derivative and central differences from which neither means anything."""


class Truth(NamedTuple):
    """The reference for a problem.

    Attributes:
        gradient: shape (N,), in float64.
        digits_lost: decimal digits that float32 loses, from 0 to 6.9.
        chaotic: whether float32 has less than one digit left, or float64 contradicts itself.
        disagreement: of the derivative and central differences at the better of the two small
            distances, relative to the size of the gradient; along one direction.
        kinks: the same at distances .01 and .1 along the gradient, relative to the slope: the
            error for a step of this length.
    """

    gradient: np.ndarray
    digits_lost: float
    chaotic: bool
    disagreement: float
    kinks: tuple[float, ...]


def outcome(problem: AbstractProblem, outer: Outer, key: RandomKey) -> Scalar:
    """Train by a plain loop and return the objective at the end."""
    keys = split_keys(key)
    begin = initial(problem, outer, keys.init)

    def body(inner: Any, t: Array) -> tuple[Any, None]:
        return problem.step(inner, outer, t, keys.step(t)), None

    end, _ = jax.lax.scan(body, begin, jnp.arange(problem.horizon, dtype=jnp.int32))
    return problem.objective(end, outer, keys.objective)


@compiled
def _gradients(problem: AbstractProblem, outers: Outer, key: RandomKey) -> Array:
    """Return the derivatives at several points, a row each."""
    # One point after the other: reverse mode stores a whole training, `vmap` would store all.
    return jax.lax.map(
        lambda outer: ravel_pytree(jax.grad(partial(outcome, problem))(outer, key))[0], outers
    )


@compiled
def outcomes(problem: AbstractProblem, outers: Outer, key: RandomKey) -> Array:
    """Return the objective after training at several points."""
    return jax.lax.map(lambda outer: outcome(problem, outer, key), outers)


def truth(case: Case, key: RandomKey) -> Truth:
    """Compute the reference for a problem."""
    problem, outer = case()
    narrow, _ = ravel_pytree(outer)
    # In float32: both precisions start from the same numbers.
    points = np.asarray(narrow)[None] + np.asarray(SHIFTS, np.float32)[:, None]
    coarse = np.asarray(_gradients(problem, _rows(points, outer), key), np.float64)
    with jax.enable_x64(True):
        # Made anew: the arrays of the first one are of float32.
        problem, outer = case()
        fine = np.asarray(_gradients(problem, _rows(points.astype(np.float64), outer), key))
        slopes = partial(_slopes, problem, points[0].astype(np.float64), outer, key)
        gradient = fine[0]
        size = np.linalg.norm(gradient)
        line = np.random.default_rng(0).normal(size=gradient.shape)
        line /= np.linalg.norm(line)
        along = gradient / size if np.isfinite(size) and size > 0 else line
        measured = slopes(np.stack([line] * len(SMALL) + [along] * len(LARGE)), SMALL + LARGE)
    with np.errstate(all="ignore"):
        apart = np.abs(measured[: len(SMALL)] - line @ gradient) / size
        kinks = np.abs(measured[len(SMALL) :] - along @ gradient) / size
    disagreement = float(np.min(np.where(np.isfinite(apart), apart, np.inf)))
    lost = _digits_lost(coarse, fine)
    # A gradient of exactly zero has no digits that could be lost.
    chaotic = bool(size > 0 or not np.isfinite(size)) and (
        lost > DIGITS - 1 or not disagreement < AGREEING
    )
    return Truth(gradient, lost, chaotic, disagreement, tuple(map(float, kinks)))


def _rows(points: np.ndarray, outer: Outer) -> Outer:
    """Return a tree like `outer` with the points in front of every leaf."""
    unflatten: Callable[[Array], Outer] = ravel_pytree(outer)[1]
    return jax.vmap(unflatten)(jnp.asarray(points))


def _slopes(
    problem: AbstractProblem,
    at: np.ndarray,
    outer: Outer,
    key: RandomKey,
    lines: np.ndarray,
    distances: tuple[float, ...],
) -> np.ndarray:
    """Return central differences, one for each line and distance."""
    steps = np.array(distances)[:, None] * lines
    values = outcomes(problem, _rows(np.concatenate([at + steps, at - steps]), outer), key)
    ahead, behind = np.split(np.asarray(values), 2)
    return (ahead - behind) / (2 * np.array(distances))


def _digits_lost(coarse: np.ndarray, fine: np.ndarray) -> float:
    """Return the digits lost between the rows of two precisions, as a root mean square."""
    with np.errstate(all="ignore"):
        sizes = np.maximum(np.linalg.norm(coarse, axis=1), np.linalg.norm(fine, axis=1))
        errors = np.linalg.norm(coarse - fine, axis=1) / sizes
    # Where both are zero nothing is lost, and where one is not finite everything.
    errors = np.where(np.isfinite(errors), errors, np.where(sizes == 0, 0.0, 1.0))
    lost = np.log10(np.sqrt(np.mean(errors**2)) + 1e-300) + DIGITS
    return float(np.clip(lost, 0, DIGITS))
