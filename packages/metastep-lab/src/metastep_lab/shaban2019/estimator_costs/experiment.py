"""Table 1 of Shaban et al. measured: time and memory of every estimator in T, K and N.

The inner problem has M parameters, each with a cubic slope, and N hyperparameters that weigh the
loss of M / N parameters each. The horizon T, the window K and N are varied one at a time; the
others stay at the middle of their lists, K at its largest, and T at its shortest while K is varied.
The memory is what the compiled program needs beyond its arguments and results. The time is the
number of arithmetic operations beyond those of one run of the training and its objective, as in the
table: a count does not depend on the machine. Processor seconds are there for information.

Tables (one row per observation):

- `costs`: estimator, varied (T | K | N), value, memory (bytes), operations (beyond a plain run;
  NaN where they are not counted), seconds (of the processor, a whole call, the least of `repeats`).
- `exponents`: estimator, varied, quantity (memory | time), measured (of the fit of the quantity to
  a power of what is varied, from the two largest values), stated, source (`table` or `ours`).
"""

from collections.abc import Mapping
from time import process_time
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, MinLen
from jax import Array

from metastep.diagnosis.compare import Program, ready
from metastep.problems.base import evaluate, split_keys
from metastep_lab.catalog import listing
from metastep_lab.configuration import Ascending, Count, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn
from metastep_lab.shaban2019.estimator_costs.claims import CLAIMS, answer
from metastep_lab.shaban2019.estimator_costs.estimators import ESTIMATORS, Stated, problem_of
from metastep_lab.shaban2019.estimator_costs.figures import figures
from metastep_lab.shaban2019.estimator_costs.operations import operations
from metastep_lab.shaban2019.estimator_costs.published import printed
from metastep_lab.tables import columns

Three = Annotated[Ascending, MinLen(3)]


@configuration
class Config:
    """The configuration.

    Attributes:
        parameters: M, a multiple of every N.
        horizons: T.
        windows: K, divisors of every T.
        hyperparameters: N.
        repeats: timed calls.
    """

    parameters: Count = 4096
    horizons: Three = (128, 512, 2048)
    windows: Three = (8, 32, 128)
    hyperparameters: Three = (4, 16, 64)
    repeats: Annotated[int, Ge(1)] = 3

    def __post_init__(self):
        """Refuse windows and hyperparameters that do not divide what they are parts of."""
        if any(horizon % window for horizon in self.horizons for window in self.windows):
            raise ValueError(
                f"windows is {self.windows}; allowed are divisors of all horizons, {self.horizons}"
            )
        if any(self.parameters % count for count in self.hyperparameters):
            raise ValueError(
                f"hyperparameters is {self.hyperparameters}; allowed are divisors of parameters, "
                f"{self.parameters}"
            )

    def sizes(self, varied: str) -> list[dict[str, int]]:
        """Return T, K and N for every value of one of them."""
        lists = {"T": self.horizons, "K": self.windows, "N": self.hyperparameters}
        middle = {name: values[len(values) // 2] for name, values in lists.items()}
        fixed = middle | {"K": self.windows[-1]}
        # The operations of K steps are the difference of two counts that contain the training: a
        # short one does not hide them.
        fixed |= {"T": self.horizons[0]} if varied == "K" else {}
        return [fixed | {varied: value} for value in lists[varied]]


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compile, count and time every estimator at every size."""
    rows, exponents = [], []
    for name, stated in in_turn(context, list(ESTIMATORS.items()), lambda one: one[0]):
        for varied in dict.fromkeys((*stated.memory, *stated.time)):
            found = [
                (sizes[varied], *_costs(config, stated, sizes, context.seed))
                for sizes in config.sizes(varied)
            ]
            rows += [(name, varied, *row) for row in found]
            for quantity, column in (("memory", 1), ("time", 2)):
                law = getattr(stated, quantity)
                if varied in law:
                    # The two largest: terms of lower order count least there.
                    measured = _exponent(*((row[0], row[column]) for row in found[-2:]))
                    row = name, varied, quantity, measured, law[varied], stated.source
                    exponents.append(row)
    context.table("costs", columns("estimator varied value memory operations seconds", rows))
    names = "estimator varied quantity measured stated source"
    context.table("exponents", columns(names, exponents))
    return {}


def _costs(
    config: Config, stated: Stated, sizes: Mapping[str, int], seed: int
) -> tuple[float, float, float]:
    problem = problem_of(config.parameters, sizes["N"], sizes["T"])
    outer, key = jnp.full(sizes["N"], 0.5), jax.random.key(seed)
    estimator = stated.make(sizes["K"])

    def gradient(outer: Array) -> Array:
        return estimator.estimate(problem, outer, estimator.init(problem, outer, key), key)[0].grad

    plain = lambda outer: evaluate(problem, outer, split_keys(key))
    count = operations(gradient, outer) if stated.time else np.nan
    # "Additional time" in Table 1: the training itself costs the same for every method.
    count -= operations(plain, outer) if stated.trains else 0
    program = ready(problem, outer, estimator, key)
    memory = program.temporary_bytes or np.nan  # where the backend does not report it
    return memory, count, _seconds(program, config.repeats)


def _seconds(program: Program, repeats: int) -> float:
    """Return the least processor time of several calls; the first call also loads the program."""
    jax.block_until_ready(program.call())
    spent = []
    for _ in range(repeats):
        begin = process_time()
        jax.block_until_ready(program.call())
        spent.append(process_time() - begin)
    # Other work on the machine only ever adds.
    return min(spent)


def _exponent(first: tuple[float, float], last: tuple[float, float]) -> float:
    (x, y), (end, most) = first, last
    return float(np.log(most / y) / np.log(end / x))


EXPERIMENT = Experiment(
    listing("estimator-costs"),
    config=Config,
    presets={
        "quick": Config(hyperparameters=(2, 8, 32)),
        "full": Config(parameters=16384),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {"table-1-memory", "table-1-time", "other-estimators-memory", "other-estimators-time"}
    ),
    answer=answer,
    printed=printed,
    finite=("costs.memory",),
)
