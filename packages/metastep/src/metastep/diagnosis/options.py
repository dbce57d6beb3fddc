"""Accuracy, time and memory of every estimator, from the measurements of a problem.

One exact hypergradient and training runs are timed; the other times are derived from these. Memory
is derived from the residuals of a step and the compiler's figures.
"""

from dataclasses import dataclass, replace
from typing import Any

import lineax as lx
import numpy as np

from metastep.diagnosis.clock import GRADIENT_OF_RUN, Clock
from metastep.diagnosis.measure import PRODUCTS, Measurements
from metastep.diagnosis.rows import Option, WindowRow
from metastep.diagnosis.sizes import compiled_bytes
from metastep.estimators.base import AbstractEstimator
from metastep.estimators.evolution import EvolutionStrategies
from metastep.estimators.forward import Forward
from metastep.estimators.implicit import Implicit
from metastep.estimators.reverse import Reverse
from metastep.estimators.truncated import TruncatedReverse
from metastep.problems.base import AbstractProblem
from metastep.schedules import Binomial
from metastep.types import Outer, RandomKey

PAIRS = 16
TANGENT = 2.0
"""Time of a tangent of training, in training runs: the derivative of a product has two terms."""

NOT_ASKED = 2**20
"""Bytes below which an estimate suffices: compiling for the exact figure would cost more."""

ASKED = 2.5
"""Time of a diagnosis, in first exact hypergradients, from which the compiler is not asked.

The compilation takes about another one, and a diagnosis should take at most four.
"""

OBVIOUS = 2
"""How often an estimate exceeds the limit for memory where no exact figure is needed."""


@dataclass(frozen=True)
class Costs:
    """The costs of the estimators for one problem; `count` is the number of hyperparameters."""

    found: Measurements
    problem: AbstractProblem
    outer: Outer
    key: RandomKey
    clock: Clock
    count: int

    @property
    def forward(self) -> float:
        """Seconds of a training run."""
        measured = self.found.forward_seconds
        return measured if np.isfinite(measured) else self.found.exact_seconds / GRADIENT_OF_RUN

    @property
    def plain(self) -> float:
        """Seconds of `Reverse()`: measured, or that of "sqrt" minus its second training run."""
        exact = self.found.exact_seconds
        # Times are noisy, and a difference of two may come out too small, or negative.
        return exact if self.found.stored else max(exact - self.forward, self.forward)

    @property
    def backward(self) -> float:
        """Seconds of one step of the backward pass."""
        return max(self.plain - self.forward, 0.0) / self.problem.horizon

    @property
    def forward_bytes(self) -> int:
        """Memory of a training run."""
        return self.found.forward_bytes or self.found.sizes.state

    @property
    def workspace(self) -> float:
        """Memory of reverse mode beyond the residuals and states of the steps."""
        found, horizon = self.found, self.problem.horizon
        # The measuring program also has a gradient for each window, and stores more for each step.
        measured = found.curve.step_bytes
        sizes = replace(found.sizes, residual=measured, mixed_residual=measured)
        stored = sizes.reverse(horizon, 0) if found.stored else sizes.segment(horizon)
        beside = (len(found.windows) + 1) * sizes.outer
        return float(max((found.exact_bytes or 0) - beside - stored, self.forward_bytes))

    def option(
        self, estimator: AbstractEstimator, seconds: float, memory: float | int, **more: Any
    ) -> Option:
        """Return a row; unless `measured` is given, its time counts as predicted."""
        fields = {"measured": False} | more
        return Option(estimator, seconds=float(seconds), memory=round(memory), **fields)

    def compiled(
        self, estimator: AbstractEstimator, matters: bool, otherwise: float | int
    ) -> float | int:
        """Return the compiler's figure if it matters and exists, else `otherwise`."""
        what = f"the compiler's figure for {estimator}"
        # `allows` is asked last, since it notes what the budget has excluded.
        if (
            not matters
            or otherwise < NOT_ASKED
            or self.clock.seconds > ASKED * self.found.first_seconds
            or not self.clock.allows(2 * self.found.exact_seconds, what)
        ):
            return otherwise
        return compiled_bytes(estimator, self.problem, self.outer, self.key) or otherwise


