"""Anchor vectors of language models: whether downstream tasks can rely on the representation.

A language model whose last layer is log-linear predicts word j with probability
exp(<h, v_j>) / Z. An anchor vector v0 has <h, v0> close to log Z_bulk for every hidden state h,
where the bulk excludes the most probable words. It fixes the shift of the logits, which the softmax
leaves undetermined. All functions take arrays; `hugging_face` reads models.
"""

from metastep.anchors.bulk import least_squares_anchor as least_squares_anchor
from metastep.anchors.bulk import log_bulk as log_bulk
from metastep.anchors.bulk import minimax_anchor as minimax_anchor
from metastep.anchors.clusters import Clusters as Clusters
from metastep.anchors.clusters import find_clusters as find_clusters
from metastep.anchors.clusters import fit_groups as fit_groups
from metastep.anchors.counterexamples import shift_logits as shift_logits
from metastep.anchors.counterexamples import silence_words as silence_words
from metastep.anchors.counterexamples import useless_shift as useless_shift
from metastep.anchors.dictionary import DictionaryStatistics as DictionaryStatistics
from metastep.anchors.dictionary import dictionary_statistics as dictionary_statistics
from metastep.anchors.downstream import DownstreamHead as DownstreamHead
from metastep.anchors.downstream import downstream_head as downstream_head
from metastep.anchors.fit import AnchorFit as AnchorFit
from metastep.anchors.fit import fit_anchor as fit_anchor
from metastep.anchors.log_linear import LogLinearModel as LogLinearModel
from metastep.anchors.log_linear import divergences as divergences
from metastep.anchors.partition import Histograms as Histograms
from metastep.anchors.partition import log_bulk_partitions as log_bulk_partitions
from metastep.anchors.partition import partition_histograms as partition_histograms
from metastep.anchors.transfer import Population as Population
from metastep.anchors.transfer import TransferReport as TransferReport
from metastep.anchors.transfer import measure_transfer as measure_transfer
