"""Gradient descent on least squares in terms of its residuals: homogeneous dynamics."""

from collections.abc import Callable
from typing import SupportsIndex

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from metastep.checks import integer, require_count
from metastep.problems.base import AbstractProblem
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


def _step_size(outer: Outer) -> Scalar:
    return outer["step_size"]


def _overdetermined(inputs: Array) -> bool:
    """Whether some targets have no exact fit: the rank is below the number of examples."""
    samples, dim = inputs.shape
    if samples > dim or isinstance(inputs, Tracer):
        return samples > dim
    return bool(np.linalg.matrix_rank(np.asarray(inputs)) < samples)


class ResidualProblem(AbstractProblem):
    """Gradient descent from w_0 = 0 on |X w - y|^2 / (2 n), with the residual as its state.

    A step maps the residual r = y - X w to r - eta X X^T r / n. This map is homogeneous of degree
    one, so `LogDomain` applies; and r does not have the rounding error that w itself has near the
    minimiser. The objective is the training loss |r|^2 / (2 n).

    With more examples than coefficients, or examples that repeat each other with other targets, the
    minimum of that loss is positive, and the gradient of its logarithm vanishes with the horizon.
    `excess=True` subtracts the minimum: the state is then e = w - w_min, with
    e <- e - eta X^T X e / n, and the objective is |X e|^2 / (2 n). Of traced `inputs` the shape
    alone decides whether the minimum is positive.

    Attributes:
        inputs: X, shape (samples, dim).
        start: the state before the first step, r_0 or e_0.
        in_weights: whether the state is e.
        step_size: `step_size(outer) -> scalar`; `outer["step_size"]` by default.
        horizon: T, at least 1.

    Raises:
        ValueError: on construction, for shapes that do not fit or a horizon below 1.
    """

    inputs: Float[Array, "samples dim"]
    start: Float[Array, " size"]
    in_weights: bool = eqx.field(static=True)
    step_size: Callable[[Outer], Scalar]
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: Float[Array, "samples dim"],
        targets: Float[Array, " targets"],
        horizon: SupportsIndex,
        *,
        excess: bool = False,
        step_size: Callable[[Outer], Scalar] = _step_size,
    ):
        require_count("horizon", horizon)
        if targets.shape != inputs.shape[:1]:
            allowed = f"allowed is {inputs.shape[:1]}, to fit inputs"
            raise ValueError(f"targets has shape {targets.shape}; {allowed}.")
        self.inputs = inputs
        self.in_weights = excess and _overdetermined(inputs)
        # w = 0 is e = -w_min, and r = y.
        self.start = -jnp.linalg.lstsq(inputs, targets)[0] if self.in_weights else targets
        self.step_size = step_size
        self.horizon = integer(horizon)

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return the state of w = 0."""
        del outer, key
        return self.start

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of gradient descent."""
        del t, key
        factor = self.inputs.T if self.in_weights else self.inputs
        # Two products are taken, since the matrix between them may have more entries than X.
        force = factor @ (factor.T @ inner) / self.inputs.shape[0]
        return inner - self.step_size(outer) * force

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the training loss, minus its minimum if `excess` was set."""
        del outer, key
        residuals = self.inputs @ inner if self.in_weights else inner
        return residuals @ residuals / (2 * self.inputs.shape[0])
