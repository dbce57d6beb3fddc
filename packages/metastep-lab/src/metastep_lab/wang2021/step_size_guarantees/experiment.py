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

import numpy as np
import pandas as pd

from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import write_tables
from metastep_lab.tables import Frame
from metastep_lab.theory.intervals import exponent
from metastep_lab.wang2021.step_size_guarantees.claims import CLAIMS, answer
from metastep_lab.wang2021.step_size_guarantees.descents import (
    DISTANCES,
    draw_quadratics,
    settling,
)
from metastep_lab.wang2021.step_size_guarantees.figures import figures
from metastep_lab.wang2021.step_size_guarantees.rows import by_descent, few, many, rates
from metastep_lab.wang2021.step_size_guarantees.setting import Config


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table."""
    context.log("descents of Theorem 4")
    rng = np.random.default_rng([context.seed, 0])
    problems = draw_quadratics(config.problems, 5, rng)
    settled = settling(problems, config.quadratic_horizon, config.updates)
    few_rows, steps = few(config, context)
    context.log("stochastic gradient descent")
    by_sgd, cut = by_descent(config, context.seed)
    many_rows, bounded, excess = many(config, context)
    exponents = [
        *rates(config, steps),
        ("excess", "n / d", *exponent(*np.transpose(excess))),
        ("k_0", "1 / epsilon", *exponent(*_relative(settled))),
    ]
    found = settled, few_rows + by_sgd, cut, many_rows, bounded, exponents
    write_tables(context, TABLES, dict(zip(TABLES, found, strict=True)))
    return {}


TABLES = {
    "settling": "problem start distance updates bound",
    "samples": "mode dim noise horizon tasks repeats in_range far held median low high error best",
    "truncated": "dim runs reached largest",
    "many": "ratio samples repeats step_size excess standard_error",
    "bounded": "ratio epsilon repeats held",
    "rates": "quantity against exponent lower upper",
}


def _relative(settled: list[tuple]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return 1 / epsilon, k_0 over its geometric mean for each problem and start, their number."""
    rows: Frame = pd.DataFrame(settled, columns=TABLES["settling"].split())
    # Only complete groups: those that lack the smallest distances have another mean.
    known = rows.groupby(["problem", "start"])["updates"].transform("count") == len(DISTANCES)
    rows = rows[known]
    logarithm: Frame = np.log(rows["updates"])
    mean = logarithm.groupby([rows["problem"], rows["start"]]).transform("mean")
    # The constant before epsilon^-p differs by problem and start: without their own means it would
    # be the spread that the fit reads.
    relative = np.exp(logarithm - mean).to_numpy()
    return 1 / rows["distance"].to_numpy(), relative, len(rows) // len(DISTANCES)


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
