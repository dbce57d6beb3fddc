"""Estimators of the hypergradient: one file each."""

from metastep.estimators.base import AbstractEstimator as AbstractEstimator
from metastep.estimators.base import Estimate as Estimate
from metastep.estimators.base import hypergradient as hypergradient
from metastep.estimators.central_differences import CentralDifferences as CentralDifferences
from metastep.estimators.evolution import EvolutionStrategies as EvolutionStrategies
from metastep.estimators.forward import Forward as Forward
from metastep.estimators.implicit import Implicit as Implicit
from metastep.estimators.implicit import Neumann as Neumann
from metastep.estimators.log_domain import LogDomain as LogDomain
from metastep.estimators.persistent import (
    PersistentEvolutionStrategies as PersistentEvolutionStrategies,
)
from metastep.estimators.persistent_reverse import PersistentReverse as PersistentReverse
from metastep.estimators.random_directions import RandomDirections as RandomDirections
from metastep.estimators.reverse import Reverse as Reverse
from metastep.estimators.scaled import ScaledEstimate as ScaledEstimate
from metastep.estimators.scaled import scaled_hypergradient as scaled_hypergradient
from metastep.estimators.truncated import TruncatedReverse as TruncatedReverse
from metastep.schedules import Binomial as Binomial
