"""The outer loop: gradient descent on hyperparameters."""

from metastep.minimize.driving import Checkpoint as Checkpoint
from metastep.minimize.driving import HypergradientError as HypergradientError
from metastep.minimize.driving import Report as Report
from metastep.minimize.loop import History as History
from metastep.minimize.minimize import Run as Run
from metastep.minimize.minimize import minimize as minimize
