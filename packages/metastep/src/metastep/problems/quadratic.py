"""Gradient descent on a quadratic inner loss, with closed forms to check estimators against."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float

from metastep.checks import integer
from metastep.problems.base import AbstractProblem
from metastep.types import Inner, Outer, RandomKey, Scalar, StepIndex


class QuadraticProblem(AbstractProblem):
    """Minimise w^T H w / 2 - w^T J lambda over w by T steps of gradient descent from w_0.

    The hyperparameters `outer` are the vector lambda, shape (hyperparameters,); the inner state is
    w, shape (dim,). `metastep_lab.theory.truncation` holds the closed forms.

    Attributes:
        hessian: H, symmetric, shape (dim, dim).
        coupling: J, shape (dim, hyperparameters). With J = H the minimiser is lambda itself.
        start: w_0, shape (dim,).
        outer_loss: `outer_loss(w, lambda) -> scalar`.
        step_size: gamma.
        horizon: T.
    """

    hessian: Float[Array, "dim dim"]
    coupling: Float[Array, "dim hyperparameters"]
    start: Float[Array, " dim"]
    outer_loss: Callable[[Array, Array], Scalar]
    step_size: float
    horizon: int = eqx.field(static=True, converter=integer)

    def init(self, outer: Outer, key: RandomKey) -> Inner:
        """Return w_0."""
        del outer, key
        return self.start

    def step(self, inner: Inner, outer: Outer, t: StepIndex, key: RandomKey) -> Inner:
        """Take one step of gradient descent."""
        del t, key
        return inner - self.step_size * (self.hessian @ inner - self.coupling @ outer)

    def objective(self, inner: Inner, outer: Outer, key: RandomKey) -> Scalar:
        """Return the outer loss of w_T."""
        del key
        return self.outer_loss(inner, outer)
