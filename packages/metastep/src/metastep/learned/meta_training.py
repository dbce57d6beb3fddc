"""Meta-training of a learned optimizer by partial unrolls of several trajectories in turn.

Each update of the weights continues one trajectory by one segment. Trajectories end at different
times, so the weights always see early and late steps. The mean objective of the segments is
biased, since trajectories continue from states of earlier weights. Fresh runs from scratch
therefore measure the weights, and those with the lowest objective are kept.

`minimize` with `PersistentReverse` does the same for tasks that compiled code can draw. Here a task
comes from any Python function of a number, the lengths of segments are drawn, and a gradient is
used although some of its entries are not finite. So Python takes part in every update; one update
of the weights (`minimize.loop.descend`) and the rules for files are shared.
"""

from collections.abc import Callable
from math import inf, isfinite
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from metastep.checks import require_key
from metastep.compilation import compiled
from metastep.fingerprint import fingerprint, shapes_of
from metastep.learned.meta_state import Arrays, Place, State, history_of, restore, save
from metastep.learned.segment import (
    LearnedTraining,
    LearnedTrainingState,
    Segment,
    Task,
    first_state,
    run_segment,
    train_from_scratch,
)
from metastep.learned.setting import MetaHistory as MetaHistory
from metastep.learned.setting import MetaRun as MetaRun
from metastep.learned.setting import MetaTraining as MetaTraining
from metastep.learned.setting import Monitor as Monitor
from metastep.learned.setting import Unrolls as Unrolls
from metastep.minimize import Checkpoint
from metastep.minimize.loop import descend
from metastep.trees import all_finite, norm
from metastep.types import Outer, RandomKey

WEIGHTS, LENGTHS, COUNTS, TRAJECTORIES, MONITOR = range(5)  # random streams
LOST = (1, 2)  # the outcomes after which a trajectory is given up


def meta_train(
    setting: MetaTraining,
    key: RandomKey,
    weights: Outer | None = None,
    checkpoint: Checkpoint | None = None,
    callback: Callable[[int, MetaHistory], None] | None = None,
) -> MetaRun:
    """Meta-train a learned optimizer.

    Everything random follows from `key` and the numbers of updates and trajectories: a run that was
    stopped and resumed ends with the same bits as an uninterrupted one. One compiled function
    serves segments of every length.

    Args:
        setting: the options.
        key: a random key.
        weights: the initial weights; None for those of the family.
        checkpoint: where and how often to save; None does not save.
        callback: called with the number of updates and the history after each of them.

    Returns:
        The run. A trajectory whose state became infinite or NaN is replaced by a new one; entries
        of the gradient that are not finite count as zero. `history.result` says so.

    Raises:
        FileExistsError: if the checkpoint exists and `resume` is False.
        CheckpointError: if the checkpoint is damaged or belongs to another run.
    """
    require_key(key)
    state = _begin(setting, key, weights)
    identity = ""
    if checkpoint is not None:
        identity = _identity(setting, key, weights, state)
        state = restore(checkpoint, identity, state)
    tasks: dict[int, Task] = {}
    try:
        while state.updates < setting.updates:
            state = _update(setting, key, state, tasks)
            if checkpoint is not None and state.updates % checkpoint.every == 0:
                save(checkpoint, identity, state)
            if callback is not None:
                callback(state.updates, history_of(state))
    finally:
        # Also after Ctrl-C, since `state` is always complete between two updates.
        if checkpoint is not None:
            save(checkpoint, identity, state)
    judged, arrays = setting.monitor is not None, state.arrays
    return MetaRun(
        weights=arrays.weights,
        best_weights=arrays.best_weights if judged else arrays.weights,
        best_update=state.best[0] if judged else state.updates,
        horizon=state.horizon,
        history=history_of(state),
    )


