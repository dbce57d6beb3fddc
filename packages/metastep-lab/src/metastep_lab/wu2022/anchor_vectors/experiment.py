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
from annotated_types import Predicate

from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, Positive, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import no_rows, write_tables
from metastep_lab.wu2022.anchor_vectors.claims import CLAIMS, answer
from metastep_lab.wu2022.anchor_vectors.figures import figures
from metastep_lab.wu2022.anchor_vectors.measures import measure
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
from metastep_lab.wu2022.anchor_vectors.published import MODELS, SIZES, printed
from metastep_lab.wu2022.language import Recipe

HEADS = 4  # of the transformer


VALUES = (Predicate(different), "different values")


@configuration
class Config:
    """The configuration; the defaults are the preset `reduced`.

    What it reduces: small models that are trained here in place of GPT-2 and OPT, and 20,480 tokens
    of the validation part of WikiText-2 in place of the first quarter, 70,000 tokens, of the test
    part, which given models read.

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
    rows = no_rows(NAMES)
    for source in _sources(config, context, text, rows["training"]):
        context.log(f"fitting the anchors of {source.name}")
        measure(source, config, rows)
    write_tables(context, NAMES, rows)
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
    # The last state has a target, too.
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
    directories=tuple(MODELS),
    tokens=70_000,
    skip=0,
    top=SIZES,
)
"""The models of Tables B.1 and B.2, which a user has to bring as directories of these names.

The thesis reads the first quarter of "about 280k tokens": as many as the test part of WikiText-2
has for these models.
"""

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
    printed=printed,
    finite=("training.loss",),
)
