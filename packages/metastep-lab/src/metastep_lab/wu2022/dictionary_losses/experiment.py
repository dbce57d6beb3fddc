"""Theorems 2.3.2 and 2.3.6 of the thesis as constructions, with measured losses.

A dictionary that is built as in the proof of Theorem 2.3.2 has a smaller reconstruction loss than
the true one, because it fits the noise. The masked loss, with a fixed mask and codes that are not
normalized, is smallest at the truth as the signals grow (Theorem 2.3.6). All losses are means over
new signals, the same for the dictionaries that are compared.

Tables (one row per observation):

- `built`: dim, n_nonzero (k), norm (of A z, all codes alike), length (of the built atoms: 2, or 1
  without those near a true atom), angles (directions in each plane of the built dictionary), atoms
  (q of it), true_loss (L(A, k), over every support), built_loss (of
  matching pursuit, at least L(B, k)), gain (their mean difference in units of k sigma^2),
  standard_error, distance (d_R(A, B)), coherence and least_value (sigma_min^2 of A).
- `masked`: scale (sigma_z), true_excess (of the truth's masked loss over that of the best
  prediction with known supports, in units of the noise of the hidden coordinates), true_error,
  built_excess, built_error (the same for a built dictionary), coherence (of the visible part).
"""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, MinLen, Predicate

from metastep.sparse_coding import (
    coherence,
    draw_signals,
    random_dictionary,
    recovery_error,
)
from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    ONCE,
    Ascending,
    Count,
    Positive,
    Several,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn
from metastep_lab.tables import columns
from metastep_lab.wu2022.dictionary_losses.claims import CLAIMS, answer
from metastep_lab.wu2022.dictionary_losses.figures import figures
from metastep_lab.wu2022.dictionary_losses.losses import (
    built_dictionary,
    least_errors,
    masked_errors,
    oracle_errors,
    pursued_errors,
)

Numbers = Annotated[
    tuple[Positive, ...], MinLen(1), Predicate(different), "different positive ones"
]


@configuration
class Config:
    """The configuration. The thesis gives no sizes: all are our choices.

    Attributes:
        dims: d of the built dictionaries; the truth has 2 d atoms.
        n_nonzero: k.
        noise: the standard deviation sigma is this over sqrt(d).
        norms: |z| of the signals of the built dictionaries.
        angles: directions in each plane.
        signals: how many judge a built dictionary.
        masked_dim: d of the masked loss.
        hidden: its hidden coordinates, the last ones.
        masked_atoms: p.
        masked_nonzero: k.
        scales: standard deviations of the entries of the codes, ascending, in units of sigma.
        masked_signals: how many judge it.
    """

    dims: Annotated[tuple[Annotated[int, Ge(4)], ...], *ONCE] = (20, 40, 80)
    n_nonzero: Annotated[tuple[Literal[1, 2], ...], *ONCE] = (1, 2)
    noise: Positive = 1.0
    norms: Numbers = (1.0, 4.0, 16.0)
    angles: Ascending = (4, 8, 16, 32)
    signals: Several = 2000
    masked_dim: Several = 120
    hidden: Count = 12
    masked_atoms: Several = 20
    masked_nonzero: Count = 2
    scales: Numbers = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    masked_signals: Several = 100_000

    def __post_init__(self):
        """Refuse masks that hide all, and scales that do not ascend."""
        if self.hidden >= self.masked_dim:
            raise ValueError(
                f"hidden is {self.hidden}; allowed are integers below masked_dim, {self.masked_dim}"
            )
        if list(self.scales) != sorted(self.scales):
            raise ValueError(f"scales is {self.scales}; allowed are ascending numbers")
        most = min(self.masked_atoms, self.masked_dim - self.hidden)
        if self.masked_nonzero > most:
            raise ValueError(
                f"masked_nonzero is {self.masked_nonzero}; allowed are integers up to {most}"
            )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Build the dictionaries and measure both losses."""
    built, cells = [], list(product(config.dims, config.n_nonzero, config.norms))
    for cell in in_turn(context, cells, "built dictionaries"):
        # Not of the norm: all norms have the same truth, codes and noise.
        rng = np.random.default_rng([context.seed, *map(int, cell[:2])])
        built += [(*cell, *row) for row in _built(config, *cell, rng)]
    names = (
        "dim n_nonzero norm length angles atoms true_loss built_loss gain standard_error distance "
    )
    context.table("built", columns(f"{names} coherence least_value", built))
    context.log("masked losses")
    names = "scale true_excess true_error built_excess built_error coherence"
    context.table("masked", columns(names, _masked(config, context.seed)))
    return {}


def _built(
    config: Config, dim: int, n_nonzero: int, norm: float, rng: np.random.Generator
) -> list[tuple]:
    """Return the rows of `built` of one truth, from `length` on."""
    truth, sigma = random_dictionary(rng, dim, 2 * dim), config.noise / dim**0.5
    clean = draw_signals(rng, truth, config.signals, n_nonzero, 0.0).signals
    signals = norm * clean + sigma * rng.standard_normal(clean.shape)
    own = least_errors(signals, truth, n_nonzero)
    least_value = np.linalg.svd(truth, compute_uv=False)[-1] ** 2
    rows = []
    for length, angles in product((1.0, 2.0), config.angles):
        built = built_dictionary(truth, angles, apart=length == 1)
        errors = pursued_errors(signals, built, n_nonzero)
        gain = (own - errors) / (n_nonzero * sigma**2)
        numbers = own.mean(), errors.mean(), gain.mean(), gain.std(ddof=1) / gain.size**0.5
        distance = recovery_error(truth, length * built)
        rows.append(
            (length, angles, built.shape[1], *numbers, distance, coherence(truth), least_value)
        )
    return rows


def _masked(config: Config, seed: int) -> list[tuple]:
    """Return the rows of `masked`; the noise has a standard deviation of 1."""
    rng = np.random.default_rng([seed, 1])
    truth = random_dictionary(rng, config.masked_dim, config.masked_atoms)
    visible = config.masked_dim - config.hidden
    built = built_dictionary(truth, config.angles[0], apart=True)
    rows = []
    for scale in config.scales:
        count = config.masked_nonzero
        drawn = draw_signals(rng, truth, config.masked_signals, count, 1.0, scale=scale)
        best = oracle_errors(drawn.signals, drawn.codes, truth, visible, scale**-2)
        numbers = []
        for dictionary, judged in (
            (truth, slice(None)),
            # Its many atoms make it slow, and its excess is far from 0: fewer signals are enough.
            (built, slice(config.masked_signals // 20)),
        ):
            errors = masked_errors(drawn.signals[judged], dictionary, count, visible)
            excess = (errors - best[judged]) / config.hidden
            numbers += [excess.mean(), excess.std(ddof=1) / excess.size**0.5]
        rows.append((scale, *numbers, coherence(truth[:visible])))
    return rows


EXPERIMENT = Experiment(
    listing("dictionary-losses"),
    config=Config,
    presets={
        "quick": Config(
            dims=(20, 40), norms=(1.0, 8.0), angles=(4, 16), signals=1000, masked_signals=20_000
        ),
        "full": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(),
    answer=answer,
    finite=("built.gain", "masked.true_excess"),
)
