"""Measure a problem's inner dynamics, and say which estimator serves it.

`measurements` holds what is measured, for less than five exact hypergradients; `advice` turns it
into warnings and a recommendation.
"""

from math import inf, isqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from metastep.checks import require_key
from metastep.diagnosis.advise import advise
from metastep.diagnosis.compare import timed
from metastep.diagnosis.diagnosis import Diagnosis, Option, WindowRow
from metastep.diagnosis.measure import (
    FixedPoint,
    Measurements,
    Prepared,
    implicit_solver,
    prepare,
)
from metastep.estimators.base import AbstractEstimator
from metastep.estimators.binomial import Binomial
from metastep.estimators.evolution import EvolutionStrategies
from metastep.estimators.forward import Forward
from metastep.estimators.implicit import Implicit
from metastep.estimators.reverse import Reverse
from metastep.estimators.truncated import TruncatedReverse
from metastep.problems.base import AbstractProblem
from metastep.results import RESULTS
from metastep.trees import as_hyperparameters
from metastep.types import Outer, RandomKey

DEFAULT_MEMORY = 2**30
PAIRS = 16


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
        The diagnosis: `str()` for people, fields for code. Time: for horizons from nine steps at
        most five exact hypergradients (`work` counts their steps and products, `seconds` is what
        they took), and to compile two programs. Memory: that of `Reverse()` if it fits into
        `memory`, else that of `Reverse("sqrt")`, and some 50 inner states.

    Raises:
        ValueError: wrong use, as `hypergradient` does.
    """
    require_key(key)
    return diagnose_prepared(prepare(problem, as_hyperparameters(outer), key, memory))


def diagnose_prepared(prepared: Prepared) -> Diagnosis:
    """Run what was prepared, and judge it."""
    numbers, first = timed(prepared.everything.call)
    _, forward = timed(prepared.forward.call)
    _, exact = timed(prepared.exact.call)
    found = prepared.read(numbers)
    stretch, fixed_point = found.spectrum, found.fixed_point
    values = stretch.ritz_values()
    contraction = float(np.max(np.abs(values)))
    rows = _window_rows(prepared, found, contraction)
    costs = _Costs(prepared, forward, exact)
    curvature = (1 - float(values.max().real), 1 - float(values.min().real))
    message = prepared.refusal if fixed_point is None else RESULTS[fixed_point.result]
    return advise(
        Diagnosis(
            horizon=prepared.horizon,
            outer_size=prepared.outer_size,
            state_bytes=prepared.state_bytes,
            value=float(found.value),
            exact=jax.tree.map(jnp.asarray, found.exact),
            finite=bool(found.finite),
            contraction=contraction,
            symmetric=stretch.symmetric,
            inner_curvature=curvature if stretch.symmetric else None,
            lyapunov_exponent=float(found.lyapunov_exponent),
            digits_lost=float(found.digits_lost),
            chaotic=not found.meaningful,
            adjoint_decay=float(found.adjoints[-1] / found.adjoints[0]),
            stationarity=float("nan" if fixed_point is None else fixed_point.stationarity),
            implicit_message=message,
            windows=rows,
            options=_options(costs, rows, fixed_point, stretch.symmetric),
            memory=prepared.memory,
            work=prepared.work,
            seconds=first + forward + exact,
            warnings=(),
            recommendation=None,
        )
    )


def _window_rows(
    prepared: Prepared, found: Measurements, contraction: float
) -> tuple[WindowRow, ...]:
    """Hold every truncation against the exact gradient, and the paper's bound beside it."""
    size = np.linalg.norm([float(np.linalg.norm(x)) for x in jax.tree.leaves(found.exact)])
    end, *cuts = found.adjoints
    # Eq. 10 of Shaban et al. (2019), with 1 - gamma alpha for the contraction.
    bound = lambda window: (
        contraction**window * (end * found.spectrum.response / (1 - contraction)) / size
        if contraction < 1
        else inf
    )
    return tuple(
        WindowRow(
            window=window,
            cosine=float(angle),
            relative_error=float(error),
            bound=float(bound(window)),
            adjoint=float(cut / end),
        )
        for window, angle, error, cut in zip(
            prepared.windows, found.cosines, found.relative_errors, cuts, strict=True
        )
    )


class _Costs(NamedTuple):
    """The seconds that were measured, and what they and the compiler say of the others."""

    prepared: Prepared
    forward: float
    exact: float

    @property
    def plain(self) -> float:
        """Seconds of `Reverse()`: measured, or without the second forward run of "sqrt"."""
        return self.exact if self.prepared.stored else max(self.exact - self.forward, self.forward)

    @property
    def backward(self) -> float:
        """Seconds of one step back."""
        return max(self.plain - self.forward, 0.0) / self.prepared.horizon


def _options(
    costs: _Costs, rows: tuple[WindowRow, ...], fixed_point: FixedPoint | None, symmetric: bool
) -> tuple[Option, ...]:
    """List the estimators with their accuracy, time and memory."""
    prepared, forward = costs.prepared, costs.forward
    horizon, state, residual = prepared.horizon, prepared.state_bytes, prepared.residual
    length = max(1, isqrt(horizon))
    exact = {"cosine": 1.0, "relative_error": 0.0}
    states = min(horizon, max(1, int((prepared.memory - residual) // max(state, 1))))
    pairs = PAIRS / (PAIRS + prepared.outer_size + 1)

    def option(
        estimator: AbstractEstimator, seconds: float, memory: float | int, **more: Any
    ) -> Option:
        return Option(
            estimator, seconds=float(seconds), memory=int(memory), **({"measured": False} | more)
        )

    truncated = [
        option(
            TruncatedReverse(row.window),
            forward + row.window * costs.backward,
            row.window * residual,
            cosine=row.cosine,
            relative_error=row.relative_error,
        )
        for row in rows[:-1]
    ]
    return (
        option(Reverse(), costs.plain, residual * horizon, measured=prepared.stored, **exact),
        option(
            Reverse("sqrt"),
            costs.plain + forward if prepared.stored else costs.exact,
            horizon / length * state + length * residual,
            measured=not prepared.stored,
            **exact,
        ),
        option(
            Reverse(Binomial(states)),
            costs.plain + forward * (1 + np.log2(horizon) / 2),
            states * state + residual,
            **exact,
        ),
        option(
            Forward(),
            forward * (1 + prepared.outer_size),
            prepared.outer_size * state * 2,
            **exact,
        ),
        *truncated,
        option(
            EvolutionStrategies(0.01, PAIRS),
            forward * (2 * PAIRS + 1),
            2 * PAIRS * state,
            cosine=pairs**0.5,
            relative_error=((prepared.outer_size + 1) / PAIRS) ** 0.5,
        ),
        *(() if fixed_point is None else (_implicit(costs, fixed_point, symmetric),)),
    )


def _implicit(costs: _Costs, found: FixedPoint, symmetric: bool) -> Option:
    """Return the row of implicit differentiation."""
    solver = implicit_solver(symmetric, costs.prepared.horizon)
    states = 8 if isinstance(solver, lx.CG) else 8 + solver.restart
    return Option(
        Implicit(solver),
        cosine=float(found.cosine),
        relative_error=float(found.relative_error),
        seconds=costs.forward + costs.prepared.products * costs.backward,
        memory=int(states * costs.prepared.state_bytes + costs.prepared.residual),
        measured=False,
    )
