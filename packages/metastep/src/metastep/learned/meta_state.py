"""The state of meta-training between two updates, and its file."""

from typing import Any, NamedTuple

from metastep import saving as checkpoints
from metastep.learned.segment import LearnedTrainingState
from metastep.learned.setting import MetaHistory
from metastep.minimize.driving import Checkpoint, require_same_run, to_resume
from metastep.results import RESULTS
from metastep.types import Outer

# Checkpoints hold positions in this tuple: an outcome that is added comes last.
OUTCOMES = (
    RESULTS.successful,
    RESULTS.nonfinite_inner,
    RESULTS.nonfinite_value,
    RESULTS.nonfinite_gradient,
)


class Place(NamedTuple):
    """The position of a trajectory: its number over all, segments left, steps taken."""

    number: int
    segments: int
    steps: int


class Arrays(NamedTuple):
    """The state on the device."""

    weights: Any
    meta_state: Any
    trajectories: tuple[LearnedTrainingState, ...]
    best_weights: Outer


class State(NamedTuple):
    """The state between two updates; `log` and `monitored` may exceed `updates` entries."""

    arrays: Arrays
    places: tuple[Place, ...]
    begun: int
    updates: int
    horizon: int
    best: tuple[int, float]
    log: list[tuple[float, float, int, int]]
    monitored: list[tuple[int, float]]


def history_of(state: State) -> MetaHistory:
    """Return the measurements of the updates so far."""
    values, norms, nonfinite, outcomes = zip(*state.log, strict=True) if state.log else ((),) * 4
    results = [OUTCOMES[outcome] for outcome in outcomes]
    return MetaHistory(list(values), list(norms), list(nonfinite), results, list(state.monitored))


def save(checkpoint: Checkpoint, identity: str, state: State) -> None:
    """Write the arrays, and everything else as notes."""
    # After an interruption inside an update both lists may be one entry ahead of the arrays.
    log = state.log[: state.updates]
    monitored = [pair for pair in state.monitored if pair[0] <= state.updates]
    arrays, *rest = state._replace(log=log, monitored=monitored)
    notes = dict(zip(State._fields[1:], rest, strict=True))
    checkpoints.save(checkpoint.file, arrays, {"identity": identity, **notes})


def restore(checkpoint: Checkpoint, identity: str, state: State) -> State:
    """Return the saved state, if any, and check before the run that saving is possible."""
    if not to_resume(checkpoint):
        save(checkpoint, identity, state)
        return state
    arrays, notes = checkpoints.load(checkpoint.file, state.arrays)
    require_same_run(checkpoint, notes, identity)
    del notes["identity"]
    try:
        # JSON has no tuples.
        places = tuple(Place(*place) for place in notes.pop("places"))
        best = tuple(notes.pop("best"))
        log = [tuple(row) for row in notes.pop("log")]
        monitored = [tuple(pair) for pair in notes.pop("monitored")]
        return State(arrays, places, best=best, log=log, monitored=monitored, **notes)
    except (KeyError, TypeError) as error:
        raise checkpoints.CheckpointError(
            f"{checkpoint.file} belongs to another kind of run: {error}."
        ) from error
