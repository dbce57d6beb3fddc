"""Theorems 4 to 10 of the step-size papers by simulation, with the quantifiers that they have.

Theorem 4 says that meta-gradient descent stays near the best step size from some update on: random
quadratics are tuned, and these updates counted. Theorems 5 to 10 hold with probability 0.99 over
the training tasks: the tasks are drawn many times, the empirical meta-objective (truncated, with a
drawn validation set) is minimized on each draw, and its minimizers are judged on new tasks. With
few examples n = d / 2, of which train-by-validation trains on one half. The sizes d, t, sigma and m
are varied one by one from the base: the largest d and m, the first sigma, and the second t.
Theorems 9 and 10 are about stochastic gradient descent, whose noise is averaged over exactly.

Tables (one row per observation; intervals cover 95 %):

- `samples`: mode (`sgd-...` for Theorems 9 and 10), dim, noise, horizon, tasks (m), repeats,
  in_range (repetitions whose minimizers all lie in the range of the theorem), far (whose error on
  new tasks is as the theorem says), held (both), median, low, high (of the step size, times t for
  train-by-validation, over the end of its range for Theorem 9: 5 and 95 %), error (mean over
  repetitions of E|w_t - w*|^2 on new tasks), best (the smallest of any step size).
- `many`: ratio (n / d), samples, repeats, step_size (median), excess (mean over repetitions of
  error / (d sigma^2 / n) - 1), standard_error (of the new tasks).
- `bounded`: ratio, epsilon, repeats, held (repetitions with an excess of at most epsilon).
- `rates`: quantity, against, exponent, lower, upper: fits of quantity ~ against^exponent.
- `settling`: problem, start (eta_0 alpha), distance (epsilon L), updates (k_0; empty if more than
  were made), bound (on it, by the proof of Theorem 4).
- `truncated`: dim, runs (of stochastic gradient descent at the end of the range of Theorem 10),
  reached (how many were truncated), largest (|w| of any, in units of the threshold).
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge, MinLen, MultipleOf, Predicate

from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    Ascending,
    Count,
    Several,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import Frame, columns
from metastep_lab.theory import least_squares as theory
from metastep_lab.theory.intervals import exponent
from metastep_lab.wang2021.step_size_guarantees import stochastic
from metastep_lab.wang2021.step_size_guarantees.claims import (
    CLAIMS,
    SGD_TRAIN,
    SGD_VALIDATION,
    answer,
)
from metastep_lab.wang2021.step_size_guarantees.descents import (
    DISTANCES,
    draw_quadratics,
    settling,
)
from metastep_lab.wang2021.step_size_guarantees.figures import figures
from metastep_lab.wang2021.step_size_guarantees.sampling import (
    Case,
    Chosen,
    Judged,
    grid_of,
    judge,
    tune,
)

SMOOTHNESS = 100
"""L of the papers: train-by-train chooses a step size from 1 / L to 3 L (Lemmas 2, 3 and 6)."""
FACTOR = 4.0
"""Ours: what `of order 1 / t` means, around the population's best times t at the second t."""
NOISE_SHARE = 0.5
"""Ours: what `of order sigma^2` means. The proof's constant is below 1e-7."""
SGD_NOISE_SHARE = 0.1
"""Ours: the same for Theorem 9, which is about single test tasks."""
GAIN_SHARE = 0.5
"""Ours: the part of the best possible gain over w = 0 that has to be reached."""
EPSILONS = (0.5, 0.2, 0.1, 0.05)


