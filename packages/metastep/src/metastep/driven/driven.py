"""The hypergradient of a run whose steps are called from Python, segment by segment."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from metastep.checks import require, require_key
from metastep.driven.driver import Driver
from metastep.driven.feeding import Feed
from metastep.driven.identity import identity
from metastep.driven.passes import Adjoint, Run, begin, forward, places_of
from metastep.driven.plan import Plan, plan_of, require_reverse
from metastep.driven.records import Records
from metastep.driven.states import described
from metastep.estimators.base import USE_IT, AbstractEstimator, Estimate, require_influence
from metastep.estimators.truncated import ONLY_BY_START, TruncatedReverse
from metastep.estimators.widened import widened
from metastep.explained import sharded
from metastep.problems.base import (
    AbstractProblem,
    Trajectory,
    advance,
    evaluate,
    require_problem,
    split_keys,
    start,
)
from metastep.problems.batches import source_of, with_batch
from metastep.problems.mixed import choose_mixed
from metastep.progress import progress_bars
from metastep.trees import as_hyperparameters, differentiable
from metastep.types import Outer, RandomKey, Scalar


def driven_hypergradient(
    problem: AbstractProblem,
    outer: Outer,
    estimator: AbstractEstimator,
    *,
    key: RandomKey,
    directory: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    save_every: float = 60.0,
    progress: bool | None = None,
) -> Estimate:
    """Compute a hypergradient by reverse mode over a run that is too long for one program.

    The result equals that of `hypergradient` with the same estimator, to rounding. A Python loop
    calls the steps: batches are loaded when they are needed (see `Batches`), states are stored in
    host memory or on disk, and one compiled function differentiates one segment after another. With
    a directory, a run that was interrupted or killed in either pass continues when the function is
    called again with the same arguments, and ends with the same bits.

    `checkpoint` of the estimator has the following meaning, for T steps, states of size M and
    residuals of size R per step:

    - None: the state at every step is stored. T M of storage, R on the device.
    - an integer s, or "sqrt": one state every s steps. T M / s of storage, s R on the device.
    - `Binomial(n)`, "binomial": n states. n M of storage, R on the device; fewer than T steps are
      repeated for T <= (n + 1)(n + 2) / 2.

    The device also holds a few states. `mixed` of the estimator keeps its meaning: with it, R is
    the size of the parameters of a step. Time: the two passes of `Reverse`, one more forward pass,
    the repeated steps, and Python's overhead per segment.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax, metastep as ms
        >>> data = np.linspace(0.0, 1.0, 12).reshape(3, 4)
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: jnp.mean((w - batch) ** 2) / 2,
        ...     objective=lambda w, outer: w,
        ...     init_params=jnp.array(1.0),
        ...     optimizer=lambda outer: optax.sgd(outer["step_size"]),
        ...     horizon=3,
        ...     batch=ms.Batches(data),
        ... )
        >>> key, outer = jax.random.key(0), {"step_size": 0.5}
        >>> estimate = ms.driven_hypergradient(problem, outer, ms.Reverse(), key=key)
        >>> round(float(estimate.grad["step_size"]), 4)
        0.0795

    Args:
        problem: the inner dynamics and the objective. Batches from outside are its `Batches`.
        outer: the hyperparameters, a pytree of floating-point arrays or floats.
        estimator: `Reverse` or `TruncatedReverse`.
        key: a random key; the trajectory is that of `hypergradient` with this key.
        directory: where states that are not kept in memory are stored, one directory per run. None
            keeps all states in memory; an interruption then loses them. Files that are no longer
            needed are deleted during the run. The estimate remains, and a further call with the
            same arguments returns it.
        memory: how many bytes of states to keep in memory. The most recent states are kept, since
            they change most often. None: all states without a directory, no states with one.
        save_every: seconds between two saved points beside the states of the schedule. An
            interruption loses at most that much work, and the states in memory. 0 saves at every
            segment.
        progress: whether to print the plan (see `driven_plan`) and show a progress bar for each
            pass; None does so on a terminal.

    Returns:
        The estimate, as that of `hypergradient`. If training diverges, the backward pass is not
        run, and the gradient is NaN.

    Raises:
        ValueError: for wrong use, as in `hypergradient`; for a batch that is missing, has another
            shape than the first, or changes between two requests. Saved files remain.
        CheckpointError: if the directory belongs to another run, or a file in it is damaged; a
            subclass of `ValueError`.
        OSError: if the disk is full, before or during the run. Saved files remain.
    """
    require_key(key)
    require_problem(problem)
    require(save_every >= 0, "save_every", save_every, "seconds from 0")
    if directory is not None and jax.process_count() > 1:
        raise ValueError(
            f"directory is {directory!r} in one of {jax.process_count()} processes; allowed is "
            "None, which keeps the states of each in its memory."
        )
    with sharded():
        folder = None if directory is None else Path(directory)
        problem, outer, narrow = widened(problem, as_hyperparameters(outer))
        arguments = _prepare(problem, outer, estimator, key, folder, memory)
        plan = arguments[1]
        totals = {"forward": plan.steps, "backward": plan.steps - plan.first}
        with progress_bars(progress, totals, str(plan)) as show:
            estimate = Driver(*arguments, save_every, show).drive()
    return replace(estimate, grad=narrow(estimate.grad))


def _prepare(
    problem: AbstractProblem,
    outer: Outer,
    estimator: AbstractEstimator,
    key: RandomKey,
    folder: Path | None,
    memory: int | None,
) -> tuple[Run, Plan, Feed, Records, Adjoint, Trajectory]:
    """Check the arguments before the first step; return the arguments of `Driver`."""
    reverse = require_reverse(estimator)
    feed = Feed(source_of(problem), problem.horizon)
    # The first batch gives the shapes of all; it is loaded again when its segment is run.
    first = feed.load(0, 1)
    batch = None if first is None else jax.tree.map(lambda x: x[0], first)
    keys = split_keys(key)
    shapes = eqx.filter_eval_shape(start, with_batch(problem, batch), outer, keys)
    plan = plan_of(problem, reverse, shapes, memory, folder is not None)
    # A segment is one program, and its residuals are what the device holds at once.
    longest = max(end - begin for begin, end in pairwise(plan.cuts))
    problem = choose_mixed(problem, reverse.mixed, longest)
    run = Run(problem, outer, keys, truncated=isinstance(reverse, TruncatedReverse))
    run, point = placed(run, feed, plan.cuts[1])
    _require_influence(run, point, batch, plan)
    records = Records(folder, identity(run, point, batch, longest, plan.first), feed)
    value = eqx.filter_eval_shape(problem.objective, point.inner, outer, keys.objective)
    zero, floats = jnp.zeros((), value.dtype), differentiable(point.inner)[0]
    still = jnp.array(False)
    # Only shapes and placements count here: an adjoint has the arrays of the state and of `outer`.
    adjoint = Adjoint(point.steps, floats, run.outer, still, zero, point.first_nonfinite)
    return run, plan, feed, records, described(adjoint), described(point)


def placed(run: Run, feed: Feed, count: int) -> tuple[Run, Trajectory]:
    """Return the run with all its arrays on the devices of its states, and its first point.

    If states are spread over devices, every segment is a program for these devices. Arrays that
    are not spread are copied to all devices once, instead of for each segment. An optimizer's
    initial zeros have no placement; they are put where the first segment, of `count` steps, leaves
    their successors.
    """
    point = begin(run)
    spread = [place for place in places_of(point) if isinstance(place, NamedSharding)]
    if not spread:
        return run, point
    everywhere = NamedSharding(spread[0].mesh, PartitionSpec())
    alone = lambda x: eqx.is_array(x) and len(x.sharding.device_set) == 1
    copy = lambda x: jax.device_put(x, everywhere) if alone(x) else x
    run, point = jax.tree.map(copy, (run, point))
    after = places_of(forward(run, point, feed.load(0, count), count))
    pairs = zip(places_of(point), after, strict=True)
    places = tuple(b if a is None or a.is_fully_replicated else a for a, b in pairs)
    run = replace(run, places=places, outer_places=places_of(run.outer))
    return run, begin(run)


def _require_influence(run: Run, point: Trajectory, batch: Any, plan: Plan) -> None:
    """Refuse hyperparameters that have no influence on what is differentiated."""
    problem = with_batch(run.problem, batch)

    def ending(outer: Outer) -> Scalar:
        if not run.truncated:
            return evaluate(problem, outer, run.keys)[0]
        # Influence is a matter of structure: the first point stands for the one at the cut.
        end = advance(problem, outer, point, run.keys, plan.steps - plan.first)
        return problem.objective(end.inner, outer, run.keys.objective)

    require_influence(ending, run.outer, ONLY_BY_START if run.truncated else USE_IT)
