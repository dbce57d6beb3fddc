"""The outcome of tuning with an estimator for a given time."""

from functools import partial
from time import process_time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from metastep.compilation import compiled
from metastep.diagnosis.compare import Program, ready
from metastep.estimators import (
    AbstractEstimator,
    EvolutionStrategies,
    Forward,
    Reverse,
    TruncatedReverse,
)
from metastep.problems import AbstractProblem
from metastep.types import Outer, RandomKey, Scalar
from metastep_lab.studies.advisor.truth import outcome

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Step sizes of Adam on the hyperparameters; every estimator is judged by the best one."""

MOST_STEPS = 60
FEW = 32
"""Hyperparameters up to which forward mode takes part: it takes a tangent for each."""

CALLS = 5
JUDGES = 4


class Tuned(NamedTuple):
    """The result of tuning with one estimator.

    Attributes:
        estimator: its name.
        recommended: 1 for the recommended one, else 0.
        seconds: processor time of one hypergradient, the smallest of five calls: unlike wall time,
            it does not depend on other processes.
        steps: outer steps that the time allowed.
        improvement: the fall of the objective, on runs with other keys; at most its initial value,
            and 0 if it ended infinite.
    """

    estimator: str
    recommended: int
    seconds: float
    steps: int
    improvement: float


def candidates(
    problem: AbstractProblem, outer: Outer, more: list[AbstractEstimator]
) -> list[AbstractEstimator]:
    """Return the estimators to compare, `more` among them.

    Checkpointed reverse mode is left out: it gives the results of `Reverse()` in more time.
    """
    count = sum(jnp.size(x) for x in jax.tree.leaves(outer))
    windows = [TruncatedReverse(w) for w in (1, 10) if w < problem.horizon]
    forward = [Forward()] if count <= FEW else []
    named = [Reverse(), *windows, *forward, EvolutionStrategies(0.01, 16), *more]
    return [one for i, one in enumerate(named) if one not in named[:i]]


class Programs:
    """Compiled estimates of one problem, each compiled when it is first asked for."""

    def __init__(self, problem: AbstractProblem, outer: Outer, key: RandomKey):
        self.problem, self.outer, self.key = problem, outer, key
        self._ready: dict[AbstractEstimator, Program] = {}

    def __getitem__(self, estimator: AbstractEstimator) -> Program:
        """Return the program of an estimator."""
        if estimator not in self._ready:
            made = ready(self.problem, self.outer, estimator, self.key)
            self._ready[estimator] = made
        return self._ready[estimator]

    def accepts(self, estimator: AbstractEstimator) -> bool:
        """Whether an estimator takes the problem: truncation refuses one that tunes its start."""
        try:
            return bool(self[estimator])
        except ValueError:
            return False

    def __contains__(self, estimator: AbstractEstimator) -> bool:
        """Whether an estimator has been compiled."""
        return estimator in self._ready

    def gradient(self, estimator: AbstractEstimator, outer: Outer, key: RandomKey) -> Outer:
        """Return the gradient of an estimator."""
        return self[estimator].function(self.problem, outer, key).grad


def race(
    programs: Programs,
    estimators: list[AbstractEstimator],
    recommended: AbstractEstimator,
    steps: int,
    key: RandomKey,
) -> list[Tuned]:
    """Tune with every estimator for the time that the recommended one takes for so many steps.

    Estimators that refuse the problem are left out.
    """
    estimators = [one for one in estimators if programs.accepts(one)]
    seconds = {one: _seconds(programs[one]) for one in estimators}
    time = steps * seconds[recommended]
    keys = jax.random.split(jax.random.fold_in(key, 1), JUDGES)
    judge = partial(_judged, programs.problem)
    begin = float(judge(programs.outer, keys))
    rows = []
    for one in estimators:
        # Rounding must not take a step from the recommended estimator itself.
        allowed = min(int(time / seconds[one] + 1e-9), MOST_STEPS)
        ends = [_tuned(programs, one, allowed, rate, key) for rate in RATES] if allowed else []
        fell = [begin - float(judge(end, keys)) for end in ends]
        improvement = max([x if np.isfinite(x) else 0.0 for x in fell], default=0.0)
        rows.append(Tuned(str(one), int(one == recommended), seconds[one], allowed, improvement))
    return rows


def _seconds(program: Program) -> float:
    found = []
    for _ in range(CALLS):
        begin = process_time()
        jax.block_until_ready(program.call())
        found.append(process_time() - begin)
    return min(found)


def _tuned(
    programs: Programs, estimator: AbstractEstimator, steps: int, rate: float, key: RandomKey
) -> Outer:
    """Return the hyperparameters after some steps of Adam, without those that are not finite."""
    outer = programs.outer
    state = optax.adam(rate).init(outer)
    for step in range(steps):
        # From 2 on: 1 gives the keys of the judges.
        gradient = programs.gradient(estimator, outer, jax.random.fold_in(key, step + 2))
        # As an array, so that one program serves all rates.
        outer, state = _stepped(outer, state, gradient, jnp.asarray(rate, jnp.float32))
    return outer


@compiled
def _stepped(outer: Outer, state: Any, gradient: Outer, rate: Array) -> tuple[Outer, Any]:
    updates, after = optax.adam(rate).update(gradient, state, outer)
    moved = optax.apply_updates(outer, updates)
    usable = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gradient)]))
    # Also the moments of Adam: one infinite gradient would stay in them for ever.
    keep = lambda new, old: jnp.where(usable, new, old)
    return jax.tree.map(keep, (moved, after), (outer, state))


@compiled
def _judged(problem: AbstractProblem, outer: Outer, keys: RandomKey) -> Scalar:
    """Return the mean outcome over keys that no gradient used."""
    return jnp.mean(jax.lax.map(lambda key: outcome(problem, outer, key), keys))
