"""MAML on mixed linear regression: theory against exact simulation, and the best learning rates.

Each setting is one of the paper's: Figures 2 and 3 vary the test rate in panel a and the train rate
in panel b, Figure 6 varies the train rate in panels a to d. The outer problem is solved exactly in
every run, all rates see the same draws, and the test loss is averaged over new tasks analytically;
a part of the runs is also tested on drawn tasks, as in the paper.

Tables (one row per observation; `simulated` and `standard_error` over runs):

- `loss`: figure, panel, train_rate, test_rate, theory (Theorem 1 or 2), simulated, standard_error.
- `paired`: figure, panel, train_rate, difference (of the loss to train rate 0, run by run),
  standard_error.
- `optimum`: figure, panel, quantity, theory, simulated, standard_error. Quantities: best_train_rate
  and worst_train_rate (Eq. 8; for p < N the minimum of Theorem 2 alone), gain (loss at the theory's
  best train rate minus loss at 0), best_test_rate, and, exact for finite sizes, loss_at_zero and
  slope_at_zero (by the train rate); leading_slope (Eq. 10) is the slope of Theorems 1 and 2.
- `sweep`: figure, varied, value, loss (at the theory's best train rate), standard_error,
  best_train_rate, shift (relative, from the setting itself), shift_error, spread (over the train
  rates): one quantity varied at a time (see `sweeps`).
- `test_data`: figure, train_rate, test_rate, analytic, sampled (on drawn test tasks), difference
  (sampled minus analytic, run by run), standard_error.
"""

import re
from collections.abc import Mapping
from string import ascii_lowercase
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import MinLen, Predicate

from metastep_lab.bernacchia2021.curves import (
    GridSize,
    mean_and_error,
    rate_grid,
)
from metastep_lab.bernacchia2021.maml_linear.claims import CLAIMS, answer
from metastep_lab.bernacchia2021.maml_linear.figures import figures
from metastep_lab.bernacchia2021.maml_linear.optima import STEP, best_train_rate, optima, predicted
from metastep_lab.bernacchia2021.maml_linear.setting import Setting
from metastep_lab.bernacchia2021.maml_linear.sweeps import sweep
from metastep_lab.bernacchia2021.mixed_regression_runs import rows_on_drawn_tasks, simulate
from metastep_lab.catalog import listing
from metastep_lab.configuration import (
    Count,
    NotNegative,
    Positive,
    Several,
    configuration,
    different,
)
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import Rows, in_turn, no_rows, write_tables

Swept = Literal[
    "noise",
    "variability",
    "test_rate",
    "target_samples",
    "validation_samples",
    "tasks",
    "start",
]
Counts = Annotated[tuple[Count, ...], "integers from 1"]
Positives = Annotated[tuple[Positive, ...], "positive numbers"]


