"""What every method of finding eigenpairs takes and returns."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, Int

from metastep.curvature.operators.base import AbstractOperator


class Found(eqx.Module):
    """What a method returns.

    Attributes:
        values: (k,), the eigenvalues, falling.
        vectors: (k, size), a unit eigenvector in each row.
        residuals: (k,), |H v - lambda v|.
        products: how many products with the operator were used.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k size"]
    residuals: Float[Array, " k"]
    products: Int[Array, ""]


class AbstractEigenMethod(eqx.Module):
    """How to find eigenpairs.

    Attributes:
        tolerance: relative residual at which a pair has converged.
    """

    tolerance: eqx.AbstractVar[float]

    @abstractmethod
    def starts(self, k: int) -> int:
        """Return how many rows `find` needs at least to begin from."""

    @abstractmethod
    def find(self, operator: AbstractOperator, k: int, start: Float[Array, "rows size"]) -> Found:
        """Return k pairs; called with checked arguments.

        Args:
            operator: what to find them of.
            k: how many.
            start: `starts(k)` vectors to begin from, or more.
        """
