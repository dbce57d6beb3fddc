"""Is the advice of `diagnose` right? Each problem is compared with float64 and with its outcome.

Tables (one row per observation):

- `advice`: problem, seed, horizon, hyperparameters, recommended (or none), its
  cosine to the hypergradient in float64 beside cosine_predicted of the diagnosis, implicit_error
  (relative, of implicit differentiation; NaN where it refuses the problem), cost (processor time of
  the first diagnosis over that of the first call of `Reverse()`, compilation included in both),
  work (inner steps and products with their Jacobians, likewise), seconds (of the diagnosis),
  contraction, lyapunov_exponent (nats per step), digits_lost beside true_digits_lost (of float32
  against float64), chaotic beside truly_chaotic (1 or 0), disagreement (relative, of the derivative
  and central differences in float64), kinks_at_01 and kinks_at_1 (the same along the gradient over
  distances of .01 and .1), metasmoothness (NaN where the gradient is zero), warnings (their kinds,
  separated by spaces).
- `windows`: problem, seed, window, cosine, relative_error, bound (10).
- `sizes`: problem, what (the inner state, or the memory of an estimator), predicted and true, in
  bytes.
- `outcomes`: problem, seed, estimator, recommended (1 or 0), seconds (of one hypergradient), steps
  (outer steps in the time that `outer_steps` of the recommended estimator take, at most 60),
  improvement (of the objective, by Adam on the hyperparameters with the best of five step sizes,
  on runs with other keys); empty if `outer_steps` is 0.
"""

from collections.abc import Mapping
from typing import Annotated, get_args

import jax
from annotated_types import Ge, Le, MinLen, Predicate

from metastep import saving
from metastep.diagnosis import diagnose
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, configuration, different
from metastep_lab.experiment import Context, Experiment
from metastep_lab.studies.advisor.claims import CLAIMS, answer
from metastep_lab.studies.advisor.figures import figures
from metastep_lab.studies.advisor.judging import ADVICE, OUTCOMES, SIZES, WINDOWS, judge
from metastep_lab.studies.advisor.problems.sequences import Text
from metastep_lab.studies.advisor.problems.table import Name, Sources, cases
from metastep_lab.tables import columns

TABLES = {"advice": ADVICE, "windows": WINDOWS, "sizes": SIZES, "outcomes": OUTCOMES}
QUICK: tuple[Name, ...] = (
    "toy-2000",
    "counter-example",
    "network",
    "regression-adam",
    "regression-batches",
    "logistic-map",
    "converged",
    "edge",
    "chaotic",
)
"""Problems that compile in a second or two."""


@configuration
class Config:
    """The configuration.

    `paper` has every problem and three seeds; `reduced` one seed and 200 examples of hypercleaning;
    `quick` also leaves out 23 problems, among them all convolutional networks.

    Attributes:
        problems: which of them.
        seeds: how many random keys; the first is the seed of the run.
        examples: training examples of hypercleaning, and as many validation examples.
        outer_steps: of the recommended estimator; the others get the same time. 0 omits tuning,
            which takes hours on the networks.
        text: the text of the transformer: descriptions of data sets that come with scikit-learn, or
            WikiText-2.
    """

    problems: Annotated[
        tuple[Name, ...], MinLen(1), Predicate(different), "different ones, at least one"
    ] = get_args(Name)
    seeds: Count = 3
    examples: Annotated[int, Ge(50), Le(800)] = 800
    outer_steps: Annotated[int, Ge(0)] = 20
    text: Text = "descriptions"


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Diagnose every problem, and compare the advice with the truth."""
    made = cases(Sources(config.examples, config.text, context.data))
    rows: dict[str, list[tuple]] = {name: [] for name in TABLES}
    for done, name in enumerate(config.problems):
        context.progress(done, len(config.problems), name)
        path = context.checkpoint(name)
        if not (context.resume and path.exists()):
            # XLA crashes at some 65,000 memory maps, which the programs of seven networks need.
            jax.clear_caches()
            # Loading JAX is not a cost of the problem.
            diagnose(*made["toy-100"](), key=jax.random.key(0))
            seeds = range(context.seed, context.seed + config.seeds)
            found = judge(made[name], seeds, config.outer_steps)
            saving.save(path, {}, {table: getattr(found, table) for table in TABLES})
        kept = saving.load(path, {})[1]
        for table in TABLES:
            rows[table] += [(name, *row) for row in kept[table]]
    context.progress(len(config.problems), len(config.problems), "judged")
    for table, names in TABLES.items():
        context.table(table, columns(names, rows[table]))
    return {"largest_cost": max(row[ADVICE.split().index("cost")] for row in rows["advice"])}


EXPERIMENT = Experiment(
    listing("advisor"),
    config=Config,
    presets={
        "quick": Config(problems=QUICK, seeds=1, examples=200),
        "reduced": Config(seeds=1, examples=200),
        "paper": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "no-false-alarms",
            "no-misses",
            "chaos",
            "advice-is-right",
            "counter-example",
            "implicit-warned",
        }
    ),
    answer=answer,
)
