"""The experiments by name: one file for each figure or table of a paper."""

from metastep.experiments import (
    advisor,
    anchor_vectors,
    downstream_transfer,
    hessian_two_layer,
    hypercleaning,
    label_noise,
    least_squares,
    least_squares_sgd,
    maml_linear,
    maml_nonlinear,
    maml_wishart,
    mlp_optimizer,
    one_shot,
    pac_bayes,
    sparse_coding,
    step_size_quadratic,
    task_interaction,
    truncation_toy,
)
from metastep.experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    step_size_quadratic.EXPERIMENT,
    least_squares.EXPERIMENT,
    least_squares_sgd.EXPERIMENT,
    mlp_optimizer.EXPERIMENT,
    maml_linear.EXPERIMENT,
    maml_wishart.EXPERIMENT,
    maml_nonlinear.EXPERIMENT,
    truncation_toy.EXPERIMENT,
    hypercleaning.EXPERIMENT,
    task_interaction.EXPERIMENT,
    one_shot.EXPERIMENT,
    label_noise.EXPERIMENT,
    sparse_coding.EXPERIMENT,
    anchor_vectors.EXPERIMENT,
    downstream_transfer.EXPERIMENT,
    hessian_two_layer.EXPERIMENT,
    pac_bayes.EXPERIMENT,
    advisor.EXPERIMENT,
)
