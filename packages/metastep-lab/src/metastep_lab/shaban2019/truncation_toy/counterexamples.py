"""What the sections on descent and on implicit differentiation rest on, on two numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import metastep as ms
from metastep.compilation import compiled
from metastep.trees import norm
from metastep_lab.shaban2019.truncation_toy.model import toy
from metastep_lab.tables import Table, columns
from metastep_lab.theory import truncation as theory

COUNTEREXAMPLE = {
    # J Q H^{-1} J, to which the estimate of window 1 is proportional, has trace -27/16 and
    # determinant 1/16: both eigenvalues are negative, and -h leads away from lambda = 0 for every
    # outer step size.
    "hessian": np.array([[5.0, -2.0], [-2.0, 1.0]]),
    "coupling": np.diag([1.0, 0.25]),
    "curvature": np.array([[1.0, -2.0], [-2.0, 5.0]]),
}
# (step size, window); with (1 - step size * 0.17)^horizon below 1e-7 the inner loop has converged.
COUNTEREXAMPLE_CASES = ((0.17, 1), (0.17, 5), (0.01, 1), (0.01, 5), (0.01, 20), (0.01, 1000))


def descent_counterexample(key: Array) -> Table:
    """Descend w^T Q w / 2 by K-RMD for ten steps, where all assumptions of Lemma 3.2 hold."""
    rows = []
    for step_size, window in COUNTEREXAMPLE_CASES:
        norms = ten_steps(step_size, ms.TruncatedReverse(window), key)
        worst = theory.worst_cosine(**COUNTEREXAMPLE, step_size=step_size, window=window)
        rows.append((step_size, window, worst, *norms))
    return columns("step_size window worst_cosine start_norm end_norm", rows)


def _counterexample_loss(w: Array, outer: Array) -> Array:
    """Return w^T Q w / 2; one function, so that it is compiled once for all windows."""
    return w @ jnp.asarray(COUNTEREXAMPLE["curvature"]) @ w / 2


def ten_steps(step_size: float, estimator: ms.AbstractEstimator, key: Array) -> tuple[float, float]:
    """Return the norm of the exact hypergradient before and after ten outer steps from (1, 1).

    The outer step size is half the inverse of the estimate's Lipschitz constant, which is small
    enough for descent on a quadratic.
    """
    problem = ms.QuadraticProblem(
        hessian=jnp.asarray(COUNTEREXAMPLE["hessian"]),
        coupling=jnp.asarray(COUNTEREXAMPLE["coupling"]),
        start=jnp.zeros(2),
        outer_loss=_counterexample_loss,
        step_size=step_size,
        horizon=int(100 / step_size),
    )
    start = jnp.ones(2)
    truncated = lambda outer: estimator.estimate(problem, outer, None, key)[0].grad
    lipschitz = jnp.linalg.norm(compiled(jax.jacobian(truncated))(start), 2)
    optimizer = optax.sgd(0.5 / lipschitz)
    result = ms.minimize(
        problem, start, estimator, optimizer=optimizer, steps=10, key=key, every=10, progress=False
    )
    before = ms.hypergradient(problem, start, ms.Reverse(), key=key)
    after = ms.hypergradient(problem, result.outer, ms.Reverse(), key=key)
    return float(before.stats["gradient_norm"]), float(after.stats["gradient_norm"])


NEUMANN_TERMS = (1, 5, 10, 50, 100, 500)


def neumann(key: Array) -> Table:
    """Compare K-RMD at a fixed point with the series, on a random problem with 20 dimensions."""
    factor = jax.random.normal(jax.random.fold_in(key, 1), (20, 60))
    hessian = factor @ factor.T / 60
    eigenvalues = jnp.linalg.eigvalsh(hessian)
    step_size = float(0.9 / eigenvalues[-1])
    target = jax.random.normal(jax.random.fold_in(key, 2), (20,))
    coupling = jax.random.normal(jax.random.fold_in(key, 3), (20, 20))
    problem = ms.QuadraticProblem(
        hessian=hessian,
        coupling=coupling,
        start=jnp.zeros(20),
        outer_loss=lambda w, outer: jnp.sum((w - target) ** 2),
        step_size=step_size,
        horizon=2000,
    )
    outer = jnp.ones(20)
    estimate = lambda estimator: ms.hypergradient(problem, outer, estimator, key=key).grad
    exact, final = estimate(ms.Implicit()), 2 * (ms.unroll(problem, outer, key) - target)
    rows = []
    for terms in NEUMANN_TERMS:
        grad, series = (estimate(one(terms)) for one in (ms.TruncatedReverse, _series))
        bound = theory.bias_bound(
            terms,
            step_size=step_size,
            strong_convexity=float(eigenvalues[0]),
            final_gradient_norm=float(norm(final)),
            largest_response=float(step_size * jnp.linalg.norm(coupling, 2)),
        )
        measured = norm(grad - series) / norm(exact), norm(grad - exact), bound, norm(exact)
        rows.append((terms, *map(float, measured)))
    return columns("window difference error bound exact_norm", rows)


def _series(terms: int) -> ms.Implicit:
    return ms.Implicit(ms.Neumann(terms))


def implicit(key: Array) -> Table:
    """Compare the unrolled hypergradient at several horizons with that of the fixed point."""
    outer = jnp.ones(2)
    # 0.95^5000 is 1e-111: w_T is the fixed point.
    limit = ms.hypergradient(toy("f", 5000), outer, ms.Implicit(), key=key).grad
    rows = []
    for horizon in (10, 50, 100, 200, 400, 800):
        grad = ms.hypergradient(toy("f", horizon), outer, ms.Reverse(), key=key).grad
        rows.append((horizon, float(norm(grad - limit))))
    return columns("horizon difference", rows)