@configuration
class Config:
    """The configuration. The papers give no constants: all are our choices.

    Attributes:
        dims: d, for few examples.
        horizons: t.
        noises: sigma.
        tasks: m. Train-by-train, and Theorem 6, have at most 16.
        repeats: independent draws of the training tasks; 368 without a failure show 0.99.
        fresh: new tasks.
        many_dim: d of Theorem 6.
        ratios: n / d of Theorem 6.
        sgd_dims: d of Theorem 9; Theorem 10 has the second, or the only one.
        sgd_tasks: m of Theorem 10; Theorem 9 has the smallest.
        sgd_runs: simulated runs that may be truncated.
        problems: quadratics of Theorem 4.
        quadratic_horizon: their t.
        updates: of their step size.
    """

    dims: Annotated[
        tuple[Annotated[int, Ge(8), MultipleOf(4)], ...],
        MinLen(1),
        Predicate(different),
        "different multiples of 4 from 8",
    ] = (16, 32, 64, 128)
    horizons: Annotated[Ascending, MinLen(2)] = (10, 40, 160, 640)
    noises: Annotated[
        tuple[Annotated[float, Ge(1)], ...],
        MinLen(1),
        Predicate(different),
        "different numbers from 1, as in the papers",
    ] = (2.0, 1.0, 3.0)
    tasks: Ascending = (4, 16, 64, 256, 1024)
    repeats: Several = 400
    fresh: Several = 20000
    many_dim: Count = 20
    ratios: Ascending = (5, 10, 20, 40, 80, 160)
    sgd_dims: Annotated[
        tuple[Annotated[int, Ge(8), MultipleOf(4)], ...], MinLen(1), "multiples of 4 from 8"
    ] = (8, 16, 24)
    sgd_tasks: Ascending = (4, 16, 64, 256)
    sgd_runs: Several = 20000
    problems: Count = 100
    quadratic_horizon: Count = 10
    updates: Count = 1000000

    def base(self) -> tuple[int, float, int]:
        """Return d, sigma and t from which the others are varied."""
        return max(self.dims), self.noises[0], self.horizons[min(1, len(self.horizons) - 1)]

    def cells(self) -> list[tuple[int, float, int]]:
        """Return every d, sigma and t, the base first."""
        dim, noise, horizon = self.base()
        around = [(d, noise, horizon) for d in self.dims]
        around += [(dim, sigma, horizon) for sigma in self.noises]
        around += [(dim, noise, t) for t in self.horizons]
        return list(dict.fromkeys([self.base(), *around]))


def case_of(mode: str, dim: int, noise: float, horizon: int) -> Case:
    """Return the sizes with few examples."""
    samples = dim // 4 if mode == "train-by-validation" else dim // 2
    held_out = dim // 4 if mode == "train-by-validation" else 1
    return Case(mode, dim, samples, held_out, noise, horizon)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table."""
    context.log("descents of Theorem 4")
    rng = np.random.default_rng([context.seed, 0])
    problems = draw_quadratics(config.problems, 5, rng)
    settled = settling(problems, config.quadratic_horizon, config.updates)
    few, steps = _few(config, context)
    context.log("stochastic gradient descent")
    by_sgd, cut = _stochastic(config, context.seed)
    many, bounded, excess = _many(config, context)
    rates = [
        *_rates(config, steps),
        ("excess", "n / d", *exponent(*np.transpose(excess))),
        ("k_0", "1 / epsilon", *exponent(*_relative(settled))),
    ]
    names = "mode dim noise horizon tasks repeats in_range far held median low high error best"
    for name, header, rows in (
        ("settling", "problem start distance updates bound", settled),
        ("samples", names, few + by_sgd),
        ("truncated", "dim runs reached largest", cut),
        ("many", "ratio samples repeats step_size excess standard_error", many),
        ("bounded", "ratio epsilon repeats held", bounded),
        ("rates", "quantity against exponent lower upper", rates),
    ):
        context.table(name, columns(header, rows))
    return {}


def _relative(settled: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 / epsilon, and k_0 over its geometric mean for each problem and start."""
    rows: Frame = pd.DataFrame(
        settled, columns=["problem", "start", "distance", "updates", "bound"]
    )
    known = rows.groupby(["problem", "start"])["updates"].transform("count") == len(DISTANCES)
    rows = rows[known]
    logarithm: Frame = np.log(rows["updates"])
    mean = logarithm.groupby([rows["problem"], rows["start"]]).transform("mean")
    return 1 / rows["distance"].to_numpy(), np.exp(logarithm - mean).to_numpy()


