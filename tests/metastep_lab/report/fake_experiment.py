"""A small experiment whose state is one sum, and a command line with it for subprocesses."""

import json
import os
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metastep.files import write_atomically
from metastep_lab.catalog import Listing
from metastep_lab.claims import Statement
from metastep_lab.data import DataNotFoundError
from metastep_lab.experiment import Experiment
from metastep_lab.figures.style import Lines, line_figure

TRAP = {"at": None, "error": KeyboardInterrupt()}


@dataclass(frozen=True)
class Config:
    """What `--set` takes: one field of every kind."""

    steps: int = 5
    rate: float = 0.1
    mode: Literal["plain", "missing", "impossible", "clumsy"] = "plain"
    windows: tuple[int, ...] = (1, 2)
    label: str = "sum"
    limit: int | None = None
    loud: bool = False

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; allowed: integers from 1")


def run(config, context):
    """Add random numbers step by step; the sum so far is the checkpoint."""
    if config.mode == "missing":
        raise DataNotFoundError("MNIST was not found: point --data to the folder that holds it.")
    if config.mode == "impossible":
        raise ValueError("windows is (9, 9);\nallowed: less")
    if config.mode == "clumsy":
        context.table("half", {"x": [1, 2]})
        raise ValueError("no such luck")
    path = context.checkpoint("sum")
    start, sums = 0, []
    if context.resume and path.exists():
        sums = json.loads(path.read_text())
        start = len(sums)
    for step in range(start, config.steps):
        if TRAP["at"] == step:
            raise TRAP["error"]
        random = np.random.default_rng([context.seed, step])
        sums.append((sums[-1] if sums else 0.0) + config.rate * random.normal())
        write_atomically(path, json.dumps(sums).encode())
        context.progress(step + 1, config.steps, "adding")
        context.table("sums", {"step": np.arange(len(sums)), "sum": np.array(sums)})
        time.sleep(float(os.environ.get("FAKE_PAUSE", "0")))
    context.log("added <everything>")
    context.arrays({"sums": np.array(sums)})
    return {"last": sums[-1], "nothing": float("nan")}


sums = lambda record: record.frames["sums"]["sum"]
CLAIMS = (
    Statement(
        "small",
        "The sum stays small.",
        measure=sums,
        verdict=lambda total: (total.abs() < 5).all(),
        evidence=lambda total: f"{total.iloc[-1]:.6g}",
    ),
    Statement(
        "open",
        "Nobody <knows> & cares.",
        lacks=lambda record: "needs the preset 'paper'",
        measure=sums,
        verdict=lambda total: None,
        evidence="",
    ),
    Statement(
        "exact",
        "It ends at 0.",
        measure=lambda record: sums(record).iloc[-1],
        verdict=lambda last: last == 0,
        evidence="ends at {:.3g}",
    ),
)


def figures(record):
    """Draw the sum."""
    table = record.tables["sums"]
    series = {"sum": (table["step"], table["sum"])}
    figure = line_figure(Lines(series, x_label="step", y_label="sum"))
    return {"sum-figure": (figure, 'A "walk" <b>')}


LISTING = Listing(
    name="fake-walk",
    source="Nobody 2020, Figure 1 & 2",
    question="How far does a walk <go>?",
    minutes={"quick": 0.1, "paper": 2},
    module=__name__,
)
CATALOG = (LISTING,)
EXPERIMENT = Experiment(
    LISTING,
    config=Config,
    presets={"quick": Config(), "paper": Config(steps=50)},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"small"}),
    answer=lambda record: f"It took {record.config.steps} steps & <stopped>.",
)


if __name__ == "__main__":
    from metastep_lab.cli import main

    main(CATALOG)
