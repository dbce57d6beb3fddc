"""Checkpoint schedules: which states a reverse pass stores, and the order of its steps.

A schedule is a list of moves, known before anything runs. A step of the schedule may be an inner
step of a compiled program or a segment of a driven run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb, isqrt
from typing import Literal, NamedTuple

import equinox as eqx
import numpy as np

from metastep.checks import integer, is_count, require_count


class Binomial(eqx.Module):
    """The optimal checkpoint schedule for a memory budget.

    With s stored states and T <= C(s + r, s) steps, no step runs more than r + 1 times, and the
    number of repeated steps is minimal for s states.

    Reference:
        Griewank and Walther (2000), Algorithm 799: Revolve, Theorem 1.

    Attributes:
        states: how many inner states may be stored at the same time, the initial one included,
            from 1. None is 1 + log2(horizon): memory and time then grow as the logarithm of the
            horizon.

    Raises:
        ValueError: on construction, for fewer states than 1.
    """

    states: int | None = eqx.field(default=None, converter=integer)

    def __check_init__(self):
        require_count("states", self.states, none="1 + log2 of the horizon")

    def budget(self, steps: int) -> int:
        """Return the number of states to store for a number of steps, at most one each."""
        return min(steps, self.states or 1 + int(np.ceil(np.log2(steps))))


Checkpoint = int | Literal["sqrt", "binomial"] | Binomial | None


def segment_length(checkpoint: Checkpoint, steps: int) -> int:
    """Return the number of steps between two stored states, for "sqrt" or an integer from 1."""
    if checkpoint == "sqrt":
        return max(1, isqrt(steps))
    if not is_count(checkpoint):
        raise ValueError(
            f"checkpoint is {checkpoint!r}; allowed are None (store every step), 'sqrt', an "
            "integer from 1 (the number of steps between two stored states), 'binomial', and "
            "Binomial(states)."
        )
    return min(integer(checkpoint), steps)


def as_binomial(checkpoint: Checkpoint) -> Binomial | None:
    """Return the binomial schedule of `checkpoint`, None if it is of another kind."""
    if checkpoint == "binomial":
        return Binomial()
    return checkpoint if isinstance(checkpoint, Binomial) else None


def stored_steps(checkpoint: Checkpoint, steps: int) -> int:
    """Return for how many of `steps` steps the backward pass holds residuals at once."""
    if checkpoint is None:
        return steps
    return 1 if as_binomial(checkpoint) else segment_length(checkpoint, steps)


class Move(NamedTuple):
    """One move of a schedule: forward from the most recently stored state.

    Attributes:
        source: the step before which the move starts.
        target: the step before which it stops.
        slot: the slot in which to store the state at `target`, after those in use; None if one
            step backward, over step `target`, follows instead.
    """

    source: int
    target: int
    slot: int | None


def moves(steps: int, states: int, stored: list[int]) -> Iterator[Move]:
    """Plan the backward pass from `steps` to `stored[0]` with the fewest repeated steps.

    Args:
        steps: the number of steps.
        states: how many states may be stored at the same time, from 1.
        stored: the steps before which a state is already stored, in order, slot by slot. The list
            is changed as the plan advances: states beyond the next step backward are removed,
            states that a move stores are appended.

    Yields:
        The moves in order.
    """
    for last in reversed(range(stored[0], steps)):
        # States beyond the next step backward are no longer needed.
        while stored[-1] > last:
            stored.pop()
        while len(stored) < states and stored[-1] < last:
            source = stored[-1]
            # Both numbers are one more, since the step backward itself and the state at `source`
            # count.
            target = source + _split(last + 1 - source, states - len(stored) + 1)
            yield Move(source, target, len(stored))
            stored.append(target)
        yield Move(stored[-1], last, None)


@dataclass(frozen=True)
class Schedule:
    """Moves as arrays, one entry each: from a stored state, by some steps, to another slot.

    Attributes:
        source: int array, the slot of the state to start from.
        count: int array, the number of steps to take.
        target: int array, the slot in which to store the final state. For a move that ends with
            a step backward it is the slot after the last one, which is never read.
        backward: bool array, whether one step backward follows.
        descent: the number of moves before the first step backward; they are part of the forward
            run.
    """

    source: np.ndarray
    count: np.ndarray
    target: np.ndarray
    backward: np.ndarray
    descent: int

    def moves(self, which: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return source, count, target and backward of a slice of the moves."""
        return self.source[which], self.count[which], self.target[which], self.backward[which]


def _repetitions(length: int, states: int) -> int:
    """Return the smallest r with C(states + r, states) >= length."""
    repetitions = 0
    while comb(states + repetitions, states) < length:
        repetitions += 1
    return repetitions


def _split(length: int, states: int) -> int:
    """Return after how many of `length` steps to store the next state; the choice is optimal."""
    r = _repetitions(length, states)
    # The part before the new state has s states and r - 1 repetitions left, the part after it one
    # state fewer and r repetitions. Splits from C(s + r - 2, s) to C(s + r - 1, s) are optimal as
    # long as the rest has at most C(s - 1 + r, s - 1) steps (Griewank and Walther 2000). This is
    # the least of them.
    smallest = comb(states + r - 2, states) if r >= 2 else 1
    return max(1, smallest, length - comb(states - 1 + r, states - 1))


def schedule(steps: int, states: int) -> Schedule:
    """Plan the reversal of `steps` steps with `states` stored states, the initial one included.

    At most 2 * `steps` - 1 moves. Cost: proportional to their number.
    """
    stored, actions = [0], []
    for source, target, slot in moves(steps, states, stored):
        backward = slot is None
        # A move starts from the slot that was filled last, where the last storing move ended.
        where = len(stored) - 1
        actions.append((where, target - source, states if backward else slot, backward))
    source, count, target, backward = zip(*actions, strict=True)
    return Schedule(
        source=np.array(source, np.int32),
        count=np.array(count, np.int32),
        target=np.array(target, np.int32),
        backward=np.array(backward),
        descent=backward.index(True),
    )
