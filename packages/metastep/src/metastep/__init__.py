"""Hypergradients: derivatives of a training outcome with respect to hyperparameters."""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from metastep import optimizers as optimizers
from metastep import step_sizes as step_sizes
from metastep.bilevel import F2SA as F2SA
from metastep.bilevel import SOBA as SOBA
from metastep.bilevel import AmIGO as AmIGO
from metastep.bilevel import BilevelProblem as BilevelProblem
from metastep.compilation import compiler_options as compiler_options
from metastep.diagnosis import Comparison as Comparison
from metastep.diagnosis import Diagnosis as Diagnosis
from metastep.diagnosis import compare as compare
from metastep.diagnosis import diagnose as diagnose
from metastep.diagnosis import metasmoothness as metasmoothness
from metastep.driven import driven_hypergradient as driven_hypergradient
from metastep.driven import driven_plan as driven_plan
from metastep.estimators import AbstractEstimator as AbstractEstimator
from metastep.estimators import Binomial as Binomial
from metastep.estimators import CentralDifferences as CentralDifferences
from metastep.estimators import Estimate as Estimate
from metastep.estimators import EvolutionStrategies as EvolutionStrategies
from metastep.estimators import Forward as Forward
from metastep.estimators import Implicit as Implicit
from metastep.estimators import LogDomain as LogDomain
from metastep.estimators import Neumann as Neumann
from metastep.estimators import PersistentEvolutionStrategies as PersistentEvolutionStrategies
from metastep.estimators import PersistentReverse as PersistentReverse
from metastep.estimators import RandomDirections as RandomDirections
from metastep.estimators import Reverse as Reverse
from metastep.estimators import ScaledEstimate as ScaledEstimate
from metastep.estimators import TruncatedReverse as TruncatedReverse
from metastep.estimators import hypergradient as hypergradient
from metastep.estimators import scaled_hypergradient as scaled_hypergradient
from metastep.minimize import Checkpoint as Checkpoint
from metastep.minimize import HypergradientError as HypergradientError
from metastep.minimize import Report as Report
from metastep.minimize import Run as Run
from metastep.minimize import minimize as minimize
from metastep.problems import AbstractProblem as AbstractProblem
from metastep.problems import Averaged as Averaged
from metastep.problems import Batches as Batches
from metastep.problems import Bounded as Bounded
from metastep.problems import MAMLProblem as MAMLProblem
from metastep.problems import MetaSGD as MetaSGD
from metastep.problems import QuadraticProblem as QuadraticProblem
from metastep.problems import Reptile as Reptile
from metastep.problems import ResidualProblem as ResidualProblem
from metastep.problems import TrainingProblem as TrainingProblem
from metastep.problems import TrainingState as TrainingState
from metastep.problems import unroll as unroll
from metastep.problems.objectives import log_transformed as log_transformed
from metastep.problems.objectives import train_by_train as train_by_train
from metastep.problems.objectives import train_by_validation as train_by_validation
from metastep.results import RESULTS as RESULTS

__version__ = _version("metastep")

if TYPE_CHECKING:
    from metastep import anchors as anchors
    from metastep import attribution as attribution
    from metastep import curvature as curvature
    from metastep import interop as interop
    from metastep import learned as learned
    from metastep import pac_bayes as pac_bayes
    from metastep import sklearn as sklearn
    from metastep import sparse_coding as sparse_coding
    from metastep import tasks as tasks
else:
    # These load SciPy or scikit-learn, so they are imported when they are first used.
    _PARTS = {
        *("anchors", "attribution", "curvature", "interop", "learned", "pac_bayes"),
        *("sklearn", "sparse_coding", "tasks"),
    }

    def __getattr__(name: str) -> object:
        if name in _PARTS:
            return _import_module(f"metastep.{name}")
        raise AttributeError(f"module 'metastep' has no attribute {name!r}")
