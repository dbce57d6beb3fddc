"""The options and the result of meta-training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import optax

from metastep import checks
from metastep.learned.learned import AbstractLearnedOptimizer
from metastep.learned.segment import LearnedTraining, Objective, Task
from metastep.results import RESULTS
from metastep.types import Outer, RandomKey


@dataclass(frozen=True)
class Unrolls:
    """The division of trajectories into segments.

    A segment has `length` plus an exponentially distributed number of steps with mean
    `length_mean`, at most `longest`. A trajectory has `count` segments plus such a number with mean
    `count_mean`, and ends at `horizon` at the latest. With means of 0 both are fixed.

    Attributes:
        longest: the longest segment; memory grows with it.
        horizon: the longest trajectory.
        block: steps between two stored states; see `run_segment`.
    """

    length: int = 50
    length_mean: float = 0.0
    count: int = 30
    count_mean: float = 0.0
    longest: int = 1000
    horizon: int = 1500
    block: int = 50

    def __post_init__(self):
        for name in ("count", "longest", "horizon", "block"):
            checks.require_count(name, getattr(self, name))
        fits = checks.is_count(self.length, most=self.longest)
        checks.require(fits, "length", self.length, f"1 to longest, {self.longest}")
        for name in ("length_mean", "count_mean"):
            checks.require(getattr(self, name) >= 0, name, getattr(self, name), "numbers from 0")

    def draw_length(self, key: RandomKey) -> int:
        """Return the length of a segment."""
        more = round(self.length_mean * float(jax.random.exponential(key)))
        return min(self.length + more, self.longest)

    def draw_count(self, key: RandomKey) -> int:
        """Return the number of segments of a trajectory."""
        return self.count + round(self.count_mean * float(jax.random.exponential(key)))


@dataclass(frozen=True)
class Monitor:
    """Fresh runs from scratch that measure the weights.

    Attributes:
        tasks: the tasks, one run on each; never the test data.
        every: updates between two measurements, from 1; there is one after the last update as well.
        steps: the steps of each run.
        objective: the criterion, averaged over the steps of the runs; None for the objective of
            meta-training.
    """

    tasks: Sequence[Task]
    every: int
    steps: int
    objective: Objective | None = None


class MetaHistory(NamedTuple):
    """Measurements of every update.

    Attributes:
        value: the mean objective of the segment.
        gradient_norm: the norm of its gradient after clipping.
        nonfinite: the number of gradient entries that were not finite and were set to zero.
        result: an item of `RESULTS` each.
        monitored: pairs (updates, mean objective of the fresh runs).
    """

    value: list[float]
    gradient_norm: list[float]
    nonfinite: list[int]
    result: list[RESULTS]
    monitored: list[tuple[int, float]]


class MetaRun(NamedTuple):
    """The result of `meta_train`.

    Attributes:
        weights: the weights after the last update.
        best_weights: those with the lowest monitored objective; the last ones without a monitor.
        best_update: the number of updates that led to them.
        horizon: the steps of the longest trajectory seen; do not test beyond it.
        history: one entry per update.
    """

    weights: Outer
    best_weights: Outer
    best_update: int
    horizon: int
    history: MetaHistory


@dataclass(frozen=True)
class MetaTraining:
    """The options of meta-training.

    Attributes:
        tasks: `number -> task`, a distribution of tasks; trajectory `number` (0, 1, ...) is run on
            `tasks(number)`. Called again when a run is resumed, so it must not change. All tasks
            have the same shapes.
        optimizer: the family of optimizers.
        objective: `(task, params, key) -> loss`: on training data, or on validation data.
        meta_optimizer: an optax transformation for the weights.
        updates: the number of updates.
        unrolls: the division of trajectories into segments.
        trajectories: the number of trajectories that are continued in turn.
        first_order: see `LearnedTraining`.
        clip: entries of the gradient are clipped to this magnitude.
        monitor: how the weights are measured; None for no monitor.
    """

    tasks: Callable[[int], Task]
    optimizer: AbstractLearnedOptimizer
    objective: Objective
    meta_optimizer: optax.GradientTransformation
    updates: int
    unrolls: Unrolls = field(default_factory=Unrolls)
    trajectories: int = 8
    first_order: bool = True
    clip: float = 1e4
    monitor: Monitor | None = None

    def __post_init__(self):
        checks.require_count("updates", self.updates)
        checks.require_count("trajectories", self.trajectories)
        checks.require(self.clip > 0, "clip", self.clip, "positive numbers")
        if self.monitor is not None:
            seen = self.unrolls.horizon
            if not 1 <= self.monitor.steps <= seen or self.monitor.every < 1:
                raise ValueError(
                    f"monitor has steps {self.monitor.steps} and every {self.monitor.every}; "
                    f"allowed are steps from 1 to the horizon, {seen}, and every from 1"
                )

    def problem(self, task: Task) -> LearnedTraining:
        """Return training on one task as a problem for the estimators of hypergradients."""
        return LearnedTraining(
            task=task,
            optimizer=self.optimizer,
            measure=self.objective,
            horizon=self.unrolls.horizon,
            first_order=self.first_order,
        )
