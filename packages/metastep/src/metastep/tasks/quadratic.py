"""Minimisation of w^T H w / 2, the simplest task with a tunable step size."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from metastep.types import Outer, Scalar


class Quadratic(eqx.Module):
    """The loss w^T H w / 2 and a starting point; training loss and outer loss are the same.

    Example:
        >>> import jax, metastep as ms, optax
        >>> from metastep.tasks import Quadratic
        >>> task = Quadratic([[2.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
        >>> problem = ms.TrainingProblem(task.loss, task.objective, task.start, optax.sgd, 10)
        >>> estimate = ms.hypergradient(problem, 0.5, ms.LogDomain(), key=jax.random.key(0))
        >>> round(float(estimate.value), 4)
        -1.4556

    Attributes:
        hessian: H, symmetric positive definite, shape (dim, dim).
        start: w_0, shape (dim,), not zero.

    Raises:
        ValueError: on construction from concrete arrays, if H is not a finite symmetric positive
            definite matrix or w_0 does not fit it or is zero.
    """

    hessian: Float[Array, "dim dim"]
    start: Float[Array, " dim"]

    def __init__(self, hessian: ArrayLike, start: ArrayLike):
        # Under a transformation only the shapes are known.
        if not any(isinstance(x, Tracer) for x in (hessian, start)):
            _check(np.asarray(hessian), np.asarray(start))
        self.hessian = jnp.asarray(hessian)
        self.start = jnp.asarray(start)

    def loss(self, params: Float[Array, " dim"], outer: Outer = None, batch: None = None) -> Scalar:
        """Return w^T H w / 2; its gradient is one product with H."""
        del outer, batch
        return params @ self.hessian @ params / 2

    def objective(self, params: Float[Array, " dim"], outer: Outer = None) -> Scalar:
        """Return w^T H w / 2, as `loss` does."""
        return self.loss(params, outer)


def _check(hessian: np.ndarray, start: np.ndarray) -> None:
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise ValueError(
            f"hessian has shape {hessian.shape}; allowed are square matrices (dim, dim)."
        )
    # Products such as X^T X are symmetric to the rounding of float32 only.
    if not np.isfinite(hessian).all() or np.abs(hessian - hessian.T).max() > 1e-6 * np.abs(
        hessian
    ).max(initial=0):
        raise ValueError("hessian is not finite and symmetric; allowed are symmetric matrices.")
    # LAPACK has no half precision.
    smallest = np.linalg.eigvalsh(hessian.astype(np.result_type(hessian, np.float32)))[0]
    if smallest <= 0:
        raise ValueError(
            f"hessian has the eigenvalue {smallest:.3g}; allowed are positive definite matrices."
        )
    if start.shape != hessian.shape[:1] or not np.isfinite(start).all() or not start.any():
        raise ValueError(
            f"start has shape {start.shape} and norm {np.linalg.norm(start):.3g}; allowed are "
            f"finite vectors of shape {hessian.shape[:1]} that are not zero."
        )


def random_quadratic(seed: int, dim: int = 20, rows: int | None = None) -> Quadratic:
    """Draw H = X^T X and w_0 with standard normal entries, as the step-size paper does.

    The generator is `numpy.random.default_rng(seed)`, with w_0 drawn before X, so a seed identifies
    one problem for every version of JAX. float64 if it is enabled.

    Args:
        seed: the seed of the problem.
        dim: the length of w.
        rows: the rows of X, at least `dim`; None for `dim`. With 2 dim rows H is well
            conditioned.

    Reference:
        Wang et al. (2021), appendix F and footnote 2.
    """
    rows = dim if rows is None else rows
    if dim < 1 or rows < dim:
        raise ValueError(f"rows is {rows!r} and dim {dim!r}; allowed are 1 <= dim <= rows.")
    # w_0 first: it is then the same for every number of rows.
    generator = np.random.default_rng(seed)
    start = generator.standard_normal(dim)
    inputs = generator.standard_normal((rows, dim))
    return Quadratic(inputs.T @ inputs, start)
