"""Recall of planted examples among those with the highest scores."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def recall_at(scores: ArrayLike, planted: ArrayLike, counts: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return the share of planted examples among those with the highest scores.

    Example:
        >>> from metastep.attribution import recall_at
        >>> recall_at([0.9, 0.1, 0.8, 0.2], [True, False, False, True], [1, 2, 3]).tolist()
        [0.5, 0.5, 1.0]

    Args:
        scores: one number for each example, shape (examples,), or for each query and example,
            shape (queries, examples). The highest come first. If queries are losses, these are the
            harmful examples; negate the scores for the helpful ones. Ties keep the order of the
            examples.
        planted: booleans of the shape of `scores`, or (examples,) for all queries.
        counts: the numbers of highest scores to consider, integers from 1.

    Returns:
        Shape (counts,), or (queries, counts).

    Raises:
        ValueError: for shapes that do not fit, scores that are not finite, nothing planted, and
            counts that are not allowed.
    """
    scores, planted, counts = (
        np.asarray(scores, np.float64),
        np.asarray(planted),
        np.asarray(counts),
    )
    if (
        scores.ndim not in (1, 2)
        or planted.dtype != bool
        or planted.shape not in (scores.shape, scores.shape[-1:])
    ):
        raise ValueError(
            f"scores has the shape {scores.shape} and planted is {planted.dtype}"
            f"{list(planted.shape)}; allowed are (examples,) or (queries, examples), and booleans "
            "of that shape."
        )
    if not np.all(np.isfinite(scores)):
        raise ValueError("scores holds NaN or infinity; allowed are finite numbers.")
    total = scores.shape[-1]
    whole = np.issubdtype(counts.dtype, np.integer) and counts.ndim == 1
    if not whole or np.any(counts < 1) or np.any(counts > total):
        raise ValueError(f"counts is {counts.tolist()}; allowed are integers from 1 to {total}.")
    planted = np.broadcast_to(planted, scores.shape)
    if not np.all(planted.any(axis=-1)):
        raise ValueError("planted marks no example; allowed is at least one for each query.")
    # Stable, so that equal scores give the same recall on every machine.
    order = np.argsort(-scores, axis=-1, kind="stable")
    found = np.cumsum(np.take_along_axis(planted, order, axis=-1), axis=-1)
    return found[..., counts - 1] / planted.sum(axis=-1, keepdims=True)
