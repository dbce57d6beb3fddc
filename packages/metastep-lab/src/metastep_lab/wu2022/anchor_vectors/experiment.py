"""Anchor vectors of language models: log Z_bulk is nearly linear in the state, log Z is not.

Small models with tied embeddings are trained here and compared with the same models untrained. Any
causal language model of the Hugging Face library can be given as a directory.

Tables (one row per observation):

- `models`: model, architecture, seed, trained (1 | 0), parameters, vocabulary, hidden, tokens (that
  it reads), perplexity (on them), rank (of the hidden states), separation (of two
  clusters of log Z in standard deviations; empty where there is one cluster).
- `mse`: model, top (words k that the bulk leaves out), mse, r2, held_out_mse, variance (of log
  Z_bulk), in nats squared; without the first `skip` states of each window.
- `every_position`: the same with these states.
- `dictionary`: model, top_energy (share of the largest singular value in the sum of squares),
  second_ratio (of the second singular value to the first), stable_rank, mean_cosine (of all pairs
  of words), norm_low, norm_median, norm_high (5%, 50%, 95%).
- `spectrum`: model, index, singular_value.
- `partition`: model, top, mean, deviation, low, high (5%, 95%) of log Z_bulk in nats.
- `histograms`: model, quantity (log Z | log Z_bulk | norm | cosine), lower, upper, count.
- `clusters`: model, cluster, share, center, top, mse (of the cluster's own anchor); of models with
  two clusters of log Z and at least as many tokens as dimensions.
- `training`: model, step, loss.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated

import jax
import numpy as np
from annotated_types import Predicate

from metastep.anchors import (
    AnchorFit,
    dictionary_statistics,
    find_clusters,
    fit_anchor,
    fit_groups,
    partition_histograms,
)
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Positive, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.wu2022.anchor_vectors.claims import CLAIMS, answer, shown_bulk
from metastep_lab.wu2022.anchor_vectors.figures import figures
from metastep_lab.wu2022.anchor_vectors.models import (
    Architecture,
    Source,
    Text,
    encode,
    opened,
    read_text,
    reader,
    trained,
    untrained,
)
from metastep_lab.wu2022.language import Recipe

BINS = 50
PAIRS = 20_000
HEADS = 4  # of the transformer


VALUES = (Predicate(different), "different values")


@configuration
class Config:
    """The configuration; the defaults are the preset `reduced`.

    What it reduces: small models that are trained here in place of GPT-2 and OPT, and 20,480 tokens
    in place of the thesis's 280,000. They are not the thesis's part of WikiText-2, and longer
    windows than 1,024 words, as OPT's are, are cut to that in every preset.

    Attributes:
        text: wikitext2, embedded (the language reference that ships with Python), or the path of a
            text file.
        models: which architectures are trained here; may be empty where there are directories.
        seeds: trainings of each architecture.
        untrained: whether each model is also measured before training.
        directories: of Hugging Face causal models with their tokenizers.
        tokens: the largest number of tokens that the models read for the anchors.
        skip: first words of each window, whose states have hardly any context: no anchor is
            fitted on them. The windows of the paper's models are 1024 words long and more.
        top: numbers k of most probable words that the bulk leaves out; 0 is log Z.
        vocabulary: words of the models trained here.
        hidden: size of their states.
        steps: of their training.
        batch: windows of text in each step.
        context: words in each window.
        step_size: of Adam, the largest.
        embedding_scale: standard deviation of the embedding before training.
    """

    text: str = "wikitext2"
    models: Annotated[tuple[Architecture, ...], *VALUES] = ("gru", "transformer")
    seeds: Count = 2
    untrained: bool = True
    directories: Annotated[tuple[str, ...], *VALUES] = ()
    tokens: Count = 20480
    skip: int = 4
    top: Annotated[tuple[int, ...], *VALUES] = (0, 10, 100, 1000)
    vocabulary: Count = 5000
    hidden: Count = 64
    steps: int = 1200
    batch: int = 16
    context: int = 64
    step_size: float = 3e-3
    embedding_scale: Positive = 0.02

    def __post_init__(self):
        """Check the conditions on several fields."""
        if not self.models and not self.directories:
            raise ValueError("models is (); allowed: gru and transformer, or none with directories")
        if "transformer" in self.models and self.hidden % HEADS:
            raise ValueError(f"hidden is {self.hidden}; allowed are multiples of {HEADS}")
        if 0 not in self.top or len(self.top) < 2 or min(self.top) < 0:
            raise ValueError(f"top is {self.top}; allowed: 0 and at least one integer above it")
        if self.models and max(self.top) >= self.vocabulary:
            raise ValueError(
                f"top is {self.top}; allowed are integers below the vocabulary, {self.vocabulary}"
            )
        if not 0 <= self.skip < self.context:
            raise ValueError(
                f"skip is {self.skip}; allowed are integers from 0 and below the context, "
                f"{self.context}"
            )
        fewest = max(self.hidden, self.context)
        if self.tokens < fewest:
            raise ValueError(
                f"tokens is {self.tokens}; allowed are integers from {fewest}, a window of text "
                "and no fewer tokens than dimensions"
            )
        self.recipe()

    def recipe(self) -> Recipe:
        """Return how models are trained; its fields are checked there."""
        return Recipe(self.steps, self.batch, self.context, self.step_size)


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Train the models, fit their anchors, measure their dictionaries."""
    text = read_text(config.text, context.data)
    rows: dict[str, list[tuple]] = {name: [] for name in NAMES}
    for source in _sources(config, context, text, rows["training"]):
        context.log(f"fitting the anchors of {source.name}")
        _measure(source, config, rows)
    for name, titles in NAMES.items():
        context.table(name, columns(titles, rows[name]))
    return {"models": len(rows["models"])}


