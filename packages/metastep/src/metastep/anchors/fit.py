"""Anchor vectors: least-squares fits of log partition functions by the hidden states."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metastep.anchors.checks import checked_matrix, checked_states
from metastep.anchors.partition import check_top, log_bulk_partitions
from metastep.anchors.streaming import Triangle, even_blocks
from metastep.checks import require_count


@dataclass(frozen=True)
class AnchorFit:
    """Anchor vectors of one model, one for each bulk size k, and the quality of their fit.

    The first axis of every array is that of `top`; for `log_partitions` it is the tokens.

    Attributes:
        top: the numbers k of most probable words that the bulk excludes; 0 stands for log Z.
        anchors: shape (bulk sizes, hidden), float64.
        intercepts: zero if none was fitted.
        mse: mean over tokens of (<h, anchor> + intercept - log Z_bulk)^2, in nats squared.
        variance: of log Z_bulk over the tokens, in nats squared.
        r2: 1 - mse / variance. It may be negative without an intercept, since a constant is then
            not in the model.
        held_out_mse: mean squared error, on one half of the tokens, of anchors fitted on the other
            half; NaN if a half has no more tokens than unknowns.
        rank: the numerical rank of the hidden states (and the constant, with an intercept).
        unknowns: the coordinates of an anchor and its intercept, if any.
        log_partitions: log Z_bulk of every token, shape (tokens, bulk sizes), float64.
    """

    top: tuple[int, ...]
    anchors: np.ndarray
    intercepts: np.ndarray
    mse: np.ndarray
    variance: np.ndarray
    r2: np.ndarray
    held_out_mse: np.ndarray
    rank: int
    unknowns: int
    log_partitions: np.ndarray

    @property
    def rank_deficient(self) -> bool:
        """Whether the hidden states do not determine the anchors, which are then the shortest."""
        return self.rank < self.unknowns


def fit_anchor(
    batches: Iterable[np.ndarray],
    unembedding: np.ndarray,
    top: Sequence[int] = (0, 10, 100, 1000),
    intercept: bool = False,
    block: int = 512,
) -> AnchorFit:
    """Fit v0 = argmin sum_i (<h_i, v0> - log Z_bulk,i)^2 for several bulk sizes in one pass.

    The logits are <h_i, v_j>, and Z_bulk,i is the sum of exp over all words j except those with the
    k largest logits of token i.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> states, words = rng.normal(size=(200, 3)), 0.1 * rng.normal(size=(50, 3)) + [2, 0, 0]
        >>> fit = fit_anchor([states[:120], states[120:]], words, top=(0, 5), intercept=True)
        >>> fit.anchors.round(1) + 0.0
        array([[2., 0., 0.],
               [2., 0., 0.]])
        >>> bool(np.all(fit.r2 > 0.999))
        True

    Args:
        batches: hidden states as the unembedding multiplies them, arrays of shape (any number of
            tokens, hidden); read once. Half precision is computed in float32.
        unembedding: the dictionary, one row for each word, shape (vocabulary, hidden).
        top: the bulk sizes k, each below the vocabulary.
        intercept: whether to fit a constant, too. The thesis does not, since a model with a
            constant partition function would then count as perfectly anchored.
        block: the number of tokens whose logits exist at the same time.

    Returns:
        The anchors and the quality of the fit. Exact least squares (QR in float64, no normal
        equations). For rank-deficient hidden states, as after a normalization without a learned
        shift, it is the shortest solution. The result is identical to the bit for every division
        of the tokens into batches, and the same up to rounding for every `block`. `block` also
        determines the held-out tokens: the second half of every block.

        Memory: block x vocabulary logits, a few (hidden + bulk sizes)^2 float64, and 8 bytes for
        each token and bulk size. Time: the product of the states with the dictionary dominates.

    Raises:
        ValueError: for shapes that do not match, a bulk size that leaves no word, states that are
            not finite, or fewer tokens than unknowns.

    Reference:
        Wu, Lee and Ge (2023); thesis of Wu, Hypothesis 3.4.2 and Appendix B.3.
    """
    words = checked_matrix("unembedding", unembedding, "vocabulary, hidden")
    top = check_top(top, len(words))
    require_count("block", block, least=2)
    regression = AnchorRegression(words.shape[1], top, intercept)
    # One buffer for all blocks: block x vocabulary numbers are most of the memory.
    logits = np.empty((0, len(words)))
    for states in even_blocks(checked_states(batches, words.shape[1]), block):
        # At least float32, in which products of two half-precision numbers are exact.
        dtype = np.result_type(states, words, np.float32)
        words = words.astype(dtype, copy=False)
        if logits.dtype != dtype or len(logits) < len(states):
            logits = np.empty((len(states), len(words)), dtype)
        product = np.matmul(states.astype(dtype, copy=False), words.T, out=logits[: len(states)])
        regression.add(states, log_bulk_partitions(product, top))
    return regression.solve()


class AnchorRegression:
    """The least-squares problem of all bulk sizes, accumulated batch by batch."""

    def __init__(self, hidden: int, top: tuple[int, ...], intercept: bool):
        self.hidden, self.top, self.intercept = hidden, top, intercept
        columns = hidden + 1 + len(top)
        self._halves = Triangle(columns), Triangle(columns)
        self._values: list[np.ndarray] = []
        self._rounding = 0.0

    def add(self, states: np.ndarray, values: np.ndarray) -> None:
        """Add hidden states and their log bulk partition functions; hold out the second half."""
        self._values.append(values)
        rounding = np.finfo(np.result_type(states, np.float32)).eps
        self._rounding = max(self._rounding, float(rounding))
        # The constant stands between states and values, so that the first rows of the triangle
        # solve the problem both with and without an intercept.
        rows = np.concatenate([states, np.ones((len(states), 1)), values], axis=1, dtype=np.float64)
        first = (len(rows) + 1) // 2
        self._halves[0].add(rows[:first])
        self._halves[1].add(rows[first:])

    def solve(self) -> AnchorFit:
        """Return the anchors of all data added so far; refuse fewer tokens than unknowns."""
        unknowns = self.hidden + self.intercept
        count = sum(half.count for half in self._halves)
        if count < unknowns:
            raise ValueError(
                f"there are {count} hidden states for {unknowns} unknowns; allowed are at least "
                "as many tokens as dimensions"
            )
        # Two factors under one another have the inner products of both halves: no second pass.
        fitted, held_out = (half.factor() for half in self._halves)
        triangle = Triangle(len(fitted))
        triangle.add(fitted)
        triangle.add(held_out)
        both = triangle.factor()
        solution, rank = self._least_squares(both)
        mse = self._squared_error(both, solution) / count
        # R has the inner products of the data: |R 1|^2 is the count, and this projection the mean.
        constant, values = both[:, self.hidden], both[:, self.hidden + 1 :]
        means = constant @ values / (constant @ constant)
        variance = np.sum((values - np.outer(constant, means)) ** 2, axis=0) / count
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = 1 - mse / variance
        # With as many tokens as unknowns half a fit would be exact, and say nothing.
        held_out_mse = np.full(len(self.top), np.nan)
        if self._halves[0].count > unknowns and self._halves[1].count:
            half_solution = self._least_squares(fitted)[0]
            held_out_mse = self._squared_error(held_out, half_solution) / self._halves[1].count
        return AnchorFit(
            top=self.top,
            anchors=solution[: self.hidden].T.copy(),
            intercepts=solution[-1].copy() if self.intercept else np.zeros(len(self.top)),
            mse=mse,
            variance=variance,
            r2=r2,
            held_out_mse=held_out_mse,
            rank=rank,
            unknowns=unknowns,
            log_partitions=np.concatenate(self._values),
        )

    def _least_squares(self, factor: np.ndarray) -> tuple[np.ndarray, int]:
        unknowns = self.hidden + self.intercept
        # Columns are dependent up to the rounding of the hidden states, not of float64.
        tolerance = max(self._rounding * unknowns**0.5, np.finfo(np.float64).eps * unknowns)
        design, values = factor[:unknowns, :unknowns], factor[:unknowns, self.hidden + 1 :]
        solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=tolerance)
        return solution, int(rank)

    def _squared_error(self, factor: np.ndarray, solution: np.ndarray) -> np.ndarray:
        unknowns = self.hidden + self.intercept
        residuals = factor[:, self.hidden + 1 :] - factor[:, :unknowns] @ solution
        return np.sum(residuals**2, axis=0)
