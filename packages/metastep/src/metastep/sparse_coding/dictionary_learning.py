"""Dictionary learning with hard sparsity, with and without masking (Algorithms 2 and 3).

Both alternate between decoding a batch of signals by orthogonal matching pursuit and a step of Adam
on the squared error, after which the atoms are normalized. The baseline measures the error on the
coordinates from which it decoded, so a dictionary with more atoms than the true one can learn the
noise. Masking decodes from a random part of the coordinates and measures the prediction of the
hidden ones, whose noise is independent.

The code is written in NumPy: on a CPU it is as fast as compiled JAX, and needs no compilation for
new shapes.
"""

from dataclasses import dataclass

import numpy as np

from metastep.checks import require, require_count, require_finite
from metastep.sparse_coding.matching_pursuit import pursue
from metastep.sparse_coding.pursuit_searches import choices_as_matrix

DECAY, SQUARE_DECAY, ADAM_EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class LearnedDictionary:
    """The result of `learn_dictionary`.

    Attributes:
        dictionary: (d, p'), columns of unit norm.
        losses: (epochs, batches), the mean squared error per measured coordinate before each step.
    """

    dictionary: np.ndarray
    losses: np.ndarray


def learn_dictionary(
    signals: np.ndarray,
    start: np.ndarray,
    n_nonzero: int,
    *,
    hidden: int | np.ndarray = 0,
    epochs: int = 500,
    batch_size: int = 200,
    learning_rate: float = 1e-3,
    shuffle: bool = False,
    adam: bool = True,
    rng: np.random.Generator,
) -> LearnedDictionary:
    """Learn a dictionary by Algorithm 2 (`hidden=0`) or, with masking, Algorithm 3.

    A local search for a non-convex problem, so the result depends on the start. The gradient treats
    the codes as constants. Cost: one pursuit of the batch in every step, linear in the atoms.

    Example:
        >>> import numpy as np
        >>> from metastep.sparse_coding import draw_signals, random_dictionary, sample_start
        >>> rng = np.random.default_rng(0)
        >>> drawn = draw_signals(rng, random_dictionary(rng, 10, 10), 60, 2, noise=0.1).signals
        >>> start, train = sample_start(drawn[:10]), drawn[10:]
        >>> learned = learn_dictionary(train, start, 2, hidden=1, learning_rate=0.01, rng=rng)
        >>> bool(learned.losses[-20:].mean() < learned.losses[:20].mean())
        True

    Args:
        signals: (n, d); their dtype, float32 or float64, is that of the whole computation.
        start: (d, p'), the initial dictionary, columns of unit norm.
        n_nonzero: atoms for each signal, from 1 to the smaller of p' and of the coordinates shown.
        hidden: the number of coordinates hidden from the pursuit, drawn anew for each batch as in
            Algorithm 3; or the coordinates themselves, integers of shape (masks, count): batches
            take these masks in turn, and Theorem 2.3.6 has one. The loss uses the hidden
            coordinates only; with 0 it uses all. The thesis takes d // 10.
        epochs: passes over the signals.
        batch_size: signals in each step; the last batch of a pass may be smaller.
        learning_rate: of Adam; its other constants are the usual 0.9, 0.999 and 1e-8.
        shuffle: draw the batches anew in each pass; otherwise they follow the given order.
        adam: False takes plain steps along the gradient of the mean squared error of a signal.
        rng: source of the masks and batches.

    Raises:
        ValueError: if the shapes do not fit, a number is not allowed, or an entry is infinite or
            NaN.

    Reference:
        Chidambaram, Wu, Cheng and Ge (2023); thesis of Wu, Algorithms 2 and 3, section 2.4. As in
        the authors' code, the visible part of the dictionary is not normalized for decoding, and
        normalizing the atoms does not change Adam's moments.
    """
    masks = hidden if isinstance(hidden, np.ndarray) else None
    count = _count(hidden, len(start)) if isinstance(hidden, np.ndarray) else hidden
    _check(signals, start, n_nonzero, count, epochs, batch_size, learning_rate)
    n, dim = signals.shape
    # Atoms as rows of a copy: they are updated in place, and read one after the other.
    atoms = np.array(start.T, signals.dtype, order="C")
    descent = _Adam(atoms, learning_rate) if adam else None
    losses, everything = [], np.arange(dim)
    for _ in range(epochs):
        order = rng.permutation(n) if shuffle else np.arange(n)
        for first in range(0, n, batch_size):
            batch = signals[order[first : first + batch_size]]
            shown = judged = everything
            if count:
                drawn = (
                    rng.permutation(dim)[:count]
                    if masks is None
                    else masks[len(losses) % len(masks)]
                )
                judged, shown = np.sort(drawn), np.setdiff1d(everything, drawn)
            loss, gradient = _loss_and_gradient(batch, atoms, n_nonzero, shown, judged)
            losses.append(loss)
            if descent is None:
                atoms[:, judged] -= learning_rate * gradient
            else:
                descent.update(atoms, judged, gradient)
            norms = np.sqrt(np.vecdot(atoms, atoms))
            atoms /= np.where(norms > 0, norms, 1)[:, None]
    return LearnedDictionary(atoms.T, np.reshape(losses, (epochs, -1)))


