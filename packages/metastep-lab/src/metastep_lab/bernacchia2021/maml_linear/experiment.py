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
- `test_data`: figure, train_rate, test_rate, analytic, sampled (on drawn test tasks), difference
  (sampled minus analytic, run by run), standard_error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import fminbound

from metastep_lab.bernacchia2021.curves import best_rate, jackknife, mean_and_error, rate_grid
from metastep_lab.bernacchia2021.maml_linear.claims import answer, claims, figures
from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression
from metastep_lab.bernacchia2021.mixed_regression_runs import Simulation, simulate
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.theory import maml as theory

STEP = 1e-3
"""Half the width of the central difference at train rate 0; its bias is below 1e-4 of the slope."""


class Setting(NamedTuple):
    """One setting of the paper; the fields are those of `Config`, one entry of each."""

    setting: str
    dim: int
    train_samples: int
    validation_samples: int
    tasks: int
    target_samples: int
    noise: float
    variability: float
    center: float
    train_rate: float
    test_rate: float
    train_rate_limit: float

    @property
    def equations(self) -> int:
        """N, the validation examples of all tasks."""
        return self.validation_samples * self.tasks

    @property
    def figure(self) -> int:
        """The paper's figure."""
        return int(self.setting.rstrip(ascii_lowercase))

    @property
    def panel(self) -> str:
        """The panel along the train rate."""
        return "b" if self.both_rates else self.setting[-1]

    @property
    def both_rates(self) -> bool:
        """Whether the figure has a panel (a) along the test rate, too."""
        return self.setting.isdigit()

    @property
    def new_task(self) -> dict[str, Any]:
        """What the loss on a new task depends on."""
        return {name: getattr(self, name) for name in NEW_TASK}

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of the theory beside rates, `train_samples` and `new_task`."""
        distance = abs(self.center) * self.dim**0.5
        names = ("validation_samples", "tasks")
        return {name: getattr(self, name) for name in names} | {"init_distance": distance}


NEW_TASK = ("dim", "target_samples", "noise", "variability")
COUNTS = ("dim", "train_samples", "validation_samples", "tasks", "target_samples")


@dataclass(frozen=True)
class Config:
    """The configuration; by default all settings of the paper.

    Of the lists up to `train_rate_limit`, each has one entry for each setting, or a single one that
    holds for all.

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
        center: every entry of w_0, from which omega_0 = 0 is apart.
        train_rate: alpha_t in panels along the test rate.
        test_rate: alpha_r in panels along the train rate.
        train_rate_limit: train rates go from minus this to this.
        rates: how many train rates, odd.
        test_rates: test rates.
        runs: independent repetitions.
        tested: settings of which some runs are also tested on drawn tasks, where they are there.
        test_runs: how many runs of each of them.
        test_tasks: drawn test tasks of each of them.
        test_samples: test examples of each task.
    """

    setting: tuple[str, ...] = ("2", "3", "6a", "6b", "6c", "6d")
    dim: tuple[int, ...] = (60, 30, 50, 50, 50, 50)
    train_samples: tuple[int, ...] = (30, 5, 40, 40, 40, 40)
    validation_samples: tuple[int, ...] = (2, 25, 2, 5, 10, 40)
    tasks: tuple[int, ...] = (3, 40, 1, 5, 10, 10)
    target_samples: tuple[int, ...] = (20, 10, 40, 40, 40, 40)
    noise: tuple[float, ...] = (1.0, 0.2, 0.5, 0.5, 0.5, 0.5)
    variability: tuple[float, ...] = (0.5, 0.2, 0.5, 0.5, 0.5, 0.5)
    center: tuple[float, ...] = (0.0, 0.0, 0.1, 0.1, 0.1, 0.1)
    train_rate: tuple[float, ...] = (0.2,)
    test_rate: tuple[float, ...] = (0.2,)
    train_rate_limit: tuple[float, ...] = (2.1, 0.7, 2.1, 2.1, 2.1, 2.1)
    rates: int = 29
    test_rates: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    runs: int = 5000
    tested: tuple[str, ...] = ("2", "3")
    test_runs: int = 100
    test_tasks: int = 100
    test_samples: int = 50

    def __post_init__(self):
        """Refuse impossible values, naming field, value and what is allowed."""
        for name in ("test_tasks", "test_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are integers from 1")
        for name in ("runs", "test_runs"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are integers from 2")
        if self.rates < 5 or self.rates % 2 == 0:
            raise ValueError(f"rates is {self.rates}; allowed are odd integers from 5")
        if len(self.test_rates) < 1 or len(set(self.test_rates)) < len(self.test_rates):
            raise ValueError(f"test_rates is {self.test_rates}; allowed are different numbers")
        names = self.setting
        if not names or len(set(names)) < len(names):
            raise ValueError(f"setting is {names}; allowed are different names, at least one")
        if not all(re.fullmatch(r"\d+[a-z]?", name) for name in names):
            raise ValueError(f"setting is {names}; allowed are numbers, and numbers with a letter")
        numbers = [name.rstrip(ascii_lowercase) for name in names]
        if any(name.isdigit() and numbers.count(name) > 1 for name in names):
            raise ValueError(f"setting is {names}; allowed is a figure, or panels of it, not both")
        self._check_lists()

    def _check_lists(self) -> None:
        for name in Setting._fields[1:]:
            values = getattr(self, name)
            if len(values) not in (1, len(self.setting)):
                raise ValueError(
                    f"{name} is {values}; allowed are one entry, or {len(self.setting)}: one for "
                    "each setting"
                )
            if name in COUNTS and min(values) < 1:
                raise ValueError(f"{name} is {values}; allowed are integers from 1")
            if name == "variability" and min(values) < 0:
                raise ValueError(f"{name} is {values}; allowed are numbers from 0")
            if name in ("noise", "train_rate_limit") and min(values) <= 0:
                raise ValueError(f"{name} is {values}; allowed are positive numbers")
        for one in self.settings():
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
    rows: dict[str, list[tuple]] = {"loss": [], "paired": [], "optimum": [], "test_data": []}
    settings = config.settings()
    for done, setting in enumerate(settings):
        context.progress(done, len(settings), "settings")
        key = jax.random.fold_in(jax.random.key(context.seed), done)
        with jax.enable_x64(True):
            _run_setting(config, setting, key, rows)
    context.progress(len(settings), len(settings), "settings")
    for name, header in HEADERS.items():
        context.table(name, columns(header, rows[name]))
    return _metrics(settings, rows)


HEADERS = {
    "loss": "figure panel train_rate test_rate theory simulated standard_error",
    "paired": "figure panel train_rate difference standard_error",
    "optimum": "figure panel quantity theory simulated standard_error",
    "test_data": "figure train_rate test_rate analytic sampled difference standard_error",
}


def _run_setting(
    config: Config, setting: Setting, key: jax.Array, rows: dict[str, list[tuple]]
) -> None:
    """Simulate one setting, and add its rows to those of every table."""
    grid = rate_grid(setting.train_rate_limit, config.rates)
    best = _best_train_rate(setting)
    train = np.concatenate([grid, [setting.train_rate, best, -STEP, STEP]])
    test = np.array([setting.test_rate, *(config.test_rates if setting.both_rates else ())])
    found = _simulate(setting, key, (train, test), config.runs)
    losses, distances = np.asarray(found.loss), np.asarray(found.distance)
    figure, panel = setting.figure, setting.panel
    expected = _theory(setting, train[:, None], test)
    mean, error = mean_and_error(losses)
    for i in range(len(grid)):
        numbers = expected[i, 0], mean[i, 0], error[i, 0]
        rows["loss"].append((figure, panel, grid[i], setting.test_rate, *numbers))
    fixed = len(grid)
    for k in range(1, len(test)):
        numbers = expected[fixed, k], mean[fixed, k], error[fixed, k]
        rows["loss"].append((figure, "a", setting.train_rate, test[k], *numbers))
    along = losses[:, :, 0]
    zero = along[:, [len(grid) // 2]]
    paired = zip(grid, *mean_and_error(along[:, : len(grid)] - zero), strict=True)
    rows["paired"] += [(figure, panel, *numbers) for numbers in paired]
    for quantity, value, statistic in _optima(setting, grid, best, along, distances):
        place = "a" if quantity == "best_test_rate" else panel
        rows["optimum"].append((figure, place, quantity, value, *statistic))
    if setting.setting in config.tested:
        _add_test_data(config, setting, key, rows["test_data"])


def _simulate(
    setting: Setting,
    key: jax.Array,
    rates: tuple[np.ndarray, np.ndarray],
    runs: int,
    test_tasks: int = 0,
    test_samples: int = 1,
) -> Simulation:
    distribution = MixedRegression(
        jnp.full(setting.dim, setting.center),
        noise=setting.noise,
        task_covariance=setting.variability**2 / setting.dim,
    )
    return simulate(
        key,
        distribution,
        Design(**{name: getattr(setting, name) for name in Design._fields}),
        *map(jnp.asarray, rates),
        runs=runs,
        test_tasks=test_tasks,
        test_samples=test_samples,
    )


def _theory(setting: Setting, train: np.ndarray, test: np.ndarray | float) -> np.ndarray:
    sizes = setting.sizes | setting.new_task
    return theory.expected_test_loss(train, test, train_samples=setting.train_samples, **sizes)


def _best_train_rate(setting: Setting) -> float:
    """Return the theory's best train rate: Eq. 8, or the minimum of Theorem 2 in the range."""
    if setting.dim > setting.equations:
        return theory.optimal_train_rates(setting.dim, setting.train_samples)[0]
    loss = lambda rate: _theory(setting, rate, setting.test_rate).item()
    grid = rate_grid(setting.train_rate_limit, 401)
    near = grid[np.argmin([loss(rate) for rate in grid])] + np.array([-1, 1]) * (grid[1] - grid[0])
    return np.asarray(fminbound(loss, *near, xtol=1e-8)).item()


