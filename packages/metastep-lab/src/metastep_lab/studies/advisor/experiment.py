"""Is the advice of `diagnose` right? Twelve problems, each held against its exact hypergradient.

Tables (one row per observation):

- `advice`: problem, horizon, hyperparameters, recommended (none where no estimator is), cosine and
  error of the recommended estimator against the exact gradient beside cosine_predicted and
  error_predicted of the diagnosis, implicit_error (of implicit differentiation; NaN where it
  refuses the problem), cost (processor time of the first diagnosis over that of the first call
  of `Reverse()`, compilation included in both), work (inner steps and products with their
  Jacobians, likewise), seconds (of the diagnosis), contraction, lyapunov_exponent (nats per
  step), digits_lost, metasmoothness (NaN where the gradient is zero), warnings (their kinds,
  separated by spaces).
- `windows`: problem, window, cosine, relative_error, bound (10).
- `comparison`: problem, estimator, relative_error, cosine, seconds (one hypergradient), memory
  (MiB beside inputs and outputs), message, for a few of the problems.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import process_time
from typing import get_args

import jax
import lineax as lx
import numpy as np

from metastep.diagnosis import Diagnosis, compare, diagnose
from metastep.diagnosis.compare import ready
from metastep.estimators import (
    AbstractEstimator,
    CentralDifferences,
    EvolutionStrategies,
    Forward,
    Implicit,
    RandomDirections,
    Reverse,
    TruncatedReverse,
)
from metastep.problems import AbstractProblem
from metastep.trees import cosine, norm, subtract
from metastep.types import Outer, RandomKey
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.studies.advisor.claims import answer, claims, figures
from metastep_lab.studies.advisor.problems import Name, cases
from metastep_lab.tables import columns

COMPARED = ("hypercleaning", "network", "regression-momentum")
ADVICE = (
    "problem horizon hyperparameters recommended cosine cosine_predicted error error_predicted "
    "implicit_error cost work seconds contraction lyapunov_exponent digits_lost metasmoothness "
    "warnings"
)

ESTIMATORS: tuple[AbstractEstimator, ...] = (
    Reverse(),
    Reverse("sqrt"),
    Reverse("binomial"),
    TruncatedReverse(1),
    TruncatedReverse(10),
    Forward(chunk=64),
    RandomDirections(16),
    EvolutionStrategies(0.01, 16),
    Implicit(lx.GMRES(rtol=1e-4, atol=0.0, max_steps=50)),
    CentralDifferences(),
)


@dataclass(frozen=True)
class Config:
    """The configuration.

    Attributes:
        problems: which of them.
        examples: training examples of hypercleaning, from 50 to 800; as many judge it.
        repeats: timed calls of each estimator in the comparison.
    """

    problems: tuple[Name, ...] = get_args(Name)
    examples: int = 800
    repeats: int = 9

    def __post_init__(self):
        """Refuse impossible values, naming field, value and what is allowed."""
        if not self.problems or len(set(self.problems)) != len(self.problems):
            raise ValueError(
                f"problems is {self.problems}; allowed are different ones, at least one"
            )
        if not 50 <= self.examples <= 800:
            raise ValueError(f"examples is {self.examples}; allowed are integers from 50 to 800")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; allowed are integers from 1")


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Diagnose every problem and hold the advice against the exact gradient."""
    key = jax.random.key(context.seed)
    made = cases(config.examples)
    advice, windows, comparison = [], [], []
    for done, name in enumerate(config.problems):
        context.progress(done, len(config.problems), name)
        problem, outer = made[name]()
        found, row = _judge(problem, outer, key)
        advice.append((name, *row))
        windows += [
            (name, row.window, row.cosine, row.relative_error, row.bound) for row in found.windows
        ]
        if name in COMPARED:
            rows = compare(problem, outer, ESTIMATORS, key=key, repeats=config.repeats).rows
            comparison += [
                (
                    name,
                    str(row.estimator),
                    row.relative_error,
                    row.cosine,
                    row.seconds,
                    np.nan if row.temporary_bytes is None else row.temporary_bytes / 2**20,
                    row.message.split(":")[0],
                )
                for row in rows
            ]
    context.progress(len(config.problems), len(config.problems), "judged")
    context.table("advice", columns(ADVICE, advice))
    context.table("windows", columns("problem window cosine relative_error bound", windows))
    names = "problem estimator relative_error cosine seconds memory message"
    context.table("comparison", columns(names, comparison))
    return {"largest_cost": max(row[9] for row in advice)}


def _judge(
    problem: AbstractProblem, outer: Outer, key: RandomKey
) -> tuple[Diagnosis, tuple[object, ...]]:
    """Return the diagnosis of a problem, and what it is worth."""
    times = [process_time()]
    exact = jax.block_until_ready(ready(problem, outer, Reverse(), key).call())
    times.append(process_time())
    found = diagnose(problem, outer, key=key)
    times.append(process_time())
    first, diagnosing = np.diff(times)
    estimator = found.recommendation.estimator if found.recommendation else None
    measured = (np.nan,) * 4
    if estimator is not None:
        advised = ready(problem, outer, estimator, key).call()
        promised = found.option(estimator)
        error = norm(subtract(advised.grad, exact.grad)) / norm(exact.grad)
        angle = cosine(advised.grad, exact.grad)
        measured = (float(angle), promised.cosine, float(error), promised.relative_error)
    return found, (
        found.horizon,
        found.outer_size,
        str(estimator or "none"),
        *measured,
        next(
            (o.relative_error for o in found.options if isinstance(o.estimator, Implicit)), np.nan
        ),
        diagnosing / first,
        found.work,
        found.seconds,
        found.contraction,
        found.lyapunov_exponent,
        found.digits_lost,
        found.response.score if found.response else np.nan,
        " ".join(warning.kind for warning in found.warnings),
    )


EXPERIMENT = Experiment(
    listing("advisor"),
    config=Config,
    presets={"quick": Config(examples=200, repeats=3), "paper": Config()},
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset(
        {
            "advice-is-right",
            "as-predicted",
            "few-products",
            "counter-example",
            "chaos",
            "implicit-warned",
        }
    ),
    answer=answer,
)
