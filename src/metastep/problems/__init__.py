"""Problems: inner dynamics and an outer objective."""

from metastep.problems.base import AbstractProblem as AbstractProblem
from metastep.problems.base import unroll as unroll
from metastep.problems.bounded import Bounded as Bounded
from metastep.problems.bounded import BoundedState as BoundedState
from metastep.problems.quadratic import QuadraticProblem as QuadraticProblem
from metastep.problems.residuals import ResidualProblem as ResidualProblem
from metastep.problems.training import TrainingProblem as TrainingProblem
from metastep.problems.training import TrainingState as TrainingState
