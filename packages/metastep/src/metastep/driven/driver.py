"""The loop of a driven run: its position, its stored states, and when it saves."""

from dataclasses import replace
from itertools import pairwise
from time import monotonic

import equinox as eqx
import jax
import jax.numpy as jnp

from metastep.driven.feeding import Feed
from metastep.driven.passes import Adjoint, Run, back, begin, conclude, forward, judge
from metastep.driven.plan import Plan
from metastep.driven.records import Records
from metastep.driven.states import States
from metastep.estimators.base import Estimate
from metastep.explained import STEP_LOOP, reversible
from metastep.problems.base import Trajectory
from metastep.progress import Show
from metastep.schedules import moves


class Driver:
    """One run, continued from the point that its files hold.

    Every point of the trajectory is determined by the initial state, whatever was stored: each
    segment is the same compiled program, wherever its first state came from. A killed run can
    therefore continue from the remaining states, and ends with the same bits.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        feed: Feed,
        records: Records,
        adjoint_like: Adjoint,
        point_like: Trajectory,
        save_every: float,
        show: Show,
    ):
        self.run, self.plan, self.feed, self.records = run, plan, feed, records
        self.states = States(records.directory, point_like, records.save_seen)
        self.show = show
        self._like = adjoint_like
        self._next = dict(pairwise(plan.cuts))
        self._window = [cut for cut in plan.cuts if cut >= plan.first]
        self._save_every = save_every
        self._saved_at = monotonic()
        self._point: tuple[int, Trajectory] | None = None
        self._adjoint: Adjoint | None = None

    def drive(self) -> Estimate:
        """Run the rest of both passes, and return the estimate."""
        like = eqx.filter_eval_shape(conclude, self.run, self._like)
        estimate = self.records.load("estimate", like)
        if estimate is None:
            # A full disk is found before the first step, and not after hours of training.
            self.records.require_room(self.plan)
            try:
                estimate = conclude(self.run, self._both_passes())
            except KeyboardInterrupt:
                self._save()
                raise
            self.records.save("estimate", estimate, like)
        # After the estimate is safe: until then the states are what a killed run continues from.
        self.states.drop_from_disk(0)
        self.records.delete("adjoint")
        return estimate

    def _both_passes(self) -> Adjoint:
        adjoint = self.records.load("adjoint", self._like)
        if adjoint is None:
            self._store_on_the_way()
            end = self._go(self.plan.steps)
            adjoint = judge(self.run, end)
        self._adjoint = adjoint
        # A run that goes on in its backward pass has the forward pass behind it.
        self.show("forward", self.plan.steps)
        finite = jnp.isfinite(adjoint.value) & (adjoint.first_nonfinite < 0)
        if not finite:
            nothing = lambda x: jnp.full_like(x, jnp.nan)
            lost = jax.tree.map(nothing, (adjoint.of_state, adjoint.of_outer))
            return replace(adjoint, of_state=lost[0], of_outer=lost[1])
        return self._back(adjoint)

    def _stored(self, before: int) -> list[int]:
        """Return the cuts of the window before a step with stored states; the first has one."""
        first = self.plan.first
        if self.states.nearest(first) != first:
            self._put(first, self._go(first), 0)
        number = {step: index for index, step in enumerate(self._window)}
        return [number[step] for step in self.states.steps(before) if step >= first]

    def _store_on_the_way(self) -> None:
        """Run forward as far as states are stored before the first step backward."""
        stored = self._stored(self.plan.steps)
        for move in moves(len(self._window) - 1, self.plan.states, stored):
            # Without a slot it is the first step backward.
            if move.slot is None:
                break
            step = self._window[move.target]
            self._put(step, self._go(step), move.slot)

    def _back(self, adjoint: Adjoint) -> Adjoint:
        """Run the backward pass to its end."""
        last = int(adjoint.step)
        if last == self.plan.first:
            return adjoint
        self.states.drop_from_disk(last)
        stored = self._stored(last)
        for move in moves(self._window.index(last), self.plan.states, stored):
            step = self._window[move.target]
            point = self._go(step)
            if move.slot is not None:
                self._put(step, point, move.slot)
                continue
            batches, count = self._batches(step)
            # The caller's point is the only one from here on: the backward segment needs the room.
            self._point = None
            with reversible("problem", STEP_LOOP):
                adjoint = back(self.run, point, batches, count, adjoint)
            # JAX would go on in the background, and states would be dropped that it still reads.
            self._adjoint = jax.block_until_ready(adjoint)
            self.states.drop_from_memory(step)
            self._save_if_due()
            self.show("backward", self.plan.steps - step)
        return adjoint

    def _batches(self, step: int) -> tuple[object, int]:
        """Return the batches of the segment that begins at a step, and its length."""
        end = self._next[step]
        return self.feed.load(step, end), end - step

    def _go(self, target: int) -> Trajectory:
        """Return the point before a step, computed from the nearest known point."""
        known = self.states.nearest(target)
        # A stored state is taken if it is nearer than the point at hand, and a point beyond the
        # target is of no use. Without a stored state the run begins at 0.
        if self._point is None or not (known or 0) <= self._point[0] <= target:
            self._point = None  # frees its memory before the next point is loaded
            self._point = (0, begin(self.run)) if known is None else (known, self.states.get(known))
        step, point = self._point
        while step < target:
            self._save_if_due()
            # Loaded during the computation of the preceding segment; at most one load waits.
            batches, count = self._batches(step)
            point = forward(self.run, jax.block_until_ready(point), batches, count)
            step += count
            self._point = step, point
            # Steps that the backward pass repeats are no progress of the forward pass.
            if self._adjoint is None:
                self.show("forward", step)
        return point

    def _put(self, step: int, point: Trajectory, slot: int) -> None:
        """Store a state in memory or on disk, by its slot; the most recent stay in memory."""
        in_memory = slot >= self.plan.states - self.plan.in_memory
        # Files of later states are deleted first, so that the disk holds what the plan allows.
        if not in_memory and self._is_stale():
            self._save()
        self.states.put(step, point, in_memory)

    def _is_stale(self) -> bool:
        """Whether there are files of states that the backward pass no longer needs."""
        return self._adjoint is not None and self.states.on_disk_from(int(self._adjoint.step))

    def _save_if_due(self) -> None:
        if monotonic() - self._saved_at >= self._save_every:
            self._save()

    def _save(self) -> None:
        """Save the current point, and delete files that are no longer needed."""
        if self._adjoint is not None:
            # The adjoint first: without it, the states that are deleted next would be needed.
            self.records.save("adjoint", self._adjoint, self._like)
            self.states.drop_from_disk(int(self._adjoint.step))
        if self._point is not None:
            self.states.put_in_passing(*self._point)
        self._saved_at = monotonic()
