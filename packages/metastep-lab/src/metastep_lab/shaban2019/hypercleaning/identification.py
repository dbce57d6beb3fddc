"""The corrupted labels that the weights of `hypercleaning` identify, for several thresholds."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

IDENTIFICATION = "window threshold step flagged replaced wrong f1_replaced f1_wrong"
"""The columns of `identification_rows`."""

THINNED = 10
"""Outer steps between two rows of the table `identification`."""


def count_flagged(
    outer: Float[Array, " train"],
    thresholds: Sequence[float],
    replaced: Bool[Array, " train"],
    wrong: Bool[Array, " train"],
) -> Int[Array, "thresholds three"]:
    """Count the examples below each threshold: all, those replaced, and those wrong."""
    flagged = outer < jnp.asarray(thresholds, outer.dtype)[:, None]
    count = lambda truth: jnp.sum(flagged & truth, axis=1)
    return jnp.stack([count(jnp.ones_like(wrong)), count(replaced), count(wrong)], axis=1)


def f1_scores(
    counts: Int[np.ndarray, "*points three"], replaced: Bool[Array, " train"], wrong: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Return the F1 scores of flags against "replaced" and "wrong"; 0 where nothing is found."""
    flagged, *hits = np.moveaxis(np.asarray(counts, float), -1, 0)
    truths = (float(np.sum(truth)) for truth in (replaced, wrong))
    first, second = (
        # 2 p r / (p + r) with p = found / flagged and r = found / truth, without their divisions
        # by zero.
        2 * found / np.maximum(flagged + truth, 1)
        for found, truth in zip(hits, truths, strict=True)
    )
    return first, second


def identification_rows(
    window: int,
    thresholds: Sequence[float],
    counts: Int[np.ndarray, "points thresholds three"],
    also: int,
    scores: tuple[np.ndarray, np.ndarray],
) -> list[tuple]:
    """Return the rows of `identification`, from the counts after 0, 1, ... outer steps.

    There are rows for every `THINNED` steps, `also` that many, and the last.
    """
    last = len(counts) - 1
    steps = sorted({*range(0, last, THINNED), min(also, last), last})
    return [
        (window, threshold, step, *counts[step, place], *(score[step, place] for score in scores))
        for place, threshold in enumerate(thresholds)
        for step in steps
    ]
