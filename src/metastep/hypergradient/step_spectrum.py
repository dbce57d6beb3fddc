"""What the last inner step does to small changes: eigenvalues of its Jacobian, its fixed point.

One Krylov space of the transposed Jacobian A^T, begun at the derivative of the objective, answers
both questions: its projection has the extreme eigenvalues, and the best solution of
(I - A^T) x = d objective / d state in it is that of GMRES, which implicit differentiation needs.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from metastep.problems.base import AbstractProblem, Keys, Trajectory
from metastep.trees import differentiable, norm
from metastep.types import Outer, Scalar

SYMMETRIC = 1e-3
"""Relative asymmetry of the projected Jacobian that counts as rounding."""


class StepSpectrum(eqx.Module):
    """Eigenvalues of the last inner step, and the gradient that its fixed point would have.

    Attributes:
        hessenberg: shape (k, k), the Jacobian A = d step / d state, transposed and projected on a
            Krylov space; see `ritz_values`.
        implicit: d_outer f + B^T x with B = d step / d outer; a tree like `outer`.
        linear_residual: |(I - A^T) x - d_state f| / |d_state f|.
    """

    hessenberg: Float[Array, "k k"]
    implicit: Outer
    linear_residual: Scalar

    @property
    def symmetric(self) -> bool:
        """Whether the Jacobian is symmetric, as that of gradient descent is."""
        matrix = np.asarray(self.hessenberg, np.float64)
        asymmetry = np.linalg.norm(matrix - matrix.T) / max(np.linalg.norm(matrix), 1e-300)
        return bool(asymmetry < SYMMETRIC)

    def ritz_values(self) -> np.ndarray:
        """Return approximate eigenvalues of A; the extreme ones are the best.

        Real and from within the spectrum where A is symmetric. Complex otherwise.
        """
        matrix = np.asarray(self.hessenberg, np.float64)
        if not np.all(np.isfinite(matrix)):
            return np.array([np.nan])
        return (
            np.linalg.eigvalsh((matrix + matrix.T) / 2)
            if self.symmetric
            else np.linalg.eigvals(matrix)
        )


def step_spectrum(
    problem: AbstractProblem, outer: Outer, keys: Keys, end: Trajectory, products: int
) -> StepSpectrum:
    """Measure the step that would follow the end of a trajectory.

    Only what the objective can see is measured: a direction of the state that never reaches it has
    no place in the Krylov space. Time: `products` vector-Jacobian products of one step. Memory: as
    many inner states.

    Args:
        problem: the inner dynamics and the objective.
        outer: the hyperparameters.
        keys: of the trajectory.
        end: the end of the trajectory.
        products: how many, from 1 to the size of the state.
    """
    variables, constants = differentiable(end.inner)
    point, unflatten = ravel_pytree(variables)

    def step(flat: Array, outer: Outer) -> Array:
        inner = eqx.combine(unflatten(flat), constants)
        after = problem.step(inner, outer, end.steps, keys.step(end.steps))
        return ravel_pytree(differentiable(after)[0])[0]

    def judged(flat: Array, outer: Outer) -> Scalar:
        return problem.objective(eqx.combine(unflatten(flat), constants), outer, keys.objective)

    adjoint, direct = jax.grad(judged, argnums=(0, 1))(point, outer)
    _, pull = jax.vjp(step, point, outer)
    basis, projected = _arnoldi(lambda v: pull(v)[0], adjoint, products)
    size = norm(adjoint)
    remainder = jnp.eye(products + 1, products, dtype=point.dtype) - projected
    target = jnp.zeros(products + 1, point.dtype).at[0].set(size)
    weights = jnp.linalg.lstsq(remainder, target)[0]
    residual = norm(target - remainder @ weights) / size
    implicit = jax.tree.map(jnp.add, direct, pull(weights @ basis[:products])[1])
    return StepSpectrum(projected[:products], implicit, residual)


def _arnoldi(
    product: Callable[[Array], Array], vector: Float[Array, " M"], count: int
) -> tuple[Float[Array, "k_plus_1 M"], Float[Array, "k_plus_1 k"]]:
    """Return the Krylov basis of a vector and the linear map in it (orthogonalised twice)."""
    basis = jnp.zeros((count + 1, vector.size), vector.dtype).at[0].set(vector / norm(vector))

    def body(k: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, projected = carry
        new = product(basis[k])
        first = basis @ new
        new -= first @ basis
        second = basis @ new
        new -= second @ basis
        size = norm(new)
        exhausted: Bool[Array, ""] = size <= 10 * jnp.finfo(size.dtype).eps * norm(first)
        unit = jnp.where(exhausted, 0.0, new / jnp.where(exhausted, 1.0, size))
        column = (first + second).at[k + 1].set(jnp.where(exhausted, 0.0, size))
        return basis.at[k + 1].set(unit), projected.at[:, k].set(column)

    projected = jnp.zeros((count + 1, count), vector.dtype)
    return jax.lax.fori_loop(0, count, body, (basis, projected))
