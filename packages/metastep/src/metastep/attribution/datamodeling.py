"""The linear datamodelling score: rank correlation of predicted and true effects of removals."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree
from scipy.stats import spearmanr

from metastep.attribution.attribute import Attribution
from metastep.attribution.leave_out import Removals, leave_out, random_removals
from metastep.attribution.queries import Asked
from metastep.attribution.units import as_units
from metastep.minimize import Checkpoint
from metastep.types import RandomKey

SUBSETS = 11  # beside the numbers of attribute.py
FEWEST = 3


class DatamodelingScore(eqx.Module):
    """Rank correlation of predicted and true changes over random removals.

    Attributes:
        mean: over the queries; 1 is perfect, 0 is chance.
        standard_error: of the mean, over queries; NaN for one query. All queries share the
            removals, so this is not the error for new removals.
        per_query: Spearman's correlation for each query, shape (queries,). NaN, and not in the
            mean, for a query that no removal changed, that is NaN after one of them, or whose
            scores are constant.
        removals: the retrainings, for the comparison of other scores.
    """

    mean: float
    standard_error: float
    per_query: Float[np.ndarray, " queries"]
    removals: Removals


def datamodeling_score(scores: Attribution | PyTree, removals: Removals) -> DatamodelingScore:
    """Compare the scores of any method with existing retrainings.

    Args:
        scores: an `Attribution`, or its `scores`; negative if an example lowers the query.
        removals: the result of `leave_out` for at least three random removals.

    Returns:
        Spearman's correlation between the predicted and the true changes of each query.

    Raises:
        ValueError: if the scores are of other queries or units, are not finite, or there are fewer
            than three removals.
    """
    scores = scores.scores if isinstance(scores, Attribution) else scores
    if len(removals.values) < FEWEST:
        raise ValueError(
            f"removals has {len(removals.values)} rows; allowed are {FEWEST} and more: ranks of "
            "fewer say nothing."
        )
    predicted, true = removals.predicted(scores), removals.changes
    if not np.all(np.isfinite(predicted)):
        raise ValueError("scores holds NaN or infinity; see the `result` of the attribution.")
    per_query = np.array([_spearman(*pair) for pair in zip(predicted.T, true.T, strict=True)])
    # A query that nothing changes has no ranks; it says nothing for or against the scores.
    known = per_query[np.isfinite(per_query)]
    mean = float(known.mean()) if known.size else float("nan")
    error = float(known.std(ddof=1) / known.size**0.5) if known.size > 1 else float("nan")
    return DatamodelingScore(mean, error, per_query, removals)


def _spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    # `not >`: a training that diverged gives NaN, which has no rank.
    if np.ptp(predicted) == 0 or not np.ptp(true) > 0:
        return float("nan")
    found: Any = spearmanr(predicted, true)
    return float(found.statistic)


def linear_datamodeling_score(
    problem: Asked,
    examples: Any,
    queries: PyTree = None,
    *,
    scores: Attribution | PyTree,
    key: RandomKey,
    share: float = 0.05,
    subsets: int = 50,
    groups: Any = None,
    batch_size: int = 8,
    checkpoint: Checkpoint | None = None,
) -> DatamodelingScore:
    """Train again without random shares of the examples, and compare with the scores' predictions.

    Example:
        The sum of the scores of the removed examples is exact if the outcome is linear in the
        weights, as after one step of gradient descent on a quadratic.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> from metastep.attribution import attribute, linear_datamodeling_score
        >>> numbers = jnp.sqrt(jnp.arange(20.0))
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, weights, batch: jnp.mean(weights * (w - numbers) ** 2) / 2,
        ...     objective=lambda w, weights: w,
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(0.5),
        ...     horizon=1,
        ... )
        >>> key = jax.random.key(0)
        >>> scores = attribute(problem, 20, key=key)
        >>> found = linear_datamodeling_score(problem, 20, scores=scores, key=key, share=0.2)
        >>> round(found.mean, 3)
        1.0

    Args:
        problem: as for `attribute`.
        examples: as for `attribute`.
        queries: as for `attribute`.
        scores: an `Attribution`, or the scores of any other method.
        key: the key that was given to `attribute`; it also draws the subsets.
        share: the share of the examples that is left out, between 0 and 1.
        subsets: the number of random removals, from 3.
        groups: as for `attribute`; whole groups are then left out.
        batch_size: as for `leave_out`.
        checkpoint: as for `leave_out`.

    Returns:
        Spearman's correlation over the removals, averaged over queries. Time: one training for each
        subset.

    Raises:
        ValueError: as `leave_out` and `datamodeling_score`.

    Reference:
        Ilyas et al. (2022), Datamodels: predicting predictions from training data; Park et al.
        (2023), TRAK, section 2.
    """
    units = as_units(examples, groups)
    draws = jax.random.fold_in(key, SUBSETS)
    removals = leave_out(
        problem,
        examples,
        queries,
        left_out=random_removals(units.count, share, subsets, draws),
        key=key,
        groups=groups,
        batch_size=batch_size,
        checkpoint=checkpoint,
    )
    return datamodeling_score(scores, removals)
