"""Optimizers shaped like optax transformations, ordinary and learned."""

from metastep.optimizers.adam import adam as adam
from metastep.optimizers.adam import scale_by_adam as scale_by_adam
from metastep.optimizers.hyperparameters import LearnedAdam as LearnedAdam
from metastep.optimizers.hyperparameters import LearnedSchedule as LearnedSchedule
from metastep.optimizers.hyperparameters import LearnedSGD as LearnedSGD
from metastep.optimizers.learned import AbstractLearnedOptimizer as AbstractLearnedOptimizer
from metastep.optimizers.lstm import CoordinatewiseLSTM as CoordinatewiseLSTM
from metastep.optimizers.mlp_optimizer import MLPOptimizer as MLPOptimizer
from metastep.optimizers.saving import HorizonWarning as HorizonWarning
from metastep.optimizers.saving import OptimizerFileError as OptimizerFileError
from metastep.optimizers.saving import TrainedOptimizer as TrainedOptimizer
from metastep.optimizers.saving import load as load
from metastep.optimizers.saving import pretrained as pretrained
from metastep.optimizers.saving import read as read
from metastep.optimizers.saving import save as save
