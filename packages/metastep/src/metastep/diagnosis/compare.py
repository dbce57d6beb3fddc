"""Compare estimators with a reference: direction, size, time and memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from metastep.checks import integer, require, require_count, require_key
from metastep.compilation import compiler_options
from metastep.estimators.base import AbstractEstimator, Estimate, require_estimator
from metastep.estimators.central_differences import CentralDifferences
from metastep.estimators.reverse import Reverse
from metastep.problems.base import AbstractProblem, require_problem
from metastep.results import RESULTS
from metastep.trees import as_hyperparameters, cosine, norm, subtract
from metastep.types import Outer, RandomKey

COLUMNS = ("estimator", "relative error", "cosine", "norm", "seconds", "memory (MiB)", "result")


@dataclass(frozen=True)
class ComparisonRow:
    """One estimator compared with the reference.

    Attributes:
        estimator: the estimator.
        estimate: its estimate.
        relative_error: |grad - reference| / |reference|, in the directions of the reference.
        cosine: of the angle between grad and reference, in the directions of the reference; NaN if
            either is zero.
        seconds: wall time of one call after compilation, median.
        temporary_bytes: memory of the compiled program beyond its inputs and outputs; None if the
            backend does not report it.
        message: the message of `estimate.result`, empty if it is `successful`.
    """

    estimator: AbstractEstimator
    estimate: Estimate
    relative_error: float
    cosine: float
    seconds: float
    temporary_bytes: int | None
    message: str


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: `rows` for code, `str()` for people.

    Attributes:
        reference_estimator: the estimator with which the others were compared.
        reference: its estimate; the `stats` of central differences give their precision.
        rows: one for each estimator.
    """

    reference_estimator: AbstractEstimator
    reference: Estimate
    rows: tuple[ComparisonRow, ...]

    def __str__(self) -> str:
        """Format the rows as a table of plain text."""
        cells = [COLUMNS] + [_cells(row) for row in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS) - 1)]
        lines = []
        for row in cells:
            first = row[0].ljust(widths[0])
            middle = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
            lines.append("  ".join([first, *middle, row[-1]]).rstrip())
        return "\n".join([*lines, f"against {self._against()}"])

    def _against(self) -> str:
        name, stats = str(self.reference_estimator), self.reference.stats
        if not isinstance(self.reference_estimator, CentralDifferences):
            return name
        return f"{name}, whose slopes are good to {float(stats['uncertainty']):.0e}"


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    memory = "?" if row.temporary_bytes is None else f"{row.temporary_bytes / 2**20:.2f}"
    return (
        str(row.estimator),
        f"{row.relative_error:.2e}",
        f"{row.cosine:+.4f}",
        f"{float(row.estimate.stats['gradient_norm']):.3e}",
        f"{row.seconds:.4f}",
        memory,
        # The table has room for the first clause; the rest of a message is advice.
        row.message.split(";")[0].split(".")[0] or "ok",
    )


