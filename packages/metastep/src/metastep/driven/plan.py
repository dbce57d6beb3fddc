"""The storage and the repeated steps of a driven run, known before it begins."""

from dataclasses import dataclass
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from metastep.checks import is_count, require
from metastep.estimators.base import AbstractEstimator
from metastep.estimators.reverse import Reverse
from metastep.estimators.truncated import TruncatedReverse, check_window
from metastep.files import readable_bytes
from metastep.problems.base import AbstractProblem, require_problem, split_keys, start
from metastep.problems.batches import source_of, with_batch
from metastep.schedules import as_binomial, moves, segment_length
from metastep.trees import as_hyperparameters
from metastep.types import Outer, RandomKey


@dataclass(frozen=True)
class Plan:
    """Storage and repeated steps of a driven run.

    Attributes:
        steps: the horizon.
        cuts: the steps at which segments begin, and the horizon. For a truncated estimator one
            cut is the beginning of the window.
        first: the step at which the backward pass ends: 0, or the beginning of the window.
        states: the largest number of states stored at the same time.
        in_memory: how many of them are kept in memory.
        state_bytes: the size of a state.
        on_disk: whether states that are not in memory are stored on disk, so that the run can
            continue after an interruption.
    """

    steps: int
    cuts: tuple[int, ...]
    first: int
    states: int
    in_memory: int
    state_bytes: int
    on_disk: bool

    @property
    def memory_bytes(self) -> int:
        """The largest total size of the stored states in memory."""
        return self.in_memory * self.state_bytes

    @property
    def disk_bytes(self) -> int:
        """The largest total size of all files: states, one saved point, and an adjoint.

        A file is replaced only after its successor is written: one more state.
        """
        files = self.states - self.in_memory + 3
        return files * self.state_bytes if self.on_disk else 0

    @cached_property
    def repeated_steps(self) -> int:
        """The number of steps that are run forward again for the backward pass."""
        window = self.cuts[self.cuts.index(self.first) :]
        plan = list(moves(len(window) - 1, self.states, [0]))
        # The moves before the first step backward are the forward pass itself.
        descent = next(i for i, move in enumerate(plan) if move.slot is None)
        return sum(window[move.target] - window[move.source] for move in plan[descent:])

    def __str__(self) -> str:
        segments = len(self.cuts) - 1
        text = (
            f"{self.steps} steps in {segments} segments, {self.repeated_steps} repeated; "
            f"{self.states} states of {readable_bytes(self.state_bytes)} at once, "
            f"{self.in_memory} in memory ({readable_bytes(self.memory_bytes)})"
        )
        on_disk = f", at most {readable_bytes(self.disk_bytes)} on disk" if self.on_disk else ""
        return text + on_disk


def _cuts(begin: int, end: int, segment: int) -> list[int]:
    """Cut steps into segments; a remainder comes first."""
    first = (end - begin) % segment or segment
    return [begin, *range(begin + first, end, segment)]


def require_reverse(estimator: AbstractEstimator) -> Reverse | TruncatedReverse:
    """Return the estimator; refuse one that is not of reverse mode."""
    if isinstance(estimator, Reverse | TruncatedReverse):
        return estimator
    raise ValueError(
        f"estimator is {estimator!r}; allowed are Reverse and TruncatedReverse, which go back over "
        "the steps of a run. The others have no backward pass: use hypergradient."
    )


def plan_of(
    problem: AbstractProblem,
    estimator: Reverse | TruncatedReverse,
    state: PyTree,
    memory: int | None,
    on_disk: bool,
) -> Plan:
    """Return the plan of a run whose state has the shapes of `state`."""
    steps, first = problem.horizon, 0
    if isinstance(estimator, TruncatedReverse):
        check_window(estimator.window, steps)
        first = steps - estimator.window
    usable = memory is None or is_count(memory, least=0)
    require(usable, "memory", memory, "None and numbers of bytes from 0")
    window, binomial = steps - first, as_binomial(estimator.checkpoint)
    whole = estimator.checkpoint is None or binomial is not None
    # A segment is one step where every state is stored, or a binomial schedule chooses the states.
    segment = 1 if whole else segment_length(estimator.checkpoint, window)
    inside = _cuts(first, steps, segment)
    cuts = (*(_cuts(0, first, segment) if first else []), *inside, steps)
    states = binomial.budget(window) if binomial else len(inside)
    arrays = jax.tree.leaves(eqx.filter(state, lambda x: hasattr(x, "dtype")))
    size = sum(x.size * x.dtype.itemsize for x in arrays)
    if memory is None:
        # With a directory an interruption then loses nothing.
        memory = 0 if on_disk else states * size
    in_memory = min(states, memory // max(size, 1))
    if in_memory < states and not on_disk:
        raise ValueError(
            f"memory is {memory} bytes, and {states} states of {size} bytes are to be stored: give "
            "a directory for the others, or store fewer with checkpoint=Binomial(states)."
        )
    return Plan(steps, cuts, first, states, in_memory, size, on_disk)


def driven_plan(
    problem: AbstractProblem,
    outer: Outer,
    estimator: AbstractEstimator,
    *,
    key: RandomKey,
    memory: int | None = None,
    on_disk: bool = False,
) -> Plan:
    """Return what `driven_hypergradient` would store and repeat. Only shapes are computed.

    The arguments are those of `driven_hypergradient`; `on_disk` says whether a directory will be
    given. `print` shows the plan in one line.
    """
    require_problem(problem)
    outer, keys, source = as_hyperparameters(outer), split_keys(key), source_of(problem)
    if source is not None:
        problem = with_batch(problem, jax.tree.map(jnp.asarray, source.at(0)))
    state = eqx.filter_eval_shape(start, problem, outer, keys)
    return plan_of(problem, require_reverse(estimator), state, memory, on_disk)
