"""Truncated back-propagation on a two-dimensional toy problem, and counter-examples to its theory.

Tables (one row per observation):

- `bias`: window, error |h - d|, bound (Eq. 10), cosine of h and d, ratio h.d / |d|^2, at (1, 1).
- `trajectory`: objective (f or f-tilde), window, step, lambda_0, lambda_1, gradient_norm (of the
  exact hypergradient) before the update.
- `ratio`: objective, window, step, ratio h.d / |d|^2 along the trajectory of window 1.
- `limit`: objective, window, lambda_0, lambda_1, distance (to where the longest window ends), gap
  (of the objective to its value there), gradient_norm.
- `interference`: window, limit, closed_form, truth: the scalar counter-example of Theorem 3.5.
- `descent_counterexample`: step_size, window, worst_cosine, start_norm, end_norm (of the exact
  hypergradient before and after ten outer steps): Lemma 3.2 and Theorem 3.4 are false as stated.
- `neumann`: window, difference (K-RMD less the K-term series, relative to the exact gradient),
  error |h - d|, bound (Eq. 10), exact_norm: on a random problem at its fixed point (Prop. 3.6).
- `stochastic`: window, iterations, average (weighted mean of |d|^2 over the iterations of a
  stochastic descent of f-tilde, over runs), standard_error, bias (the largest |h - d| on the way),
  bound (of the proof of Theorem 3.3).
- `conjugate`: horizon, steps, truncated and conjugate (relative errors of K-RMD and of as many
  steps of conjugate gradients for Eq. 11), condition: a random problem, long and briefly trained.
- `implicit`: horizon, difference between the unrolled hypergradient and that of the fixed point.
"""

from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Len
from jaxtyping import Array

import metastep as ms
from metastep.compilation import compiled
from metastep.trees import cosine, inner_product, norm
from metastep_lab.catalog import listing
from metastep_lab.configuration import Ascending, Count, Positive, Several, configuration
from metastep_lab.experiment import Context, Experiment
from metastep_lab.shaban2019.truncation_toy.claims import CLAIMS, answer
from metastep_lab.shaban2019.truncation_toy.conjugate import compared
from metastep_lab.shaban2019.truncation_toy.counterexamples import (
    descent_counterexample,
    implicit,
    neumann,
)
from metastep_lab.shaban2019.truncation_toy.figures import figures
from metastep_lab.shaban2019.truncation_toy.model import (
    STEP_SIZE,
    STRONG_CONVEXITY,
    outer_loss,
    toy,
)
from metastep_lab.shaban2019.truncation_toy.stochastic import averages
from metastep_lab.tables import Table, columns
from metastep_lab.theory import truncation as theory

KEY_SEED = 0
LENGTHS = (500, 5)
"""Trainings on the random problem of `conjugate`: converged, and not."""
Pair = Annotated[tuple[float, ...], Len(2, 2), "two numbers"]


@configuration
class Config:
    """The configuration; the paper's values where it gives them.

    Attributes:
        horizon: inner steps T.
        windows: the numbers K of steps that are differentiated, ascending; the last should be the
            horizon.
        outer_steps: updates of lambda.
        first_step: length of the first update, from which the outer step size follows.
        start: lambda at the beginning for f (not in the paper).
        start_tilde: the same for f-tilde; from (0, 0) the ratio of Figure 2 turns negative, from
            (1, 1) it does not.
        iterations: R of the stochastic descent.
        runs: its repetitions.
    """

    horizon: Annotated[Count, "the integers from 1"] = 100
    windows: Ascending = (1, 2, 5, 10, 25, 50, 100)
    outer_steps: Count = 1000
    first_step: Positive = 0.6
    start: Pair = (1.0, 1.0)
    start_tilde: Pair = (0.0, 0.0)
    iterations: Ascending = (100, 1000, 10000)
    runs: Several = 50

    def __post_init__(self):
        """Check the values of the fields."""
        if self.windows[-1] > self.horizon:
            raise ValueError(
                f"windows is {self.windows}; allowed are integers from 1 to the horizon, "
                f"{self.horizon}"
            )


def run(config: Config, context: Context) -> Mapping[str, float]:
    """Compute every table in float64. The seed changes `stochastic` and `conjugate` only."""
    with jax.enable_x64(True):
        key = jax.random.key(KEY_SEED)
        context.log("bias at (1, 1)")
        context.table("bias", _bias(config, key))
        _trajectories(config, context, key)
        context.log("counter-examples and limits")
        context.table("interference", _interference(config, key))
        context.table("descent_counterexample", descent_counterexample(key))
        context.table("neumann", neumann(key))
        context.table("implicit", implicit(key))
        context.log("stochastic descent")
        draws = jax.random.key(context.seed)
        rows = averages(config.windows, config.horizon, config.iterations, config.runs, draws)
    names = "window iterations average standard_error bias bound"
    context.table("stochastic", columns(names, rows))
    names = "horizon steps truncated conjugate condition"
    context.table("conjugate", columns(names, compared(LENGTHS, context.seed)))
    return {}


def _bias(config: Config, key: Array) -> Table:
    problem, outer = toy("f", config.horizon), jnp.ones(2)
    exact = ms.hypergradient(problem, outer, ms.Reverse(), key=key).grad
    final_gradient = jax.grad(outer_loss)(ms.unroll(problem, outer, key), outer)
    bound = lambda window: theory.bias_bound(
        window,
        step_size=STEP_SIZE,
        strong_convexity=STRONG_CONVEXITY,
        final_gradient_norm=float(norm(final_gradient)),
        largest_response=STEP_SIZE,
    )
    rows = []
    for window in config.windows:
        grad = ms.hypergradient(problem, outer, ms.TruncatedReverse(window), key=key).grad
        ratio = inner_product(grad, exact) / norm(exact) ** 2
        measured = (norm(grad - exact), bound(window), cosine(grad, exact), ratio)
        rows.append((window, *map(float, measured)))
    return columns("window error bound cosine ratio", rows)


