"""Table 1 of Shaban et al. measured: time and memory of every estimator in T, K and N.

The inner problem has M parameters, each with a cubic slope, and N hyperparameters that weigh the
loss of M / N parameters each. The horizon T, the window K and N are varied one at a time; the
others stay at the middle of their lists, K at its largest, and T at its shortest while K is varied.
The memory is what the compiled program needs beyond its arguments and results; the time is that of
the processor beyond one run of the training and its objective, as in the table. Where it is less
than a tenth of that run, it is not measured.

Tables (one row per observation):

- `costs`: estimator, varied (T | K | N), value, memory (bytes), seconds (the least of `repeats`,
  less that of a plain run; NaN where it is not measured).
- `exponents`: estimator, varied, quantity (memory | time), measured (of the fit of the quantity to
  a power of what is varied, from the two largest values), stated, source (`table` or `ours`).
"""

from collections.abc import Callable, Mapping
from time import process_time
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, MinLen
from jax import Array

import metastep as ms
from metastep.diagnosis.compare import Program, compile_with, ready
from metastep.estimators.evaluate import evaluate
from metastep.problems.base import split_keys
from metastep_lab.catalog import listing
from metastep_lab.configuration import Ascending, Count, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn
from metastep_lab.shaban2019.estimator_costs.claims import CLAIMS, answer
from metastep_lab.shaban2019.estimator_costs.figures import figures
from metastep_lab.shaban2019.estimator_costs.published import printed
from metastep_lab.tables import columns

SPENT = 0.2
"""Seconds that short programs are called for."""
RESOLUTION = 0.1
"""Of the time of a plain run: less is within the variation of its own time."""
Three = Annotated[Ascending, MinLen(3)]


@configuration
class Config:
    """The configuration.

    Attributes:
        parameters: M, a multiple of every N.
        horizons: T.
        windows: K, divisors of every T.
        hyperparameters: N.
        repeats: timed calls, at least.
    """

    parameters: Count = 4096
    horizons: Three = (128, 512, 2048)
    windows: Three = (8, 32, 128)
    hyperparameters: Three = (4, 16, 64)
    repeats: Annotated[int, Ge(1)] = 5

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
        # A window is a small part of a long training: its time would not be measured.
        fixed = middle | {"K": self.windows[-1]}
        fixed |= {"T": self.horizons[0]} if varied == "K" else {}
        return [fixed | {varied: value} for value in lists[varied]]


class Stated(NamedTuple):
    """An estimator, and the exponents of its cost.

    Attributes:
        make: window to estimator.
        memory: exponents by what is varied.
        time: the same.
        source: `table` for Table 1, else `ours`, from the documentation of the estimator.
        trains: whether an estimate runs the whole training, whose time is then taken off.
    """

    make: Callable[[int], ms.AbstractEstimator]
    memory: Mapping[str, float]
    time: Mapping[str, float]
    source: str
    trains: bool = True


ESTIMATORS: Mapping[str, Stated] = {
    "FMD": Stated(lambda k: ms.Forward(), {"T": 0, "N": 1}, {"T": 1, "N": 1}, "table"),
    "RMD": Stated(lambda k: ms.Reverse(mixed=False), {"T": 1, "N": 0}, {"T": 1, "N": 0}, "table"),
    "checkpointing": Stated(
        lambda k: ms.Reverse("sqrt", mixed=False), {"T": 0.5, "N": 0}, {"T": 1, "N": 0}, "table"
    ),
    "K-RMD": Stated(
        lambda k: ms.TruncatedReverse(k, mixed=False),
        {"T": 0, "K": 1, "N": 0},
        {"T": 0, "K": 1, "N": 0},
        "table",
    ),
    "Neumann series": Stated(
        lambda k: ms.Implicit(ms.Neumann(k)), {"T": 0, "K": 0, "N": 0}, {"T": 0, "K": 1}, "ours"
    ),
    "random directions": Stated(
        lambda k: ms.RandomDirections(), {"T": 0, "N": 0}, {"T": 1, "N": 0}, "ours"
    ),
    "central differences": Stated(
        lambda k: ms.CentralDifferences(10**6), {"T": 0}, {"T": 1, "N": 1}, "ours"
    ),
    "evolution strategies": Stated(
        lambda k: ms.EvolutionStrategies(0.1), {"T": 0, "N": 0}, {"T": 1, "N": 0}, "ours"
    ),
    "persistent reverse": Stated(
        lambda k: ms.PersistentReverse(k, mixed=False),
        {"T": 0, "K": 1, "N": 0},
        {"K": 1, "N": 0},
        "ours",
        trains=False,
    ),
}


