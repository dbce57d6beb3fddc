"""The program that `diagnose` runs: everything that it measures, and the two parts that it times.

Three calls make a diagnosis. The first measures everything in one walk along the trajectory and
back; since it also loads the program, the other two, a forward run and an exact hypergradient, are
timed under way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from metastep.diagnosis.bias_curve import bias_curve
from metastep.diagnosis.compare import Program, compile_with, ready
from metastep.diagnosis.spectrum import (
    PRODUCTS,
    RESPONSE_ITERATIONS,
    SYMMETRIC,
    StepSpectrum,
    step_spectrum,
)
from metastep.estimators.implicit import (
    EARLY_STEPS,
    PROBES,
    AbstractSeries,
    Implicit,
    require_visible,
    solve_with,
)
from metastep.estimators.reverse import Reverse
from metastep.estimators.scaled import digits_lost, meaningful
from metastep.problems.base import AbstractProblem, advance, split_keys, start
from metastep.results import RESULTS
from metastep.trees import cosine, norm, real_variables, subtract
from metastep.types import Inner, Outer, RandomKey, Scalar

RESTART = 20


class FixedPoint(eqx.Module):
    """What implicit differentiation gave.

    Attributes:
        cosine: of the angle to the exact gradient.
        relative_error: |implicit - exact| / |exact|.
        stationarity: as in `Implicit`.
        result: likewise.
    """

    cosine: Scalar
    relative_error: Scalar
    stationarity: Scalar
    result: RESULTS


class Measurements(eqx.Module):
    """What the program returns.

    Attributes:
        value: the objective.
        exact: the exact hypergradient.
        finite: whether the run and the exact hypergradient are.
        cosines: of truncated back-propagation with every window.
        relative_errors: likewise.
        adjoints: norms of the derivative by the inner state at the end, and at the cut of every
            window; the last is that of the initial state.
        lyapunov_exponent: growth of a random tangent, nats per step.
        digits_lost: decimal digits by which rounding errors outgrow the state.
        meaningful: whether at least one digit is left.
        spectrum: what the last step does.
        fixed_point: None where `Implicit` refuses the problem.
    """

    value: Scalar
    exact: Outer
    finite: Bool[Array, ""]
    cosines: Float[Array, " windows"]
    relative_errors: Float[Array, " windows"]
    adjoints: Float[Array, " windows_plus_1"]
    lyapunov_exponent: Scalar
    digits_lost: Scalar
    meaningful: Bool[Array, ""]
    spectrum: StepSpectrum
    fixed_point: FixedPoint | None


@dataclass(frozen=True)
class Prepared:
    """The program, compiled, and what is known before it runs.

    Attributes:
        everything: the program with its first part, which returns the numbers of `structure` in a
            row.
        forward: with its second, a forward run.
        exact: with its third, an exact hypergradient.
        structure: `Measurements` of shapes and dtypes.
        plain: `Reverse()`, compiled for its memory and not called.
        horizon: the number of inner steps.
        outer_size: the number of hyperparameters.
        windows: of truncated back-propagation.
        state_size: numbers in the inner state.
        state_bytes: their size.
        residual: bytes that reverse mode stores for one inner step.
        memory: bytes that a hypergradient may use.
        refusal: why `Implicit` refuses the problem; empty if it does not.
    """

    everything: Program
    forward: Program
    exact: Program
    structure: Measurements
    plain: Program
    horizon: int
    outer_size: int
    windows: tuple[int, ...]
    state_size: int
    state_bytes: int
    residual: float
    memory: int
    refusal: str

    @property
    def stored(self) -> bool:
        """Whether `Reverse()` fits into memory; otherwise `Reverse("sqrt")` takes its place."""
        return self.residual * self.horizon <= self.memory

    @property
    def products(self) -> int:
        """Products that implicit differentiation makes at most to solve its linear system."""
        return min(max(1, self.horizon // 2), self.state_size)

    @property
    def work(self) -> float:
        """Inner steps, and products with their Jacobians, in those of an exact hypergradient.

        An upper bound. An exact hypergradient takes three per inner step: the step, and on the way
        back a product with its Jacobian by the state and one with that by the hyperparameters.
        """
        again = 0 if self.stored else self.horizon
        exact = 3 * self.horizon
        walk = exact + self.horizon + again
        spectrum = min(PRODUCTS, self.horizon, self.state_size) + 3
        spectrum += 2 * (2 + 2 * RESPONSE_ITERATIONS)
        fixed_point = self.products + 3 + (EARLY_STEPS + 2) + 3 * (1 + PROBES)
        total = walk + spectrum + (0 if self.refusal else fixed_point)
        return (total + self.horizon + exact + again) / exact

    def read(self, numbers: Array) -> Measurements:
        """Give the numbers of `everything` their names, as NumPy arrays."""
        return _unflat(np.asarray(numbers), self.structure)


def prepare(problem: AbstractProblem, outer: Outer, key: RandomKey, memory: int) -> Prepared:
    """Compile what a diagnosis runs.

    Raises:
        ValueError: wrong use, as `hypergradient` does.
    """
    plain = ready(problem, outer, Reverse(), key)
    horizon = problem.horizon
    windows = _windows(horizon)
    begin = lambda: real_variables(start(problem, outer, split_keys(key)).inner)[0]
    state = jax.tree.leaves(eqx.filter_eval_shape(begin))
    state_bytes = sum(x.size * x.dtype.itemsize for x in state)
    residual = max((plain.temporary_bytes or horizon * state_bytes) / horizon, 1.0)
    refusal = _refusal(problem, outer, key)
    stored = residual * horizon <= memory
    measured = partial(_everything, windows=windows, stored=stored, implicit=not refusal)
    everything = eqx.filter_closure_convert(measured, problem, outer, key)
    measure = partial(_measure, everything=everything, stored=stored)
    program = compile_with(measure, problem, outer, key, jnp.zeros((), jnp.int32))
    parts = [
        replace(program, arguments=(problem, outer, key, jnp.asarray(part, jnp.int32)))
        for part in range(3)
    ]
    return Prepared(
        *parts,
        structure=everything.out_struct,  # pyright: ignore[reportFunctionMemberAccess]
        plain=plain,
        horizon=horizon,
        outer_size=sum(x.size for x in jax.tree.leaves(outer)),
        windows=windows,
        state_size=sum(x.size for x in state),
        state_bytes=state_bytes,
        residual=residual,
        memory=memory,
        refusal=refusal,
    )


def implicit_solver(symmetric: bool, horizon: int) -> lx.CG | lx.GMRES:
    """Return a solver that makes half as many products as the horizon has steps, or fewer."""
    budget = max(1, horizon // 2)
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 0.0}
    if symmetric:
        return lx.CG(**tolerance, max_steps=budget)
    restart = min(RESTART, budget)
    # The first of the steps that lineax counts makes no products.
    return lx.GMRES(**tolerance, max_steps=1 + budget // restart, restart=restart)


class _BySymmetry(AbstractSeries):
    """Conjugate gradients where the Jacobian turns out to be symmetric, GMRES elsewhere."""

    symmetric: Bool[Array, ""]
    horizon: int

    def solve(self, operator: Callable[[Inner], Inner], vector: Inner) -> Inner:
        """Solve by the one that fits."""

        def by(symmetric: bool) -> Callable[[Inner], Inner]:
            solver = implicit_solver(symmetric, self.horizon)
            return lambda vector: solve_with(solver, operator, vector)

        return jax.lax.cond(self.symmetric, by(True), by(False), vector)


def _windows(horizon: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, ... below the horizon, and the horizon."""
    steps = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    return (*(step for step in steps if step < horizon), horizon)


