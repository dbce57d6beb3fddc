"""Does a negative inner step size in training help a wide network on quadratic regression?

MAML with one inner step on y = (<w, x> + b)^2 + z: trained by descent on the outer loss, and in the
linearized limit, where the outer problem is solved exactly. Every run has one network, one set of
training tasks and one set of new tasks, shared by all train rates and by both limits, so that
differences between rates are paired. The text leaves several things open; each is a reading:

- The 1/2 in front of the squared error, which Eq. 11 of the paper has and section 5.4 does not
  mention. All rates here are of (1/2) mean squared error. Without the 1/2 the effect of both rates
  is twice as large: the paper's train rate -0.0075 at test rate 0.01 is then -0.015 at 0.02 here
  (and every loss is twice as large).
- Biases at the start (zero, or drawn as the weights), width and depth: the table `reading`.
- Epochs: descent stops at each of `epochs`; inf is the exact solution. Stochastic descent takes the
  tasks one by one; their order has no effect in the limit. The linearized descent is full-batch at
  every number of epochs.
- Test examples of each new task: they change the noise of the test loss and not its mean.

Tables (one row per observation):

- `reading`: reading, width, hidden_layers, bias_scale (of the biases' standard deviation, relative
  to that of the weights), linearized_runs, trained_runs.
- `loss`: reading, limit (linearized | trained), epochs, train_rate, test_rate, mean (over runs, of
  the loss on new tasks), standard_error, runs.
- `difference`: reading, limit, epochs, train_rate, test_rate, difference (to train rate 0, paired),
  standard_error, z, runs, correlation (with the linearized difference of the same runs). The limit
  `controlled` is the trained one with the linearized as control variate: the regression of the
  trained difference on the linearized, at the mean of all linearized runs.
- `training`: reading, epochs, train_rate, mean, maximum: the outer loss after training.
"""

import math
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, MinLen, Predicate

from metastep_lab.bernacchia2021.maml_nonlinear import limits, statistics
from metastep_lab.bernacchia2021.maml_nonlinear.claims import answer, claims
from metastep_lab.bernacchia2021.maml_nonlinear.figures import figures
from metastep_lab.bernacchia2021.maml_nonlinear.published import printed
from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    Ascending,
    Count,
    NotNegative,
    Positive,
    Several,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns

Rates = Annotated[
    tuple[float, ...], MinLen(1), Predicate(different), "different numbers, at least one"
]
NoneOrMore = Annotated[int, Ge(0)]


