"""What `anchor-vectors` measures of a language model that has read a text."""

from typing import Any

import numpy as np

from metastep.anchors import (
    AnchorFit,
    dictionary_statistics,
    find_clusters,
    fit_anchor,
    fit_groups,
    partition_histograms,
)
from metastep_lab.parts import Rows
from metastep_lab.wu2022.anchor_vectors.models import Source
from metastep_lab.wu2022.anchor_vectors.reading import shown_bulk

BINS = 50
PAIRS = 20_000


def measure(source: Source, config: Any, rows: Rows) -> None:
    """Add the rows of one model to every table."""
    name, words = source.name, source.unembedding
    everything = fit_anchor(source.states, words, config.top)
    chosen = np.concatenate([np.arange(len(window)) >= config.skip for window in source.states])
    # States of group -1 are left out. Partition functions, the expensive part, are computed once.
    (fit,) = fit_groups(source.states, everything, np.where(chosen, 0, -1))
    rows["every_position"] += _errors(name, everything)
    rows["mse"] += _errors(name, fit)
    zero = fit.top.index(0)
    clusters = find_clusters(fit.log_partitions[:, zero])
    labels = (name, source.architecture, source.seed, int(source.trained))
    size = (source.parameters, *words.shape, len(source.targets))
    quality = _perplexity(source, everything.log_partitions[:, zero]), fit.rank
    separation = clusters.separation if clusters else np.nan
    rows["models"].append((*labels, *size, *quality, separation))
    statistics = dictionary_statistics(words, PAIRS)
    values = statistics.singular_values
    norms = np.quantile(statistics.norms, (0.05, 0.5, 0.95))
    # The stable rank is the sum of squares over the largest square.
    shape = 1 / statistics.stable_rank, values[1] / values[0], statistics.stable_rank
    rows["dictionary"].append((name, *shape, statistics.mean_cosine, *norms))
    rows["spectrum"] += [(name, index, value) for index, value in enumerate(values, start=1)]
    for k, column in zip(fit.top, fit.log_partitions.T, strict=True):
        low, high = np.quantile(column, (0.05, 0.95))
        rows["partition"].append((name, k, column.mean(), column.std(), low, high))
    _add_histograms(name, config, fit, statistics.norms, statistics.cosines, rows["histograms"])
    # With fewer tokens than dimensions an anchor fits them exactly.
    if clusters and np.bincount(clusters.labels).min() >= words.shape[1]:
        groups = np.full(len(chosen), -1)
        groups[chosen] = clusters.labels
        for number, part in enumerate(fit_groups(source.states, everything, groups)):
            where = name, number, clusters.shares[number], clusters.centers[number]
            rows["clusters"] += [(*where, *pair) for pair in zip(part.top, part.mse, strict=True)]


def _errors(name: str, fit: AnchorFit) -> list[tuple]:
    numbers = zip(fit.top, fit.mse, fit.r2, fit.held_out_mse, fit.variance, strict=True)
    return [(name, *row) for row in numbers]


def _perplexity(source: Source, log_partitions: np.ndarray) -> float:
    """Return exp of the mean negative log probability of the next tokens."""
    states = np.concatenate(source.states)
    logits = np.einsum("ij,ij->i", states, source.unembedding[source.targets], dtype=np.float64)
    return float(np.exp(np.mean(log_partitions - logits)))


def _add_histograms(
    name: str,
    config: Any,
    fit: AnchorFit,
    norms: np.ndarray,
    cosines: np.ndarray,
    rows: list[tuple],
) -> None:
    places = [fit.top.index(0), fit.top.index(shown_bulk(config.top))]
    found = partition_histograms(fit.log_partitions[:, places], BINS)
    quantities = zip(("log Z", "log Z_bulk"), found.counts, strict=True)
    drawn = [(quantity, found.edges, counts) for quantity, counts in quantities]
    for quantity, values in (("norm", norms), ("cosine", cosines)):
        counts, edges = np.histogram(values, BINS)
        drawn.append((quantity, edges, counts))
    for quantity, edges, counts in drawn:
        cells = zip(edges[:-1], edges[1:], counts, strict=True)
        rows += [(name, quantity, *cell) for cell in cells]
