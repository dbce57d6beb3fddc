"""What a diagnosis holds, and how it reads."""

from dataclasses import dataclass
from textwrap import shorten

from metastep.estimators.base import AbstractEstimator
from metastep.types import Outer


@dataclass(frozen=True)
class WindowRow:
    """One window of truncated back-propagation.

    Attributes:
        window: K.
        cosine: of the angle to the exact gradient; NaN if one of them is zero.
        relative_error: |truncated - exact| / |exact|.
        bound: the bound (10) of Shaban et al. (2019), relative to |exact|; infinite where the inner
            steps do not contract.
        adjoint: what reaches back to the cut, relative to the end of the horizon.
    """

    window: int
    cosine: float
    relative_error: float
    bound: float
    adjoint: float


@dataclass(frozen=True)
class Option:
    """One estimator for this problem.

    Attributes:
        estimator: the estimator.
        cosine: measured; 1 where exact by construction, expected where random.
        relative_error: likewise.
        seconds: for one hypergradient, without compilation.
        memory: bytes beside inputs and outputs, predicted.
        measured: whether `seconds` was measured; otherwise it follows from those that were.
    """

    estimator: AbstractEstimator
    cosine: float
    relative_error: float
    seconds: float
    memory: int
    measured: bool


@dataclass(frozen=True)
class Warning:
    """What will go wrong, before it does.

    Attributes:
        kind: short and stable, such as `neumann-diverges`.
        text: what it means and what to do.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Recommendation:
    """Which estimator to use.

    Attributes:
        estimator: None if no estimator can be recommended.
        reason: why.
        would_change: what would change the answer.
    """

    estimator: AbstractEstimator | None
    reason: str
    would_change: str


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` measured, and what follows: `str()` for people, fields for code.

    Attributes:
        horizon: the number T of inner steps.
        outer_size: the number N of hyperparameters.
        state_bytes: size of the inner state.
        value: the objective.
        exact: the exact hypergradient, a tree like `outer`.
        finite: whether the run, the objective and the exact hypergradient are finite.
        contraction: the largest |eigenvalue| of the last step's Jacobian (approximately, from
            below); below 1 the inner dynamics settle.
        symmetric: whether that Jacobian is symmetric, as that of gradient descent is.
        inner_curvature: smallest and largest eigenvalue of step size times Hessian (gamma alpha,
            gamma beta: strong convexity and smoothness); None if the Jacobian is not symmetric.
        lyapunov_exponent: growth of a random tangent over the whole run, nats per step.
        digits_lost: decimal digits by which rounding errors outgrow the state.
        chaotic: whether fewer than one digit is left.
        adjoint_decay: what reaches back from the end of the run to its beginning.
        stationarity: size of the next step relative to the first ones; NaN where `Implicit`
            refuses the problem.
        implicit_message: why the implicit gradient is not to be trusted; empty if it is.
        windows: truncated back-propagation by window; the last window is the horizon.
        options: every estimator.
        memory: bytes that a hypergradient may use.
        work: inner steps and products with their Jacobians that the measurements took at most, in
            those of an exact hypergradient (three for every inner step).
        seconds: what the measurements took, with loading of the program and without compiling.
        warnings: what will go wrong with estimators that fit badly.
        recommendation: which one to use.
    """

    horizon: int
    outer_size: int
    state_bytes: int
    value: float
    exact: Outer
    finite: bool
    contraction: float
    symmetric: bool
    inner_curvature: tuple[float, float] | None
    lyapunov_exponent: float
    digits_lost: float
    chaotic: bool
    adjoint_decay: float
    stationarity: float
    implicit_message: str
    windows: tuple[WindowRow, ...]
    options: tuple[Option, ...]
    memory: int
    work: float
    seconds: float
    warnings: tuple[Warning, ...]
    recommendation: Recommendation | None

    def option(self, estimator: AbstractEstimator) -> Option:
        """Return the row of one estimator.

        Raises:
            KeyError: if it is not among the options.
        """
        for option in self.options:
            if option.estimator == estimator:
                return option
        raise KeyError(str(estimator))

    def __str__(self) -> str:
        """Lay everything out as plain text."""
        return "\n\n".join(part for part in _parts(self) if part)


def readable_bytes(count: float | int) -> str:
    """Write a number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _parts(d: Diagnosis) -> list[str]:
    curvature = ""
    if d.inner_curvature:
        low, high = d.inner_curvature
        curvature = f"; step size times inner curvature from {low:.3g} to {high:.3g}"
    facts = [
        f"{d.outer_size} hyperparameters, {d.horizon} inner steps, inner state "
        f"{readable_bytes(d.state_bytes)}",
        f"contraction of the last step {d.contraction:.5g}{curvature}",
        f"Lyapunov exponent {d.lyapunov_exponent:+.3g} per step, digits lost {d.digits_lost:.1f}",
        f"next step {d.stationarity:.1e} of the first ones",
    ]
    windows = [("window", "cosine", "relative error", "bound", "adjoint at cut")]
    windows += [
        (
            str(row.window),
            f"{row.cosine:+.4f}",
            f"{row.relative_error:.2e}",
            f"{row.bound:.2e}",
            f"{row.adjoint:.2e}",
        )
        for row in d.windows
    ]
    options = [("estimator", "cosine", "relative error", "seconds", "memory")]
    options += [
        (
            shorten(str(o.estimator), 40, placeholder=" ..."),
            f"{o.cosine:+.4f}",
            f"{o.relative_error:.2e}",
            f"{o.seconds:.4f}{'' if o.measured else ' (predicted)'}",
            readable_bytes(o.memory),
        )
        for o in d.options
    ]
    warnings = [f"warning ({w.kind}): {w.text}" for w in d.warnings]
    advice = d.recommendation
    words = [f"use {advice.estimator}: {advice.reason}", advice.would_change] if advice else []
    tables = [_table(windows), _table(options)]
    return ["\n".join(facts), *tables, "\n".join(warnings), "\n".join(words)]


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lay = lambda row: "  ".join(
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    )
    return "\n".join(lay(row).rstrip() for row in rows)
