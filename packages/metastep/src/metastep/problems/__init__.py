"""Problems: inner dynamics and an outer objective."""

from metastep.problems.averaged import Averaged as Averaged
from metastep.problems.base import AbstractProblem as AbstractProblem
from metastep.problems.base import unroll as unroll
from metastep.problems.batches import Batches as Batches
from metastep.problems.bounded import Bounded as Bounded
from metastep.problems.bounded import BoundedState as BoundedState
from metastep.problems.maml import MAMLProblem as MAMLProblem
from metastep.problems.maml import MetaSGD as MetaSGD
from metastep.problems.maml import Reptile as Reptile
from metastep.problems.mixed import InnerGradient as InnerGradient
from metastep.problems.quadratic import QuadraticProblem as QuadraticProblem
from metastep.problems.residuals import ResidualProblem as ResidualProblem
from metastep.problems.training import TrainingProblem as TrainingProblem
from metastep.problems.training import TrainingState as TrainingState
