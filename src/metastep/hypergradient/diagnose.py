"""Measure a problem's inner dynamics, and say which estimator serves it.

One exact hypergradient with every truncation on the way (`bias_curve`), one tangent of the whole
run, thirty of its last step, and one implicit solve: together at most five exact hypergradients.
`advice` turns the measurements into warnings and a recommendation.
"""

from math import inf, isqrt
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from metastep.hypergradient.advice import advise
from metastep.hypergradient.base import USE_IT, AbstractEstimator, require_influence
from metastep.hypergradient.bias_curve import BiasCurve, bias_curve
from metastep.hypergradient.binomial import Binomial
from metastep.hypergradient.compare import Program, compile_with, ready, timed_steadily
from metastep.hypergradient.diagnosis import Diagnosis, Option, WindowRow
from metastep.hypergradient.evolution import EvolutionStrategies
from metastep.hypergradient.forward import Forward
from metastep.hypergradient.implicit import Implicit
from metastep.hypergradient.reverse import Reverse
from metastep.hypergradient.scaled import digits_lost, lyapunov_exponent, meaningful
from metastep.hypergradient.step_spectrum import StepSpectrum, step_spectrum
from metastep.hypergradient.truncated import TruncatedReverse
from metastep.problems.base import AbstractProblem, advance, split_keys, start
from metastep.results import RESULTS
from metastep.trees import as_hyperparameters, cosine, norm, subtract
from metastep.types import Outer, RandomKey, Scalar

DEFAULT_MEMORY = 2**30
PAIRS = 16


class _Tangent(NamedTuple):
    exponent: Scalar
    digits_lost: Scalar
    meaningful: Array


def diagnose(
    problem: AbstractProblem, outer: Outer, *, key: RandomKey, memory: int = DEFAULT_MEMORY
) -> Diagnosis:
    """Say which estimator to use for a problem, why, and what would change the answer.

    Everything is measured at these hyperparameters and for this key; elsewhere it may differ.

    Example:
        Fifty steps of gradient descent that contract by a tenth: the last steps tell it all.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: (w - outer["target"]) ** 2 / 2,
        ...     objective=lambda w, outer: w**2,
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(0.1),
        ...     horizon=50,
        ... )
        >>> diagnosis = ms.diagnose(problem, {"target": 1.0}, key=jax.random.key(0))
        >>> round(diagnosis.contraction, 3), diagnosis.windows[0].window
        (0.9, 1)

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters, a pytree of floating-point arrays or floats.
        key: a random key.
        memory: bytes that a hypergradient may use; 1 GiB by default.

    Returns:
        The diagnosis: `str()` for people, fields for code. Time: at most five exact hypergradients
        (`seconds`), and to compile five programs; what takes less than 50 ms is run a few times, to
        be timed steadily. Memory: that of reverse mode with the state stored every sqrt(horizon)
        steps; plain reverse mode runs only if it fits into `memory`.

    Raises:
        ValueError: wrong use, as `hypergradient` does.
    """
    outer = as_hyperparameters(outer)
    windows = _windows(problem.horizon)
    runs = _measure(problem, outer, key, windows)
    found, stretch = runs.curve, runs.spectrum
    values = stretch.ritz_values()
    contraction = float(np.max(np.abs(values)))
    rows = _window_rows(found, windows, contraction, stretch)
    costs = _Costs(
        horizon=problem.horizon,
        outer_size=ravel_pytree(outer)[0].size,
        state_bytes=_bytes(found.end.inner),
        forward=runs.seconds[1],
        tangent=runs.seconds[2],
        memory=memory,
    )
    implicit = _implicit(problem, outer, key, stretch.symmetric, found)
    plain = ready(problem, outer, Reverse(), key)
    options = _options(costs, rows, plain, runs.seconds[0])
    options += () if implicit.option is None else (implicit.option,)
    curvature = (1 - float(values.max().real), 1 - float(values.min().real))
    return advise(
        Diagnosis(
            horizon=problem.horizon,
            outer_size=costs.outer_size,
            state_bytes=costs.state_bytes,
            value=float(found.value),
            exact=found.exact,
            finite=int(found.first_nonfinite) < 0 and bool(jnp.isfinite(norm(found.exact))),
            contraction=contraction,
            symmetric=stretch.symmetric,
            inner_curvature=curvature if stretch.symmetric else None,
            lyapunov_exponent=float(runs.tangent.exponent),
            digits_lost=float(runs.tangent.digits_lost),
            chaotic=not bool(runs.tangent.meaningful),
            adjoint_decay=float(found.adjoint_norms[-1] / found.adjoint_norms[0]),
            stationarity=implicit.stationarity,
            implicit_message=implicit.message,
            windows=rows,
            options=options,
            memory=memory,
            seconds=sum(runs.seconds) + sum(o.seconds for o in options if o.measured),
            warnings=(),
            recommendation=None,
        )
    )


class _Runs(NamedTuple):
    """What was measured; the seconds of curve and spectrum, of the forward run, of the tangent."""

    curve: BiasCurve
    tangent: _Tangent
    spectrum: StepSpectrum
    seconds: tuple[float, ...]