def _refusal(problem: AbstractProblem, outer: Outer, key: RandomKey) -> str:
    """Return why implicit differentiation refuses a problem, or nothing."""

    def trace() -> None:
        keys = split_keys(key)
        require_visible(problem, outer, keys, start(problem, outer, keys))

    try:
        eqx.filter_eval_shape(trace)
    except ValueError as refusal:
        return str(refusal)
    return ""


def _measure(
    problem: AbstractProblem,
    outer: Outer,
    key: RandomKey,
    part: Int[Array, ""],
    *,
    everything: Callable[[AbstractProblem, Outer, RandomKey], Measurements],
    stored: bool,
) -> Float[Array, " numbers"]:
    """Run one part of the program; one array takes a fraction of the time to hand over of many."""
    keys = split_keys(key)
    first = jax.eval_shape(lambda: _flat(everything(problem, outer, key)))
    pad = lambda flat: jnp.zeros(first.shape, first.dtype).at[: flat.size].set(flat)

    def forward() -> Array:
        end = advance(problem, outer, start(problem, outer, keys), keys, problem.horizon)
        return pad(_flat(problem.objective(end.inner, outer, keys.objective)))

    def exact() -> Array:
        estimator = Reverse() if stored else Reverse("sqrt")
        found = estimator.estimate(problem, outer, None, key)[0]
        return pad(_flat((found.value, found.grad)))

    parts = (lambda: _flat(everything(problem, outer, key)), forward, exact)
    return jax.lax.switch(part, parts)


def _flat(tree: PyTree) -> Array:
    """Join all numbers of a tree."""
    leaves = [jnp.ravel(x) for x in jax.tree.leaves(tree)]
    return jnp.concatenate([x.astype(jnp.result_type(float, *leaves)) for x in leaves])


def _unflat(flat: np.ndarray, structure: PyTree) -> PyTree:
    """Undo `_flat`, on the host."""
    leaves, treedef = jax.tree.flatten(structure)
    parts = np.split(flat, np.cumsum([x.size for x in leaves])[:-1])
    shaped = (part.reshape(x.shape).astype(x.dtype) for part, x in zip(parts, leaves, strict=True))
    return jax.tree.unflatten(treedef, list(shaped))


def _everything(
    problem: AbstractProblem,
    outer: Outer,
    key: RandomKey,
    *,
    windows: tuple[int, ...],
    stored: bool,
    implicit: bool,
) -> Measurements:
    """Measure all there is."""
    keys = split_keys(key)
    curve = bias_curve(problem, outer, keys, windows, stored=stored)
    begin, end, exact = curve.begin, curve.end, curve.exact
    spectrum = step_spectrum(problem, outer, keys, end, begin)
    lost = digits_lost(curve.lyapunov_exponent, problem.horizon, begin.inner, end.inner)
    against = lambda grad: (cosine(grad, exact), norm(subtract(grad, exact)) / norm(exact))
    cosines, relative_errors = jax.vmap(against)(curve.truncated)
    fixed_point = None
    if implicit:
        solver = _BySymmetry(spectrum.asymmetry < SYMMETRIC, problem.horizon)
        found = Implicit(solver).at_the_end(problem, outer, keys, begin, end)
        fixed_point = FixedPoint(*against(found.grad), found.stats["stationarity"], found.result)
    return Measurements(
        value=curve.value,
        exact=exact,
        finite=(end.first_nonfinite < 0) & jnp.isfinite(norm(exact)),
        cosines=cosines,
        relative_errors=relative_errors,
        adjoints=curve.adjoint_norms[jnp.array((0, *windows))],
        lyapunov_exponent=curve.lyapunov_exponent,
        digits_lost=lost,
        meaningful=meaningful(lost),
        spectrum=spectrum,
        fixed_point=fixed_point,
    )
