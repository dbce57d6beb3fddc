"""Two clusters of log partition functions, and one anchor vector for each group of tokens."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from metastep.anchors.checks import checked_states
from metastep.anchors.fit import AnchorFit, AnchorRegression
from metastep.anchors.streaming import even_blocks

SEPARATION = 5.0
"""Least separation. Halves of one normal, uniform or exponential distribution have 2.7 to 3.5."""

# A few outliers, however far, are not a cluster.
SMALLEST_SHARE = 0.01


@dataclass(frozen=True)
class Clusters:
    """Two clusters of log partition functions.

    Attributes:
        labels: 0 for tokens of the lower cluster and 1 for the higher one, shape (tokens,).
        centers: the two means, in nats.
        shares: of the tokens.
        separation: the distance of the means, divided by the standard deviation within clusters.
    """

    labels: np.ndarray
    centers: tuple[float, float]
    shares: tuple[float, float]
    separation: float


def find_clusters(values: np.ndarray) -> Clusters | None:
    """Split values in two with the least variance within parts, if the parts are well separated.

    Exact (all splits of the sorted values are compared); time n log n.

    Example:
        >>> find_clusters(np.array([1.0, 1.1, 0.9, 7.0, 7.2])).labels
        array([0, 0, 0, 1, 1])
        >>> find_clusters(np.linspace(0.0, 1.0, 9)) is None
        True

    Args:
        values: log partition functions in nats, shape (tokens,), at least two.

    Returns:
        The clusters; None, for a single cluster, if the distance of the means is less than five
        standard deviations within the parts, or one part has less than 1% of the values.

    Raises:
        ValueError: for values that are not a finite vector of at least two.

    Reference:
        Wu, Lee and Ge (2023); thesis of Wu, Appendix B.3, on GPT-2 with 124M parameters.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"values has shape {values.shape}; allowed: at least two finite numbers")
    # Centered, so that the sum of the upper part is minus that of the lower one.
    ordered = np.sort(values) - values.mean()
    sizes = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)[:-1]
    # The variance between the parts: its largest value is the least variance within them.
    between = sums**2 / sizes + sums**2 / sizes[::-1]
    split = int(np.argmax(between)) + 1
    lower, upper = ordered[:split], ordered[split:]
    within = np.sqrt((split * lower.var() + upper.size * upper.var()) / values.size)
    distance = upper.mean() - lower.mean()
    shares = split / values.size, upper.size / values.size
    if distance <= SEPARATION * within or min(shares) < SMALLEST_SHARE:
        return None
    separation = float(distance / within) if within > 0 else np.inf
    centers = float(lower.mean() + values.mean()), float(upper.mean() + values.mean())
    # The same subtraction as in `ordered`, so that both sides are rounded alike.
    labels = (values - values.mean() > lower[-1]).astype(np.int64)
    return Clusters(labels, centers, shares, separation)


def fit_groups(
    batches: Iterable[np.ndarray], fit: AnchorFit, labels: np.ndarray, block: int = 512
) -> tuple[AnchorFit, ...]:
    """Fit one anchor for each bulk size and group of tokens, for instance each cluster.

    Args:
        batches: the hidden states from which `fit` was computed, in the same order. They are read
            once; the logits are not computed again.
        fit: the fit of all tokens.
        labels: the group of each token, 0, 1, ..., shape (tokens,); tokens with a negative label
            belong to no group.
        block: how many tokens are processed together.

    Returns:
        The fit of each group, with an intercept if `fit` has one. Exactness and held-out tokens as
        in `fit_anchor`.

    Raises:
        ValueError: if the tokens are not those of `fit`, or a group has fewer tokens than
            unknowns.
    """
    hidden, known = fit.anchors.shape[1], len(fit.log_partitions)
    labels = np.asarray(labels)
    if labels.shape != (known,) or labels.max() < 0:
        raise ValueError(
            f"labels has shape {labels.shape} and the largest value {labels.max(initial=-1)}; "
            f"allowed: ({known},) as there are {known} tokens, not all negative"
        )
    has_intercept = fit.unknowns > hidden
    groups = [AnchorRegression(hidden, fit.top, has_intercept) for _ in range(labels.max() + 1)]
    count = 0
    for states in even_blocks(checked_states(batches, hidden), block):
        rows = slice(count, count + len(states))
        count += len(states)
        if count > known:
            break
        for label, group in enumerate(groups):
            chosen = labels[rows] == label
            group.add(states[chosen], fit.log_partitions[rows][chosen])
    if count != known:
        raise ValueError(
            f"batches has {'more' if count > known else count} tokens; allowed: the {known} of fit"
        )
    return tuple(group.solve() for group in groups)
