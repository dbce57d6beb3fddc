"""Problems: inner dynamics and an outer objective."""

from metastep.problems.base import AbstractProblem as AbstractProblem
from metastep.problems.base import unroll as unroll
from metastep.problems.quadratic import QuadraticProblem as QuadraticProblem
from metastep.problems.training import TrainingProblem as TrainingProblem
from metastep.problems.training import TrainingState as TrainingState