def compare(
    problem: AbstractProblem,
    outer: Outer,
    estimators: Sequence[AbstractEstimator],
    *,
    key: RandomKey,
    reference: AbstractEstimator | None = None,
    repeats: SupportsIndex = 3,
    memory: int = 2**30,
) -> Comparison:
    """Compute one hypergradient by several estimators and compare each with an exact one.

    If plain reverse mode does not fit into memory, the reference is central differences along
    random directions, and relative error and cosine are those in the subspace of the directions.

    Example:
        The last of ten steps of gradient descent on w^2 / 2 has a tenth of the target's influence.

        >>> import jax, jax.numpy as jnp, optax, metastep as ms
        >>> problem = ms.TrainingProblem(
        ...     loss=lambda w, outer, batch: (w - outer["target"]) ** 2 / 2,
        ...     objective=lambda w, outer: w,
        ...     init_params=jnp.array(0.0),
        ...     optimizer=optax.sgd(0.1),
        ...     horizon=10,
        ... )
        >>> comparison = ms.compare(
        ...     problem, {"target": 1.0}, [ms.TruncatedReverse(1)], key=jax.random.key(0)
        ... )
        >>> row = comparison.rows[0]
        >>> round(row.relative_error, 4), round(row.cosine, 4)  # 1 - 0.1 / (1 - 0.9^10)
        (0.8465, 1.0)

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters.
        estimators: what to compare, at least one.
        key: a random key; it gives all estimators the same trajectory.
        reference: an exact estimator or `CentralDifferences`; None is `Reverse()` if it fits into
            `memory`, else `CentralDifferences()`.
        repeats: timed calls per estimator, from 1; the estimators alternate.
        memory: bytes that the reference may use; 1 GiB by default.

    Returns:
        A `Comparison`, in the order of `estimators`.

    Raises:
        ValueError: if there is nothing to compare, `repeats` is below 1, or an estimator refuses
            the problem.
    """
    several = isinstance(estimators, Sequence)
    require(several, "estimators", estimators, "lists of estimators, such as [TruncatedReverse(5)]")
    if not estimators:
        raise ValueError("estimators is empty; give at least one, such as [TruncatedReverse(5)].")
    require_count("repeats", repeats)
    require_key(key)
    require_problem(problem)
    for estimator in (*estimators, *([] if reference is None else [reference])):
        require_estimator(estimator)
    outer = as_hyperparameters(outer)
    judge, exact, within = _reference(problem, outer, key, reference, memory)
    truth = within(exact.grad)
    programs = [ready(problem, outer, estimator, key) for estimator in estimators]
    # These calls also load the programs, and are not timed.
    estimates = [program.call() for program in programs]
    seconds: list[list[float]] = [[] for _ in estimators]
    # By turns: what else runs on the machine then slows all of them alike.
    for _ in range(integer(repeats)):
        for times, program in zip(seconds, programs, strict=True):
            times.append(timed(program.call)[1])
    rows = tuple(
        ComparisonRow(
            estimator=estimator,
            estimate=estimate,
            relative_error=float(norm(subtract(within(estimate.grad), truth)) / norm(truth)),
            cosine=float(cosine(within(estimate.grad), truth)),
            seconds=median(times),
            temporary_bytes=program.temporary_bytes,
            message=RESULTS[estimate.result],
        )
        for estimator, times, estimate, program in zip(
            estimators, seconds, estimates, programs, strict=True
        )
    )
    return Comparison(judge, exact, rows)


def _reference(
    problem: AbstractProblem,
    outer: Outer,
    key: RandomKey,
    chosen: AbstractEstimator | None,
    memory: int,
) -> tuple[AbstractEstimator, Estimate, Callable[[Outer], Outer | Float[Array, " directions"]]]:
    """Return the reference, its estimate, and the function that maps gradients for comparison."""
    # Compiled before the choice: only the compiler knows what a program needs.
    judge = chosen or Reverse()
    program = ready(problem, outer, judge, key)
    # A backend that reports no figure is taken to have the memory.
    if chosen is None and (program.temporary_bytes or 0) > memory:
        judge = CentralDifferences()
        program = ready(problem, outer, judge, key)
    if not isinstance(judge, CentralDifferences):
        return judge, program.call(), lambda grad: grad
    basis = judge.basis(outer, key)
    return judge, program.call(), lambda grad: jnp.asarray(basis @ ravel_pytree(grad)[0])


@dataclass(frozen=True)
class Program:
    """A compiled function with its arguments; others must have the same shapes and dtypes.

    `temporary_bytes` is the memory beyond inputs and outputs; None if the backend reports none.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    temporary_bytes: int | None

    def call(self) -> Any:
        """Run it."""
        return self.function(*self.arguments)


UNOPTIMISED = {"xla_backend_optimization_level": "0"}
"""Compiler options that save two thirds of the time; buffer sharing is decided before them."""


def compile_with(function: Callable[..., Any], *arguments: Any, optimised: bool = True) -> Program:
    """Compile a function for its arguments, without running it."""
    chosen = compiler_options() | ({} if optimised else UNOPTIMISED)
    options: dict[str, Any] = {"compiler_options": chosen}
    jitted = eqx.filter_jit(function, **options)
    # This compiles before the first call, since only a compiled program tells its memory.
    lowered = jitted.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
    program = lowered.compile()
    analysis = program.compiled.memory_analysis()
    memory = getattr(analysis, "temp_size_in_bytes", None)
    return Program(program, arguments, memory)


def ready(
    problem: AbstractProblem, outer: Outer, estimator: AbstractEstimator, key: RandomKey
) -> Program:
    """Compile one estimate."""

    def run(problem: AbstractProblem, outer: Outer, key: RandomKey) -> Estimate:
        state = estimator.init(problem, outer, key)
        return estimator.estimate(problem, outer, state, key)[0]

    return compile_with(run, problem, outer, key)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a call and its seconds."""
    begin = perf_counter()
    found = jax.block_until_ready(call())
    return found, perf_counter() - begin