def _optima(
    setting: Setting, grid: np.ndarray, best: float, along: np.ndarray, distances: np.ndarray
) -> list[tuple[str, float, tuple]]:
    """Return quantity, theory, and simulation with its error."""
    sizes, task, rate = setting.sizes, setting.new_task, setting.test_rate
    count, curve = len(grid), along[:, : len(grid)]
    gain = along[:, count + 1] - along[:, count // 2]
    slope = (along[:, count + 3] - along[:, count + 2]) / (2 * STEP)
    expected = _theory(setting, np.array([0.0, best, -STEP, STEP]), rate)
    leading = (expected[3] - expected[2]) / (2 * STEP)
    no_tasks = {
        name: value
        for name, value in (sizes | task).items()
        if name not in ("variability", "init_distance")
    }
    loss_at_zero = theory.loss_at_zero(rate, **sizes, **task).item()
    slope_at_zero = theory.slope_at_zero(rate, **no_tasks).item()
    found = [
        ("best_train_rate", best, jackknife(curve, lambda y: best_rate(grid, y))),
        ("gain", expected[1] - expected[0], mean_and_error(gain)),
        ("loss_at_zero", loss_at_zero, mean_and_error(along[:, count // 2])),
        ("slope_at_zero", slope_at_zero, mean_and_error(slope)),
        ("leading_slope", leading, mean_and_error(slope)),
    ]
    if setting.dim > setting.equations:
        worst = theory.optimal_train_rates(setting.dim, setting.train_samples)[1]
        measured = jackknife(curve, lambda y: best_rate(grid, y, largest=True))
        found.append(("worst_train_rate", worst, measured))
    if setting.both_rates:
        scale = {"noise": setting.noise, "variability": setting.variability}
        variance = theory.meta_parameter_variance(
            setting.train_rate,
            dim=setting.dim,
            train_samples=setting.train_samples,
            **scale,
            **sizes,
        )
        optimal = lambda variance: theory.optimal_test_rate(variance, **task).item()
        measured = jackknife(distances[:, count], optimal)
        found.append(("best_test_rate", optimal(variance), measured))
    return found


def _add_test_data(config: Config, setting: Setting, key: jax.Array, rows: list[tuple]) -> None:
    """Test some of the runs on drawn tasks, too."""
    rates = np.array([setting.train_rate]), np.array(config.test_rates)
    tests = config.test_tasks, config.test_samples
    found = _simulate(setting, key, rates, config.test_runs, *tests)
    analytic, sampled = np.asarray(found.loss)[:, 0], np.asarray(found.sampled_loss)[:, 0]
    numbers = analytic.mean(axis=0), sampled.mean(axis=0), *mean_and_error(sampled - analytic)
    for row in zip(rates[1], *numbers, strict=True):
        rows.append((setting.figure, setting.train_rate, *row))


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
    presets={"quick": Config(runs=400, tested=("2",), test_runs=20), "paper": Config()},
    run=run,
    claims=claims,
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
