"""The measurements of `diagnose`, made by three programs.

The first program trains, at the hyperparameters and at two points along the gradient. The second
computes the exact hypergradient with all truncations, and again with states that are rounded
differently. The third multiplies by the Jacobian of the last step. Each is compiled once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from metastep.diagnosis.bias_curve import BiasCurve, bias_curve, windows_of
from metastep.diagnosis.clock import BRIEF, GRADIENT_OF_RUN, Clock, fastest, require_budget
from metastep.diagnosis.compare import Program, compile_with, timed
from metastep.diagnosis.metasmoothness import Metasmoothness, default_length, smoothness
from metastep.diagnosis.sizes import Sizes, sizes
from metastep.diagnosis.spectrum import StepSpectrum, step_spectrum
from metastep.estimators.implicit import EARLY_STEPS, require_visible
from metastep.problems.base import AbstractProblem, Trajectory, split_keys, start, take_step
from metastep.problems.mixed import choose_mixed
from metastep.trees import differentiable, real_variables
from metastep.types import Inner, Outer, RandomKey, Scalar

PRODUCTS = 30
"""The number of products with the Jacobian of the last step."""

DRAWS = 2
"""The number of exact hypergradients with states that are rounded differently."""

# At this score three quarters of the move, by size, continue in their direction.
SMOOTH = 0.5
"""The metasmoothness below which the step was too long or the run is not smooth."""

TRIALS = 3
SHORTER = 0.2
"""How often a step is shortened until the response is smooth, and by which factor."""

BESIDE = 1e-3
"""The relative distance to neighbouring hyperparameters."""

PROMISED = 0.1
"""The predicted relative change of the objective by the first step, to first order."""


@dataclass(frozen=True)
class Measurements:
    """The measurements of one problem.

    Attributes:
        curve: the exact hypergradient and its truncations, on the host, without `end`.
        finite, digits, work: as in `Diagnosis`.
        bounded: whether a run at neighbouring hyperparameters is finite, for an exact
            hypergradient that is not.
        rounding_error: root mean square of |g' - g| / |g| for exact hypergradients g and g' whose
            states are rounded differently; 1 if g' is not finite; NaN if not measured.
        repeatability: the mean cosine of the angle between g and g'; NaN if not measured.
        smooth, spectrum: None if not measured.
        refusal: why `Implicit` refuses the problem; empty if it does not.
        stored: whether the exact hypergradient stored all residuals, as `Reverse()` does.
        first_seconds: time of the first exact hypergradient, compilation included.
        forward_bytes, exact_bytes: the compiler's figures for a training run and an exact
            hypergradient, without inputs and outputs; None if the backend reports none.
    """

    curve: BiasCurve
    windows: tuple[int, ...]
    finite: bool
    bounded: bool
    rounding_error: float
    repeatability: float
    digits: float
    smooth: Metasmoothness | None
    spectrum: StepSpectrum | None
    refusal: str
    sizes: Sizes
    stored: bool
    forward_seconds: float
    exact_seconds: float
    first_seconds: float
    forward_bytes: int | None
    exact_bytes: int | None
    work: float


def measure(
    problem: AbstractProblem, outer: Outer, key: RandomKey, memory: int, clock: Clock
) -> Measurements:
    """Measure the inner dynamics and the exact hypergradient of a problem."""
    # This only traces, and comes first: wrong use is an error before anything is compiled.
    known, horizon = sizes(problem, outer, key), problem.horizon
    # The number of steps is traced, so that `require_budget` can time a few of them.
    run, compiling = timed(lambda: compile_with(_run, problem, outer, key, jnp.int32(horizon)))
    require_budget(run, compiling, horizon, clock)
    windows = windows_of(horizon)
    # What the backward pass needs beside its residuals is not known yet: the run stands for it.
    stored = known.reverse(horizon, run.temporary_bytes or 0) <= memory
    # In the mode that `Reverse()`, or `Reverse("sqrt")`, chooses.
    chosen = choose_mixed(problem, None, horizon if stored else isqrt(horizon))
    begin = clock.seconds
    exact = compile_with(_exact(windows, stored), chosen, outer, key, jnp.int32(0))
    first_seconds = clock.seconds - begin
    curve, exact_seconds = fastest(exact)
    first_seconds += exact_seconds
    # The end stays on the device, where the spectrum continues from it.
    host = jax.tree.map(np.asarray, replace(curve, end=None))
    trained = bool(curve.end.first_nonfinite < 0) and bool(np.isfinite(host.value))
    finite = trained and bool(np.all(np.isfinite(_flat(host.exact))))
    moving = finite and bool(np.any(_flat(host.exact)))
    # The relative error of a gradient that is zero or not finite is meaningless.
    rounding = [np.nan, np.nan]
    if moving and clock.allows(exact_seconds, "what rounding costs"):
        *rounding, exact_seconds = _rounding(exact, host.exact, exact_seconds, clock)
    smooth, forward_seconds, runs = None, np.nan, 0
    if clock.allows(3 * exact_seconds / GRADIENT_OF_RUN, "metasmoothness"):
        smooth, forward_seconds, runs = _smooth(run, outer, curve, moving)
    refusal, spectrum = refusal_of(problem, outer, key), None
    # There are no more products than steps, so that the spectrum never costs more than the run.
    products = min(PRODUCTS, max(2, horizon), known.variables)
    if clock.allows(2 * compiling, "implicit differentiation and the spectrum of the last step"):
        # Not timed. For a brief run, optimising the program would take longer than it saves.
        program = _spectrum(products), problem, outer, key, curve.end
        measured = compile_with(*program, optimised=exact_seconds > BRIEF)
        spectrum = jax.tree.map(np.asarray, measured.call())
    # Recomputation adds one step to the three that reverse mode counts.
    again = 1 if stored else 4 / 3
    return Measurements(
        curve=host,
        windows=windows,
        finite=finite,
        bounded=trained and not finite and _bounded(run, outer),
        rounding_error=rounding[0],
        repeatability=rounding[1],
        digits=digits_of(curve.end.inner),
        smooth=smooth,
        spectrum=spectrum,
        refusal=refusal,
        sizes=known,
        stored=stored,
        forward_seconds=forward_seconds,
        exact_seconds=exact_seconds,
        first_seconds=first_seconds,
        forward_bytes=run.temporary_bytes,
        exact_bytes=exact.temporary_bytes,
        work=again * (1 + DRAWS) + runs / 3 + (products + 3) / (3 * horizon),
    )


def digits_of(inner: Inner) -> float:
    """Return the decimal digits of the coarsest dtype of a state."""
    leaves = jax.tree.leaves(differentiable(inner)[0])
    return -float(np.log10(max([float(jnp.finfo(x.dtype).eps) for x in leaves], default=1e-7)))


def refusal_of(problem: AbstractProblem, outer: Outer, key: RandomKey) -> str:
    """Return why implicit differentiation refuses a problem, or nothing."""

    def trace() -> None:
        keys = split_keys(key)
        require_visible(problem, outer, keys, start(problem, outer, keys))

    try:
        eqx.filter_eval_shape(trace)
    except ValueError as refusal:
        return str(refusal)
    return ""


def stationarity(moves: ArrayLike) -> float:
    """Return the size of the last inner step relative to the largest of the first ones."""
    sizes = np.asarray(moves)
    first = np.max(sizes[: EARLY_STEPS + 1])
    # A run that never moved is at rest.
    return float(sizes[-1] / first) if first > 0 else 0.0


def _run(
    problem: AbstractProblem, outer: Outer, key: RandomKey, steps: Int[Array, ""]
) -> tuple[Scalar, Inner]:
    """Train for a number of steps that may be traced."""
    keys = split_keys(key)
    arrays, static = eqx.partition(start(problem, outer, keys), eqx.is_array)

    def body(_: Int[Array, ""], arrays: Trajectory) -> Trajectory:
        point = take_step(problem, outer, eqx.combine(arrays, static), keys)
        return eqx.filter(point, eqx.is_array)

    end = eqx.combine(jax.lax.fori_loop(0, steps, body, arrays), static)
    value = problem.objective(end.inner, outer, keys.objective)
    return value, real_variables(end.inner)[0]


def _exact(windows: tuple[int, ...], stored: bool) -> Callable[..., BiasCurve]:
    return lambda problem, outer, key, rounding: bias_curve(
        problem, outer, split_keys(key), windows, stored=stored, rounding=rounding
    )


def _spectrum(products: int) -> Callable[..., StepSpectrum]:
    return lambda problem, outer, key, end: step_spectrum(
        problem, outer, split_keys(key), end, products
    )


def _rounding(
    exact: Program, grad: Outer, seconds: float, clock: Clock
) -> tuple[float, float, float]:
    """Return the error and the cosine of gradients whose states are rounded otherwise, and seconds.

    The seconds are those of the fastest call: other processes only ever add to the time.
    """
    base = _flat(grad)
    errors, cosines = [], []
    for draw in range(1, DRAWS + 1):
        # The caller has asked the clock for the first draw.
        if draw > 1 and not clock.allows(seconds, "a second measurement of what rounding costs"):
            break
        # Seeds begin at 1, since 0 rounds nothing and gave `grad`.
        arguments = (*exact.arguments[:3], jnp.int32(draw))
        curve, took = timed(replace(exact, arguments=arguments).call)
        moved, seconds = _flat(curve.exact), min(seconds, took)
        sizes = np.linalg.norm(base), np.linalg.norm(moved)
        # The error is relative to the larger one: a factor of a thousand either way is about 1.
        error = np.linalg.norm(moved - base) / max(sizes)
        angle = moved @ base / (sizes[0] * sizes[1])
        errors.append(error if np.isfinite(error) else 1.0)
        cosines.append(angle if np.isfinite(angle) else 0.0)
    return float(np.sqrt(np.mean(np.square(errors)))), float(np.mean(cosines)), seconds


def _smooth(
    run: Program, outer: Outer, curve: BiasCurve, moving: bool
) -> tuple[Metasmoothness | None, float, int]:
    """Train along the gradient, at shorter and shorter distances until the response is smooth.

    Returns:
        The metasmoothness; the seconds of a training run; how many runs there were.
    """
    problem, _, key, steps = run.arguments
    (value, begin), seconds = fastest(run)
    if not moving:
        return None, seconds, 1
    size = float(np.linalg.norm(_flat(curve.exact)))
    # A value of 0 promises nothing (`or np.inf`): the default length alone counts.
    length = min(default_length(outer), PROMISED * abs(float(value)) / size or np.inf)
    found, runs = None, 1
    for _ in range(TRIALS):
        values, ends = [value], [begin]
        for distance in (length, 2 * length):
            # NumPy does this, since a single operation of JAX would be compiled as a program.
            move = lambda x, g, part=distance / size: (np.asarray(x) - part * np.asarray(g)).astype(
                x.dtype
            )
            moved = jax.tree.map(move, outer, curve.exact)
            if np.array_equal(_flat(moved), _flat(outer)):
                # Lost in rounding: equal ends would count as the smoothest response.
                return found, seconds, runs
            there = jax.tree.map(jnp.asarray, moved)
            program = replace(run, arguments=(problem, there, key, steps))
            (after, end), took = timed(program.call)
            seconds, runs = min(seconds, took), runs + 1
            values.append(after)
            ends.append(end)
        score = smoothness(*ends)
        found = Metasmoothness(score, length, (float(value), float(values[1]), float(values[2])))
        if score >= SMOOTH and np.all(np.isfinite(found.values)):
            break
        length *= SHORTER
    return found, seconds, runs


def _bounded(run: Program, outer: Outer) -> bool:
    """Whether training beside the hyperparameters ends with a finite objective."""
    moved = jax.tree.map(lambda x: x * (1 + BESIDE), outer)
    value, _ = replace(run, arguments=(run.arguments[0], moved, *run.arguments[2:])).call()
    return bool(jnp.isfinite(value))


def _flat(tree: Outer) -> np.ndarray:
    """Join all numbers of a tree on the host, in float64."""
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])
