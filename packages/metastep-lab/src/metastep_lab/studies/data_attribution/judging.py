"""What happens without some examples, and how well the scores of a method foretold it."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

import metastep as ms
from metastep.attribution import Removals, datamodeling_score, leave_out, recall_at
from metastep_lab.experiment import Context
from metastep_lab.studies.data_attribution.examples import Split
from metastep_lab.studies.data_attribution.models import Training

# 50 or 100 removals and the training without any fill 3 or 6 groups of 17, but for one place.
TOGETHER, SAVED = 17, 50
"""Retrainings under one `vmap`, and between two savings."""

CHECKED = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the examples that somebody checks, the most harmful ones first."""

Name = Literal["linear", "network", "transformer"]
Rows = list[tuple[Any, ...]]


class Case(NamedTuple):
    """One model with the data of one seed."""

    name: Name
    seed: int
    split: Split
    key: Any


def retrain(
    context: Context, case: Case, training: Training, left_out: np.ndarray, name: str
) -> Removals:
    """Train again without each row of `left_out`, (removals, examples).

    `name` is that of the file with the finished trainings.
    """
    return leave_out(
        training,
        left_out.shape[1],
        case.split.queries,
        left_out=left_out,
        key=case.key,
        batch_size=TOGETHER,
        checkpoint=ms.Checkpoint(context.checkpoint(name), SAVED, context.resume),
    )


def lds(scores: np.ndarray, removals: Removals) -> tuple[float, float]:
    """Return the linear datamodelling score and its standard error; NaN for scores that failed."""
    if not np.all(np.isfinite(scores)):
        return np.nan, np.nan
    score = datamodeling_score(scores, removals)
    return score.mean, score.standard_error


def recall_rows(case: Case, sums: Mapping[str, np.ndarray]) -> Rows:
    """Return how many spoilt examples are among the most harmful: rows of the table `recall`.

    `sums` has the scores of the examples, summed over the queries, by method.
    """
    planted = case.split.planted
    if not planted.any():
        return []
    # Methods that failed have no row; the claims see that they are missing.
    counts = [max(1, round(share * planted.size)) for share in CHECKED]
    return [
        (case.name, case.seed, method, *row)
        for method, harm in sums.items()
        if np.all(np.isfinite(harm))
        for row in zip(CHECKED, recall_at(harm, planted, counts), strict=True)
    ]


def curve_rows(
    context: Context,
    case: Case,
    training: Training,
    sums: Mapping[str, np.ndarray],
    removed: tuple[float, ...],
) -> Rows:
    """Leave out the examples that each method scores as most helpful, and as many random ones.

    `sums` is that of `recall_rows`, `removed` are shares of the examples. Returns rows of the table
    `curves`.
    """
    total = case.split.planted.size
    chance = np.random.default_rng((context.seed, case.seed, 1)).standard_normal(total)
    finite = {method: harm for method, harm in sums.items() if np.all(np.isfinite(harm))}
    # By the sum over the queries: the curve is that of their mean loss.
    orders = {
        method: np.argsort(harm, kind="stable")
        for method, harm in {**finite, "at random": chance}.items()
    }
    counts = [max(1, round(share * total)) for share in removed]
    masks = np.zeros((len(orders), len(counts), total), bool)
    for mask, order in zip(masks, orders.values(), strict=True):
        for row, count in zip(mask, counts, strict=True):
            row[order[:count]] = True
    # All methods in one call, so that one compiled program retrains them.
    flat = masks.reshape(-1, total)
    removals = retrain(context, case, training, flat, f"{case.name}-{case.seed}-curves")
    exact = sums["exact"] / removals.changes.shape[1]
    # Leaving out is a weight that falls from 1 to 0, hence the sign.
    found = zip(removals.changes.mean(axis=1), -(flat @ exact), strict=True)
    places = ((method, share) for method in orders for share in removed)
    return [
        (case.name, case.seed, *place, *rises) for place, rises in zip(places, found, strict=True)
    ]
