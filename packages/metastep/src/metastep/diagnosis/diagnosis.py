"""The result of `diagnose`, and its text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from textwrap import shorten, wrap
from typing import Any

import jax
import numpy as np

from metastep.diagnosis.rows import Option, Recommendation, Response, Warning, WindowRow
from metastep.estimators.base import AbstractEstimator
from metastep.estimators.truncated import TruncatedReverse
from metastep.files import readable_bytes
from metastep.types import Outer

WIDTH = 100
LINES = 30
"""Limits of the short text."""


@dataclass(frozen=True)
class Diagnosis:
    """Measurements of `diagnose` and the advice: `str()` for people, fields for code.

    Measurements that the budget excluded are NaN or None.

    Attributes:
        horizon: the number T of inner steps.
        outer_size: the number N of hyperparameters.
        state_bytes: size of the inner state.
        residual_bytes: what reverse mode stores for one inner step.
        value: the objective.
        exact: the exact hypergradient, a tree like `outer`.
        finite: whether the run, the objective and the exact hypergradient are finite.
        contraction: the largest |eigenvalue| of the last step's Jacobian among the directions that
            affect the objective (approximate, from below); below 1 the inner dynamics converge.
        symmetric: whether that Jacobian is symmetric, as that of gradient descent is.
        inner_curvature: smallest and largest eigenvalue of step size times Hessian (gamma alpha,
            gamma beta: strong convexity and smoothness); None if the Jacobian is not symmetric.
        lyapunov_exponent: growth rate, from the end of the run to its first step, of the influence
            of relative changes of the state on the objective, in nats per step. For explanation
            only: `chaotic` does not depend on it.
        digits: decimal digits of the precision of the inner state.
        digits_lost: how many of them rounding costs the exact hypergradient, measured by computing
            it again with states that are rounded differently.
        chaotic: whether fewer than one digit is left.
        adjoint_decay: influence of relative changes of the first state, divided by that of the
            last.
        stationarity: size of the last step relative to the first ones.
        implicit_message: the reason against the implicit gradient; empty if there is none.
        response: how far a step against the gradient can be trusted; None if not measured.
        windows: truncated back-propagation by window; the last window is the horizon.
        options: every estimator.
        memory: bytes that a hypergradient may use.
        work: the number of inner steps and Jacobian products that the measurements took, as a
            multiple of those of an exact hypergradient (three for every inner step). The same
            program called again for its time counts once, and what was left out counts.
        seconds: the time of the measurements, compilation included.
        left_out: the measurements that the budget excluded.
        warnings: the failures to expect from unsuitable estimators.
        recommendation: the estimator to use.
    """

    horizon: int
    outer_size: int
    state_bytes: int
    residual_bytes: int
    value: float
    exact: Outer
    finite: bool
    contraction: float
    symmetric: bool
    inner_curvature: tuple[float, float] | None
    lyapunov_exponent: float
    digits: float
    digits_lost: float
    chaotic: bool
    adjoint_decay: float
    stationarity: float
    implicit_message: str
    response: Response | None
    windows: tuple[WindowRow, ...]
    options: tuple[Option, ...]
    memory: int
    work: float
    seconds: float
    left_out: tuple[str, ...]
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
        """Return the recommendation and its evidence, at most 30 lines of 100 characters."""
        lines = [*_advice(self), "", *_facts(self), "", *_options(_chosen(self))]
        more = ["", "details() has every window, every number and the warnings in full."]
        # One line is blank, before the warnings.
        room = LINES - len(lines) - len(more) - 1
        said = [
            wrap(f"{w.kind}: {w.text.split('. ')[0].rstrip('.')}.", WIDTH) for w in self.warnings
        ]
        warnings: list[str] = []
        for sentence in said:
            # Whole sentences only; `details` has those that find no room.
            if len(warnings) + len(sentence) <= room:
                warnings += sentence
        return "\n".join([*lines, *([""] if warnings else []), *warnings, *more])

    def details(self) -> str:
        """Return everything as plain text."""
        windows = [("window", "cosine", "relative error", "bound", "adjoint at cut")]
        windows += [
            (
                str(row.window),
                f"{row.cosine:+.4f}",
                f"{row.relative_error:.2e}",
                f"{row.bound:.2e}",
                f"{row.adjoint:.2e}",
            )
            for row in self.windows
        ]
        facts = [*_facts(self), *_explanations(self)]
        warnings = [line for w in self.warnings for line in wrap(f"{w.kind}: {w.text}", WIDTH)]
        parts = [_advice(self), facts, _table(windows), _options(self.options), warnings]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, numbers and text; estimators by their names."""
        return _plain(self)