@configuration
class Config:
    """The configuration; by default all settings of the paper.

    The lists up to `train_rate_limit` have one entry for each setting, or a single entry for all
    settings.

    Attributes:
        setting: names: the number of a figure with panels a (along the test rate) and b (along the
            train rate), or number and letter of a panel along the train rate.
        dim: parameters p.
        train_samples: n_t.
        validation_samples: n_v.
        tasks: m.
        target_samples: n_r.
        noise: sigma.
        variability: nu.
        center: every entry of w_0; omega_0 is 0.
        train_rate: alpha_t in panels along the test rate.
        test_rate: alpha_r in panels along the train rate.
        train_rate_limit: train rates go from minus this to this.
        rates: how many train rates, odd.
        test_rates: test rates.
        runs: independent repetitions.
        sweeps: what is varied in the settings with both panels.
        sweep_rates: how many train rates there, odd.
        sweep_runs: their repetitions.
        tested: settings of which some runs are also tested on drawn tasks; absent ones are skipped.
        test_runs: how many runs of each of them.
        test_tasks: drawn test tasks of each of them.
        test_samples: test examples of each task.
    """

    setting: Annotated[
        tuple[str, ...], MinLen(1), Predicate(different), "different names, at least one"
    ] = ("2", "3", "6a", "6b", "6c", "6d")
    dim: Counts = (60, 30, 50, 50, 50, 50)
    train_samples: Counts = (30, 5, 40, 40, 40, 40)
    validation_samples: Counts = (2, 25, 2, 5, 10, 40)
    tasks: Counts = (3, 40, 1, 5, 10, 10)
    target_samples: Counts = (20, 10, 40, 40, 40, 40)
    noise: Positives = (1.0, 0.2, 0.5, 0.5, 0.5, 0.5)
    variability: Annotated[tuple[NotNegative, ...], "numbers from 0"] = (
        *(0.5, 0.2, 0.5, 0.5, 0.5, 0.5),
    )
    center: tuple[float, ...] = (0.0, 0.0, 0.1, 0.1, 0.1, 0.1)
    train_rate: tuple[float, ...] = (0.2,)
    test_rate: tuple[float, ...] = (0.2,)
    train_rate_limit: Positives = (2.1, 0.7, 2.1, 2.1, 2.1, 2.1)
    rates: GridSize = 29
    test_rates: Annotated[
        tuple[float, ...], MinLen(1), Predicate(different), "different numbers"
    ] = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    runs: Several = 5000
    sweeps: tuple[Swept, ...] = get_args(Swept)
    sweep_rates: GridSize = 29
    sweep_runs: Several = 3000
    tested: tuple[str, ...] = ("2", "3")
    test_runs: Several = 100
    test_tasks: Count = 100
    test_samples: Count = 50

    def __post_init__(self):
        """Check the conditions on several fields."""
        names = self.setting
        if not all(re.fullmatch(r"\d+[a-z]?", name) for name in names):
            raise ValueError(f"setting is {names}; allowed are numbers, and numbers with a letter")
        numbers = [name.rstrip(ascii_lowercase) for name in names]
        if any(name.isdigit() and numbers.count(name) > 1 for name in names):
            raise ValueError(f"setting is {names}; allowed is a figure, or panels of it, not both")
        for name in Setting._fields[1:]:
            if len(getattr(self, name)) not in (1, len(names)):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; allowed are one entry, or {len(names)}: one "
                    "for each setting"
                )
        for one in self.settings():
            # The expected loss at train rate 0 has |p - N| - 1 in a denominator (inverse Wishart).
            if abs(one.dim - one.equations) < 2:
                raise ValueError(
                    f"dim is {one.dim} in setting {one.setting}; allowed are numbers at least 2 "
                    f"from validation_samples * tasks = {one.equations}, where losses are infinite"
                )

    def settings(self) -> list[Setting]:
        """Return the settings one by one."""
        count = len(self.setting)
        lists = [getattr(self, name) for name in Setting._fields]
        full = [values * count if len(values) == 1 else values for values in lists]
        return [Setting(*entries) for entries in zip(*full, strict=True)]


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table, in float64."""
    rows, settings = no_rows(HEADERS), config.settings()
    for number, setting in in_turn(context, list(enumerate(settings)), "settings"):
        key = jax.random.fold_in(jax.random.key(context.seed), number)
        # Normal equations square the condition number, and slopes are differences at rates 1e-3
        # apart.
        with jax.enable_x64(True):
            _run_setting(config, setting, key, rows)
    write_tables(context, HEADERS, rows)
    return _metrics(settings, rows)


HEADERS = {
    "loss": "figure panel train_rate test_rate theory simulated standard_error",
    "paired": "figure panel train_rate difference standard_error",
    "optimum": "figure panel quantity theory simulated standard_error",
    "sweep": "figure varied value loss standard_error best_train_rate shift shift_error spread",
    "test_data": "figure train_rate test_rate analytic sampled difference standard_error",
}


def _run_setting(config: Config, setting: Setting, key: jax.Array, rows: Rows) -> None:
    """Simulate one setting, and add its rows to those of every table."""
    grid = rate_grid(setting.train_rate_limit, config.rates)
    best, count = best_train_rate(setting), config.rates
    # In this order: the rows below and `optima` go by position.
    train = np.concatenate([grid, [setting.train_rate, best, -STEP, STEP]])
    test = np.array([setting.test_rate, *(config.test_rates if setting.both_rates else ())])
    rates = jnp.asarray(train), jnp.asarray(test)
    found = simulate(key, setting.distribution, setting.design, *rates, runs=config.runs)
    losses, distances = np.asarray(found.loss), np.asarray(found.distance)
    figure, panel = setting.figure, setting.panel
    numbers = np.stack([predicted(setting, train[:, None], test), *mean_and_error(losses)], axis=-1)
    for rate, values in zip(grid, numbers[:count, 0], strict=True):
        rows["loss"].append((figure, panel, rate, setting.test_rate, *values))
    for rate, values in zip(test[1:], numbers[count, 1:], strict=True):
        rows["loss"].append((figure, "a", setting.train_rate, rate, *values))
    along = losses[:, :, 0]
    paired = along[:, :count] - along[:, [count // 2]]
    paired = zip(grid, *mean_and_error(paired), strict=True)
    rows["paired"] += [(figure, panel, *values) for values in paired]
    for quantity, value, statistic in optima(setting, grid, best, along, distances):
        place = "a" if quantity == "best_test_rate" else panel
        rows["optimum"].append((figure, place, quantity, value, *statistic))
    if setting.both_rates:
        sizes = config.sweep_rates, config.sweep_runs
        rows["sweep"] += sweep(setting, best, config.sweeps, *sizes, key)
    if setting.setting in config.tested:
        drawn = rows_on_drawn_tasks(
            key,
            setting.distribution,
            setting.design,
            (setting.train_rate, config.test_rates),
            runs=config.test_runs,
            test_tasks=config.test_tasks,
            test_samples=config.test_samples,
        )
        rows["test_data"] += [(figure, setting.train_rate, *row) for row in drawn]


def _metrics(settings: list[Setting], rows: Mapping[str, list[tuple]]) -> dict[str, float]:
    metrics = {}
    for setting in settings:
        where = (setting.figure, setting.panel)
        errors = [100 * (row[4] / row[5] - 1) for row in rows["loss"] if row[:2] == where]
        metrics[f"theory_error_{setting.setting}"] = max(errors, key=abs)
        measured = {row[2]: row[4] for row in rows["optimum"] if row[:2] == where}
        for quantity in ("best_train_rate", "slope_at_zero"):
            metrics[f"{quantity}_{setting.setting}"] = measured[quantity]
    return metrics


EXPERIMENT = Experiment(
    listing("maml-linear"),
    config=Config,
    presets={
        "quick": Config(
            runs=400,
            tested=("2",),
            test_runs=20,
            sweep_rates=9,
            sweep_runs=200,
        ),
        "paper": Config(),
    },
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "negative-train-rate-overparameterized",
            "slope-positive",
            "positive-test-rate",
            "theory-accurate",
            "accurate-where-strong",
            "exact-at-zero",
            "analytic-test-loss",
        }
    ),
    answer=answer,
    finite=("loss.simulated", "test_data.analytic"),
)
