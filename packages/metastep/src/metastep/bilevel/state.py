"""The state of a bilevel solver between outer steps, and the count of its oracle calls."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Int, PyTree


class OracleCalls(eqx.Module):
    """The numbers of oracle calls, the cost by which solvers are compared.

    One call is one evaluation on one batch, at one point, with respect to one or both arguments.

    Attributes:
        inner_gradients: gradients of g.
        hessian_products: products (d_zz g) v.
        cross_products: products (d_xz g) v.
        outer_gradients: gradients of f.
        inner_batches: batches drawn for any of the first three; several share a batch.
        outer_batches: batches drawn for gradients of f.
    """

    # Python numbers for the calls of a step, which are known before it is run.
    inner_gradients: Int[Array, ""] | int = 0
    hessian_products: Int[Array, ""] | int = 0
    cross_products: Int[Array, ""] | int = 0
    outer_gradients: Int[Array, ""] | int = 0
    inner_batches: Int[Array, ""] | int = 0
    outer_batches: Int[Array, ""] | int = 0

    def __add__(self, other: "OracleCalls") -> "OracleCalls":
        return jax.tree.map(lambda a, b: a + b, self, other)

    @property
    def total(self) -> Int[Array, ""] | int:
        """The number of gradients and products, each counted as one (Dagréou et al. 2022)."""
        products = self.hessian_products + self.cross_products
        return self.inner_gradients + products + self.outer_gradients


class BilevelState(eqx.Module):
    """The state of a bilevel solver between outer steps.

    Attributes:
        params: z, the trained (floating-point) leaves of the inner parameters; None elsewhere.
        params_optimizer: the state of the inner optimizer.
        companion: a second tree like `params`: v of SOBA and AmIGO; for F2SA the parameters y,
            which the penalized outer loss moves away from z.
        companion_optimizer: the state of the optimizer that moves it.
        fixed: the arrays among the inner parameters that are not trained.
        step: int32 scalar, outer steps taken.
        calls: the oracle calls so far.
    """

    params: PyTree
    params_optimizer: Any
    companion: PyTree
    companion_optimizer: Any
    fixed: PyTree
    step: Int[Array, ""]
    calls: OracleCalls
