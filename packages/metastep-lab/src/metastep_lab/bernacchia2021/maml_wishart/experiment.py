"""MAML on mixed linear regression with random covariances of inputs and tasks (Theorem 3).

Covariances are single draws of a Wishart distribution with as many degrees of freedom as
dimensions, far from the identity: Sigma = G G^T / p and Sigma_w = (nu^2 / p) G' G'^T / p with
standard normal G and G'. The paper does not say which draw is that of its Figure 4: the first one
here takes the figure's place, and the others show whether it matters. The outer problem is solved
exactly in every run, all rates see the same draws, and the loss is averaged over new tasks exactly.

Tables (one row per observation; `simulated` and `standard_error` over runs):

- `loss`: figure, panel (a along the test rate, b along the train rate), train_rate, test_rate,
  theory (Theorem 3), simulated, standard_error; for the first draw of the covariances.
- `paired`: train_rate, difference (of the loss to train rate 0, run by run), standard_error; for
  the first draw.
- `optimum`: draw, quantity, theory, simulated, standard_error. Quantities: best_train_rate,
  best_test_rate, gain (loss at the theory's best train rate minus loss at 0) and loss (at the
  configured rates).
- `test_data`: test_rate, analytic, sampled (on drawn test tasks), difference (sampled minus
  analytic, run by run), standard_error; for the first draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metastep_lab.bernacchia2021.curves import best_rate, jackknife, mean_and_error, rate_grid
from metastep_lab.bernacchia2021.maml_wishart.claims import answer, claims, figures
from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression
from metastep_lab.bernacchia2021.mixed_regression_runs import simulate
from metastep_lab.catalog import listing
from metastep_lab.experiment import Context, Experiment
from metastep_lab.tables import columns
from metastep_lab.theory.maml import expected_test_loss_general


@dataclass(frozen=True)
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
        test_runs: runs that are also tested on drawn tasks; 0 for none.
        test_tasks: drawn test tasks of each of them.
        test_samples: test examples of each task.
    """

    dim: int = 60
    train_samples: int = 30
    validation_samples: int = 2
    tasks: int = 3
    target_samples: int = 20
    noise: float = 1.0
    variability: float = 0.5
    train_rate: float = 0.2
    test_rate: float = 0.2
    train_rate_limit: float = 2.1
    rates: int = 29
    test_rates: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    runs: int = 5000
    covariances: int = 20
    test_runs: int = 100
    test_tasks: int = 100
    test_samples: int = 50

    def __post_init__(self):
        """Refuse impossible values, naming field, value and what is allowed."""
        counts = ("dim", *Design._fields, "covariances", "test_tasks", "test_samples")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are integers from 1")
        if self.dim <= self.validation_samples * self.tasks + 1:
            raise ValueError(
                f"dim is {self.dim}; allowed are integers above validation_samples * tasks + 1 = "
                f"{self.validation_samples * self.tasks + 1}: Theorem 3 is about these"
            )
        if self.variability < 0:
            raise ValueError(f"variability is {self.variability}; allowed are numbers from 0")
        for name in ("noise", "train_rate_limit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed are positive numbers")
        if self.rates < 5 or self.rates % 2 == 0:
            raise ValueError(f"rates is {self.rates}; allowed are odd integers from 5")
        if len(self.test_rates) < 3 or any(np.diff(self.test_rates) <= 0):
            raise ValueError(f"test_rates is {self.test_rates}; allowed: 3 or more, increasing")
        if self.runs < 2:
            raise ValueError(f"runs is {self.runs}; allowed are integers from 2")
        if self.test_runs == 1 or self.test_runs < 0:
            raise ValueError(f"test_runs is {self.test_runs}; allowed are 0 and integers from 2")


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table, in float64."""
    optimum, metrics = [], {}
    for draw in range(config.covariances):
        context.progress(draw, config.covariances, "covariances")
        covariance, task_covariance = draw_covariances(config, context.seed + draw)
        predict = partial(
            expected_test_loss_general,
            covariance=covariance,
            task_covariance=task_covariance,
            noise=config.noise,
            **_design(config)._asdict(),
        )
        key = jax.random.fold_in(jax.random.key(context.seed), draw)
        with jax.enable_x64(True):
            distribution = MixedRegression(
                jnp.zeros(config.dim), config.noise, task_covariance, covariance
            )
            losses, rows = _optima(config, distribution, predict, key)
            optimum += [(draw, *row) for row in rows]
            if draw == 0:
                _write_first_draw(config, context, losses, predict)
                _write_test_data(config, context, distribution, key)
        if draw == 0:
            metrics = {row[0]: row[2] for row in rows}
    context.progress(config.covariances, config.covariances, "covariances")
    context.table("optimum", columns("draw quantity theory simulated standard_error", optimum))
    return metrics


def draw_covariances(config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw Sigma and Sigma_w (Eq. 17).

    Args:
        config: sizes and variability.
        seed: of NumPy's default generator; 0 gives the numbers of the specification.

    Returns:
        Two matrices of shape (dim, dim).
    """
    generator, dim = np.random.default_rng(seed), config.dim
    inputs, tasks = generator.standard_normal((2, dim, dim))
    return inputs @ inputs.T / dim, config.variability**2 / dim * tasks @ tasks.T / dim


