"""How one inner step stretches and shrinks: eigenvalues of its Jacobian, and its response."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from metastep.problems.base import AbstractProblem, Keys, Trajectory
from metastep.trees import norm, real_variables
from metastep.types import Inner, Outer, Scalar

PRODUCTS = 30
"""Jacobian-vector products for the eigenvalues."""

RESPONSE_ITERATIONS = 4
"""Power iterations for the norm of the response; each underestimates it less."""

SYMMETRIC = 1e-3
"""Relative difference of products with the Jacobian and its transpose that counts as rounding."""


class StepSpectrum(eqx.Module):
    """What one inner step does to small changes of its state and of the hyperparameters.

    Attributes:
        hessenberg: shape (k, k), the Jacobian A = d step / d state, projected on the Krylov space
            of a random vector; see `ritz_values`.
        asymmetry: |A v - A^T v| / |A v| for a random v.
        response: the norm of B = d step / d outer, from below.
    """

    hessenberg: Float[Array, "k k"]
    asymmetry: Scalar
    response: Scalar

    @property
    def symmetric(self) -> bool:
        """Whether the Jacobian is symmetric, as that of gradient descent is."""
        return bool(self.asymmetry < SYMMETRIC)

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
    problem: AbstractProblem, outer: Outer, keys: Keys, end: Trajectory, begin: Trajectory
) -> StepSpectrum:
    """Measure the Jacobians of the inner step.

    A at the end of the trajectory, B at both ends, whichever is larger. Time: about 30
    Jacobian-vector products of one step, no more than the horizon. Memory: as many inner states.

    Args:
        problem: the inner dynamics.
        outer: the hyperparameters.
        keys: of the trajectory.
        end: the end of the trajectory.
        begin: its beginning.
    """
    step = _step_at(problem, keys, end)
    point, unflatten = ravel_pytree(real_variables(end.inner)[0])
    flat = lambda inner: ravel_pytree(inner)[0]
    moved, push = jax.linearize(lambda x: flat(step(unflatten(x), outer)), point)
    _, pull = jax.vjp(lambda x: flat(step(unflatten(x), outer)), point)
    del moved
    probe = jax.random.normal(jax.random.fold_in(keys.init, 11), point.shape, point.dtype)
    pushed = push(probe)
    asymmetry = norm(pushed - pull(probe)[0]) / norm(pushed)
    count = min(PRODUCTS, problem.horizon, point.size)
    responses = [_response(_step_at(problem, keys, at), at, outer, keys) for at in (begin, end)]
    return StepSpectrum(_arnoldi(push, probe, count), asymmetry, jnp.maximum(*responses))


def _step_at(
    problem: AbstractProblem, keys: Keys, at: Trajectory
) -> Callable[[Inner, Outer], Inner]:
    """Return the step that would follow, as a map of the real variables of the state."""
    restore = real_variables(at.inner)[1]

    def step(variables: Inner, outer: Outer) -> Inner:
        after = problem.step(restore(variables), outer, at.steps, keys.step(at.steps))
        return real_variables(after)[0]

    return step


def _arnoldi(
    product: Callable[[Array], Array], vector: Float[Array, " M"], count: int
) -> Float[Array, "k k"]:
    """Project a linear map on the Krylov space of a vector (orthogonalized twice)."""
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
    _, projected = jax.lax.fori_loop(0, count, body, (basis, projected))
    return projected[:count]


def _response(
    step: Callable[[Inner, Outer], Inner], at: Trajectory, outer: Outer, keys: Keys
) -> Scalar:
    """Return the largest singular value of d step / d outer, by power iteration."""
    variables = real_variables(at.inner)[0]
    flat, unflatten = ravel_pytree(outer)
    of_outer = lambda flat: step(variables, unflatten(flat))
    _, push = jax.linearize(of_outer, flat)
    _, pull = jax.vjp(of_outer, flat)
    probe = jax.random.normal(jax.random.fold_in(keys.init, 13), flat.shape, flat.dtype)

    def body(_: Int[Array, ""], carry: tuple[Array, Scalar]) -> tuple[Array, Scalar]:
        direction, _ = carry
        image = push(direction / norm(direction))
        back = pull(image)[0]
        safe = jnp.where(norm(back) > 0, back, direction)
        return safe, norm(image)

    return jax.lax.fori_loop(0, RESPONSE_ITERATIONS, body, (probe, jnp.zeros((), flat.dtype)))[1]
