"""Gradient-based tuning of training itself: every hypergradient, one interface."""

from importlib.metadata import version as _version

from metastep.compilation import compiler_options as compiler_options
from metastep.hypergradient import AbstractEstimator as AbstractEstimator
from metastep.hypergradient import Comparison as Comparison
from metastep.hypergradient import Estimate as Estimate
from metastep.hypergradient import Forward as Forward
from metastep.hypergradient import Implicit as Implicit
from metastep.hypergradient import Neumann as Neumann
from metastep.hypergradient import Reverse as Reverse
from metastep.hypergradient import TruncatedReverse as TruncatedReverse
from metastep.hypergradient import compare as compare
from metastep.hypergradient import hypergradient as hypergradient
from metastep.outer import Checkpoint as Checkpoint
from metastep.outer import HypergradientError as HypergradientError
from metastep.outer import Report as Report
from metastep.outer import Run as Run
from metastep.outer import minimize as minimize
from metastep.problems import AbstractProblem as AbstractProblem
from metastep.problems import QuadraticProblem as QuadraticProblem
from metastep.problems import TrainingProblem as TrainingProblem
from metastep.problems import TrainingState as TrainingState
from metastep.problems import unroll as unroll
from metastep.results import RESULTS as RESULTS

__version__ = _version("metastep")
