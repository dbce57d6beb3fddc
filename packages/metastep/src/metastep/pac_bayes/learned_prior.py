"""Priors that a part of the data trains, so that the bound is for the rest of the data alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, PyTree

from metastep.checks import require
from metastep.pac_bayes.bound import PRIOR_PRECISION
from metastep.pac_bayes.examples import Data, count, repeats, select
from metastep.types import RandomKey

DEAL = 3  # folded into the key, beside the three that are split off it
FEWEST = 2  # examples that a bound is for: it divides by n - 1


class Learned(NamedTuple):
    """What `LearnedPrior.learn` found.

    Attributes:
        params: the mean of the prior.
        rows: which examples trained it; shape (examples,).
        data: the other examples, for the bound.
        repeats: how many of these are equal to one that trained the prior.
    """

    params: PyTree
    rows: Bool[np.ndarray, " examples"]
    data: Data
    repeats: int


@dataclass(frozen=True)
class LearnedPrior:
    """A prior whose mean is trained on a part of the data; the bound counts only the rest.

    Given the examples of the prior, the others are still independent draws, and the prior does not
    depend on them: the theorem holds as it does for a prior without data, with n - n_prior examples
    in place of n. The posterior then has a shorter way to go, which is most often worth more than
    the examples are. `certify` hands `train` the examples of the prior and no others. It cannot
    see what else `train` reads: the examples of the bound must have no part in it, and none in the
    choice of step sizes, of the number of epochs or of the model.

    Attributes:
        train: `(inputs, targets) -> params`, the mean of the prior. Any Python code: it is neither
            compiled nor differentiated. For a prior that was trained before, give a function that
            returns it, and `rows`.
        rows: indices of the examples that train the prior, shape (n_prior,); None for a random
            choice.
        share: the share of the examples in that choice, in (0, 1).
        scale: the largest standard deviation that the prior may have, and that of the posterior at
            first. Like the mean, it must be chosen without the examples of the bound. The union
            over the prior's variances begins at it: the nearer the posterior stays, the less it
            costs.
        allow_repeats: whether an example of the prior may also be, bit by bit, an example of the
            bound. Equal examples are most often copies, and the bound would be for examples that
            the prior has seen. Where the values are discrete they can be separate draws, and only
            then this is right.

    Reference:
        Ambroladze, Parrado-Hernandez, Shawe-Taylor (2007), Tighter PAC-Bayes bounds, Section 3;
        Perez-Ortiz, Rivasplata, Shawe-Taylor, Szepesvari (2021), Tighter risk certificates for
        neural networks, Section 6.
    """

    train: Callable[[PyTree, PyTree], PyTree]
    rows: np.ndarray | None = None
    share: float = 0.5
    scale: float = 0.03
    allow_repeats: bool = False

    def __post_init__(self):
        require(0 < self.share < 1, "share", self.share, "numbers between 0 and 1")
        require(0 < self.scale < math.inf, "scale", self.scale, "finite numbers above 0")

    @property
    def ceiling(self) -> float:
        """The c of the variances c exp(-j / b), of which the largest, at j = 1, is scale^2."""
        return self.scale**2 * math.exp(1 / PRIOR_PRECISION)

    def learn(self, data: Data, key: RandomKey) -> Learned:
        """Divide the data, `(inputs, targets)`, and train the prior on its part.

        A `ValueError` refuses rows that are not distinct indices of examples, fewer than two
        remaining examples, and repeated examples.
        """
        rows = self._rows(count(data), key)
        part, rest = select(data, rows), select(data, ~rows)
        # Before training, which may take long.
        shared = repeats(rest, part)
        if shared and not self.allow_repeats:
            raise ValueError(
                f"{shared} of the {count(rest)} examples of the bound also train the prior; "
                "allowed are data that hold every example once, since a prior may not be trained "
                "on the data of its own bound. Drop the copies, or set allow_repeats where equal "
                "examples are separate draws."
            )
        return Learned(self.train(*part), rows, rest, shared)

    def _rows(self, examples: int, key: RandomKey) -> Bool[np.ndarray, " examples"]:
        if self.rows is None:
            order = np.asarray(jax.random.permutation(key, examples))
            rows = order[: int(self.share * examples)]
        else:
            rows = np.asarray(self.rows)
            if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
                raise ValueError(
                    f"rows have the shape {rows.shape} and dtype {rows.dtype}; allowed is a list "
                    "of integers."
                )
            if np.any((rows < 0) | (rows >= examples)) or len(np.unique(rows)) < len(rows):
                raise ValueError(
                    f"rows are not distinct integers from 0 to {examples - 1}, the indices of "
                    "examples; no others are allowed."
                )
        if not 1 <= len(rows) <= examples - FEWEST:
            raise ValueError(
                f"the prior is trained on {len(rows)} of {examples} examples; allowed are from 1 "
                f"to {examples - FEWEST}: the bound needs examples that have not trained its prior."
            )
        chosen = np.zeros(examples, bool)
        chosen[rows] = True
        return chosen


def write_rows(rows: Bool[np.ndarray, " examples"]) -> str:
    """Return one bit for each example, as hexadecimal digits; `read_rows` undoes it."""
    return np.packbits(rows).tobytes().hex()


def read_rows(text: str, trained: int, others: int) -> Bool[np.ndarray, " examples"]:
    """Return what `write_rows` wrote: which of all examples are the `trained` ones of the prior.

    Raises:
        ValueError: for a text that does not say so.
    """
    examples = trained + others
    if not trained and not text:
        return np.zeros(examples, bool)
    if trained < 1 or len(text) != 2 * -(-examples // 8):
        raise ValueError(
            f"prior_rows has {len(text)} digits and prior_examples is {trained}; allowed are two "
            "digits for every eight of all examples, and none for a prior without data."
        )
    rows = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:examples].astype(bool)
    # Written again, so that bits beyond the last example, and capital digits, count as damage.
    if np.sum(rows) != trained or write_rows(rows) != text:
        raise ValueError(
            f"prior_rows names {np.sum(rows)} examples; allowed are as many as prior_examples, "
            f"{trained}."
        )
    return rows


def begin_with(
    data: Data, params: PyTree | None, prior: PyTree | LearnedPrior, key: RandomKey
) -> tuple[Data, PyTree, PyTree, dict[str, Any]]:
    """Return the bound's data, where the posterior starts, the prior, and the prior's origin.

    Raises:
        ValueError: if there is no place to start from, or the prior equals it.
    """
    if not isinstance(prior, LearnedPrior):
        if params is None:
            raise ValueError(
                "params is None; allowed are the trained parameters. Only a LearnedPrior gives the "
                "posterior a place to start from."
            )
        _require_different(prior, params)
        return data, params, prior, {}
    learned = prior.learn(data, jax.random.fold_in(key, DEAL))
    origin = {
        "prior_examples": int(np.sum(learned.rows)),
        "prior_rows": write_rows(learned.rows),
        "prior_repeats": learned.repeats,
    }
    if params is None:
        # The posterior starts at the mean of its prior.
        return learned.data, learned.params, learned.params, origin
    _require_different(learned.params, params)
    return learned.data, params, learned.params, origin


def _require_different(prior: PyTree, params: PyTree) -> None:
    # Leaves alone: the trees may differ in what is no number, such as activation functions.
    floating = lambda tree: jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array_like))
    pairs = floating(prior), floating(params)
    if len(pairs[0]) == len(pairs[1]) and all(map(np.array_equal, *pairs)):
        raise ValueError(
            "prior equals params; allowed are parameters that were chosen without the data of the "
            "bound, such as the initialization, or those of a LearnedPrior with params left out."
        )