def problem_of(parameters: int, hyperparameters: int, horizon: int) -> ms.TrainingProblem:
    """Return a training whose loss is a polynomial of each parameter, weighted by `outer`."""

    def loss(w: Array, outer: Array, batch: None) -> Array:
        del batch
        weights = jnp.repeat(outer, parameters // hyperparameters)
        return jnp.sum(weights * ((w - 1) ** 2 + (w - 1) ** 4)) / 2

    return ms.TrainingProblem(
        loss, lambda w, outer: jnp.sum(w**2), jnp.zeros(parameters), _descent, horizon
    )


def _descent(outer: Array) -> optax.GradientTransformation:
    del outer
    return optax.sgd(0.1)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compile and time every estimator at every size."""
    rows, exponents, plain = [], [], {}
    for name, stated in in_turn(context, list(ESTIMATORS.items()), lambda one: one[0]):
        for varied in dict.fromkeys((*stated.memory, *stated.time)):
            found = _vary(config, stated, varied, context.seed, plain)
            rows += [(name, varied, *row) for row in found]
            for quantity, column in (("memory", 1), ("time", 2)):
                law = getattr(stated, quantity)
                if varied in law:
                    measured = _exponent(*((row[0], row[column]) for row in found[-2:]))
                    row = name, varied, quantity, measured, law[varied], stated.source
                    exponents.append(row)
    context.table("costs", columns("estimator varied value memory seconds", rows))
    names = "estimator varied quantity measured stated source"
    context.table("exponents", columns(names, exponents))
    return {}


def _vary(
    config: Config, stated: Stated, varied: str, seed: int, plain: dict[tuple[int, int], float]
) -> list[tuple]:
    """Return value, memory and seconds of one estimator for every value of T, K or N.

    `plain` keeps the seconds of the runs without a gradient, by N and T.
    """
    found = []
    for sizes in config.sizes(varied):
        problem = problem_of(config.parameters, sizes["N"], sizes["T"])
        outer, key = jnp.full(sizes["N"], 0.5), jax.random.key(seed)
        at = sizes["N"], sizes["T"]
        if at not in plain:
            forward = lambda problem, outer, key: evaluate(problem, outer, split_keys(key))
            plain[at] = _seconds(compile_with(forward, problem, outer, key), config.repeats)
        program = ready(problem, outer, stated.make(sizes["K"]), key)
        seconds = _seconds(program, config.repeats)
        if stated.trains:
            seconds -= plain[at]
            seconds = seconds if seconds >= RESOLUTION * plain[at] else np.nan
        found.append((sizes[varied], program.temporary_bytes, seconds))
    return found


def _seconds(program: Program, repeats: int) -> float:
    """Return the least processor time of several calls, of many if they are short.

    The first call also loads the program.
    """
    spent = []
    while len(spent) <= repeats or (sum(spent) < SPENT and len(spent) < 100):
        begin = process_time()
        jax.block_until_ready(program.call())
        spent.append(process_time() - begin)
    return min(spent[1:])


def _exponent(first: tuple[float, float], last: tuple[float, float]) -> float:
    """Return the exponent between two points."""
    (x, y), (end, most) = first, last
    return float(np.log(most / y) / np.log(end / x))


EXPERIMENT = Experiment(
    listing("estimator-costs"),
    config=Config,
    presets={
        "quick": Config(hyperparameters=(2, 8, 32)),
        "full": Config(parameters=16384, repeats=7),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"table-1-memory"}),
    answer=answer,
    printed=printed,
    finite=("costs.memory",),
)
