"""Compare one diagnosis with the truth: its predictions, its cost, the outcome of its advice."""

from dataclasses import dataclass, field
from time import process_time
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from metastep.diagnosis import Diagnosis, diagnose
from metastep.diagnosis.compare import ready
from metastep.diagnosis.sizes import compiled_bytes
from metastep.estimators import AbstractEstimator, Implicit, Reverse, TruncatedReverse
from metastep.problems.base import unroll
from metastep.types import Outer, RandomKey
from metastep_lab.studies.advisor.outer import Programs, candidates, race
from metastep_lab.studies.advisor.problems.table import Case
from metastep_lab.studies.advisor.truth import Truth, truth

ADVICE = (
    "problem seed horizon hyperparameters recommended cosine cosine_predicted implicit_error cost "
    "work seconds contraction lyapunov_exponent digits_lost true_digits_lost chaotic truly_chaotic "
    "disagreement kinks_at_01 kinks_at_1 metasmoothness warnings"
)
WINDOWS = "problem seed window cosine relative_error bound"
SIZES = "problem what predicted true"
OUTCOMES = "problem seed estimator recommended seconds steps improvement"


@dataclass
class Judged:
    """Rows of the tables by name, without the column of the problem."""

    advice: list[tuple] = field(default_factory=list)
    windows: list[tuple] = field(default_factory=list)
    sizes: list[tuple] = field(default_factory=list)
    outcomes: list[tuple] = field(default_factory=list)


def judge(case: Case, seeds: range, steps: int) -> Judged:
    """Diagnose a problem with every seed, and compare that with the truth.

    The recommended estimator makes `steps` outer steps; 0 omits the outcomes. Sizes do not depend
    on the seed and are compared for the first.
    """
    rows = Judged()
    problem, outer = case()
    programs = Programs(problem, outer, jax.random.key(seeds[0]))
    for seed in seeds:
        key = jax.random.key(seed)
        # Not from `programs`: the diagnosis is compared with a first call.
        begin = process_time()
        jax.block_until_ready(ready(problem, outer, Reverse(), key).call())
        between = process_time()
        found = diagnose(problem, outer, key=key)
        cost = (process_time() - between) / (between - begin)
        true = truth(case, key)
        rows.windows += [
            (seed, row.window, row.cosine, row.relative_error, row.bound) for row in found.windows
        ]
        rows.advice.append((seed, *_advice(found, true, programs, key, cost)))
        advised = _advised(found)
        if advised is not None and steps:
            implicit = [o.estimator for o in found.options if isinstance(o.estimator, Implicit)]
            named = candidates(problem, outer, [advised, *implicit])
            rows.outcomes += [(seed, *row) for row in race(programs, named, advised, steps, key)]
        if seed == seeds[0]:
            rows.sizes = _sizes(found, programs, key)
    return rows


def _advised(found: Diagnosis) -> AbstractEstimator | None:
    return found.recommendation.estimator if found.recommendation else None


def _advice(
    found: Diagnosis, true: Truth, programs: Programs, key: RandomKey, cost: float
) -> tuple[Any, ...]:
    estimator, angles = _advised(found), (np.nan, np.nan)
    if estimator is not None:
        gradient = programs.gradient(estimator, programs.outer, key)
        angles = _cosine(gradient, true.gradient), found.option(estimator).cosine
    implicit = [o.estimator for o in found.options if isinstance(o.estimator, Implicit)]
    error = np.nan
    if implicit:
        gradient = programs.gradient(implicit[0], programs.outer, key)
        error = _relative_error(_flat(gradient), true.gradient)
    return (
        found.horizon,
        found.outer_size,
        str(estimator or "none"),
        *angles,
        error,
        cost,
        found.work,
        found.seconds,
        found.contraction,
        found.lyapunov_exponent,
        found.digits_lost,
        true.digits_lost,
        int(found.chaotic),
        int(true.chaotic),
        true.disagreement,
        *true.kinks,
        found.response.score if found.response else np.nan,
        " ".join(warning.kind for warning in found.warnings),
    )


def _flat(gradient: Outer) -> np.ndarray:
    return np.asarray(ravel_pytree(gradient)[0], np.float64)


def _relative_error(gradient: np.ndarray, true: np.ndarray) -> float:
    """Return the relative error; infinite, not NaN, of a gradient that is not finite."""
    # NaN is the error of an estimator that refuses, and is above no bar.
    if not np.all(np.isfinite(gradient)):
        return np.inf
    return float(np.linalg.norm(gradient - true) / max(np.linalg.norm(true), 1e-300))


def _cosine(gradient: Outer, true: np.ndarray) -> float:
    flat = _flat(gradient)
    with np.errstate(all="ignore"):
        return float(flat @ true / (np.linalg.norm(flat) * np.linalg.norm(true)))


def _sizes(found: Diagnosis, programs: Programs, key: RandomKey) -> list[tuple[str, float, float]]:
    """Return the sizes of the diagnosis and those of the compiler, in bytes.

    Of the windows of truncation those of `candidates` and the recommended one are included.
    """
    problem, outer = programs.problem, programs.outer
    end = [x for x in jax.tree.leaves(unroll(problem, outer, key)) if isinstance(x, jax.Array)]
    state = sum(np.asarray(_data(x)).nbytes for x in end)
    rows = [("inner state", float(found.state_bytes), float(state))]
    compared = candidates(problem, outer, [])
    for option in found.options:
        truncated = isinstance(option.estimator, TruncatedReverse)
        if truncated and option.estimator not in (*compared, _advised(found)):
            continue
        true = _true_bytes(option.estimator, programs, key)
        if true is not None:
            name = str(option.estimator).partition("(solver")[0].replace("checkpoint=", "")
            rows.append((name, float(option.memory), true))
    return rows


def _true_bytes(estimator: AbstractEstimator, programs: Programs, key: RandomKey) -> float | None:
    """Return the compiler's figure; None if the estimator refuses the problem."""
    if estimator in programs:
        return programs[estimator].temporary_bytes
    try:
        return compiled_bytes(estimator, programs.problem, programs.outer, key)
    except ValueError:
        return None


def _data(x: jax.Array) -> jax.Array:
    is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x
