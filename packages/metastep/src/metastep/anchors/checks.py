"""Checks of the arguments of this package."""

from collections.abc import Iterable, Iterator

import numpy as np


def checked_matrix(name: str, values: np.ndarray, axes: str) -> np.ndarray:
    """Return a finite matrix as a NumPy array; a ValueError names the argument and its `axes`."""
    matrix = np.asarray(values)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {matrix.shape}; allowed: ({axes}), none of them 0")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds infinities or NaN; allowed are finite numbers")
    return matrix


def checked_states(batches: Iterable[np.ndarray], hidden: int) -> Iterator[np.ndarray]:
    """Yield batches of hidden states as NumPy arrays after checking their shape and values."""
    count = 0
    for number, batch in enumerate(batches):
        states = np.asarray(batch)
        if states.ndim != 2 or states.shape[1] != hidden:
            raise ValueError(
                f"batch {number} of the hidden states has shape {states.shape}; allowed: "
                f"(tokens, {hidden}), as the unembedding has {hidden} columns"
            )
        wrong = np.flatnonzero(~np.isfinite(states).all(axis=1))
        if wrong.size:
            raise ValueError(
                f"the hidden state of token {count + wrong[0]} (in batch {number}) is not finite; "
                "allowed are finite numbers"
            )
        count += len(states)
        yield states