def _trajectories(config: Config, context: Context, key: Array) -> None:
    trajectory, limits, ratios = [], [], []
    for objective, start in (("f", config.start), ("f-tilde", config.start_tilde)):
        problem = toy(objective, config.horizon)
        ends = {}
        for window in config.windows:
            context.log(f"descent of {objective} with window {window}")
            path, ends[window] = _descend(problem, jnp.array(start), window, config, key)
            for step, (outer, length) in enumerate(zip(*path, strict=True)):
                trajectory.append((objective, window, step, *outer, length))
            # Figure 2 evaluates every window along the 1-RMD path.
            if window == min(config.windows):
                ratios += _ratios(problem, objective, path[0], config, key)
        # The longest window is the horizon, and exact: its end stands for the optimum.
        best = ends[max(config.windows)]
        lowest = ms.hypergradient(problem, best, ms.Reverse(), key=key).value
        for window, end in ends.items():
            exact = ms.hypergradient(problem, end, ms.Reverse(), key=key)
            measured = norm(end - best), exact.value - lowest, norm(exact.grad)
            limits.append((objective, window, *map(float, (*end, *measured))))
    names = "objective window step lambda_0 lambda_1 gradient_norm"
    context.table("trajectory", columns(names, trajectory))
    context.table("ratio", columns("objective window step ratio", ratios))
    names = "objective window lambda_0 lambda_1 distance gap gradient_norm"
    context.table("limit", columns(names, limits))


def _descend(
    problem: ms.QuadraticProblem, start: Array, window: int, config: Config, key: Array
) -> tuple[tuple[np.ndarray, np.ndarray], Array]:
    """Descend with step sizes eta_0 / sqrt(step), eta_0 such that the first is first_step long."""
    estimator = ms.TruncatedReverse(window)
    first = ms.hypergradient(problem, start, estimator, key=key)
    rate = config.first_step / first.stats["gradient_norm"]
    exact_norm = lambda outer: norm(ms.Reverse().estimate(problem, outer, None, key)[0].grad)
    result = ms.minimize(
        problem,
        start,
        estimator,
        # The square root of an integer would be float32, also in float64 mode.
        optimizer=optax.sgd(lambda count: rate / jnp.sqrt(count + jnp.ones(()))),
        steps=config.outer_steps,
        key=key,
        record=lambda step, outer, estimate: (outer, exact_norm(outer)),
        every=config.outer_steps,
        progress=False,
    )
    outers, lengths = result.history.recorded
    return (np.asarray(outers), np.asarray(lengths)), result.outer


def _ratios(
    problem: ms.QuadraticProblem, objective: str, path: np.ndarray, config: Config, key: Array
) -> list[tuple]:
    """Evaluate h.d / |d|^2 for every window at the points of one path, all at once."""

    def gradients(estimator: ms.AbstractEstimator) -> Array:
        estimate = lambda outer: estimator.estimate(problem, outer, None, key)[0].grad
        return compiled(jax.vmap(estimate))(jnp.asarray(path))

    exact = gradients(ms.Reverse())
    rows = []
    for window in config.windows:
        products = jnp.sum(gradients(ms.TruncatedReverse(window)) * exact, axis=1)
        ratio = np.asarray(products / jnp.sum(exact**2, axis=1))
        rows += [(objective, window, step, value) for step, value in enumerate(ratio)]
    return rows


def _interference(config: Config, key: Array) -> Table:
    """Descend the scalar problem of Theorem 3.5 (w_0 = 2, lambda_0 = 1) by K-RMD to its limit."""
    problem = ms.QuadraticProblem(
        hessian=jnp.eye(1),
        coupling=jnp.eye(1),
        start=jnp.array([2.0]),
        outer_loss=lambda w, outer: jnp.sum(w**2) / 2 + jnp.sum((outer - 1.0) ** 2) / 2,
        step_size=STEP_SIZE,
        horizon=config.horizon,
    )
    closed_form, truth = theory.interference_limits(
        config.windows, step_size=STEP_SIZE, horizon=config.horizon, start=2.0, target=1.0
    )
    rows = []
    for window, expected in zip(config.windows, closed_form, strict=True):
        result = ms.minimize(
            problem,
            jnp.array([0.0]),
            ms.TruncatedReverse(window),
            # The second derivative of the objective, 1 + (1 - c)^2 with c = 0.9^T, is at most 2.
            optimizer=optax.sgd(0.5),
            steps=100,
            key=key,
            every=100,
            progress=False,
        )
        rows.append((window, float(result.outer[0]), float(expected), truth))
    return columns("window limit closed_form truth", rows)


EXPERIMENT = Experiment(
    listing("truncation-toy"),
    config=Config,
    presets={"quick": Config(outer_steps=200, iterations=(100, 1000), runs=20), "paper": Config()},
    run=run,
    claims=CLAIMS,
    figures=figures,
    reproducible=frozenset(
        {
            "bias-below-bound",
            "bias-decays",
            "descent-on-f",
            "exact-limit-of-f",
            "biased-limit-of-f-tilde",
            "interference",
            "neumann-series",
        }
    ),
    answer=answer,
    finite=("trajectory.gradient_norm", "limit.gap"),
)