def options(
    costs: Costs,
    rows: tuple[WindowRow, ...],
    implicit: tuple[float, float],
    memory: int,
    chaotic: bool,
) -> tuple[Option, ...]:
    """Return one row for each estimator.

    `rows` are the windows of truncation, the last of which is the horizon; `implicit` is the cosine
    and the relative error of implicit differentiation; `memory` is the limit for a hypergradient in
    bytes; `chaotic` says that exact gradients are meaningless.
    """
    sizes, forward, backward = costs.found.sizes, costs.forward, costs.backward
    truncated = [
        costs.option(
            TruncatedReverse(row.window),
            forward + row.window * backward,
            sizes.reverse(row.window, costs.workspace),
            cosine=row.cosine,
            relative_error=row.relative_error,
        )
        for row in rows[:-1]
    ]
    trials, count = EvolutionStrategies(0.01, PAIRS), costs.count
    runs = 2 * PAIRS + 1
    sampled = costs.option(
        trials,
        forward * runs,
        # The draws and both sides of every pair lie beside the runs.
        costs.compiled(trials, chaotic, runs * costs.forward_bytes + 3 * PAIRS * sizes.outer),
        # Expected for a linear objective: the variance of a mean over pairs is (N + 1) / n |g|^2,
        # and the cosine is |g| relative to the root of the mean square of the estimate.
        cosine=(PAIRS / (PAIRS + count + 1)) ** 0.5,
        relative_error=((count + 1) / PAIRS) ** 0.5,
    )
    applies = costs.found.spectrum is not None and not costs.found.refusal
    fixed_point = [_implicit(costs, *implicit)] if applies else []
    return (*_exact(costs, memory), *truncated, sampled, *fixed_point)


def _exact(costs: Costs, memory: int) -> tuple[Option, ...]:
    """List the exact estimators, whose results differ by rounding only."""
    found, horizon, sizes = costs.found, costs.problem.horizon, costs.found.sizes
    forward, plain, workspace = costs.forward, costs.plain, costs.workspace
    known = np.isfinite(found.rounding_error)
    accuracy: dict[str, Any] = {
        "cosine": found.repeatability if known else 1.0,
        "relative_error": found.rounding_error if known else 0.0,
    }
    # One state is the one at work; the others may be stored.
    affordable = int(memory // max(sizes.state, 1)) - 1
    states = max(1, min(Binomial().budget(horizon), affordable))
    pushed = forward * (1 + TANGENT * costs.count)
    # A run for each tangent, and the tangents of the hyperparameters themselves.
    tangents = (1 + costs.count) * costs.forward_bytes + costs.count * sizes.outer
    return (
        costs.option(
            Reverse(), plain, sizes.reverse(horizon, workspace), measured=found.stored, **accuracy
        ),
        costs.option(
            Reverse("sqrt"),
            plain + forward,
            sizes.segments(horizon, workspace),
            measured=not found.stored,
            **accuracy,
        ),
        costs.option(
            Reverse(Binomial(states)),
            # As many states as the logarithm repeat a step about half as many times.
            plain + forward * (1 + np.log2(horizon) / 2),
            sizes.binomial(states, workspace),
            **accuracy,
        ),
        costs.option(
            Forward(),
            pushed,
            costs.compiled(Forward(), tangents < OBVIOUS * memory, tangents),
            **accuracy,
        ),
    )


def _implicit(costs: Costs, cosine: float, error: float) -> Option:
    """Return the row of implicit differentiation."""
    spectrum, sizes = costs.found.spectrum, costs.found.sizes
    symmetric = spectrum is not None and spectrum.symmetric
    solver = implicit_solver(symmetric, costs.problem.horizon)
    # Conjugate gradients keep a few vectors, GMRES one for each product until it restarts.
    states = 8 if isinstance(solver, lx.CG) else 8 + PRODUCTS
    return costs.option(
        Implicit(solver),
        costs.forward + PRODUCTS * costs.backward,
        states * sizes.state + sizes.residual + sizes.constant + costs.workspace,
        cosine=cosine,
        relative_error=error,
    )


def implicit_solver(symmetric: bool, horizon: int) -> lx.CG | lx.GMRES:
    """Return a solver with at most as many products as were measured."""
    products = min(PRODUCTS, max(2, horizon))
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 0.0}
    if symmetric:
        return lx.CG(**tolerance, max_steps=products)
    # The first of the steps that lineax counts computes no products.
    return lx.GMRES(**tolerance, max_steps=2, restart=products)
