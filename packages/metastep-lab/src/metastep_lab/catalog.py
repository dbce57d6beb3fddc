"""The experiments by name: one file for each figure or table of a paper."""

from metastep_lab.bernacchia2021.maml_linear import experiment as maml_linear
from metastep_lab.bernacchia2021.maml_nonlinear import experiment as maml_nonlinear
from metastep_lab.bernacchia2021.maml_wishart import experiment as maml_wishart
from metastep_lab.experiment import Experiment
from metastep_lab.shaban2019.hypercleaning import experiment as hypercleaning
from metastep_lab.shaban2019.one_shot import experiment as one_shot
from metastep_lab.shaban2019.task_interaction import experiment as task_interaction
from metastep_lab.shaban2019.truncation_toy import experiment as truncation_toy
from metastep_lab.studies.advisor import experiment as advisor
from metastep_lab.studies.label_noise import experiment as label_noise
from metastep_lab.wang2021.least_squares import experiment as least_squares
from metastep_lab.wang2021.least_squares_sgd import experiment as least_squares_sgd
from metastep_lab.wang2021.mlp_optimizer import experiment as mlp_optimizer
from metastep_lab.wang2021.step_size_quadratic import experiment as step_size_quadratic
from metastep_lab.wu2022.anchor_vectors import experiment as anchor_vectors
from metastep_lab.wu2022.downstream_transfer import experiment as downstream_transfer
from metastep_lab.wu2022.hessian_structure import experiment as hessian_structure
from metastep_lab.wu2022.hessian_two_layer import experiment as hessian_two_layer
from metastep_lab.wu2022.pac_bayes import experiment as pac_bayes
from metastep_lab.wu2022.sparse_coding import experiment as sparse_coding

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
    hessian_structure.EXPERIMENT,
    hessian_two_layer.EXPERIMENT,
    pac_bayes.EXPERIMENT,
    advisor.EXPERIMENT,
)
