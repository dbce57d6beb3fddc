"""The eigenvalues of the last inner step's Jacobian, and the gradient at its fixed point.

One Krylov space of the transposed Jacobian A^T, started at the derivative of the objective, gives
both. Its projection has the extreme eigenvalues. The best solution in it of
(I - A^T) x = d objective / d state is that of GMRES, as used by implicit differentiation.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from metastep.problems.base import AbstractProblem, Keys, Trajectory
from metastep.trees import norm, real_variables
from metastep.types import Outer, Scalar

SYMMETRIC = 1e-3
"""Relative asymmetry of the projected Jacobian that is attributed to rounding."""


class StepSpectrum(eqx.Module):
    """Eigenvalues of the last inner step, and the gradient at its fixed point.

    Attributes:
        projected: shape (k + 1, k), the Jacobian A = d step / d state, transposed and projected on
            a Krylov space; see `ritz_values`.
        responses: B^T times every vector of the basis, B = d step / d outer; a tree like `outer`
            with k in front.
        direct: d_outer f.
        size: |d_state f|.
    """

    projected: Float[Array, "k_plus_1 k"]
    responses: Outer
    direct: Outer
    size: Scalar

    def fixed_point(self) -> tuple[Outer, float]:
        """Return the gradient at a fixed point, and the residual of the linear system.

        The gradient is d_outer f + B^T x, where x in the Krylov space minimises the residual of
        (I - A^T) x = d_state f. The residual is relative to |d_state f|; NaN if not finite.
        """
        projected, size = np.asarray(self.projected, np.float64), float(self.size)
        count = projected.shape[1]
        target = np.zeros(count + 1)
        # The Krylov space starts at the adjoint: it is `size` times the first vector of the basis.
        target[0] = size
        # With the basis V: A^T V_k = V_{k+1} projected, so (I - A^T) V_k = V_{k+1} remainder
        # (Arnoldi).
        remainder = np.eye(count + 1, count) - projected
        weights, residual = np.full(count, np.nan), float("nan")
        # `lstsq` raises an error for NaN.
        if np.all(np.isfinite(projected)) and size > 0:
            weights = np.linalg.lstsq(remainder, target, rcond=None)[0]
            residual = float(np.linalg.norm(target - remainder @ weights)) / size
        add = lambda direct, rows: np.asarray(direct) + np.tensordot(weights, rows, 1)
        with np.errstate(invalid="ignore"):
            return jax.tree.map(add, self.direct, self.responses), residual

    @property
    def symmetric(self) -> bool:
        """Whether the Jacobian is symmetric, as that of gradient descent is."""
        matrix = np.asarray(self.projected[:-1], np.float64)
        asymmetry = np.linalg.norm(matrix - matrix.T) / max(np.linalg.norm(matrix), 1e-300)
        return bool(asymmetry < SYMMETRIC)

    def ritz_values(self) -> np.ndarray:
        """Return approximate eigenvalues of A; the extreme ones are the most accurate.

        They are real and within the spectrum if A is symmetric, and complex otherwise.
        """
        matrix = np.asarray(self.projected[:-1], np.float64)
        if not np.all(np.isfinite(matrix)):
            return np.array([np.nan])
        # Beyond an exhausted Krylov space the basis is zero, and would add eigenvalues of 0 that A
        # does not have.
        exhausted = np.flatnonzero(np.diagonal(self.projected, -1) == 0)
        kept = int(exhausted[0]) + 1 if len(exhausted) else len(matrix)
        matrix = matrix[:kept, :kept]
        return (
            # The asymmetry that is left is rounding, and would make pairs of eigenvalues complex.
            np.linalg.eigvalsh((matrix + matrix.T) / 2)
            if self.symmetric
            else np.linalg.eigvals(matrix)
        )


def step_spectrum(
    problem: AbstractProblem, outer: Outer, keys: Keys, end: Trajectory, products: int
) -> StepSpectrum:
    """Measure the step that would follow the end of a trajectory.

    Directions of the state that never affect the objective are not in the Krylov space, and not
    measured. Time: `products` vector-Jacobian products of one step, at most the size of the state.
    Memory: as many inner states.
    """
    variables, restore = real_variables(end.inner)
    point, unflatten = ravel_pytree(variables)

    def step(flat: Array, outer: Outer) -> Array:
        inner = restore(unflatten(flat))
        after = problem.step(inner, outer, end.steps, keys.step(end.steps))
        return ravel_pytree(real_variables(after)[0])[0]

    def judged(flat: Array, outer: Outer) -> Scalar:
        return problem.objective(restore(unflatten(flat)), outer, keys.objective)

    adjoint, direct = jax.grad(judged, argnums=(0, 1))(point, outer)
    _, pull = jax.vjp(step, point, outer)
    projected, responses = _arnoldi(pull, adjoint, outer, products)
    return StepSpectrum(projected, responses, direct, norm(adjoint))


def _arnoldi(
    pull: Callable[[Array], tuple[Array, Outer]],
    vector: Float[Array, " M"],
    outer: Outer,
    count: int,
) -> tuple[Float[Array, "k_plus_1 k"], Outer]:
    """Project A^T on the Krylov space of a vector (orthogonalised twice).

    Returns the projection, and B^T times every vector of the basis; `pull` gives both products.
    """
    basis = jnp.zeros((count + 1, vector.size), vector.dtype).at[0].set(vector / norm(vector))

    def body(k: Int[Array, ""], carry: tuple) -> tuple:
        basis, projected, responses = carry
        new, response = pull(basis[k])
        # Twice, since one pass of Gram-Schmidt leaves what cancellation hides (Kahan).
        first = basis @ new
        new -= first @ basis
        second = basis @ new
        new -= second @ basis
        size = jnp.linalg.norm(new)
        exhausted: Bool[Array, ""] = size <= 10 * jnp.finfo(size.dtype).eps * jnp.linalg.norm(first)
        # A zero vector instead of rounding errors: further products then add nothing.
        unit = jnp.where(exhausted, 0.0, new / jnp.where(exhausted, 1.0, size))
        column = (first + second).at[k + 1].set(jnp.where(exhausted, 0.0, size))
        responses = jax.tree.map(lambda rows, x: rows.at[k].set(x), responses, response)
        return basis.at[k + 1].set(unit), projected.at[:, k].set(column), responses

    projected = jnp.zeros((count + 1, count), vector.dtype)
    responses = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), outer)
    return jax.lax.fori_loop(0, count, body, (basis, projected, responses))[1:]
