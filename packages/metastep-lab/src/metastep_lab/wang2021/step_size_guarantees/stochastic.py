"""Theorems 9 and 10 by simulation: stochastic gradient descent on drawn training tasks.

The expectation over the noise of the descent is exact, so that one repetition is one draw of the
training tasks, their validation sets and (for Theorem 9) one test task. Only whether runs are
truncated is simulated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from threadpoolctl import threadpool_limits

from metastep.compilation import compiled
from metastep_lab.theory import least_squares_sgd as theory
from metastep_lab.wang2021.least_squares.step_size_grid import RADIUS
from metastep_lab.wang2021.step_size_guarantees.sampling import Chosen, Judged

CHUNK = 1000
"""Tasks whose eigenvalues are computed together, to bound the memory."""


class Tasks(NamedTuple):
    """Drawn tasks: inputs (tasks, n, d), targets, truth, and validation inputs and targets."""

    inputs: np.ndarray
    targets: np.ndarray
    truth: np.ndarray
    tests: tuple[np.ndarray, np.ndarray]


def draw(
    tasks: int, dim: int, samples: tuple[int, int], noise: float, rng: np.random.Generator
) -> Tasks:
    """Draw tasks with numbers of training and validation examples."""
    truth = rng.standard_normal((tasks, dim))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    parts = []
    for count in samples:
        inputs = rng.standard_normal((tasks, count, dim))
        targets = np.einsum("tnd,td->tn", inputs, truth)
        parts.append((inputs, targets + noise * rng.standard_normal((tasks, count))))
    (train, answers), tests = parts
    return Tasks(train, answers, truth, tests)


def losses(drawn: Tasks, steps: np.ndarray, horizon: int) -> theory.ExpectedLosses:
    """Return the expected losses of every task and step size, shape (tasks, steps)."""
    found = []
    # Several threads do not speed up matrices of this size.
    with threadpool_limits(1, user_api="blas"):
        for at in range(0, len(drawn.truth), CHUNK):
            part = slice(at, at + CHUNK)
            one = theory.expected_losses(
                steps,
                inputs=drawn.inputs[part],
                targets=drawn.targets[part],
                truth=drawn.truth[part],
                horizon=horizon,
                validation=(drawn.tests[0][part], drawn.tests[1][part]),
            )
            found.append((one.train, one.mean_squared_error, one.validation))
    return theory.ExpectedLosses(*(np.concatenate(part) for part in zip(*found, strict=True)))


def theorem_9(
    dim: int, tasks: int, repeats: int, noise: float, horizon: int, rng: np.random.Generator
) -> tuple[Chosen, Judged]:
    """Tune on the training loss in the range of Theorem 9, and judge on one new task each.

    n is d / 2, and the range ends at 1 / (2 L^3 d) with L = 100.

    Returns:
        The step sizes in units of the end of the range, and the expected errors on the new tasks;
        and for every step size the mean of these errors over all new tasks.
    """
    end = theory.train_by_train_range(dim)
    units = np.append(0.0, np.geomspace(1e-3, 1.0, 11))
    drawn = draw(repeats * (tasks + 1), dim, (dim // 2, 1), noise, rng)
    found = losses(drawn, units * end, horizon)
    trained = found.train.reshape(repeats, tasks + 1, -1)[:, 1:].mean(axis=1)
    # The first task of each repetition is the test task P, the others are the training tasks.
    tests = found.mean_squared_error.reshape(repeats, tasks + 1, -1)[:, 0]
    least = np.argmin(trained, axis=1)
    chosen = Chosen(units[least], units[least], tests[np.arange(repeats), least])
    return chosen, Judged(tests.mean(axis=0), tests.std(axis=0, ddof=1) / np.sqrt(repeats))


def horizon_of(dim: int) -> int:
    """Return t = 4 d^2 ln^2 d, as Theorem 10 asks for with c_2 = 4."""
    return int(np.ceil(4 / theory.train_by_validation_range(dim)))


def theorem_10(
    dim: int,
    tasks: tuple[int, ...],
    repeats: int,
    fresh: int,
    noise: float,
    rng: np.random.Generator,
) -> tuple[dict[int, Chosen], Judged, np.ndarray]:
    """Tune on a validation set in the range of Theorem 10 with c_5 = 1, and judge on new tasks.

    n_1 is d / 4 and n_2 is 3 d / 4, and t is `horizon_of` d.

    Returns:
        For each m, the step sizes times t and the mean errors on new tasks; the new tasks; and the
        grid of step sizes times t.
    """
    horizon = horizon_of(dim)
    times = np.append(0.0, np.geomspace(0.01, 4.0, 15))
    sizes, most = (dim // 4, 3 * dim // 4), max(tasks)
    judged = losses(draw(fresh, dim, sizes, noise, rng), times / horizon, horizon)
    error = judged.mean_squared_error
    found = losses(draw(repeats * most, dim, sizes, noise, rng), times / horizon, horizon)
    values = np.asarray(found.validation).reshape(repeats, most, -1)
    chosen = {}
    for m in tasks:
        least = np.argmin(values[:, :m].mean(axis=1), axis=1)
        chosen[m] = Chosen(times[least], times[least], error.mean(axis=0)[least])
    spread = error.std(axis=0, ddof=1) / np.sqrt(fresh)
    return chosen, Judged(error.mean(axis=0), spread), times


def truncated(dim: int, runs: int, noise: float, seed: int) -> tuple[int, float]:
    """Count the runs that reach |w| = 40 sigma at the end of the range of Theorem 10.

    Each run has its own task, with n_1 = d / 4, and the t of `theorem_10`.

    Returns:
        The number of such runs, and the largest |w| of any run in units of 40 sigma.
    """
    end = theory.train_by_validation_range(dim)
    drawn = draw(runs, dim, (dim // 4, 1), noise, np.random.default_rng([seed, dim]))
    arrays = jnp.asarray(drawn.inputs), jnp.asarray(drawn.targets)
    length = _largest(jax.random.key(seed), *arrays, jnp.asarray(end), horizon_of(dim))
    share = np.sqrt(np.asarray(length)) / (RADIUS * noise)
    return int(np.sum(share >= 1)), float(share.max())


@compiled
def _largest(key: Array, inputs: Array, targets: Array, step_size: Array, horizon: int) -> Array:
    """Return the largest |w|^2 on the way of each run."""
    runs = jnp.arange(len(targets))

    def step(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        w, most = carry
        drawn = jax.random.randint(jax.random.fold_in(key, t), runs.shape, 0, targets.shape[1])
        x, y = inputs[runs, drawn], targets[runs, drawn]
        w = w - step_size * (jnp.sum(x * w, axis=1) - y)[:, None] * x
        return (w, jnp.maximum(most, jnp.sum(w**2, axis=1))), None

    begin = jnp.zeros((len(targets), inputs.shape[2])), jnp.zeros(len(targets))
    (_, most), _ = jax.lax.scan(step, begin, jnp.arange(horizon))
    return most
