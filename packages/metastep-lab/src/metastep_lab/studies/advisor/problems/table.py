"""The table of problems: a row for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import optax

from metastep.optimizers import adam
from metastep.problems import AbstractProblem
from metastep.types import Outer
from metastep_lab.studies.advisor.problems import classic, digits, sequences
from metastep_lab.studies.advisor.problems.sequences import Text

Made = tuple[AbstractProblem, Outer]
Case = Callable[[], Made]
"""Makes a problem in the precision that is in force."""

Name = Literal[
    "toy-100",
    "toy-2000",
    "counter-example",
    "hypercleaning",
    "network",
    "regression",
    "regression-long",
    "regression-momentum",
    "regression-adam",
    "regression-batches",
    "regression-tuned-start",
    "logistic-map",
    "digits-sgd",
    "digits-momentum",
    "digits-adam",
    "digits-adamw",
    "digits-rmsprop",
    "digits-adafactor",
    "digits-lion",
    "digits-muon",
    "digits-schedule-free",
    "digits-clipped",
    "digits-batch-statistics",
    "digits-relu",
    "transformer",
    "recurrent",
    "maml",
    "learned-optimizer",
    "converged",
    "unconverged",
    "edge",
    "chaotic",
]


@dataclass(frozen=True)
class Sources:
    """The data of the problems.

    Attributes:
        examples: training examples of hypercleaning.
        text: the text of the transformer.
        folder: the folder that is searched first for data sets.
    """

    examples: int
    text: Text
    folder: Path | None


def cases(sources: Sources) -> Mapping[Name, Case]:
    """Return every problem by name."""
    descent = lambda outer: optax.sgd(outer["step_size"])
    momentum = lambda outer: optax.sgd(outer["step_size"], momentum=0.9)
    regression = partial(classic.diabetes, descent)
    return {
        "toy-100": partial(classic.toy, 100),
        "toy-2000": partial(classic.toy, 2000),
        "counter-example": classic.counterexample,
        "hypercleaning": partial(classic.cleaning, sources.examples),
        "network": classic.network,
        "regression": regression,
        "regression-long": partial(regression, horizon=1000),
        "regression-momentum": partial(classic.diabetes, momentum),
        "regression-adam": partial(classic.diabetes, lambda outer: adam(outer["step_size"])),
        "regression-batches": partial(regression, batch_size=32),
        "regression-tuned-start": partial(regression, tuned_start=True),
        "logistic-map": classic.logistic_map,
        "digits-sgd": partial(digits.digits, "sgd"),
        "digits-momentum": partial(digits.digits, "momentum"),
        "digits-adam": partial(digits.digits, "adam"),
        "digits-adamw": partial(digits.digits, "adamw"),
        "digits-rmsprop": partial(digits.digits, "rmsprop"),
        "digits-adafactor": partial(digits.digits, "adafactor"),
        "digits-lion": partial(digits.digits, "lion"),
        "digits-muon": partial(digits.digits, "muon"),
        "digits-schedule-free": partial(digits.digits, "schedule-free"),
        "digits-clipped": partial(digits.digits, "clipped"),
        "digits-batch-statistics": digits.batch_statistics,
        "digits-relu": digits.rectified,
        "transformer": partial(sequences.transformer, sources.text, sources.folder),
        "recurrent": sequences.recurrent,
        "maml": sequences.sinusoid,
        "learned-optimizer": sequences.learned_optimizer,
        "converged": partial(digits.softmax_regression, 300, -3.0),
        "unconverged": partial(digits.softmax_regression, 20, -6.0),
        "edge": partial(digits.clipped_network, 1.0),
        "chaotic": partial(digits.clipped_network, 8.0),
    }