@configuration
class Config:
    """The configuration; the defaults are the preset `reduced`.

    What it reduces: 500 epochs of full-batch descent, one step each, in place of 5,000 epochs of
    stochastic descent, and 100 new tasks in place of 1,000.

    Attributes:
        dim: p, the length of the inputs.
        train_samples: n_t, for the inner step in training.
        validation_samples: n_v, for the outer loss, of each task.
        tasks: m, in training.
        target_samples: n_r, for the inner step on a new task.
        noise: sigma, of the targets.
        variability: nu, the standard deviation of <w, x>.
        width: of both hidden layers.
        step_size: of the outer descent.
        stochastic: whether the outer descent takes a step for each task in an epoch, in random
            order; else one on all tasks.
        epochs: of the outer descent after which the loss is measured, ascending.
        train_rates: alpha_t in the linearized limit; 0 among them.
        trained_rates: the train rates that are also trained; 0 among them.
        test_rates: alpha_r.
        paper_rate: the train rate that the paper finds best.
        paper_test_rate: the test rate at which `paper_rate` is best.
        linearized_runs: of the paper's network.
        trained_runs: how many of these runs, the first ones, are also trained.
        reading_runs: linearized runs of each other reading; 0 leaves them out.
        reading_trained_runs: trained runs of the reading with drawn biases.
        test_tasks: new tasks of a run.
        test_samples: examples of each new task that measure the loss.
    """

    dim: Count = 60
    train_samples: Count = 30
    validation_samples: Count = 2
    tasks: Count = 3
    target_samples: Count = 20
    noise: NotNegative = 1.0
    variability: NotNegative = 0.5
    width: Count = 400
    step_size: Positive = 0.001
    stochastic: bool = False
    epochs: Ascending = (150, 500)
    train_rates: Rates = (
        *(-0.02, -0.015, -0.0125, -0.01, -0.0075, -0.005, -0.0025),
        *(0.0, 0.0025, 0.005, 0.0075, 0.01),
    )
    trained_rates: Rates = (-0.015, -0.01, -0.0075, -0.0025, 0.0, 0.0025, 0.005)
    test_rates: Rates = (0.0, 0.003, 0.01, 0.02)
    paper_rate: float = -0.0075
    paper_test_rate: float = 0.01
    linearized_runs: Several = 1000
    trained_runs: NoneOrMore = 30
    reading_runs: NoneOrMore = 200
    reading_trained_runs: NoneOrMore = 10
    test_tasks: Count = 100
    test_samples: Count = 10

    def __post_init__(self):
        """Check the conditions on several fields."""
        for name, most in (
            ("trained_runs", self.linearized_runs),
            ("reading_trained_runs", self.reading_runs),
        ):
            if getattr(self, name) > most:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; allowed are as many as linearized ones, "
                    f"{most}"
                )
        for name in ("train_rates", "trained_rates"):
            if 0 not in getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are numbers with 0")
        if not set(self.trained_rates) <= set(self.train_rates):
            allowed = f"allowed are some of train_rates, {self.train_rates}"
            raise ValueError(f"trained_rates is {self.trained_rates}; {allowed}")


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Run every reading in both limits and tabulate losses and paired differences."""
    shown, loss, difference, training = [], [], [], []
    for reading in limits.readings(config):
        shown.append(tuple(reading))
        linearized = limits.linearized(config, reading, context)
        for place, epochs in enumerate((*config.epochs, math.inf)):
            where = (reading.name, "linearized", epochs)
            rates, values = (config.train_rates, config.test_rates), linearized[:, place]
            loss += _labeled(where, statistics.mean_rows(*rates, values))
            difference += _labeled(where, statistics.difference_rows(*rates, values))
        if not reading.trained_runs:
            continue
        trained, outer = limits.trained(config, reading, context)
        also = [config.train_rates.index(rate) for rate in config.trained_rates]
        for place, epochs in enumerate(config.epochs):
            where = (reading.name, "trained", epochs)
            rates, values = (config.trained_rates, config.test_rates), trained[:, place]
            # Of all linearized runs: the trained ones are the first of them, with the same draws.
            control = linearized[:, place, also]
            loss += _labeled(where, statistics.mean_rows(*rates, values))
            paired = statistics.difference_rows(*rates, values, control[: len(values)])
            difference += _labeled(where, paired)
            more = statistics.controlled_rows(*rates, values, control)
            difference += _labeled((reading.name, "controlled", epochs), more)
            ends = outer[:, place].mean(axis=0), outer[:, place].max(axis=0)
            rows = list(zip(config.trained_rates, *ends, strict=True))
            training += _labeled((reading.name, epochs), rows)
    names = "reading width hidden_layers bias_scale linearized_runs trained_runs"
    context.table("reading", columns(names, shown))
    names = "reading limit epochs train_rate test_rate"
    context.table("loss", columns(names + " mean standard_error runs", loss))
    names += " difference standard_error z runs correlation"
    context.table("difference", columns(names, difference))
    context.table("training", columns("reading epochs train_rate mean maximum", training))
    return {}


def _labeled(where: tuple, rows: list[tuple]) -> list[tuple]:
    return [(*where, *row) for row in rows]


PAPER = Config(stochastic=True, epochs=(150, 500, 5000), test_tasks=1000)
"""The paper's descent, epochs and new tasks, with more runs than its ten."""

EXPERIMENT = Experiment(
    listing("maml-nonlinear"),
    config=Config,
    presets={
        "quick": Config(
            epochs=(150, 300),
            trained_rates=(-0.015, -0.0075, 0.0, 0.0025),
            linearized_runs=200,
            trained_runs=6,
            reading_runs=0,
            reading_trained_runs=0,
        ),
        "reduced": Config(),
        "paper": PAPER,
    },
    run=run,
    claims=claims,
    figures=figures,
    reproducible=frozenset({"training-converged", "adaptation-helps", "ten-runs-undecided"}),
    answer=answer,
    printed=printed,
    finite=("training.mean", "loss.mean"),
)
