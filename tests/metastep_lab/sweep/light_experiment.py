"""An experiment of a few milliseconds, without figures, that can be told to misbehave."""

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from metastep import saving as checkpoint
from metastep_lab.catalog import Listing
from metastep_lab.claims import Statement
from metastep_lab.data import DataNotFoundError
from metastep_lab.experiment import Experiment


@dataclass(frozen=True)
class Config:
    """A walk of random steps.

    Attributes:
        steps: how many.
        rate: how long they are.
        windows: nothing.
        pause: seconds after each step.
        burn: seconds of a core that each step takes.
        mode: what goes wrong: a failure at every attempt, at the first only, a worker that is
            killed or finds the disk full at its first attempt, data that are not there.
    """

    steps: int = 4
    rate: float = 0.1
    windows: tuple[int, ...] = (1, 2)
    pause: float = 0.0
    burn: float = 0.0
    mode: Literal["plain", "failing", "flaky", "killed", "full", "missing"] = "plain"

    def __post_init__(self):
        if not 1 <= self.steps <= 10_000:
            raise ValueError(f"steps is {self.steps}; allowed: integers from 1 to 10000")


def run(config, context):
    """Add random numbers step by step, in a checkpoint of the library's format."""
    if config.mode == "missing":
        raise DataNotFoundError("MNIST was not found: point --data to the folder that holds it.")
    path = context.checkpoint("walk")
    walk, start = jnp.zeros(config.steps), 0
    if context.resume and path.exists():
        walk, notes = checkpoint.load(path, walk)
        start = notes["step"]
    if config.mode == "failing" and start:
        raise ArithmeticError("it never works")
    for step in range(start, config.steps):
        _burn(config.burn)
        time.sleep(config.pause)
        number = np.random.default_rng([context.seed, step]).normal()
        numbers = np.asarray(walk).copy()
        numbers[step] = (numbers[step - 1] if step else 0) + config.rate * number
        walk = jax.device_put(numbers)
        checkpoint.save(path, walk, {"step": step + 1})
        if step == 1:
            _misbehave(config.mode, context.directory / ".tried")
    numbers = np.asarray(walk)
    context.table("walk", {"step": np.arange(config.steps), "place": numbers})
    context.arrays({"walk": numbers})
    context.log("walked")
    return {"last": float(numbers[-1]), "nothing": float("nan")}


def _burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _misbehave(mode, tried):
    if mode == "failing":
        raise ArithmeticError("it never works")
    if mode == "plain" or tried.exists():
        return
    tried.touch()
    if mode == "flaky":
        raise ArithmeticError("it does not work at first")
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    else:
        os.kill(os.getpid(), signal.SIGKILL)


CLAIMS = (
    Statement(
        "small",
        "The walk stays near.",
        measure=lambda record: record.metrics["last"],
        verdict=lambda last: abs(last) < 5,
        evidence="{:.6g}",
    ),
    Statement(
        "open",
        "Nobody knows.",
        measure=lambda record: None,
        verdict=lambda nothing: None,
        evidence="no run can decide",
    ),
)


def figures(record):
    """Draw nothing: matplotlib takes longer than the run."""
    return {}


LISTING = Listing(
    name="light-walk",
    source="Nobody 2020",
    question="How far does a walk go?",
    minutes={"quick": 0.01, "long": 0.1},
    module="tests.metastep_lab.sweep.light_experiment",
)
CATALOG = (LISTING,)
EXPERIMENT = Experiment(
    LISTING,
    config=Config,
    presets={"quick": Config(), "long": Config(steps=40, pause=0.05)},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(),
)


if __name__ == "__main__":
    from metastep_lab.cli import invoke

    sys.exit(invoke(sys.argv[1:], CATALOG))
