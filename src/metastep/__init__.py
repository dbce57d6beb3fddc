"""Gradient-based tuning of training itself: every hypergradient, one interface."""

from importlib.metadata import version as _version

from metastep.bilevel import F2SA as F2SA
from metastep.bilevel import SOBA as SOBA
from metastep.bilevel import AmIGO as AmIGO
from metastep.bilevel import BilevelProblem as BilevelProblem
from metastep.compilation import compiler_options as compiler_options
from metastep.hypergradient import AbstractEstimator as AbstractEstimator
from metastep.hypergradient import Binomial as Binomial
from metastep.hypergradient import CentralDifferences as CentralDifferences
from metastep.hypergradient import Comparison as Comparison
from metastep.hypergradient import Diagnosis as Diagnosis
from metastep.hypergradient import Estimate as Estimate
from metastep.hypergradient import EvolutionStrategies as EvolutionStrategies
from metastep.hypergradient import Forward as Forward
from metastep.hypergradient import Implicit as Implicit
from metastep.hypergradient import LogDomain as LogDomain
from metastep.hypergradient import Neumann as Neumann
from metastep.hypergradient import (
    PersistentEvolutionStrategies as PersistentEvolutionStrategies,
)
from metastep.hypergradient import RandomDirections as RandomDirections
from metastep.hypergradient import Reverse as Reverse
from metastep.hypergradient import ScaledEstimate as ScaledEstimate
from metastep.hypergradient import TruncatedReverse as TruncatedReverse
from metastep.hypergradient import compare as compare
from metastep.hypergradient import diagnose as diagnose
from metastep.hypergradient import hypergradient as hypergradient
from metastep.hypergradient import metasmoothness as metasmoothness
from metastep.hypergradient import scaled_hypergradient as scaled_hypergradient
from metastep.objectives import log_transformed as log_transformed
from metastep.objectives import train_by_train as train_by_train
from metastep.objectives import train_by_validation as train_by_validation
from metastep.outer import Checkpoint as Checkpoint
from metastep.outer import HypergradientError as HypergradientError
from metastep.outer import Report as Report
from metastep.outer import Run as Run
from metastep.outer import minimize as minimize
from metastep.problems import AbstractProblem as AbstractProblem
from metastep.problems import Averaged as Averaged
from metastep.problems import Bounded as Bounded
from metastep.problems import MAMLProblem as MAMLProblem
from metastep.problems import MetaSGD as MetaSGD
from metastep.problems import QuadraticProblem as QuadraticProblem
from metastep.problems import Reptile as Reptile
from metastep.problems import ResidualProblem as ResidualProblem
from metastep.problems import TrainingProblem as TrainingProblem
from metastep.problems import TrainingState as TrainingState
from metastep.problems import unroll as unroll
from metastep.results import RESULTS as RESULTS

__version__ = _version("metastep")