def _identity(setting: MetaTraining, key: RandomKey, weights: Outer | None, state: State) -> str:
    """Return a digest of a run: of one update, the options, the key and the first weights."""
    unrolls, monitor = setting.unrolls, setting.monitor
    blocks = -(-unrolls.longest // unrolls.block)

    def update(
        problem: LearnedTraining, arrays: Arrays, key: RandomKey, weights: Outer | None
    ) -> _Updated:
        del key, weights  # their values count
        now, first = arrays.weights, arrays.trajectories[0]
        segment = run_segment(problem, now, first, jnp.asarray(1), unrolls.block, blocks)
        clip = jnp.asarray(setting.clip)
        return _apply(setting.meta_optimizer, clip, now, arrays.meta_state, segment)

    return fingerprint(
        update,
        setting.problem(setting.tasks(0)),
        shapes_of(state.arrays),
        key,
        weights,
        more=(unrolls, setting.trajectories, monitor and (monitor.every, monitor.steps)),
    )


def _stream(key: RandomKey, stream: int, number: int) -> RandomKey:
    return jax.random.fold_in(jax.random.fold_in(key, stream), number)


def _begin(setting: MetaTraining, key: RandomKey, weights: Any) -> State:
    """Start all trajectories; the first ones are shortened, so that they end at different times."""
    if weights is None:
        weights = setting.optimizer.initial_weights(_stream(key, WEIGHTS, 0))
    # Without Python's weak types, which an update removes, so that one compilation serves all.
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), weights)
    places, trajectories = [], []
    for number in range(setting.trajectories):
        place, trajectory = _start(setting, key, weights, number, setting.tasks(number))
        # The number is rounded up, so that every trajectory has a segment left.
        fewer = -(-place.segments * (number + 1) // setting.trajectories)
        places.append(place._replace(segments=fewer))
        trajectories.append(trajectory)
    meta_state = setting.meta_optimizer.init(weights)
    arrays = Arrays(weights, meta_state, tuple(trajectories), weights)
    state = State(arrays, tuple(places), len(places), 0, 0, (0, inf), [], [])
    # The initial weights compete, too: training may only have made them worse.
    return _judge(setting, key, state)


def _start(
    setting: MetaTraining, key: RandomKey, weights: Outer, number: int, task: Task
) -> tuple[Place, LearnedTrainingState]:
    run_key = _stream(key, TRAJECTORIES, number)
    segments = setting.unrolls.draw_count(_stream(key, COUNTS, number))
    return Place(number, segments, 0), first_state(setting.problem(task), weights, run_key)


class _Updated(NamedTuple):
    """The result of one update of the weights; `outcome` is an index into `OUTCOMES`."""

    weights: Outer
    meta_state: Any
    gradient_norm: Array
    nonfinite: Array
    outcome: Array


@compiled
def _apply(
    meta_optimizer: optax.GradientTransformation,
    clip: Array,
    weights: Any,
    meta_state: Any,
    segment: Segment,
) -> _Updated:
    """Clean the gradient and take one step; a gradient without a finite entry has no effect."""
    # Unrolls of learned optimizers often overflow in a few weights, and the rest of the gradient is
    # still of use; `minimize` would skip the update as a whole.
    bad = jax.tree.map(lambda leaf: ~jnp.isfinite(leaf), segment.grad)
    count = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(bad))
    entries = sum(leaf.size for leaf in jax.tree.leaves(bad))
    clean = lambda leaf, bad: jnp.clip(jnp.where(bad, 0, leaf), -clip, clip).astype(leaf.dtype)
    grad = jax.tree.map(clean, segment.grad, bad)
    before, slope = (weights, meta_state), (segment.value, grad)
    new_weights, new_state = descend(meta_optimizer, before, slope, jnp.asarray(count < entries))
    state = (segment.state.params, segment.state.optimizer_state)
    # `select` takes the first that holds: the earliest cause.
    codes = [~all_finite(state), ~jnp.isfinite(segment.value), count > 0]
    outcome = jnp.select(codes, [1, 2, 3], 0)
    return _Updated(new_weights, new_state, norm(grad), jnp.asarray(count), outcome)


def _update(setting: MetaTraining, key: RandomKey, state: State, tasks: dict[int, Task]) -> State:
    """Continue the next trajectory in turn by one segment, and update the weights."""
    unrolls, arrays = setting.unrolls, state.arrays
    turn = state.updates % setting.trajectories
    place, trajectory = state.places[turn], arrays.trajectories[turn]
    # Tasks are not saved: after a resumption they are made again from their numbers.
    if place.number not in tasks:
        tasks[place.number] = setting.tasks(place.number)
    length = unrolls.draw_length(_stream(key, LENGTHS, state.updates))
    # A trajectory ends at the horizon at the latest: the last segment is cut off.
    length = min(length, unrolls.horizon - place.steps)
    segment = run_segment(
        setting.problem(tasks[place.number]),
        arrays.weights,
        trajectory,
        jnp.asarray(length),
        unrolls.block,
        -(-unrolls.longest // unrolls.block),
    )
    # An array, not a Python number, which would be part of the compiled program.
    clip = jnp.asarray(setting.clip)
    new = _apply(setting.meta_optimizer, clip, arrays.weights, arrays.meta_state, segment)
    steps, trajectory = place.steps + length, segment.state
    place = Place(place.number, place.segments - 1, steps)
    outcome, begun = int(new.outcome), state.begun
    over = place.segments == 0 or steps >= unrolls.horizon or outcome in LOST
    if over:
        tasks.pop(place.number)
        tasks[begun] = setting.tasks(begun)
        place, trajectory = _start(setting, key, new.weights, begun, tasks[begun])
        begun += 1
    swap = lambda old, one: (*old[:turn], one, *old[turn + 1 :])
    # An update that was interrupted may have appended its row already.
    del state.log[state.updates :]
    row = (float(segment.value), float(new.gradient_norm), int(new.nonfinite), outcome)
    state.log.append(row)
    state = state._replace(
        arrays=Arrays(
            new.weights, new.meta_state, swap(arrays.trajectories, trajectory), arrays.best_weights
        ),
        places=swap(state.places, place),
        begun=begun,
        updates=state.updates + 1,
        horizon=max(state.horizon, steps),
    )
    monitor = setting.monitor
    due = monitor and state.updates % monitor.every == 0
    return _judge(setting, key, state) if due or state.updates == setting.updates else state


def _judge(setting: MetaTraining, key: RandomKey, state: State) -> State:
    """Run from scratch with the current weights, and keep them if they are the best so far."""
    monitor = setting.monitor
    if monitor is None:
        return state
    objective = monitor.objective or setting.objective
    totals = []
    for number, task in enumerate(monitor.tasks):
        problem = LearnedTraining(
            task=task, optimizer=setting.optimizer, measure=objective, horizon=monitor.steps
        )
        run_key = _stream(key, MONITOR, number)
        _, mean = train_from_scratch(
            problem, state.arrays.weights, run_key, _nothing, monitor.steps
        )
        totals.append(float(mean))
    value = sum(totals) / len(totals)
    state.monitored[:] = [pair for pair in state.monitored if pair[0] < state.updates]
    state.monitored.append((state.updates, value))
    # Of equal weights the earlier ones are kept.
    if not isfinite(value) or value >= state.best[1]:
        return state
    arrays = state.arrays._replace(best_weights=state.arrays.weights)
    return state._replace(arrays=arrays, best=(state.updates, value))


def _nothing(task: Task, params: Any, key: RandomKey) -> Array:
    del task, params, key
    return jnp.zeros(())
