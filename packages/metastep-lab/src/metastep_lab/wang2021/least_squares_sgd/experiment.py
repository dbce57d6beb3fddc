"""The step size of stochastic gradient descent on least squares, tuned by both meta-objectives.

Tasks: w* uniform on the unit sphere of R^d, x ~ N(0, I), y = w*.x + noise. Train-by-train minimizes
the mean training loss of n = d / 2 examples after t = c_2 d steps; train-by-validation the mean
population loss (an endless validation set, averaged over in closed form) of d / 2 examples, or of
d / 4 where the other d / 4 of n are held back for validation, after t = c_2 d^2 ln^2 d steps. The
noise of the descent is averaged over exactly (`metastep_lab.theory.least_squares_sgd`). Each
objective is minimized in the range of its theorem, with c_5 = 1 in that of Theorem 10, which gives
no value, and over every step size up to where the second moment diverges on all tasks.

Tables (one row per observation; `horizon` is t, `samples` the examples that are descended on):

- `objective`: dim, samples, horizon, mode, step_size, objective, mean_squared_error, means over the
  training tasks. Rows that overflow are left out.
- `optimum`: dim, samples, horizon, mode, range (stated or wide), step_size, at_boundary (of the
  range), step_size_times_dim, step_size_times_horizon, objective; then of E|w_t - w*|^2 over new
  tasks: error (the mean), standard_error, error_over_noise_variance, median_error, low_error (the
  first percentile); initial_error (|w*|^2), diverging (the fraction of fresh tasks on which the
  second moment grows without bound at this step size; they then dominate `error`).
- `simulation`: mode, dim, samples, horizon, step_size, quantity, expected (exact), simulated (the
  mean of runs of stochastic gradient descent), standard_error, z: two cases of the smallest dim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, MinLen, MultipleOf
from scipy.optimize import minimize_scalar
from threadpoolctl import threadpool_limits

from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Several, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn
from metastep_lab.tables import Table
from metastep_lab.theory import least_squares_sgd as theory
from metastep_lab.wang2021.least_squares_sgd.claims import CLAIMS, answer
from metastep_lab.wang2021.least_squares_sgd.figures import figures
from metastep_lab.wang2021.least_squares_sgd.simulation import (
    Row,
    Task,
    expected_losses,
    sample_tasks,
    simulation,
)

LONGEST_MULTIPLE = 10**9
# Beyond 1000 the training loss underflows and has no minimizer.
Multiples = Annotated[
    tuple[Annotated[int, Ge(1), Le(1000)], ...], MinLen(1), "integers from 1 to 1000"
]


@configuration
class Config:
    """The configuration. The paper does not give its constants: all are our choices.

    Attributes:
        dims: d, multiples of four.
        noise: sigma, the standard deviation of the noise in the targets.
        tasks: training tasks m.
        test_tasks: fresh tasks on which the learned step sizes are measured.
        grid_points: step sizes tried in the stated range, and again beyond it, before refinement.
        multiples: c_2 of Theorem 9, the horizon in units of d.
        long_multiple: another c_2 for Theorem 9, in its stated range only; the step sizes there are
            so small that the weights hardly move in fewer steps.
        validation_multiples: c_2 of Theorem 10, the horizon in units of d^2 ln^2 d.
        simulations: runs of stochastic gradient descent in the table `simulation`.
    """

    dims: Annotated[
        tuple[Annotated[int, Ge(8), MultipleOf(4)], ...], MinLen(1), "multiples of 4 from 8"
    ] = (12, 24, 48)
    noise: Annotated[float, Ge(1), "numbers from 1, as in the paper"] = 2.0
    tasks: Count = 40
    test_tasks: Several = 300
    grid_points: Annotated[int, Ge(3)] = 30
    multiples: Multiples = (4, 16, 64)
    long_multiple: Annotated[int, Ge(1), Le(LONGEST_MULTIPLE)] = 10**8
    validation_multiples: Multiples = (1, 4, 16)
    simulations: Several = 20000


@dataclass(frozen=True)
class Case:
    """A meta-objective for one size of task.

    Attributes:
        mode: its name in the tables.
        objective: the objective, from the expected losses and the noise.
        dim: d.
        samples: examples that are descended on.
        horizons: t.
        stated: the largest step size of the theorem.
        wide: whether larger ones are tried too.
    """

    mode: str
    objective: Callable[[theory.ExpectedLosses, float], np.ndarray]
    dim: int
    samples: int
    horizons: tuple[int, ...]
    stated: float
    wide: bool


def train_by_train(losses: theory.ExpectedLosses, noise: float) -> np.ndarray:
    """Return the expected training loss (Equation 4)."""
    del noise
    return losses.train


def train_by_validation(losses: theory.ExpectedLosses, noise: float) -> np.ndarray:
    """Return the expected loss of fresh data (Equation 5, averaged over the validation set)."""
    return (losses.mean_squared_error + noise**2) / 2


def cases(config: Config, dim: int) -> tuple[Case, ...]:
    """Return the cases of one d."""
    stated = theory.train_by_train_range(dim)
    train = lambda multiples, wide: Case(
        "train-by-train",
        train_by_train,
        dim,
        dim // 2,
        tuple(multiple * dim for multiple in multiples),
        stated,
        wide,
    )
    small = theory.train_by_validation_range(dim)
    horizons = tuple(int(np.ceil(multiple / small)) for multiple in config.validation_multiples)
    validation = lambda samples: Case(
        "train-by-validation", train_by_validation, dim, samples, horizons, small, True
    )
    return (
        train(config.multiples, True),
        train((config.long_multiple,), False),
        validation(dim // 2),
        validation(dim // 4),
    )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Minimize every objective, and compare the exact expectations with simulated descent."""
    objective: list[Row] = []
    optimum: list[Row] = []
    todo = [case for dim in config.dims for case in cases(config, dim)]
    # Several threads do not speed up matrices of this size, and slow them on a busy machine.
    with threadpool_limits(1, user_api="blas"):
        for case in in_turn(context, todo, lambda case: f"d = {case.dim}, {case.mode}"):
            curve, found = _minimize(case, config, context.seed)
            objective += curve
            optimum += _measure(case, config, context.seed, found)
    context.table("objective", _table(objective))
    context.table("optimum", _table(optimum))
    context.log("simulated descent")
    context.table("simulation", _table(simulation(config, context.seed, optimum)))
    return {}


