"""MAML on mixed linear regression, run many times with the same draws for all learning rates.

Products of examples are computed once in each run; a train rate then costs one small Cholesky
factorization, a test rate a few multiplications.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from metastep.compilation import compiled
from metastep.types import RandomKey
from metastep_lab.bernacchia2021.curves import mean_and_error
from metastep_lab.bernacchia2021.mixed_regression import (
    Design,
    MixedRegression,
    draw_tasks,
    new_task_loss,
    outer_solutions,
)

Losses = Float[Array, "runs train_rates test_rates"]
BATCH = 50
"""Runs that are computed together: enough to fill vector units, few enough to stay in caches."""


class Simulation(eqx.Module):
    """The test losses of MAML, run by run; one run shares its draws over all rates.

    Attributes:
        loss: exact given omega*, shape (runs, train_rates, test_rates).
        distance: |omega* - center|^2, shape (runs, train_rates).
        sampled_loss: the loss measured on drawn test tasks, shaped as `loss`, or None.
    """

    loss: Losses
    distance: Float[Array, "runs train_rates"]
    sampled_loss: Losses | None


def simulate(
    key: RandomKey,
    distribution: MixedRegression,
    design: Design,
    train_rates: Float[Array, " train_rates"],
    test_rates: Float[Array, " test_rates"],
    *,
    runs: int,
    start: Float[Array, " dim"] | None = None,
    test_tasks: int = 0,
    test_samples: int = 50,
) -> Simulation:
    """Run MAML to its exact optimum and test it, for every pair of train and test rate.

    Differences between rates are paired: take them run by run before averaging. The draws depend on
    the key and on neither the rates, of any sign, nor `runs`. Memory beyond the losses is bounded
    whatever the number of runs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep_lab.bernacchia2021.mixed_regression import Design, MixedRegression
        >>> from metastep_lab.bernacchia2021.mixed_regression_runs import simulate
        >>> distribution = MixedRegression(jnp.zeros(60), noise=1.0, task_covariance=0.25 / 60)
        >>> rates = jnp.array([-1.0, 0.0, 0.5])
        >>> design = Design(train_samples=30, validation_samples=2, tasks=3, target_samples=20)
        >>> found = simulate(jax.random.key(0), distribution, design, rates, rates[:1], runs=100)
        >>> found.loss.shape, found.distance.shape
        ((100, 3, 1), (100, 3))

    The outer descent starts at omega_0, `start`, zeros for None; it has no effect if all tasks have
    at least as many validation examples as parameters. With `test_tasks` the loss is also measured
    on so many drawn tasks in each run, by `test_samples` examples of each.

    Raises:
        ValueError: for a count out of range, or as many validation examples in all tasks as
            parameters, where the expected loss does not exist.

    Reference:
        Bernacchia (2021), sections 5.1 and 5.2.
    """
    _check(distribution, design, train_rates, test_rates)
    _check_counts(runs=runs, test_tasks=test_tasks, test_samples=test_samples)
    start = jnp.zeros_like(distribution.center) if start is None else start
    test = test_tasks, test_samples
    return _simulate(key, distribution, design, train_rates, test_rates, start, runs, test)


def rows_on_drawn_tasks(
    key: RandomKey,
    distribution: MixedRegression,
    design: Design,
    rates: tuple[float, Sequence[float]],
    *,
    runs: int,
    test_tasks: int,
    test_samples: int,
) -> list[tuple[float, ...]]:
    """Compare the analytic loss with that on drawn test tasks.

    The arguments are those of `simulate`, with the train rate and the test rates as a pair. There
    is one row for each test rate: the rate, the analytic loss, the loss on drawn tasks, its
    difference to the analytic one, taken run by run, and the standard error of that.
    """
    train_rates, test_rates = jnp.array(rates[:1]), jnp.array(rates[1])
    found = simulate(
        key,
        distribution,
        design,
        train_rates,
        test_rates,
        runs=runs,
        test_tasks=test_tasks,
        test_samples=test_samples,
    )
    analytic, sampled = np.asarray(found.loss)[:, 0], np.asarray(found.sampled_loss)[:, 0]
    numbers = analytic.mean(axis=0), sampled.mean(axis=0), *mean_and_error(sampled - analytic)
    return list(zip(rates[1], *numbers, strict=True))


def _check(distribution: MixedRegression, design: Design, *rates: Array) -> None:
    design.check()
    dim = distribution.center.size
    if dim == design.validation_samples * design.tasks:
        raise ValueError(
            f"dim is {dim}, as many as validation examples in all tasks; allowed are other "
            "numbers: there the outer problem is singular and its expected loss infinite."
        )
    for name, values in zip(("train_rates", "test_rates"), rates, strict=True):
        if not isinstance(values, Tracer) and not jnp.all(jnp.isfinite(values)):
            raise ValueError(f"{name} is {values}; allowed are finite numbers of any sign.")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        least = 0 if name == "test_tasks" else 1
        if count < least:
            raise ValueError(f"{name} is {count!r}; allowed are the integers from {least}.")


@compiled
def _simulate(key, distribution, design, train_rates, test_rates, start, runs, test) -> Simulation:
    samples = {
        "train_samples": design.train_samples,
        "validation_samples": design.validation_samples,
    }

    def run(key: RandomKey) -> tuple[Array, Array, Array | None]:
        tasks = draw_tasks(key, distribution, tasks=design.tasks, **samples)
        omegas = outer_solutions(tasks, train_rates, start)
        losses = new_task_loss(
            omegas, test_rates, distribution, target_samples=design.target_samples
        )
        sampled = None
        if test[0]:
            # A stream of its own: test tasks are independent of the training tasks.
            keys = jax.random.split(jax.random.fold_in(key, 1), test[0])
            one = lambda key: _sampled_loss(key, distribution, design, omegas, test_rates, test[1])
            sampled = jnp.mean(jax.lax.map(one, keys), axis=0)
        return losses, jnp.sum((omegas - distribution.center) ** 2, axis=1), sampled

    # Run number i has the same key whatever the number of runs.
    keys = jax.vmap(lambda run: jax.random.fold_in(key, run))(jnp.arange(runs))
    return Simulation(*jax.lax.map(run, keys, batch_size=min(BATCH, runs)))


def _sampled_loss(
    key: RandomKey,
    distribution: MixedRegression,
    design: Design,
    omegas: Array,
    test_rates: Array,
    test_samples: int,
) -> Array:
    """Return the loss on one drawn task: its residuals are affine in the test rate."""
    target, targets, test, measured = (
        x[0]
        for x in draw_tasks(
            key,
            distribution,
            tasks=1,
            train_samples=design.target_samples,
            validation_samples=test_samples,
        )
    )
    gradients = (omegas @ target.T - targets) @ target / design.target_samples
    before, moved = omegas @ test.T - measured, gradients @ test.T
    after = before[:, None] - test_rates[:, None] * moved[:, None]
    return jnp.mean(after**2, axis=-1) / 2
