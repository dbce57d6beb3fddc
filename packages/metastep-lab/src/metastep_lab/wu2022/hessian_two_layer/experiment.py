"""A wide random two-layer network: the decoupling of its Hessian, and its top eigenspace.

Inputs are rectified standard normals, weights have variance 1 / fan-in, and the number of inputs is
the number of units to the power 1.2. The thesis says that every unit is active in half of the
examples (Lemma C.2.11), which gives the row span of the second layer as the top eigenspace. A unit
with weights of sum s is active in the part Phi(s / sqrt(pi - 1)) of them; the row span times these
shares is the eigenspace.

Tables (one row per observation):

- `overlaps`: units, inputs, seed, gap_output and gap_hessian (lambda_c / lambda_(c-1) of E[M] and
  of the Hessian H), mean_share (of |E z|^2 in E |z|^2 for the scores z, given the weights), shift
  (of the mean score where the first two units are active, in standard deviations), least
  (lambda_(c-1) / lambda_1 of E[A]), then overlaps of top (c - 1)-dimensional eigenspaces: of E[M]
  with independent (that of M* with an independent copy of the active units), printed (that of
  (4.8)), row_span (of the second layer, without 1^T W), weighted_row_span (the same times the
  shares); and kronecker (of H with E[M] (x) E[x x^T]).
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import jax
from annotated_types import Ge, Le, MultipleOf, Predicate

from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn, kept
from metastep_lab.tables import columns
from metastep_lab.wu2022.hessian_two_layer.claims import CLAIMS, answer
from metastep_lab.wu2022.hessian_two_layer.figures import figures
from metastep_lab.wu2022.hessian_two_layer.samples import BATCH, Measured, draw_network, measure

COLUMNS = " ".join(("units", "inputs", "seed", *Measured._fields))


Widths = Annotated[tuple[int, ...], Predicate(different), "different integers"]
Batches = Annotated[int, Ge(BATCH), MultipleOf(BATCH), f"multiples of {BATCH}"]


@configuration
class Config:
    """The configuration.

    Attributes:
        units: widths n of the hidden layer.
        classes: outputs c.
        samples: inputs for the output Hessian, a multiple of 200.
        hessian_samples: inputs for the Hessian of the layer, a multiple of 200.
        seeds: networks for each width.
    """

    units: Widths = (50, 100, 200, 400, 800)
    classes: Annotated[int, Ge(2), Le(50)] = 10
    samples: Batches = 20_000
    hessian_samples: Batches = 400
    seeds: Count = 3

    def __post_init__(self):
        """Refuse hidden layers that are not wider than the output."""
        if not self.units or min(self.units) <= self.classes:
            raise ValueError(
                f"units is {self.units}; allowed are integers above {self.classes}, the number of "
                "classes, at least one"
            )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Measure every network; finished ones survive an interruption."""
    cells = [(units, seed) for units in sorted(config.units) for seed in range(config.seeds)]
    rows = []
    for cell in in_turn(context, cells, "{0[0]} units, seed {0[1]}".format):
        found = kept(context, "{}-{}".format(*cell), partial(_cell, config, context.seed, *cell))
        rows.append((cell[0], *found[1]["row"]))
    context.table("overlaps", columns(COLUMNS, rows))
    return {}


def _cell(config: Config, run_seed: int, units: int, seed: int) -> tuple[dict, dict]:
    key = jax.random.fold_in(jax.random.key(run_seed), seed)
    network_key, input_key = jax.random.split(jax.random.fold_in(key, units))
    network = draw_network(network_key, units, config.classes)
    found = measure(network, input_key, config.samples // BATCH, config.hessian_samples // BATCH)
    return {}, {"row": [network.first.shape[1], seed, *found]}


EXPERIMENT = Experiment(
    listing("hessian-two-layer"),
    config=Config,
    presets={"quick": Config(units=(50, 100, 200)), "paper": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset({"output-gap", "independent-copy", "decoupling", "weighted-row-span"}),
    answer=answer,
)
