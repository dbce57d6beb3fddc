"""Accuracies of `one-shot` averaged over repetitions."""

from typing import NamedTuple

import numpy as np

from metastep_lab.tables import Column

SURE = 2.0  # standard errors
ENOUGH = 3  # repetitions needed for a statement about a cause


class Average(NamedTuple):
    """Points of accuracy by repetition, in words too, their mean, and its standard error."""

    values: Column
    listed: str
    mean: float
    error: float


def average(values: Column, errors: Column) -> Average:
    """Average over repetitions; the error is the larger of that within and that between them."""
    points, count = 100 * np.asarray(values), len(values)
    # The spread of two or three repetitions may be small by chance; then that of tasks counts.
    within = 100 * np.sqrt(np.sum(np.asarray(errors) ** 2)) / count
    between = points.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    text = ", ".join(f"{value:+.1f}" for value in points)
    return Average(points, text, float(points.mean()), float(max(within, between)))