def _table(rows: list[Row]) -> Table:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _mean_losses(
    tasks: list[Task], step_sizes: np.ndarray, horizons: tuple[int, ...]
) -> theory.ExpectedLosses:
    """Mean over tasks, shape (step sizes, horizons)."""
    found = [expected_losses(task, step_sizes, horizons) for task in tasks]
    return theory.ExpectedLosses(
        train=np.mean([losses.train for losses in found], axis=0),
        mean_squared_error=np.mean([losses.mean_squared_error for losses in found], axis=0),
    )


def _grid(case: Case, config: Config, tasks: list[Task]) -> np.ndarray:
    """Step sizes up to the stated limit, and those beyond it, ascending."""
    # Two decades below 1 / t and the theorem's limit: a minimizer of order 1 / t is inside.
    lowest = min(case.stated, 1 / max(case.horizons)) / 100
    stated = np.geomspace(lowest, case.stated, config.grid_points)
    if not case.wide:
        return stated
    # Beyond it the second moment grows on every task.
    highest = max(theory.divergence_step_size(task.inputs) for task in tasks)
    return np.concatenate([stated, np.geomspace(case.stated, highest, config.grid_points)[1:]])


def _minimize(case: Case, config: Config, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows of `objective`, and the columns of `optimum` from the training tasks."""
    tasks = sample_tasks(config, case.dim, case.samples, seed, fresh=False)
    grid = _grid(case, config, tasks)
    losses = _mean_losses(tasks, grid, case.horizons)
    values, errors = case.objective(losses, config.noise), losses.mean_squared_error
    curve, found = [], []
    for place, horizon in enumerate(case.horizons):
        label: Row = dict(dim=case.dim, samples=case.samples, horizon=horizon, mode=case.mode)
        for step_size, value, error in zip(grid, values[:, place], errors[:, place], strict=True):
            if np.isfinite(value) and np.isfinite(error):
                row = dict(step_size=step_size, objective=value, mean_squared_error=error)
                curve.append(label | row)
        at = lambda step_size, t=(horizon,): _mean_losses(tasks, np.array([step_size]), t)
        function = lambda step_size, at=at: case.objective(at(step_size), config.noise).item()
        for name, size in (("stated", config.grid_points), ("wide", grid.size)):
            if name == "stated" or case.wide:
                best = _refine(function, grid[:size], values[:size, place])
                found.append(label | {"range": name} | best)
    return curve, found


def _refine(function: Callable[[float], float], grid: np.ndarray, values: np.ndarray) -> Row:
    """Minimize between the neighbors of the best grid point, on logarithmic scales."""
    place = int(np.argmin(values))
    lower, upper = grid[max(place - 1, 0)], grid[min(place + 1, grid.size - 1)]
    # Diverging objectives may be infinite; the parabolas of the search need finite values.
    logarithm = lambda log_step: np.log(np.clip(function(np.exp(log_step)), 1e-300, 1e300))
    result: Any = minimize_scalar(
        logarithm, bounds=np.log([lower, upper]), method="bounded", options={"xatol": 0.01}
    )
    inside, at_boundary = float(np.exp(result.x)), place in (0, grid.size - 1)
    value = function(inside)
    # The bounded search never evaluates the ends of its interval. If it finds nothing lower than
    # the grid point, that is the minimizer, and may be an end of the range.
    if value < values[place]:
        return dict(step_size=inside, at_boundary=False, objective=value)
    return dict(
        step_size=float(grid[place]), at_boundary=at_boundary, objective=float(values[place])
    )


def _measure(case: Case, config: Config, seed: int, found: list[Row]) -> list[Row]:
    """Add the results of the step sizes on new tasks to the rows of `optimum`."""
    fresh = sample_tasks(config, case.dim, case.samples, seed, fresh=True)
    # If both ranges have the same minimizer, it is measured once.
    steps = np.unique([row["step_size"] for row in found])
    errors = np.array(
        [expected_losses(task, steps, case.horizons).mean_squared_error for task in fresh]
    )
    limits = np.array([theory.divergence_step_size(task.inputs) for task in fresh])
    rows = []
    for row in found:
        step_size, horizon = row["step_size"], row["horizon"]
        error = errors[:, np.searchsorted(steps, step_size), case.horizons.index(horizon)]
        # Beyond divergence the squares of a standard deviation may overflow: it is infinite then.
        with np.errstate(over="ignore", invalid="ignore"):
            spread = np.nan_to_num(np.std(error, ddof=1) / np.sqrt(error.size), nan=np.inf)
        measured: Row = dict(
            step_size_times_dim=step_size * case.dim,
            step_size_times_horizon=step_size * horizon,
            error=np.mean(error),
            standard_error=spread,
            error_over_noise_variance=np.mean(error) / config.noise**2,
            median_error=np.median(error),
            # Theorem 9: "with probability at least 0.99 in the sampling of ... test task P".
            low_error=np.quantile(error, 0.01),
            initial_error=1.0,
            diverging=np.mean(limits < step_size),
        )
        rows.append(row | measured)
    return rows


EXPERIMENT = Experiment(
    listing("least-squares-sgd"),
    config=Config,
    presets={
        "quick": Config(dims=(12, 20, 32), tasks=30, grid_points=16),
        "paper": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "train-by-train-step-size",
            "train-by-train-stated-range",
            "train-by-train-error",
            "train-by-validation-step-size",
            "train-by-validation-error",
            "validation-generalizes-better",
            "simulation-agrees",
        }
    ),
    answer=answer,
    finite=("optimum.error",),
)
