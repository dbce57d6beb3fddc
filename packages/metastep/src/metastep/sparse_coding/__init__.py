"""Sparse coding with hard sparsity: pursuit, dictionary learning with masking, and recovery."""

from metastep.sparse_coding.dictionary_learning import LearnedDictionary as LearnedDictionary
from metastep.sparse_coding.dictionary_learning import learn_dictionary as learn_dictionary
from metastep.sparse_coding.dictionary_learning import masked_loss as masked_loss
from metastep.sparse_coding.matching_pursuit import (
    orthogonal_matching_pursuit as orthogonal_matching_pursuit,
)
from metastep.sparse_coding.recovery import coherence as coherence
from metastep.sparse_coding.recovery import cosine_recovery_error as cosine_recovery_error
from metastep.sparse_coding.recovery import recovery_error as recovery_error
from metastep.sparse_coding.recovery import (
    restricted_isometry_bounds as restricted_isometry_bounds,
)
from metastep.sparse_coding.recovery import (
    restricted_isometry_constant as restricted_isometry_constant,
)
from metastep.sparse_coding.synthetic import SparseSignals as SparseSignals
from metastep.sparse_coding.synthetic import draw_signals as draw_signals
from metastep.sparse_coding.synthetic import local_start as local_start
from metastep.sparse_coding.synthetic import random_dictionary as random_dictionary
from metastep.sparse_coding.synthetic import sample_start as sample_start