def _measure(
    problem: AbstractProblem, outer: Outer, key: RandomKey, windows: tuple[int, ...]
) -> _Runs:
    """Run everything that does not depend on what came out before."""
    horizon = problem.horizon

    def forward(problem: AbstractProblem, outer: Outer, key: RandomKey) -> tuple[Scalar, PyTree]:
        keys = split_keys(key)
        end = advance(problem, outer, start(problem, outer, keys), keys, horizon)
        return problem.objective(end.inner, outer, keys.objective), end

    def curve(
        problem: AbstractProblem, outer: Outer, key: RandomKey
    ) -> tuple[BiasCurve, StepSpectrum]:
        require_influence(lambda outer: forward(problem, outer, key)[0], outer, USE_IT)
        keys = split_keys(key)
        found = bias_curve(problem, outer, keys, windows)
        begin = start(problem, outer, keys)
        return found, step_spectrum(problem, outer, keys, found.end, begin)

    def tangent(problem: AbstractProblem, outer: Outer, key: RandomKey, end: PyTree) -> _Tangent:
        keys = split_keys(key)
        exponent = lyapunov_exponent(problem, outer, keys)
        begin = start(problem, outer, keys)
        lost = digits_lost(exponent, horizon, begin.inner, end.inner)
        return _Tangent(exponent, lost, meaningful(lost))

    call = lambda function, *more: timed_steadily(
        compile_with(function, problem, outer, key, *more).call
    )
    ((found, stretch), first), ((_, end), second) = call(curve), call(forward)
    moving, third = call(tangent, end)
    return _Runs(found, moving, stretch, (first, second, third))


def _windows(horizon: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, ... below the horizon, and the horizon."""
    steps = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    return (*(step for step in steps if step < horizon), horizon)


def _bytes(tree: PyTree) -> int:
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return sum(x.size * x.dtype.itemsize for x in arrays)


def _window_rows(
    found: BiasCurve, windows: tuple[int, ...], contraction: float, stretch: StepSpectrum
) -> tuple[WindowRow, ...]:
    """Hold every truncation against the exact gradient, and the paper's bound beside it."""
    size = norm(found.exact)
    factor = float(found.adjoint_norms[0] * stretch.response)
    rows = []
    for i, window in enumerate(windows):
        grad = jax.tree.map(lambda x, i=i: x[i], found.truncated)
        error = float(norm(subtract(grad, found.exact)) / size)
        # Eq. 10 of Shaban et al. (2019), with 1 - gamma alpha for the contraction.
        bound = contraction**window / (1 - contraction) * factor if contraction < 1 else inf
        rows.append(
            WindowRow(
                window=window,
                cosine=float(cosine(grad, found.exact)),
                relative_error=error,
                bound=bound / float(size),
                adjoint=float(found.adjoint_norms[window] / found.adjoint_norms[0]),
            )
        )
    return tuple(rows)


class _Implicit(NamedTuple):
    """What implicit differentiation gave; no option where it refuses the problem."""

    option: Option | None
    stationarity: float
    message: str


def _implicit(
    problem: AbstractProblem, outer: Outer, key: RandomKey, symmetric: bool, found: BiasCurve
) -> _Implicit:
    """Run implicit differentiation with half as many products as the horizon has steps."""
    tolerance: dict[str, Any] = {
        "rtol": 1e-4,
        "atol": 0.0,
        "max_steps": max(1, problem.horizon // 2),
    }
    estimator = Implicit(lx.CG(**tolerance) if symmetric else lx.GMRES(**tolerance))
    try:
        program = ready(problem, outer, estimator, key)
    except ValueError as refusal:
        return _Implicit(None, float("nan"), str(refusal))
    estimate, seconds = timed_steadily(program.call)
    option = Option(
        estimator,
        cosine=float(cosine(estimate.grad, found.exact)),
        relative_error=float(norm(subtract(estimate.grad, found.exact)) / norm(found.exact)),
        seconds=seconds,
        memory=program.temporary_bytes or 4 * _bytes(found.end.inner),
        measured=True,
    )
    return _Implicit(option, float(estimate.stats["stationarity"]), RESULTS[estimate.result])


class _Costs(NamedTuple):
    horizon: int
    outer_size: int
    state_bytes: int
    forward: float
    tangent: float
    memory: int


def _options(
    costs: _Costs, rows: tuple[WindowRow, ...], plain: Program, curve_seconds: float
) -> tuple[Option, ...]:
    """List the estimators with their accuracy, time and memory; measured where affordable."""
    horizon, state = costs.horizon, costs.state_bytes
    residual = max((plain.temporary_bytes or horizon * state) / horizon, 1.0)
    length = max(1, isqrt(horizon))
    fits = residual * horizon <= costs.memory
    seconds = (
        timed_steadily(plain.call)[1] if fits else max(curve_seconds - costs.forward, costs.forward)
    )
    backward = max(seconds - costs.forward, 0.0) / horizon
    exact = {"cosine": 1.0, "relative_error": 0.0}
    states = min(horizon, max(1, int((costs.memory - residual) // max(state, 1))))
    pairs = PAIRS / (PAIRS + costs.outer_size + 1)

    def option(
        estimator: AbstractEstimator, seconds: float, memory: float | int, **more: Any
    ) -> Option:
        return Option(
            estimator, seconds=seconds, memory=int(memory), **({"measured": False} | more)
        )

    return (
        option(Reverse(), seconds, residual * horizon, measured=fits, **exact),
        option(
            Reverse("sqrt"),
            seconds + costs.forward,
            horizon / length * state + length * residual,
            **exact,
        ),
        option(
            Reverse(Binomial(states)),
            seconds + costs.forward * (1 + np.log2(horizon) / 2),
            min(states, horizon) * state + residual,
            **exact,
        ),
        option(Forward(), costs.tangent * costs.outer_size, costs.outer_size * state * 2, **exact),
        *(
            option(
                TruncatedReverse(row.window),
                costs.forward + row.window * backward,
                row.window * residual,
                cosine=row.cosine,
                relative_error=row.relative_error,
            )
            for row in rows[:-1]
        ),
        option(
            EvolutionStrategies(0.01, PAIRS),
            costs.forward * (2 * PAIRS + 1),
            2 * PAIRS * state,
            cosine=pairs**0.5,
            relative_error=((costs.outer_size + 1) / PAIRS) ** 0.5,
        ),
    )
