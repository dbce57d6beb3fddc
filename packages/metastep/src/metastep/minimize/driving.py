"""What Python does between two stretches of compiled outer steps: save, show, call back, stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.multihost_utils import sync_global_devices

from metastep import saving as checkpoints
from metastep.checks import require, require_count
from metastep.files import has_type
from metastep.minimize.loop import Carry, Loop, advance
from metastep.progress import Show
from metastep.results import RESULTS
from metastep.types import Outer

OUTER_STEPS = "outer steps"
"""The name of the progress bar."""


class HypergradientError(RuntimeError):
    """A hypergradient failed and `on_failure` is "raise"."""


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often `minimize` saves its state.

    Attributes:
        path: the file; written atomically.
        every: outer steps between two writes, from 1. The last state is always written, also at an
            interruption by Ctrl-C.
        resume: whether to continue from an existing file; without it an existing file is an error.
            The number of outer steps belongs to the run: for more, start another one at its result.
    """

    path: Path | str
    every: int = 100
    resume: bool = False

    @property
    def file(self) -> Path:
        """The file as a path."""
        return Path(self.path)


@dataclass(frozen=True)
class Report:
    """The argument of a callback.

    Attributes:
        step: the number of outer steps taken.
        steps: the number of outer steps of the whole run.
        outer: the hyperparameters after `step` steps.
        value: the objective at the last estimate, before its update.
        gradient_norm: the norm of the last hypergradient.
        result: the result of the last estimate.
    """

    step: int
    steps: int
    outer: Outer
    value: float
    gradient_norm: float
    result: RESULTS


def to_resume(checkpoint: Checkpoint) -> bool:
    """Whether there is a file to continue from; a FileExistsError if `resume` is False then."""
    allowed = "None and metastep.Checkpoint(path)"
    require(isinstance(checkpoint, Checkpoint), "checkpoint", checkpoint, allowed)
    require_count("checkpoint.every", checkpoint.every)
    there = checkpoint.file.exists()
    # All processes look first: a slow one could find the file that the first has just written.
    if jax.process_count() > 1:
        sync_global_devices("every process has looked before the first one saves")
    if there and not checkpoint.resume:
        raise FileExistsError(
            f"{checkpoint.file} exists; pass Checkpoint(..., resume=True) to continue from it, or "
            "choose another file."
        )
    return there


def restore(checkpoint: Checkpoint, identity: str, carry: Carry) -> tuple[Carry, list[float]]:
    """Return the saved state, if any, and check before the run that saving is possible."""
    if not to_resume(checkpoint):
        # A first file before the run shows a missing permission or a full disk at once.
        if jax.process_index() == 0:
            _save(checkpoint, identity, carry, [])
        return carry, []
    carry, notes = checkpoints.load(checkpoint.file, carry)
    seconds: Any = notes.get("seconds_per_step")
    if not has_type(seconds, tuple[float, ...]):
        raise checkpoints.CheckpointError(f"{checkpoint.file} belongs to another kind of run.")
    require_same_run(checkpoint, notes, identity)
    # A failure that the saved run has skipped must not stop this one before its first step.
    return replace(carry, failed=jnp.array(False)), seconds


OF_RUN = (
    "problem, data, initial parameters (is every seed set?), hyperparameters, estimator, "
    "optimizer or key"
)


def require_same_run(
    checkpoint: Checkpoint, notes: Mapping[str, Any], identity: str, parts: str = OF_RUN
) -> None:
    """Raise a CheckpointError unless the notes of a file name the run that is to be resumed."""
    if notes.get("identity") != identity:
        raise checkpoints.CheckpointError(
            f"{checkpoint.file} belongs to another run: its {parts} (or the version of JAX) are "
            "not those of this one. Resume with what it was written with, or choose another file."
        )


def _save(checkpoint: Checkpoint, identity: str, carry: Carry, seconds: list[float]) -> None:
    notes = {"seconds_per_step": seconds, "identity": identity}
    checkpoints.save(checkpoint.file, carry, notes)


@dataclass(frozen=True)
class Pauses:
    """The actions between two stretches of compiled steps."""

    every: int
    checkpoint: Checkpoint | None
    identity: str
    callback: Callable[[Report], bool | None] | None
    show: Show

    def next_stop(self, step: int, steps: int) -> int:
        """Return the step before which compiled code runs without a pause."""
        # Multiples of each period, not of the last stop: a resumed run pauses at the same steps.
        periods = [self.every] + ([self.checkpoint.every] if self.checkpoint else [])
        return min(steps, *(step + period - step % period for period in periods))

    def save(self, carry: Carry, seconds: list[float]) -> None:
        """Write the checkpoint, if there is one."""
        # All processes hold the same state, and the first one writes it.
        if self.checkpoint is not None and jax.process_index() == 0:
            _save(self.checkpoint, self.identity, carry, seconds)

    def save_if_due(self, carry: Carry, seconds: list[float], step: int, steps: int) -> None:
        """Write the checkpoint after every period and after the last step."""
        if self.checkpoint is not None and (step % self.checkpoint.every == 0 or step == steps):
            self.save(carry, seconds)


def drive(loop: Loop, carry: Carry, seconds: list[float], steps: int, pauses: Pauses) -> Carry:
    """Run stretch by stretch; append the seconds per step of each stretch to `seconds`."""
    step = int(carry.step)
    try:
        while step < steps:
            begin = perf_counter()
            # A Python number would be part of the program, which would be compiled anew for each
            # stop.
            stop = jnp.asarray(pauses.next_stop(step, steps))
            carry = jax.block_until_ready(advance(loop, carry, stop))
            taken, step = int(carry.step) - step, int(carry.step)
            seconds.append((perf_counter() - begin) / taken)
            report = _report(carry, step, steps)
            pauses.show(OUTER_STEPS, step, f"objective {report.value:.6g}")
            # This comes before the checkpoint, which then still holds the state before the failure.
            if loop.halt_on_failure and bool(carry.failed):
                message = RESULTS[report.result]
                raise HypergradientError(f"the hypergradient of outer step {step - 1}: {message}")
            pauses.save_if_due(carry, seconds, step, steps)
            if pauses.callback is not None and pauses.callback(report):
                break
    except KeyboardInterrupt:
        # `carry` is the end of the last complete stretch: a call that was interrupted has assigned
        # nothing.
        pauses.save(carry, seconds)
        raise
    return carry


def _report(carry: Carry, step: int, steps: int) -> Report:
    last = jax.tree.map(lambda x: x[step - 1], carry.history)
    value, gradient_norm = float(last.value), float(last.gradient_norm)
    return Report(step, steps, carry.outer, value, gradient_norm, last.result)