Steps = dict[tuple[str, int, float, int], np.ndarray]


def _few(config: Config, context: Context) -> tuple[list[tuple], Steps]:
    """Return the rows of `samples`, and what each repetition chose with the most tasks."""
    rows, steps, cells = [], {}, config.cells()
    for done, cell in enumerate(cells):
        context.progress(done, len(cells), "few examples")
        for mode in ("train-by-train", "train-by-validation"):
            case = case_of(mode, *cell)
            rng = np.random.default_rng([context.seed, 1, done, int(case.validated)])
            judged = judge(case, config.fresh, rng)
            tasks = _tasks(config, cell, case.validated)
            for m, chosen in tune(case, config.repeats, tasks, judged, rng).items():
                rows.append((mode, *cell, m, *_measured(config, case, chosen, judged)))
                if m == _compared(config, case.validated):
                    steps[mode, *cell] = chosen.smallest
    context.progress(len(cells), len(cells), "few examples")
    return rows, steps


def _compared(config: Config, validated: bool) -> int:
    """Return the number of tasks at which sizes are compared: the largest that is small."""
    small = [m for m in config.tasks if m <= (64 if validated else 16)]
    return max(small, default=config.tasks[0])


def _tasks(config: Config, cell: tuple[int, float, int], validated: bool) -> tuple[int, ...]:
    """Return the numbers of tasks of a cell: all where d and t are those of the base."""
    dim, _, horizon = config.base()
    if validated and (cell[0], cell[2]) == (dim, horizon):
        return config.tasks
    return tuple(m for m in config.tasks if m <= _compared(config, validated))


def _measured(config: Config, case: Case, chosen: Chosen, judged: Judged) -> tuple:
    """Return the columns of `samples` from `repeats` on."""
    if case.validated:
        times = case.horizon
        scaled = Chosen(chosen.smallest * times, chosen.largest * times, chosen.error)
        return _gaining(scaled, judged, _population(config, case))
    ends, far = (1 / SMOOTHNESS, 3 * SMOOTHNESS), chosen.error >= NOISE_SHARE * case.noise**2
    return _counted(chosen, ends, far, judged.error.min())


def _gaining(scaled: Chosen, judged: Judged, center: float) -> tuple:
    """Count what is near a center and gains over w = 0; the step sizes are times t."""
    best = judged.error.min()
    gains = scaled.error <= 1 - GAIN_SHARE * (1 - best)
    return _counted(scaled, (center / FACTOR, center * FACTOR), gains, best)


def _counted(chosen: Chosen, ends: tuple[float, float], far: np.ndarray, best: float) -> tuple:
    inside = (chosen.smallest >= ends[0]) & (chosen.largest <= ends[1])
    counts = chosen.error.size, inside.sum(), far.sum(), (inside & far).sum()
    low, median, high = np.quantile(chosen.smallest, (0.05, 0.5, 0.95))
    return *counts, median, low, high, chosen.error.mean(), best


def _stochastic(config: Config, seed: int) -> tuple[list[tuple], list[tuple]]:
    """Return the rows of `samples` of Theorems 9 and 10, and those of `truncated`."""
    noise, rows = config.noises[0], []
    for dim in config.sgd_dims:
        rng = np.random.default_rng([seed, 3, dim])
        tasks, horizon = config.sgd_tasks[0], 10**8 * dim
        chosen = stochastic.theorem_9(dim, tasks, config.repeats, noise, horizon, rng)
        far = chosen.error >= SGD_NOISE_SHARE * noise**2
        counted = _counted(chosen, (1 / FACTOR, 1.0), far, chosen.error.min())
        rows.append((SGD_TRAIN, dim, noise, horizon, tasks, *counted))
    dim = config.sgd_dims[min(1, len(config.sgd_dims) - 1)]
    rng = np.random.default_rng([seed, 4, dim])
    horizon = stochastic.horizon_of(dim)
    found, judged, times = stochastic.theorem_10(
        dim, config.sgd_tasks, config.repeats, config.fresh, noise, rng
    )
    center = float(times[np.argmin(judged.error)])
    for tasks, chosen in found.items():
        counted = _gaining(chosen, judged, center)
        rows.append((SGD_VALIDATION, dim, noise, horizon, tasks, *counted))
    reached, largest = stochastic.truncated(dim, config.sgd_runs, noise, seed)
    return rows, [(dim, config.sgd_runs, reached, largest)]


