"""MAML on mixed linear regression with random covariances of inputs and tasks (Theorem 3).

Covariances are single draws of a Wishart distribution with as many degrees of freedom as
dimensions, far from the identity: Sigma = G G^T / p and Sigma_w = (nu^2 / p) G' G'^T / p with
standard normal G and G'. The paper does not say which draw is that of its Figure 4: the first one
here replaces it, and the others show the variation between draws. The outer problem is solved
exactly in every run, all rates see the same draws, and the loss is averaged over new tasks exactly.

Tables (one row per observation; `simulated` and `standard_error` over runs):

- `loss`: figure, panel (a along the test rate, b along the train rate), train_rate, test_rate,
  theory (Theorem 3), simulated, standard_error; for the first draw of the covariances.
- `paired`: train_rate, difference (of the loss to train rate 0, run by run), standard_error; for
  the first draw.
- `optimum`: draw, quantity, theory, simulated, standard_error. Quantities: best_train_rate,
  best_test_rate, gain (loss at the theory's best train rate minus loss at 0) and loss (at the
  configured rates).
- `moments`: skewness, kurtosis (of the independent entries of which inputs and tasks are made),
  train_rate, theory, simulated, standard_error, expected_change (of the theory, from normal
  entries), change (simulated, run by run), change_error; for the first draw.
- `test_data`: test_rate, analytic, sampled (on drawn test tasks), difference (sampled minus
  analytic, run by run), standard_error; for the first draw.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Predicate

from metastep_lab.bernacchia2021.curves import (
    GridSize,
    best_rate,
    jackknife,
    mean_and_error,
    rate_grid,
)
from metastep_lab.bernacchia2021.maml_wishart.claims import CLAIMS, answer
from metastep_lab.bernacchia2021.maml_wishart.figures import figures
from metastep_lab.bernacchia2021.maml_wishart.other_moments import rows_by_moments
from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression
from metastep_lab.bernacchia2021.mixed_regression_runs import rows_on_drawn_tasks, simulate
from metastep_lab.bernacchia2021.moments import shape
from metastep_lab.catalog import listing
from metastep_lab.configuration import Count, NotNegative, Positive, Several, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.parts import in_turn, repetition_seeds
from metastep_lab.tables import columns
from metastep_lab.theory.maml import expected_test_loss_general


@configuration
class Config:
    """The configuration; the paper's values by default.

    Attributes:
        dim: parameters p.
        train_samples: n_t.
        validation_samples: n_v.
        tasks: m, below (dim - 1) / n_v.
        target_samples: n_r.
        noise: sigma.
        variability: nu.
        train_rate: alpha_t along the test rate.
        test_rate: alpha_r along the train rate.
        train_rate_limit: train rates go from minus this to this.
        rates: how many train rates, odd.
        test_rates: test rates, increasing.
        runs: independent repetitions.
        covariances: draws of both covariances, from 1.
        skewness: third moments of inputs and tasks that are not normal, one for each kurtosis.
        kurtosis: their fourth moments.
        test_runs: runs that are also tested on drawn tasks; 0 for none.
        test_tasks: drawn test tasks of each of them.
        test_samples: test examples of each task.
    """

    dim: Count = 60
    train_samples: Count = 30
    validation_samples: Count = 2
    tasks: Count = 3
    target_samples: Count = 20
    noise: Positive = 1.0
    variability: NotNegative = 0.5
    train_rate: float = 0.2
    test_rate: float = 0.2
    train_rate_limit: Positive = 2.1
    rates: GridSize = 29
    test_rates: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    runs: Several = 5000
    covariances: Count = 20
    skewness: tuple[float, ...] = (0.0, 0.0, 0.0, 2.0)
    kurtosis: tuple[float, ...] = (2.0, 10.0, 20.0, 20.0)
    test_runs: Annotated[int, Ge(0), Predicate(lambda runs: runs != 1), "0 and integers from 2"] = (
        100
    )
    test_tasks: Count = 100
    test_samples: Count = 50

    def __post_init__(self):
        """Refuse sizes that Theorem 3 does not cover, and test rates without a parabola."""
        if self.dim <= self.validation_samples * self.tasks + 1:
            raise ValueError(
                f"dim is {self.dim}; allowed are integers above validation_samples * tasks + 1 = "
                f"{self.validation_samples * self.tasks + 1}: Theorem 3 is about these"
            )
        if len(self.test_rates) < 3 or any(np.diff(self.test_rates) <= 0):
            raise ValueError(f"test_rates is {self.test_rates}; allowed: 3 or more, increasing")

        if len(self.skewness) != len(self.kurtosis):
            raise ValueError(
                f"skewness is {self.skewness}; allowed are {len(self.kurtosis)} numbers, as many "
                "as in kurtosis"
            )
        for pair in zip(self.skewness, self.kurtosis, strict=True):
            shape(*pair)

    @property
    def design(self) -> Design:
        """Return the numbers of examples and tasks."""
        return Design(**{name: getattr(self, name) for name in Design._fields})


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table, in float64."""
    optimum, metrics = [], {}
    seeds = repetition_seeds(context.seed, config.covariances)
    for draw in in_turn(context, range(config.covariances), "covariances"):
        covariance, task_covariance = draw_covariances(config, seeds[draw])
        predict = partial(
            expected_test_loss_general,
            covariance=covariance,
            task_covariance=task_covariance,
            noise=config.noise,
            **config.design._asdict(),
        )
        key = jax.random.fold_in(jax.random.key(context.seed), draw)
        with jax.enable_x64(True):
            distribution = MixedRegression(
                jnp.zeros(config.dim), config.noise, task_covariance, covariance
            )
            losses, found = _optima(config, distribution, predict, key)
            optimum += [(draw, *row) for row in found]
            if draw == 0:
                _write_first_draw(config, context, losses, predict)
                both = covariance, task_covariance
                rows = rows_by_moments(config, both, predict, _rates(config)[0], key)
                context.table("moments", columns(MOMENTS, rows))
                context.table("test_data", columns(TEST_DATA, _tested(config, distribution, key)))
        if draw == 0:
            metrics = {row[0]: row[2] for row in found}
    context.table("optimum", columns("draw quantity theory simulated standard_error", optimum))
    return metrics