def _plain(value: Any) -> Any:
    # An estimator is a dataclass, too, and is therefore asked for first.
    if isinstance(value, AbstractEstimator):
        return str(value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return np.asarray(value).tolist()
    return value


def _advice(d: Diagnosis) -> list[str]:
    advice = d.recommendation
    if advice is None:
        return []
    use = f"Use {advice.estimator}." if advice.estimator else "No estimator can be recommended."
    change = f"What would change it: {advice.would_change}"
    return [*wrap(f"{use} {advice.reason}", WIDTH), *wrap(change, WIDTH)]


def _facts(d: Diagnosis) -> list[str]:
    """Return the facts of general interest, one line each."""
    facts = [
        f"{d.outer_size} hyperparameters, {d.horizon} inner steps; inner state "
        f"{readable_bytes(d.state_bytes)}, {readable_bytes(d.residual_bytes)} more for each step"
    ]
    if np.isfinite(d.digits_lost):
        kind = "chaotic" if d.chaotic else "not chaotic"
        lost = f"{d.digits_lost:.1f} of {d.digits:.1f}"
        facts.append(f"rounding costs the exact gradient {lost} digits: {kind}")
    if d.response and np.isfinite(d.response.reach):
        facts.append(
            f"a step of {d.response.reach:.2g} in outer can be trusted (metasmoothness "
            f"{d.response.score:.2f}): Adam {d.response.adam_step_size:.2g}, gradient descent "
            f"{d.response.descent_step_size:.2g}"
        )
    facts.append(f"measured in {d.seconds:.2g} s, compilation included")
    if d.left_out:
        facts += wrap(f"left out for want of budget: {'; '.join(d.left_out)}", WIDTH)
    return facts


def _explanations(d: Diagnosis) -> list[str]:
    curvature = ""
    if d.inner_curvature:
        low, high = d.inner_curvature
        curvature = f"; step size times inner curvature from {low:.3g} to {high:.3g}"
    return [
        f"contraction of the last step {d.contraction:.5g}{curvature}",
        f"influence of the state grows by {d.lyapunov_exponent:+.3g} nats per step to the start",
        f"last step {d.stationarity:.1e} of the first ones",
    ]


def _chosen(d: Diagnosis) -> list[Option]:
    """Return every option except truncation, of which only the recommended or most accurate."""
    truncated = [o for o in d.options if isinstance(o.estimator, TruncatedReverse)]
    advised = d.recommendation.estimator if d.recommendation else None
    best = [o for o in truncated if o.estimator == advised]
    best = (
        # `not >=`, so that errors of NaN come last.
        best or sorted(truncated, key=lambda o: (not o.relative_error >= 0, o.relative_error))[:1]
    )
    return [o for o in d.options if o not in truncated or o in best]


def _options(options: Sequence[Option]) -> list[str]:
    rows = [("estimator", "cosine", "relative error", "seconds", "memory")]
    rows += [
        (
            shorten(str(o.estimator), 40, placeholder=" ..."),
            f"{o.cosine:+.4f}",
            f"{o.relative_error:.2e}",
            f"{o.seconds:.2g}{'' if o.measured else ' (predicted)'}",
            readable_bytes(o.memory),
        )
        for o in options
    ]
    return _table(rows)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lay = lambda row: "  ".join(
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    )
    return [lay(row).rstrip() for row in rows]
