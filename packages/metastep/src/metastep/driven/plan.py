"""What a driven run will store and repeat, known before it begins."""

from dataclasses import dataclass
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from metastep.estimators.base import AbstractEstimator
from metastep.estimators.reverse import Reverse
from metastep.estimators.truncated import TruncatedReverse, check_window
from metastep.problems.base import AbstractProblem, split_keys, start
from metastep.problems.batches import source_of, with_batch
from metastep.schedules import as_binomial, moves, segment_length
from metastep.trees import as_hyperparameters
from metastep.types import Outer, RandomKey


@dataclass(frozen=True)
class Plan:
    """What a driven run stores and repeats.

    Attributes:
        steps: the horizon.
        cuts: the steps at which segments begin, and the horizon. Before the window of a truncated
            estimator, segments end where the window begins.
        first: the step at which the backward pass ends: 0, or where the window begins.
        states: how many states are stored at once.
        in_memory: how many of them in memory.
        state_bytes: the size of a state.
        on_disk: whether states that are not in memory go to disk, and the run can go on after an
            interruption.
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
        """The largest size of all states in memory together; not counting those at work."""
        return self.in_memory * self.state_bytes

    @property
    def disk_bytes(self) -> int:
        """The largest size of all files together: states, one more to go on from, and an adjoint.

        While a file is written the one that it replaces is still there: one size more.
        """
        files = self.states - self.in_memory + 3
        return files * self.state_bytes if self.on_disk else 0

    @cached_property
    def repeated_steps(self) -> int:
        """How many steps run forward again, on the way to the segments that are gone back over."""
        window = self.cuts[self.cuts.index(self.first) :]
        plan = list(moves(len(window) - 1, self.states, [0]))
        descent = next(i for i, move in enumerate(plan) if move.slot is None)
        return sum(window[move.target] - window[move.source] for move in plan[descent:])

    def __str__(self) -> str:
        segments = len(self.cuts) - 1
        text = (
            f"{self.steps} steps in {segments} segments, {self.repeated_steps} repeated; "
            f"{self.states} states of {_size(self.state_bytes)} at once, "
            f"{self.in_memory} in memory ({_size(self.memory_bytes)})"
        )
        return f"{text}, at most {_size(self.disk_bytes)} on disk" if self.on_disk else text


def _size(count: int | float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _cuts(begin: int, end: int, segment: int) -> list[int]:
    """Cut steps into segments; a remainder comes first."""
    first = (end - begin) % segment or segment
    return [begin, *range(begin + first, end, segment)]


def require_reverse(estimator: AbstractEstimator) -> Reverse | TruncatedReverse:
    """Return the estimator if it goes back over steps.

    Raises:
        ValueError: if it does not.
    """
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
    """Return the plan of a run whose state has the shapes of `state`.

    Raises:
        ValueError: for options that do not fit.
    """
    steps = problem.horizon
    if isinstance(estimator, TruncatedReverse):
        check_window(estimator.window, steps)
        first = steps - estimator.window
    else:
        first = 0
    if memory is not None and not (isinstance(memory, int) and memory >= 0):
        raise ValueError(f"memory is {memory!r}; allowed are None and numbers of bytes from 0.")
    window, binomial = steps - first, as_binomial(estimator.checkpoint)
    whole = estimator.checkpoint is None or binomial is not None
    segment = 1 if whole else segment_length(estimator.checkpoint, window)
    inside = _cuts(first, steps, segment)
    cuts = (*(_cuts(0, first, segment) if first else []), *inside, steps)
    states = binomial.budget(window) if binomial else len(inside)
    arrays = jax.tree.leaves(eqx.filter(state, lambda x: hasattr(x, "dtype")))
    size = sum(x.size * x.dtype.itemsize for x in arrays)
    if memory is None:
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
    """Return what `driven_hypergradient` would store and repeat. Computes nothing but shapes.

    Args:
        problem: as for `driven_hypergradient`.
        outer: as for `driven_hypergradient`.
        estimator: as for `driven_hypergradient`.
        key: as for `driven_hypergradient`.
        memory: as for `driven_hypergradient`.
        on_disk: whether there will be a directory.

    Returns:
        The plan; `print` shows it in a line.

    Raises:
        ValueError: as `driven_hypergradient`.
    """
    outer, keys, source = as_hyperparameters(outer), split_keys(key), source_of(problem)
    if source is not None:
        problem = with_batch(problem, jax.tree.map(jnp.asarray, source.at(0)))
    state = eqx.filter_eval_shape(start, problem, outer, keys)
    return plan_of(problem, require_reverse(estimator), state, memory, on_disk)