def _design(config: Config) -> Design:
    return Design(**{name: getattr(config, name) for name in Design._fields})


def _rates(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return the grid of train rates, and all test rates: the one of panel b first."""
    grid = rate_grid(config.train_rate_limit, config.rates)
    return grid, np.array([config.test_rate, *config.test_rates])


def _optima(
    config: Config, distribution: MixedRegression, predict: partial, key: jax.Array
) -> tuple[np.ndarray, list[tuple]]:
    """Simulate one draw of the covariances; return losses and the rows of `optimum`."""
    grid, test = _rates(config)
    fine = rate_grid(config.train_rate_limit, 2001)
    best = fine[np.argmin(predict(fine, config.test_rate))]
    train = np.array([*grid, config.train_rate, best])
    losses = np.asarray(
        simulate(
            key,
            distribution,
            _design(config),
            jnp.asarray(train),
            jnp.asarray(test),
            runs=config.runs,
        ).loss
    )
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
    """Return the minimum of the parabola that the loss along the test rate is.

    Args:
        rates: at least three.
        losses: at these rates.

    Returns:
        The test rate.
    """
    curvature, slope, _ = np.polyfit(rates, losses, 2)
    return float(-slope / (2 * curvature))


def _write_first_draw(
    config: Config, context: Context, losses: np.ndarray, predict: partial
) -> None:
    (grid, test), count = _rates(config), config.rates
    mean, error = mean_and_error(losses)
    rows = []
    for i, rate in enumerate(test[1:], start=1):
        expected = predict(config.train_rate, rate).item()
        rows.append((4, "a", config.train_rate, rate, expected, mean[count, i], error[count, i]))
    for i, rate in enumerate(grid):
        expected = predict(rate, config.test_rate).item()
        rows.append((4, "b", rate, config.test_rate, expected, mean[i, 0], error[i, 0]))
    header = "figure panel train_rate test_rate theory simulated standard_error"
    context.table("loss", columns(header, rows))
    along = losses[:, :count, 0]
    paired = zip(grid, *mean_and_error(along - along[:, [count // 2]]), strict=True)
    context.table("paired", columns("train_rate difference standard_error", list(paired)))


def _write_test_data(
    config: Config, context: Context, distribution: MixedRegression, key: jax.Array
) -> None:
    rows = []
    if config.test_runs:
        found = simulate(
            key,
            distribution,
            _design(config),
            jnp.array([config.train_rate]),
            jnp.array(config.test_rates),
            runs=config.test_runs,
            test_tasks=config.test_tasks,
            test_samples=config.test_samples,
        )
        analytic, sampled = np.asarray(found.loss)[:, 0], np.asarray(found.sampled_loss)[:, 0]
        numbers = analytic.mean(axis=0), sampled.mean(axis=0), *mean_and_error(sampled - analytic)
        rows = list(zip(config.test_rates, *numbers, strict=True))
    header = "test_rate analytic sampled difference standard_error"
    context.table("test_data", columns(header, rows))


EXPERIMENT = Experiment(
    listing("maml-wishart"),
    config=Config,
    presets={"quick": Config(runs=400, covariances=3, test_runs=20), "paper": Config()},
    run=run,
    claims=claims,
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
