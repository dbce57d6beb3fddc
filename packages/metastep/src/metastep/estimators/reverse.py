"""Exact reverse mode (RMD) through the whole horizon, with or without checkpointing."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from metastep.checks import integer
from metastep.estimators.base import USE_IT, AbstractEstimator, Estimate, finish, require_influence
from metastep.estimators.binomial import advance_binomial
from metastep.estimators.widened import widened
from metastep.explained import STEP_LOOP, reversible
from metastep.problems.base import (
    AbstractProblem,
    Keys,
    Trajectory,
    advance,
    advance_checkpointed,
    evaluate,
    split_keys,
    start,
)
from metastep.problems.mixed import choose_mixed
from metastep.schedules import Checkpoint, as_binomial, segment_length, stored_steps
from metastep.types import Outer, RandomKey, Scalar


def advance_for_reverse(
    problem: AbstractProblem,
    outer: Outer,
    trajectory: Trajectory,
    keys: Keys,
    steps: int,
    checkpoint: Checkpoint,
) -> Trajectory:
    """Take `steps` steps, with the residuals stored for the backward pass as `Reverse` says."""
    if checkpoint is None:
        return advance(problem, outer, trajectory, keys, steps)
    if binomial := as_binomial(checkpoint):
        states = binomial.budget(steps)
        return advance_binomial(problem, outer, trajectory, keys, steps, states)
    segment = segment_length(checkpoint, steps)
    return advance_checkpointed(problem, outer, trajectory, keys, steps, segment)


class Reverse(AbstractEstimator):
    """Reverse-mode differentiation of the whole trajectory, initial state included.

    Exact. Time: a small multiple of the forward run, for any number of hyperparameters. Memory,
    for T steps, an inner state of size M and residuals of size R per step: O(T R) without
    checkpointing; O(T M / s + s R) with a stored state every s steps and one more forward run;
    O(M n + R) with a binomial schedule of n states and r more forward runs, T <= C(n + r, n).

    Reference:
        Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization through
        reversible learning; Shaban et al. (2019), Truncated back-propagation for bilevel
        optimization, Eq. 6; for the binomial schedule Griewank and Walther (2000), Revolve.

    Attributes:
        checkpoint: None stores the residuals of every step. An integer s stores the state every s
            steps and recomputes the steps between; "sqrt" sets s to the integer square root of the
            horizon. `Binomial(states)` repeats as few steps as that many stored states allow;
            "binomial" is `Binomial()`, whose memory grows as the logarithm of the horizon. A
            binomial schedule allows no second derivatives.
        mixed: True stores the parameters of each step instead of the activations of the inner
            loss, and recomputes the activations in the backward pass (Kemaev et al. 2025). Memory:
            M per step in place of R. Time: up to 1.25 times that of False if arithmetic limits
            speed, less if memory traffic does, as in deep networks. None chooses True if the
            activations of an inner gradient exceed the parameters and, over the steps stored at
            the same time, 64 MiB; under `vmap` each task is judged alone. The result is the same
            to rounding.
    """

    checkpoint: Checkpoint = eqx.field(default=None, converter=integer)
    mixed: bool | None = None

    def init(self, problem: AbstractProblem, outer: Outer, key: RandomKey) -> None:
        """Return None: this estimator has no state."""

    def estimate(
        self, problem: AbstractProblem, outer: Outer, state: Any, key: RandomKey
    ) -> tuple[Estimate, Any]:
        """Differentiate the whole trajectory in reverse. Adds nothing to `stats`."""
        # Mixed mode pays by what is stored at the same time: with checkpoints a segment only.
        stored = stored_steps(self.checkpoint, problem.horizon)
        problem, outer, narrow = widened(choose_mixed(problem, self.mixed, stored), outer)
        keys = split_keys(key)

        def ending(outer: Outer) -> tuple[Scalar, Array]:
            begin = start(problem, outer, keys)
            end = advance_for_reverse(problem, outer, begin, keys, problem.horizon, self.checkpoint)
            return problem.objective(end.inner, outer, keys.objective), end.first_nonfinite

        # Influence does not depend on the checkpointing, and is found by tangents, for which a
        # binomial schedule has no rule.
        require_influence(lambda outer: evaluate(problem, outer, keys)[0], outer, USE_IT)
        with reversible("problem", STEP_LOOP):
            (value, first_nonfinite), grad = jax.value_and_grad(ending, has_aux=True)(outer)
        return finish(value, narrow(grad), first_nonfinite, {}), state
