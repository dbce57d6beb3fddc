"""Bulks that a teacher and its student share, and the anchors that fit them best.

The theory compares two models on one bulk B(x): here all words except the words of interest and the
most probable words of the teacher. `metastep.anchors.fit_anchor` uses each model's own words.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.special import logsumexp

from metastep.anchors.log_linear import LogLinearModel, blocks, check_same_inputs, check_words
from metastep.anchors.partition import check_top


def log_bulk(
    teacher: LogLinearModel,
    model: LogLinearModel,
    words: Sequence[int] | np.ndarray,
    top: int = 0,
) -> np.ndarray:
    """Compute log Z_bulk of a model, on its teacher's bulk at each state.

    Example:
        >>> model = LogLinearModel(np.ones((1, 1)), np.log([[1.0], [2.0], [3.0], [4.0]]))
        >>> np.exp(log_bulk(model, model, words=[0], top=1)).round(12)
        array([5.])

    Args:
        teacher: the model that determines the most probable words.
        model: the model of the partition function: the teacher itself or a student.
        words: the words of interest, excluded from the bulk (Assumption 3.5.3).
        top: the number of the teacher's most probable words that are also excluded.

    Returns:
        Shape (states,), in nats. Exact: a sum over the bulk, not a difference of sums.

    Raises:
        ValueError: for models of other inputs, words outside the dictionary, or an empty bulk.
    """
    check_same_inputs(teacher, model)
    vocabulary = len(teacher.unembedding)
    chosen = check_words(words, vocabulary)
    check_top((top,), vocabulary - chosen.size)
    found = np.empty(len(teacher.states))
    for rows in blocks(len(found)):
        logits = model.logits(rows)
        left_out = np.zeros(logits.shape, bool)
        if top:
            # Partial sorting: the order among the most probable words does not matter.
            best = np.argpartition(teacher.logits(rows), vocabulary - top, axis=1)
            np.put_along_axis(left_out, best[:, vocabulary - top :], True, axis=1)
        left_out[:, chosen] = True
        # Excluded by terms of exactly zero: subtracting theirs from a sum would cancel.
        logits[left_out] = -np.inf
        found[rows] = logsumexp(logits, axis=1)
    return found


def least_squares_anchor(model: LogLinearModel, values: np.ndarray) -> np.ndarray:
    """Fit v0 = argmin sum_i (<h_i, v0> - values_i)^2, the shortest minimiser, shape (hidden,).

    `values`, such as `log_bulk`, has the shape (states,). Exact (QR, then a singular value
    decomposition).
    """
    # The triangular factor of the tall matrix has the same solutions, in a tenth of the time.
    factor = np.asarray(np.linalg.qr(np.column_stack([model.states, values]), mode="r"))
    tolerance = np.finfo(np.float64).eps * max(model.states.shape)
    return np.linalg.lstsq(factor[:, :-1], factor[:, -1], rcond=tolerance)[0]


def minimax_anchor(model: LogLinearModel, values: np.ndarray) -> np.ndarray:
    """Fit v0 = argmin max_i |<h_i, v0> - values_i|: the anchor with the least possible eps_b.

    Theorem 3.5.7 needs an anchor that is accurate at every input. This linear program decides
    whether there is one.

    Example:
        >>> model = LogLinearModel(np.ones((3, 1)), np.zeros((2, 1)))
        >>> minimax_anchor(model, np.array([0.0, 1.0, 4.0])).round(9)
        array([2.])

    The arguments and the shape are those of `least_squares_anchor`. Exact up to the tolerance of
    the solver, 1e-7; a `RuntimeError` if it fails.

    Reference:
        Assumption 3.5.5 of Wu's thesis.
    """
    states = model.states
    # Minimize e subject to |<h_i, v> - values_i| <= e: the unknowns are v and e.
    error = np.ones((len(states), 1))
    found = linprog(
        np.append(np.zeros(states.shape[1]), 1.0),
        A_ub=np.block([[states, -error], [-states, -error]]),
        b_ub=np.concatenate([values, -values]),
        # Without them `linprog` takes all unknowns to be non-negative.
        bounds=(None, None),
        method="highs",
    )
    if found.x is None:
        raise RuntimeError(f"no anchor was found: {found.message}")
    return found.x[:-1]