def _population(config: Config, case: Case) -> float:
    """Return the best eta t of the population at the base's t: one number for every d and t."""
    horizon = config.base()[2]
    best = theory.optimal_step_size(
        theory.train_by_validation, ratio=4.0, noise=case.noise, horizon=horizon
    )
    return best * horizon


def _rates(config: Config, steps: Steps) -> list[tuple]:
    """Return the rows of `rates` about step sizes."""
    dim, noise, horizon = config.base()
    rows = []
    for mode in ("train-by-train", "train-by-validation"):
        for against, sizes in (("t", config.horizons), ("d", config.dims)):
            if len(sizes) > 1:
                cell = lambda size, a=against: (
                    (dim, noise, size) if a == "t" else (size, noise, horizon)
                )
                # A minimizer of 0 stands at the smallest positive step size.
                chosen = [
                    np.maximum(steps[mode, *cell(size)], grid_of(cell(size)[2])[1])
                    for size in sizes
                ]
                x = np.repeat(sizes, [part.size for part in chosen])
                rows.append((mode, against, *exponent(x, np.concatenate(chosen))))
    return rows


def _many(config: Config, context: Context) -> tuple[list[tuple], list[tuple], list[tuple]]:
    """Return the rows of `many` and of `bounded`, and pairs of ratio and excess for a fit."""
    many, bounded, pairs = [], [], []
    _, noise, horizon = config.base()
    dim, tasks = config.many_dim, _compared(config, validated=False)
    for done, ratio in enumerate(config.ratios):
        context.progress(done, len(config.ratios), "many examples")
        rng = np.random.default_rng([context.seed, 2, done])
        case = Case("train-by-train", dim, ratio * dim, 1, noise, horizon)
        unit = noise**2 / ratio
        judged = judge(case, config.fresh, rng)
        chosen = tune(case, config.repeats, (tasks,), judged, rng)[tasks]
        excess, step = chosen.error / unit - 1, np.median(chosen.smallest)
        at = int(np.searchsorted(grid_of(horizon), step))
        spread = judged.standard_error[at] / unit
        repeats = excess.size
        many.append((ratio, case.samples, repeats, step, excess.mean(), spread))
        bounded += [(ratio, one, repeats, np.sum(excess <= one)) for one in EPSILONS]
        # Splitting the new tasks gives the fit independent values.
        pairs += [(ratio, part) for part in _parts(case, config, at, unit, rng)]
    context.progress(len(config.ratios), len(config.ratios), "many examples")
    return many, bounded, pairs


def _parts(
    case: Case, config: Config, at: int, unit: float, rng: np.random.Generator
) -> list[float]:
    """Return the excess at one step size on four further sets of new tasks."""
    return [float(judge(case, config.fresh, rng).error[at] / unit - 1) for _ in range(4)]


EXPERIMENT = Experiment(
    listing("step-size-guarantees"),
    config=Config,
    presets={
        "quick": Config(
            dims=(16, 64),
            horizons=(10, 40, 160),
            noises=(2.0,),
            tasks=(4, 16, 64, 256),
            fresh=4000,
            ratios=(5, 10, 20, 40),
            sgd_dims=(8, 16),
            sgd_tasks=(4, 16, 64),
            sgd_runs=4000,
            problems=30,
            updates=100000,
        ),
        "full": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(),
    answer=answer,
    finite=("samples.error", "many.excess"),
)
