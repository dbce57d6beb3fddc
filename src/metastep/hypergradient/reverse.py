"""Exact reverse mode (RMD) through the whole horizon, with or without checkpointing."""

from math import isqrt
from typing import Any, Literal

import jax
from jaxtyping import Array

from metastep.hypergradient.base import AbstractEstimator, Estimate, finish, require_influence
from metastep.problems.base import (
    AbstractProblem,
    Keys,
    Trajectory,
    advance,
    advance_checkpointed,
    split_keys,
    start,
)
from metastep.types import Outer, RandomKey, Scalar

Checkpoint = int | Literal["sqrt"] | None


def segment_length(checkpoint: Checkpoint, steps: int) -> int | None:
    """Return how many steps lie between two stored states; None to store every residual.

    Raises:
        ValueError: if `checkpoint` is none of None, "sqrt" and an integer from 1.
    """
    if checkpoint is None:
        return None
    if checkpoint == "sqrt":
        return max(1, isqrt(steps))
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or checkpoint < 1:
        raise ValueError(
            f"checkpoint is {checkpoint!r}; allowed are None (store every step), 'sqrt', and an "
            "integer from 1 (the number of steps between two stored states)."
        )
    return min(checkpoint, steps)


def advance_for_reverse(
    problem: AbstractProblem,
    outer: Outer,
    trajectory: Trajectory,
    keys: Keys,
    steps: int,
    checkpoint: Checkpoint,
) -> Trajectory:
    """Take `steps` steps whose backward pass stores what `checkpoint` says."""
    segment = segment_length(checkpoint, steps)
    if segment is None:
        return advance(problem, outer, trajectory, keys, steps)
    return advance_checkpointed(problem, outer, trajectory, keys, steps, segment)


class Reverse(AbstractEstimator):
    """Reverse-mode differentiation of the whole trajectory, initial state included.

    Exact. Time: a small multiple of the forward run, whatever the number of hyperparameters.
    Memory, with T steps, an inner state of size M and residuals of size R per step: O(T R) without
    checkpointing; O(T M / s + s R) with a stored state every s steps, for one more forward run.

    Reference:
        Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization through
        reversible learning; Shaban et al. (2019), Truncated back-propagation for bilevel
        optimization, Eq. 6.

    Attributes:
        checkpoint: None stores the residuals of every step; an integer s stores the state every s
            steps and recomputes between; "sqrt" takes the integer square root of the horizon.
    """

    checkpoint: Checkpoint = None

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: nothing is remembered."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the whole trajectory in reverse. Adds nothing to `stats`."""
        keys = split_keys(key)

        def ending(outer: Outer) -> tuple[Scalar, Array]:
            begin = start(problem, outer, keys)
            end = advance_for_reverse(problem, outer, begin, keys, problem.horizon, self.checkpoint)
            return problem.objective(end.inner, outer, keys.objective), end.first_nonfinite

        require_influence(
            lambda outer: ending(outer)[0],
            outer,
            "Use it in `init`, `step` or `objective`, undo the stop_gradient or rounding in its "
            "way, or take it out of `outer`.",
        )
        (value, first_nonfinite), grad = jax.value_and_grad(ending, has_aux=True)(outer)
        return finish(value, grad, first_nonfinite, {}), state
