"""Optimizers shaped like optax transformations."""

from metastep.optimizers.adam import adam as adam
from metastep.optimizers.adam import scale_by_adam as scale_by_adam
