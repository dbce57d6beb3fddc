"""Attribution: scores of training examples for a model's predictions, and their validation."""

from metastep.attribution.attribute import Attribution as Attribution
from metastep.attribution.attribute import attribute as attribute
from metastep.attribution.datamodeling import DatamodelingScore as DatamodelingScore
from metastep.attribution.datamodeling import datamodeling_score as datamodeling_score
from metastep.attribution.datamodeling import linear_datamodeling_score as linear_datamodeling_score
from metastep.attribution.leave_out import Removals as Removals
from metastep.attribution.leave_out import leave_out as leave_out
from metastep.attribution.leave_out import random_removals as random_removals
from metastep.attribution.recall import recall_at as recall_at
