"""The tasks of `least-squares-sgd`, and stochastic gradient descent simulated on them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metastep.compilation import compiled
from metastep_lab.theory import least_squares_sgd as theory

Row = dict[str, Any]


class Task(NamedTuple):
    """One least squares task: inputs (n, d), targets (n,), truth (d,)."""

    inputs: np.ndarray
    targets: np.ndarray
    truth: np.ndarray


def sample_tasks(config: Any, dim: int, samples: int, seed: int, *, fresh: bool) -> list[Task]:
    """Sample the training tasks or the fresh ones; both modes see the same of one size."""
    rng = np.random.default_rng([seed, dim, samples, int(fresh)])
    tasks = []
    for _ in range(config.test_tasks if fresh else config.tasks):
        truth = rng.standard_normal(dim)
        truth /= np.linalg.norm(truth)
        inputs = rng.standard_normal((samples, dim))
        targets = inputs @ truth + config.noise * rng.standard_normal(samples)
        tasks.append(Task(inputs, targets, truth))
    return tasks


def expected_losses(
    task: Task, step_sizes: np.ndarray, horizons: tuple[int, ...]
) -> theory.ExpectedLosses:
    """Return the exact expectations on a task, shape (step sizes, horizons)."""
    return theory.expected_losses(
        step_sizes,
        inputs=task.inputs,
        targets=task.targets,
        truth=task.truth,
        horizon=np.array(horizons),
    )


def simulation(config: Any, seed: int, optimum: list[Row]) -> list[Row]:
    """Simulate one training task of the smallest d at the two learned step sizes.

    That of train-by-train is halved: close to divergence rare runs dominate the fourth moment, and
    with it the standard error of a sample.
    """
    rows = []
    for mode, factor in (("train-by-train", 0.5), ("train-by-validation", 1.0)):
        wanted = {"dim": min(config.dims), "mode": mode, "range": "wide"}
        # The first is that of the shortest horizon: the cost of the simulation is proportional to
        # it.
        best = next(row for row in optimum if wanted.items() <= row.items())
        step_size, horizon = factor * best["step_size"], best["horizon"]
        task = sample_tasks(config, best["dim"], best["samples"], seed, fresh=False)[0]
        expected = expected_losses(task, np.array(step_size), (horizon,))
        train, error = simulate(task, step_size, horizon, config.simulations, seed)
        for quantity, exact, values in (
            ("training loss", expected.train.item(), train),
            ("|w - w*|^2", expected.mean_squared_error.item(), error),
        ):
            mean, spread = np.mean(values), np.std(values, ddof=1) / np.sqrt(values.size)
            label = {name: best[name] for name in ("mode", "dim", "samples", "horizon")}
            measured = dict(
                expected=exact, simulated=mean, standard_error=spread, z=(mean - exact) / spread
            )
            rows.append(label | dict(step_size=step_size, quantity=quantity) | measured)
    return rows


def simulate(
    task: Task, step_size: float, horizon: int, runs: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training loss and |w_t - w*|^2 of runs of stochastic gradient descent."""
    # The standard errors of 20,000 runs are small: rounding of float32 over t steps would be a bias
    # of their size.
    with jax.enable_x64(True):
        inputs, targets, truth = map(jnp.asarray, task)
        update = lambda w, i: w - step_size * (inputs[i] @ w - targets[i]) * inputs[i]

        def descend(key: Array) -> tuple[Array, Array]:
            def step(w: Array, t: Array) -> tuple[Array, None]:
                # Drawn inside of the loop: all indices at once would be runs x horizon integers.
                chosen = jax.random.randint(jax.random.fold_in(key, t), (runs,), 0, len(targets))
                return jax.vmap(update)(w, chosen), None

            w, _ = jax.lax.scan(step, jnp.zeros((runs, truth.size)), jnp.arange(horizon))
            residual = w @ inputs.T - targets
            return jnp.mean(residual**2, axis=1) / 2, jnp.sum((w - truth) ** 2, axis=1)

        train, error = compiled(descend)(jax.random.key(seed))
        return np.asarray(train), np.asarray(error)
