"""A digest that identifies a driven run by what determines its numbers."""

from typing import Any

from metastep.driven.passes import Run
from metastep.fingerprint import fingerprint, shapes_of
from metastep.problems.base import Keys, Trajectory, start
from metastep.problems.batches import with_batch
from metastep.types import Outer


def identity(run: Run, point: Trajectory, batch: Any, segment: int, first: int) -> str:
    """Return a digest of a run: of its program, its data outside of batches, and its arguments.

    The values of `batch` do not matter: each batch has its own digest. `segment` is the number of
    steps of a segment, and `first` the step at which the backward pass ends.
    """

    def program(outer: Outer, keys: Keys, point: Trajectory, batch: Any) -> Any:
        problem = with_batch(run.problem, batch)
        after = problem.step(point.inner, outer, point.steps, keys.step(point.steps))
        value = problem.objective(point.inner, outer, keys.objective)
        return start(problem, outer, keys), after, value

    # Other segments would be another program, which may round differently.
    more = run.problem.horizon, segment, first, run.truncated
    return fingerprint(program, run.outer, run.keys, point, shapes_of(batch), more=more)
