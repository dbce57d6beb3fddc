"""The experiments by name: one file for each figure or table of a paper."""

from metastep.experiments import hypercleaning, truncation_toy
from metastep.experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    truncation_toy.EXPERIMENT,
    hypercleaning.EXPERIMENT,
)
