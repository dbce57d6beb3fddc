"""The reliability of a ranking: plant wrong labels, and count how many of them it finds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from metastep_lab.cleaning.ranking import Ranking

DRAWS = 2000
LEAST_PLANTED = 0.05  # of the labels that are trusted
FEWEST = 5  # planted labels from which anything is said
LEAST_RATIO = 3  # how much rather planted labels must be suspect than others


class Reliability(NamedTuple):
    """Estimates from planted labels, with 95 % intervals.

    Attributes:
        planted: how many labels were made wrong.
        recall: the fraction of them that became suspect: (estimate, low, high).
        precision: the fraction of the suspects that is wrong.
        share: the fraction of all labels that is wrong.
    """

    planted: int
    recall: tuple[float, float, float]
    precision: tuple[float, float, float]
    share: tuple[float, float, float]

    def as_lists(self) -> dict[str, object]:
        """Return the fields for a file."""
        return {
            name: list(one) if isinstance(one, tuple) else one
            for name, one in self._asdict().items()
        }


def measure(
    labels: np.ndarray, ranking: Ranking, rank_again: Callable[[np.ndarray], Ranking]
) -> Reliability | None:
    """Plant wrong labels among those that are not suspect, and rank again.

    A planted label is any other class, drawn by how often the classes occur. Let r be
    the fraction of the planted labels that become suspect, f that of the other labels, and s the
    fraction of all labels that was suspect at first. The fraction w of wrong labels solves
    s = w r + (1 - w) f. The intervals are those of binomial counts. Both assume that real mistakes
    are as easy to find as random ones, and that labels that were not suspect at first are correct.
    Mistakes between similar classes are harder to find.

    Args:
        labels: classes from 0.
        ranking: the first verdict.
        rank_again: ranks other labels of the same examples.

    Returns:
        The estimates; None if too few labels are trusted, or if planted labels become suspect
        little more often than others: w is then the quotient of two small numbers.
    """
    rng = np.random.default_rng(0)  # fixed: a repeated call must say the same
    trusted = np.flatnonzero(~ranking.suspect)
    # About as many as seem wrong: the more wrong labels, the harder each is to find.
    rate = min(0.3, max(LEAST_PLANTED, float(ranking.suspect.mean())))
    count = int(rate * len(trusted))
    if count < FEWEST:
        return None
    rows = _spare_one(rng.choice(trusted, count, replace=False), labels)
    count = len(rows)
    planted = labels.copy()
    frequencies = np.bincount(labels).astype(float)
    for row in rows:
        chances = frequencies.copy()
        chances[labels[row]] = 0
        planted[row] = rng.choice(len(chances), p=chances / chances.sum())
    found = rank_again(planted).suspect
    others = np.setdiff1d(trusted, rows)
    hits, alarms, suspects = found[rows].sum(), found[others].sum(), ranking.suspect.sum()
    # One false alarm at least: without any, chance would pass for a large ratio.
    if hits / count < LEAST_RATIO * max(alarms, 1) / max(len(others), 1):
        return None
    # Jeffreys' prior gives sensible intervals for counts of zero as well.
    draw = lambda successes, total: rng.beta(successes + 0.5, total - successes + 0.5, DRAWS)
    recall = draw(hits, count)
    false = draw(alarms, len(others))
    flagged = draw(suspects, len(labels))
    share, precision = _solve(flagged, recall, false)
    point = _solve(suspects / len(labels), hits / count, alarms / max(len(others), 1))

    def around(point: float, draws: np.ndarray) -> tuple[float, float, float]:
        low, high = np.quantile(draws, (0.025, 0.975))
        return float(point), float(low), float(high)

    return Reliability(
        planted=count,
        recall=around(hits / count, recall),
        precision=around(point[1], precision),
        share=around(point[0], share),
    )


def _spare_one(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return rows without the first of each class that would lose all its labels."""
    # A class without a label cannot be ranked, and may be in a validation set.
    kept = np.delete(labels, rows)
    lost = np.flatnonzero(~np.isin(labels[rows], kept))
    return np.delete(rows, lost[np.unique(labels[rows[lost]], return_index=True)[1]])


def _solve(flagged: Any, recall: Any, false: Any) -> tuple[Any, Any]:
    """Return the part of wrong labels, and the part of the suspects that is wrong."""
    # Draws may have recall below the false alarms, where the quotient has no meaning.
    share = np.clip((flagged - false) / np.maximum(recall - false, 1e-9), 0, 1)
    return share, np.clip(share * recall / np.maximum(flagged, 1e-9), 0, 1)
