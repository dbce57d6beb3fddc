"""Random log-linear teachers with an anchor and a downstream task."""

from dataclasses import dataclass

import numpy as np

from metastep.anchors.downstream import DownstreamHead
from metastep.anchors.log_linear import LogLinearModel
from metastep.anchors.transfer import Population
from metastep.checks import require, require_count

STRENGTH = 1.0  # standard deviation of an anchored logit of interest, in nats
ABOVE_LEAST = 0.1  # nats between the thresholds and the least value that the theorem allows


@dataclass(frozen=True)
class SyntheticTask:
    """A teacher with words of interest 0 to k - 1, its head and its anchor.

    Attributes:
        teacher: a model whose states begin with a constant coordinate.
        head: alternating coefficients 1 and -1, one threshold for all words.
        anchor: v0, close to the optimal one.
    """

    teacher: LogLinearModel
    head: DownstreamHead
    anchor: np.ndarray

    def population(self, margin_quantile: float) -> Population:
        """Return the `confident_population` of the head, pre-trained on all states alike."""
        scores = self.head.scores(self.teacher, self.anchor)
        return confident_population(scores, np.full(scores.size, 1 / scores.size), margin_quantile)


def confident_population(
    scores: np.ndarray, pretraining: np.ndarray, margin_quantile: float
) -> Population:
    """Return the population whose task is the states of which a teacher is most certain.

    The task is uniform over its states; the classes are the signs of the scores.

    Args:
        scores: of the teacher's head, shape (states,); NaN for states that cannot be in the task.
        pretraining: probability of each state in pre-training.
        margin_quantile: the fraction of the other states that is excluded, in [0, 1).
    """
    usable = 0 <= margin_quantile < 1
    require(usable, "margin_quantile", margin_quantile, "numbers from 0 to below 1")
    # False for NaN, so that states without a score are left out.
    sure = np.abs(scores) >= np.nanquantile(np.abs(scores), margin_quantile)
    labels = np.where(scores > 0, 1, -1)
    return Population(pretraining, sure / sure.sum(), labels)


def synthetic_task(
    rng: np.random.Generator,
    *,
    states: int = 1000,
    hidden: int = 8,
    bulk_words: int = 200,
    words: int = 2,
    spread: float = 0.05,
) -> SyntheticTask:
    """Draw a teacher that satisfies the assumptions of Theorem 3.5.7 for a small spread.

    All words share a direction u of norm 1, so log Z varies with the state. The words of the bulk
    differ from u by `spread`, so <x, u> is their log partition function up to spread^2. The words
    of interest differ from it by a standard normal logit.

    Example:
        >>> task = synthetic_task(np.random.default_rng(0), states=50)
        >>> task.teacher.unembedding.shape, task.head.coefficients
        ((202, 8), array([ 1., -1.]))

    Args:
        rng: random numbers.
        states: the number of hidden states (1, x) with x standard normal.
        hidden: their size, from 2.
        bulk_words: the number of words of the bulk.
        words: the number k of words of interest.
        spread: standard deviation in nats of the logits within the bulk at a typical state.
    """
    require_count("states", states)
    require_count("hidden", hidden, least=2)
    require_count("bulk_words", bulk_words)
    require_count("words", words)
    require(spread >= 0, "spread", spread, "numbers from 0")
    dim = hidden - 1
    inputs = np.column_stack([np.ones(states), rng.normal(size=(states, dim))])
    common = rng.normal(size=dim)
    common /= np.linalg.norm(common)
    # With the root of the dimension, <x, difference> has the given deviation at a typical |x|.
    interest = common + STRENGTH * rng.normal(size=(words, dim)) / dim**0.5
    bulk = common + spread * rng.normal(size=(bulk_words, dim)) / dim**0.5
    # At x = 0 the bulk has total weight 1, and each word of interest 1 / k.
    offsets = np.append(np.full(words, -np.log(words)), np.full(bulk_words, -np.log(bulk_words)))
    unembedding = np.column_stack([offsets, np.concatenate([interest, bulk])])
    # Both signs, or the classifier would have a single class.
    coefficients = np.where(np.arange(words) % 2 == 0, 1.0, -1.0)
    # Theorem 3.5.7 asks for eps_b - log(4 k) at least; eps_b is small with the spread.
    thresholds = np.full(words, ABOVE_LEAST - np.log(4 * words))
    head = DownstreamHead(np.arange(words), coefficients, thresholds)
    return SyntheticTask(LogLinearModel(inputs, unembedding), head, np.append(0.0, common))


def perturbed(
    model: LogLinearModel,
    strength: float,
    rng: np.random.Generator,
    words: np.ndarray | None = None,
) -> LogLinearModel:
    """Add noise to the rows `words` of the dictionary; None for all.

    `strength` is its standard deviation relative to the root mean square of the entries.
    """
    noise = rng.normal(size=model.unembedding.shape)
    if words is not None:
        noise[np.setdiff1d(np.arange(len(noise)), words)] = 0.0
    scale = strength * np.sqrt(np.mean(model.unembedding**2))
    return LogLinearModel(model.states, model.unembedding + scale * noise)
