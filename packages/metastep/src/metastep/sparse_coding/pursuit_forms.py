"""The two forms of orthogonal matching pursuit, in the namespace of the given arrays.

Each round chooses one atom for every signal by a search that the caller gives, and fits all chosen
atoms by least squares. Both forms return the chosen atoms and their coefficients: one array over
the signals for each round. They work on whole arrays, so the loop over rounds is a Python loop.

- The *residual form* keeps the residuals and an orthonormal basis of the chosen atoms (QR): every
  round is one product of the residuals with the dictionary.
- The *Gram form* computes the products of all atoms with each other once, updates the correlations
  from them, and solves by Cholesky factors: cheaper rounds after a more expensive start.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

INDEPENDENT = 32
"""The number of units of rounding above which an atom counts as independent of the chosen ones."""


def residual_form(
    xp: Any, search: Callable[..., Any], signals: Any, atoms: Any, rounds: int
) -> tuple[list, list]:
    """Orthogonalize the atoms by modified Gram-Schmidt; the basis stays unnormalized."""
    residual, rounding = xp.array(signals, copy=True), _rounding(xp, signals)
    scratch = np.empty(signals.shape, signals.dtype) if xp is np else None
    chosen, basis, inverses, triangle, target = [], [], [], [], []
    for _ in range(rounds):
        if basis:
            residual = _without(residual, target[-1], basis[-1], scratch)
        chosen.append(search(residual))
        direction, column = atoms[chosen[-1]], []
        square = whole = xp.vecdot(direction, direction)
        for earlier, inverse in zip(basis, inverses, strict=True):
            column.append(xp.vecdot(earlier, direction) * inverse)
            direction = _without(direction, column[-1], earlier, scratch)
        if basis:
            # Of the vector itself: |atom|^2 minus the parts taken off would cancel.
            square = xp.vecdot(direction, direction)
        inverses.append(_inverse(xp, square, rounding * whole))
        # With the residual instead of the signal: modified Gram-Schmidt, which rounds less.
        target.append(xp.vecdot(direction, residual) * inverses[-1])
        basis.append(direction)
        triangle.append(column)
    return chosen, _back_substitute(triangle, target)


def gram_form(
    xp: Any, search: Callable[..., Any], correlations: Any, gram: Any, rounds: int
) -> tuple[list, list]:
    """Factorize the chosen atoms' Gram matrix as L D L'."""
    rows, rounding = xp.arange(len(correlations)), _rounding(xp, correlations)
    squares, flat = xp.diagonal(gram), xp.ravel(gram)
    chosen, inverses, triangle, target, weights = [], [], [], [], []
    for _ in range(rounds):
        latest = search(chosen, weights)
        square = whole = squares[latest]
        projection = correlations[rows, latest]
        column, products = [], []
        for place, earlier in enumerate(chosen):
            product = xp.take(flat, earlier * len(gram) + latest)  # faster than by two indices
            for above, other in zip(triangle[place], products, strict=True):
                product = product - above * other
            products.append(product)
            column.append(product * inverses[place])
            square = square - product * column[-1]
            projection = projection - product * target[place]
        inverses.append(_inverse(xp, square, rounding * whole))
        target.append(projection * inverses[-1])
        triangle.append(column)
        chosen.append(latest)
        weights = _back_substitute(triangle, target)
    return chosen, weights


def _without(rows: Any, amounts: Any, directions: Any, scratch: np.ndarray | None) -> Any:
    """Subtract multiples of directions from rows, in place if there is scratch memory."""
    if scratch is None:
        return rows - amounts[:, None] * directions
    np.multiply(amounts[:, None], directions, out=scratch)
    rows -= scratch
    return rows


def _rounding(xp: Any, numbers: Any) -> Any:
    """Return the relative rounding error of a square."""
    return INDEPENDENT * xp.finfo(numbers.dtype).eps


def _inverse(xp: Any, square: Any, lost: Any) -> Any:
    """Return 1 / `square`: 0 if its rounding error exceeds it, NaN if it overflowed."""
    independent = square > lost
    # `square - square` is NaN for an infinite square, so that an overflow reaches the codes.
    return independent / xp.where(independent, square, square - square + 1)


def _back_substitute(triangle: list[list], target: list) -> list:
    """Solve the unit triangular systems of all signals; `triangle[j]` is column j above the 1."""
    solved = list(target)
    for place in reversed(range(len(solved))):
        for above, entry in enumerate(triangle[place]):
            solved[above] = solved[above] - entry * solved[place]
    return solved