NAMES = {
    "models": "model architecture seed trained parameters vocabulary hidden tokens perplexity rank "
    "separation",
    "mse": "model top mse r2 held_out_mse variance",
    "every_position": "model top mse r2 held_out_mse variance",
    "dictionary": "model top_energy second_ratio stable_rank mean_cosine norm_low norm_median "
    "norm_high",
    "spectrum": "model index singular_value",
    "partition": "model top mean deviation low high",
    "histograms": "model quantity lower upper count",
    "clusters": "model cluster share center top mse",
    "training": "model step loss",
}


def _sources(config: Config, context: Context, text: Text, losses: list[tuple]) -> Iterator[Source]:
    """Yield every model, given or trained, after it has read the text."""
    # The user's models come first, so that a wrong directory is found before any training.
    yield from opened(config.directories, text, config.tokens)
    if config.models:
        yield from _trained_here(config, context, text, losses)


def _trained_here(
    config: Config, context: Context, text: Text, losses: list[tuple]
) -> Iterator[Source]:
    train_words, test_words = encode(text, config.vocabulary)
    shortest = min(len(train_words), len(test_words))
    if shortest <= config.context:
        raise ValueError(
            f"context is {config.context}; the text allows integers below {shortest}, the words of "
            "its shorter part"
        )
    words = test_words[: config.tokens + 1]
    for architecture, seed in product(config.models, range(config.seeds)):
        key = jax.random.fold_in(jax.random.key(context.seed), seed)
        begin_key, train_key = jax.random.split(key)
        sizes = config.vocabulary, config.hidden, config.context
        model = untrained(architecture, *sizes, config.embedding_scale, begin_key)
        name = f"{architecture}-{seed}"
        found, path = trained(model, config.recipe(), train_words, train_key, context, name)
        losses += [(name, step, loss) for step, loss in enumerate(path)]
        yield reader(name, architecture, seed, True, found, words, config.context)
        if config.untrained:
            before = f"{name}-untrained"
            yield reader(before, architecture, seed, False, model, words, config.context)


def _measure(source: Source, config: Config, rows: dict[str, list[tuple]]) -> None:
    """Add the rows of one model to every table."""
    name, words = source.name, source.unembedding
    everything = fit_anchor(source.states, words, config.top)
    chosen = np.concatenate([np.arange(len(window)) >= config.skip for window in source.states])
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
    shape = 1 / statistics.stable_rank, values[1] / values[0], statistics.stable_rank
    rows["dictionary"].append((name, *shape, statistics.mean_cosine, *norms))
    rows["spectrum"] += [(name, index, value) for index, value in enumerate(values, start=1)]
    for k, column in zip(fit.top, fit.log_partitions.T, strict=True):
        low, high = np.quantile(column, (0.05, 0.95))
        rows["partition"].append((name, k, column.mean(), column.std(), low, high))
    _add_histograms(name, config, fit, statistics.norms, statistics.cosines, rows["histograms"])
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
    config: Config,
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


QUICK = Config(
    text="embedded",
    seeds=1,
    tokens=8192,
    vocabulary=2000,
    steps=600,
    batch=16,
    top=(0, 10, 100, 500),
)

PAPER = Config(
    models=(),
    untrained=False,
    directories=("gpt2-large", "gpt2-xl", "opt-125m", "opt-1.3b"),
    tokens=280_000,
    skip=0,
)
"""The models of Table 3.1, which a user has to bring as directories of these names."""

EXPERIMENT = Experiment(
    listing("anchor-vectors"),
    config=Config,
    presets={"quick": QUICK, "reduced": Config(), "paper": PAPER},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {"bulk-is-linear-with-context", "untrained-control", "one-dominant-direction"}
    ),
    answer=answer,
    finite=("training.loss",),
)
