"""The quadratic in two numbers of section 4.1, and its outer losses."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import metastep as ms

STEP_SIZE = 0.1
STRONG_CONVEXITY = 0.5
HESSIAN = np.diag([1.0, 0.5])


def outer_loss(w: Array, outer: Array) -> Array:
    """Return f = |w|^2 + 10 |sin w|^2, which does not depend on lambda directly."""
    del outer
    return jnp.sum(w**2) + 10 * jnp.sum(jnp.sin(w) ** 2)


def outer_loss_tilde(w: Array, outer: Array) -> Array:
    """Return f-tilde = f + 5 |lambda - (1, 0)|^2, which does."""
    return outer_loss(w, outer) + 5 * jnp.sum((outer - jnp.array([1.0, 0.0])) ** 2)


OBJECTIVES = {"f": outer_loss, "f-tilde": outer_loss_tilde}


def toy(objective: str, horizon: int) -> ms.QuadraticProblem:
    """Return the problem of section 4.1: w descends (w - lambda)^T G (w - lambda) / 2."""
    return ms.QuadraticProblem(
        hessian=jnp.asarray(HESSIAN),
        coupling=jnp.asarray(HESSIAN),
        start=jnp.array([2.0, 2.0]),
        outer_loss=OBJECTIVES[objective],
        step_size=STEP_SIZE,
        horizon=horizon,
    )
