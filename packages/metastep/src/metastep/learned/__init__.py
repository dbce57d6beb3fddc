"""Learned optimizers, shaped like optax transformations, and how to train them."""

from metastep.learned.hyperparameters import LearnedAdam as LearnedAdam
from metastep.learned.hyperparameters import LearnedSchedule as LearnedSchedule
from metastep.learned.hyperparameters import LearnedSGD as LearnedSGD
from metastep.learned.learned import AbstractLearnedOptimizer as AbstractLearnedOptimizer
from metastep.learned.lstm import CoordinatewiseLSTM as CoordinatewiseLSTM
from metastep.learned.mlp_optimizer import MLPOptimizer as MLPOptimizer
from metastep.learned.saving import HorizonWarning as HorizonWarning
from metastep.learned.saving import OptimizerFileError as OptimizerFileError
from metastep.learned.saving import TrainedOptimizer as TrainedOptimizer
from metastep.learned.saving import load as load
from metastep.learned.saving import pretrained as pretrained
from metastep.learned.saving import read as read
from metastep.learned.saving import save as save