def draw_covariances(config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw Sigma and Sigma_w (Eq. 17), both of shape (dim, dim)."""
    generator, dim = np.random.default_rng(seed), config.dim
    inputs, tasks = generator.standard_normal((2, dim, dim))
    return inputs @ inputs.T / dim, config.variability**2 / dim * tasks @ tasks.T / dim


def _rates(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid of train rates, and all test rates: the one of panel b first."""
    grid = rate_grid(config.train_rate_limit, config.rates)
    return grid, np.array([config.test_rate, *config.test_rates])


def _optima(
    config: Config, distribution: MixedRegression, predict: partial, key: jax.Array
) -> tuple[np.ndarray, list[tuple]]:
    """Simulate one draw of the covariances; return losses and the rows of `optimum`."""
    grid, test = _rates(config)
    # No closed form: a ratio of two polynomials of fourth order (section 5.3).
    fine = rate_grid(config.train_rate_limit, 2001)
    best = fine[np.argmin(predict(fine, config.test_rate))]
    # In this order: the rows go by position.
    train = np.array([*grid, config.train_rate, best])
    rates = jnp.asarray(train), jnp.asarray(test)
    found = simulate(key, distribution, config.design, *rates, runs=config.runs)
    losses = np.asarray(found.loss)
    count = len(grid)
    gain = losses[:, count + 1, 0] - losses[:, count // 2, 0]
    expected = predict(np.array([best, 0.0, config.train_rate]), config.test_rate)
    parabola = lambda losses: best_test_rate(test[1:], losses)
    numbers = {
        "best_train_rate": (best, jackknife(losses[:, :count, 0], partial(best_rate, grid))),
        "best_test_rate": (
            parabola(predict(config.train_rate, test[1:])),
            jackknife(losses[:, count, 1:], parabola),
        ),
        "gain": (expected[0] - expected[1], mean_and_error(gain)),
        "loss": (expected[2], mean_and_error(losses[:, count, 0])),
    }
    return losses, [(name, value, *found) for name, (value, found) in numbers.items()]


def best_test_rate(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the minimum of the loss, a parabola through three or more test rates."""
    # Exact: the loss is quadratic in the test rate, run by run (Eqs. 14 and 16).
    curvature, slope, _ = np.polyfit(rates, losses, 2)
    return float(-slope / (2 * curvature))


def _write_first_draw(
    config: Config, context: Context, losses: np.ndarray, predict: partial
) -> None:
    (grid, test), count = _rates(config), config.rates
    mean, error = mean_and_error(losses)
    rows = [
        (4, "a", config.train_rate, rate, predict(config.train_rate, rate).item(), *numbers)
        for rate, *numbers in zip(test[1:], mean[count, 1:], error[count, 1:], strict=True)
    ]
    rows += [
        (4, "b", rate, config.test_rate, predict(rate, config.test_rate).item(), *numbers)
        for rate, *numbers in zip(grid, mean[:count, 0], error[:count, 0], strict=True)
    ]
    header = "figure panel train_rate test_rate theory simulated standard_error"
    context.table("loss", columns(header, rows))
    along = losses[:, :count, 0]
    paired = zip(grid, *mean_and_error(along - along[:, [count // 2]]), strict=True)
    context.table("paired", columns("train_rate difference standard_error", list(paired)))


MOMENTS = "skewness kurtosis train_rate theory simulated standard_error expected_change change "
MOMENTS += "change_error"
TEST_DATA = "test_rate analytic sampled difference standard_error"


def _tested(config: Config, distribution: MixedRegression, key: jax.Array) -> list[tuple]:
    """Return the rows of `test_data`."""
    if not config.test_runs:
        return []
    return rows_on_drawn_tasks(
        key,
        distribution,
        config.design,
        (config.train_rate, config.test_rates),
        runs=config.test_runs,
        test_tasks=config.test_tasks,
        test_samples=config.test_samples,
    )


EXPERIMENT = Experiment(
    listing("maml-wishart"),
    config=Config,
    presets={"quick": Config(runs=400, covariances=3, test_runs=20), "paper": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "negative-train-rate",
            "negative-for-every-draw",
            "positive-test-rate",
            "theory-accurate",
            "analytic-test-loss",
        }
    ),
    answer=answer,
    finite=("loss.simulated", "optimum.simulated"),
)
