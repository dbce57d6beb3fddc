"""The interface of the methods for eigenpairs."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, Int

from metastep.curvature.operators.base import AbstractOperator


class Found(eqx.Module):
    """The result of a method, as `EigenPairs` but with a unit eigenvector in each row."""

    values: Float[Array, " k"]
    vectors: Float[Array, "k size"]
    residuals: Float[Array, " k"]
    products: Int[Array, ""]


class AbstractEigenMethod(eqx.Module):
    """A method for eigenpairs.

    Attributes:
        tolerance: relative residual at which a pair has converged.
    """

    tolerance: eqx.AbstractVar[float]

    @abstractmethod
    def starts(self, k: int) -> int:
        """Return the least number of start vectors that `find` needs."""

    @abstractmethod
    def find(self, operator: AbstractOperator, k: int, start: Float[Array, "rows size"]) -> Found:
        """Return `k` pairs from at least `starts(k)` start vectors; arguments have been checked."""
