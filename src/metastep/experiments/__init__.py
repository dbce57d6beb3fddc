"""Every experiment, by name."""

from metastep.experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = ()
