"""Estimators of the hypergradient: one file each."""

from metastep.hypergradient.base import AbstractEstimator as AbstractEstimator
from metastep.hypergradient.base import Estimate as Estimate
from metastep.hypergradient.base import hypergradient as hypergradient
from metastep.hypergradient.binomial import Binomial as Binomial
from metastep.hypergradient.central_differences import (
    CentralDifferences as CentralDifferences,
)
from metastep.hypergradient.compare import Comparison as Comparison
from metastep.hypergradient.compare import ComparisonRow as ComparisonRow
from metastep.hypergradient.compare import compare as compare
from metastep.hypergradient.diagnose import diagnose as diagnose
from metastep.hypergradient.diagnosis import Diagnosis as Diagnosis
from metastep.hypergradient.evolution import EvolutionStrategies as EvolutionStrategies
from metastep.hypergradient.forward import Forward as Forward
from metastep.hypergradient.implicit import Implicit as Implicit
from metastep.hypergradient.implicit import Neumann as Neumann
from metastep.hypergradient.log_domain import LogDomain as LogDomain
from metastep.hypergradient.metasmoothness import Metasmoothness as Metasmoothness
from metastep.hypergradient.metasmoothness import metasmoothness as metasmoothness
from metastep.hypergradient.persistent import (
    PersistentEvolutionStrategies as PersistentEvolutionStrategies,
)
from metastep.hypergradient.random_directions import RandomDirections as RandomDirections
from metastep.hypergradient.reverse import Reverse as Reverse
from metastep.hypergradient.scaled import ScaledEstimate as ScaledEstimate
from metastep.hypergradient.scaled import scaled_hypergradient as scaled_hypergradient
from metastep.hypergradient.truncated import TruncatedReverse as TruncatedReverse