def _count(masks: np.ndarray, dim: int) -> int:
    """Return the number of coordinates that each of these masks hides."""
    fits = masks.ndim == 2 and masks.size and np.issubdtype(masks.dtype, np.integer)
    if (
        not fits
        or masks.min() < 0
        or masks.max() >= dim
        or any(len(set(mask)) < len(mask) for mask in masks.tolist())
    ):
        raise ValueError(
            f"hidden is {masks}; allowed are an integer, and an array of masks, each a row of "
            f"different integers from 0 to {dim - 1}"
        )
    return masks.shape[1]


def _check(
    signals: np.ndarray,
    start: np.ndarray,
    n_nonzero: int,
    hidden: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> None:
    if signals.ndim != 2 or start.ndim != 2 or signals.shape[1] != start.shape[0]:
        raise ValueError(
            f"signals and start have the shapes {signals.shape} and {start.shape}; allowed are "
            "(n, d) and (d, p')"
        )
    if signals.dtype not in (np.float32, np.float64) or len(signals) < 1:
        raise ValueError(
            f"signals has dtype {signals.dtype} and {len(signals)} rows; allowed are float32 or "
            "float64 and at least one row"
        )
    require_count("hidden", hidden, least=0, most=len(start) - 1)
    require_count("n_nonzero", n_nonzero, most=min(start.shape[1], len(start) - hidden))
    require_count("epochs", epochs)
    require_count("batch_size", batch_size)
    require(learning_rate > 0, "learning_rate", learning_rate, "positive numbers")
    require_finite("signals", signals)
    require_finite("start", start)


def _loss_and_gradient(
    batch: np.ndarray, atoms: np.ndarray, n_nonzero: int, shown: np.ndarray, judged: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the error per coordinate, and the gradient of the error per signal by the atoms."""
    # `pursue`, without the checks of the public function: signals and start have been checked.
    chosen, weights = pursue(batch[:, shown], atoms[:, shown].T, n_nonzero)
    # Sparse: the product with few atoms of each signal is one pass, without temporary arrays.
    codes = choices_as_matrix(chosen, weights, len(atoms))
    errors = codes @ np.ascontiguousarray(atoms[:, judged])
    errors -= batch[:, judged]
    return float(np.mean(errors**2)), codes.T @ (errors * (2 / len(batch)))


class _Adam:
    """Adam in place; the gradient is zero outside the given columns."""

    def __init__(self, parameters: np.ndarray, learning_rate: float):
        self.mean, self.square = np.zeros_like(parameters), np.zeros_like(parameters)
        self.work = np.empty_like(parameters)
        self.learning_rate, self.steps = learning_rate, 0

    def update(self, parameters: np.ndarray, columns: np.ndarray, gradient: np.ndarray) -> None:
        """Take one step."""
        self.steps += 1
        # The moments of all columns decay, also where the gradient is zero by the mask.
        self.mean *= DECAY
        self.square *= SQUARE_DECAY
        self.mean[:, columns] += (1 - DECAY) * gradient
        self.square[:, columns] += (1 - SQUARE_DECAY) * gradient**2
        np.sqrt(self.square, out=self.work)
        # Both corrections of the bias as factors, in the one array that is allocated for all steps.
        self.work *= (1 - SQUARE_DECAY**self.steps) ** -0.5
        self.work += ADAM_EPSILON
        np.divide(self.mean, self.work, out=self.work)
        self.work *= self.learning_rate / (1 - DECAY**self.steps)
        parameters -= self.work


def masked_loss(
    signals: np.ndarray,
    dictionary: np.ndarray,
    n_nonzero: int,
    *,
    parts: int = 10,
    rng: np.random.Generator,
) -> float:
    """Return the squared error per coordinate of predicting hidden coordinates from the others.

    The coordinates are divided at random into `parts` parts; each is hidden once and predicted from
    the others. For noise that is independent across coordinates with variance s^2, this is an
    unbiased estimate of the error against the clean signals plus s^2. It therefore ranks
    dictionaries, sparsities and numbers of atoms without clean data. This holds for new signals; on
    the training signals it is too small.

    Args:
        signals: (n, d).
        dictionary: (d, p).
        n_nonzero: atoms for each signal, at most p; reduced to the number of visible coordinates.
        parts: the number of parts, at most d.
        rng: source of the division.

    Returns:
        The mean over signals and coordinates.

    Raises:
        ValueError: if the shapes do not fit, a number is not allowed, or an entry is infinite or
            NaN.
    """
    if signals.ndim != 2 or dictionary.ndim != 2 or signals.shape[1] != len(dictionary):
        raise ValueError(
            f"signals and dictionary have the shapes {signals.shape} and {dictionary.shape}; "
            "allowed are (n, d) and (d, p)"
        )
    require_count("n_nonzero", n_nonzero, most=dictionary.shape[1])
    require_count("parts", parts)
    require_finite("signals", signals)
    require_finite("dictionary", dictionary)
    dim = signals.shape[1]
    mixed, total = rng.permutation(dim), 0.0
    for judged in np.array_split(mixed, min(parts, dim)):
        shown = np.setdiff1d(mixed, judged)
        # With a single part nothing is shown, and the prediction is zero.
        predicted = np.zeros((len(signals), judged.size), signals.dtype)
        if shown.size:
            rounds = min(n_nonzero, shown.size)
            chosen, weights = pursue(signals[:, shown], dictionary[shown], rounds)
            predicted = (
                choices_as_matrix(chosen, weights, dictionary.shape[1]) @ dictionary[judged].T
            )
        # In float64: in float32 the squares of 1e-24 are 0, a perfect prediction.
        total += float(np.sum(np.square(signals[:, judged] - predicted, dtype=np.float64)))
    return total / signals.size
