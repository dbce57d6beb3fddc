"""Lanczos: eigenpairs from a basis of products, orthogonal to rounding and restarted."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from metastep.compilation import compiled
from metastep.curvature.eigen.method import AbstractEigenMethod, Found
from metastep.curvature.operators.base import AbstractOperator

LOST = 0.5  # a unit vector that keeps half its length is orthogonal to rounding
PASSES = 5
CHECKS = 16  # for convergence while a basis is filled
COLUMNS = 4096  # of a basis that are multiplied at a time


class Lanczos(AbstractEigenMethod):
    """Block Lanczos with full reorthogonalization and thick restarts.

    Time: products, and basis * size multiplications for each. Memory: basis + block vectors.
    A single vector (block 1) finds one of several equal eigenvalues at first, a block finds as
    many as it has vectors.

    Attributes:
        tolerance: relative residual at which a pair has converged.
        basis: how many vectors are kept, rounded up to whole blocks; None for
            k + max(20, k // 2), k + 50 at least with a block, or all there are.
        block: vectors that are multiplied at the same time; None for 1 up to k = 32, then 8, where
            reading the basis costs more than the products.
        restarts: how often at most the basis is shrunk to its best half; then the pairs that have
            not converged are returned, marked.

    Reference:
        Wu, Simon (2000), Thick-restart Lanczos method for large symmetric eigenvalue problems.
    """

    tolerance: float = 1e-3
    basis: int | None = None
    block: int | None = None
    restarts: int = 100

    def __check_init__(self):
        for name, value in (("basis", self.basis), ("block", self.block)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed are None and integers from 1.")
        if self.restarts < 0:
            raise ValueError(f"restarts is {self.restarts}; allowed are integers from 0.")

    def starts(self, k: int) -> int:
        """Return the size of a block."""
        return self.block or (1 if k <= 32 else 8)

    def find(self, operator: AbstractOperator, k: int, start: Array) -> Found:
        """Return k pairs with the residuals of the recurrence."""
        size = operator.size
        block = min(self.starts(k), max(1, size // 2))
        wanted = self.basis or k + max(20 if block == 1 else 50, k // 2)
        blocks = max(2, -(-min(max(wanted, k + 1), size) // block))
        if (blocks + 1) * block > size:  # no room for a residual beside the basis
            return _dense(operator, k)
        kept = -(-(k + (blocks * block - k) // 2) // block)
        kept = min(max(kept, -(-k // block)), blocks - 1)
        return _lanczos(operator, k, start, block, blocks, kept, self.restarts, self.tolerance)


@compiled
def _dense(operator: AbstractOperator, k: int) -> Found:
    identity = jnp.eye(operator.size, dtype=operator.dtype)
    matrix = jax.lax.map(operator.prepare().flat_mv, identity, batch_size=64)
    matrix = (matrix + matrix.T) / 2
    values, vectors = jnp.linalg.eigh(matrix)
    values, vectors = values[::-1][:k], vectors.T[::-1][:k]
    residuals = jnp.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    return Found(values, vectors, residuals, jnp.array(operator.size))


class _State(eqx.Module):
    """Rows `basis`, the matrix of the operator in them, and the residual block's coefficients.

    The first `filled` blocks of the basis are there; the residual block follows them.
    """

    basis: Array
    projected: Array
    coupling: Array
    filled: Array
    restart: Array
    products: Array


@compiled
def _lanczos(
    operator: AbstractOperator,
    k: int,
    start: Array,
    block: int,
    blocks: int,
    kept: int,
    restarts: int,
    tolerance: float,
) -> Found:
    """Fill the basis, keep the best Ritz vectors, fill it again; until k pairs have converged."""
    width = blocks * block
    product = operator.prepare().flat_mm

    def step(state: _State) -> _State:
        j = state.filled
        rows = jax.lax.dynamic_slice_in_dim(state.basis, j * block, block)
        rest, along = _without(product(rows), state.basis)
        fresh, coupling = _new_directions(rest, state.basis)
        basis = jax.lax.dynamic_update_slice_in_dim(state.basis, fresh, (j + 1) * block, 0)
        projected = jax.lax.dynamic_update_slice_in_dim(
            state.projected, along[:width], j * block, 1
        )
        return _State(basis, projected, coupling, j + 1, state.restart, state.products + block)

    def converged(state: _State) -> Array:
        values, _, residuals = _ritz(state, block)
        return jnp.all(residuals[:k] <= tolerance * jnp.abs(values[:k]))

    def fillable(state: _State) -> Array:
        # Just after a restart the residual block belongs to all kept vectors, not to the last.
        known = (state.filled != kept) | (state.restart == 0)
        due = (state.filled * block > k) & (state.filled % max(1, blocks // CHECKS) == 0)
        done = jax.lax.cond(known & due, converged, lambda state: jnp.array(False), state)
        return (state.filled < blocks) & ~done

    def unfinished(state: _State) -> Array:
        finite = jnp.all(jnp.isfinite(state.coupling))
        return ~converged(state) & (state.restart < restarts) & finite

    def again(state: _State) -> _State:
        values, mixing, _ = _ritz(state, block)
        count = kept * block
        rows = jax.scipy.linalg.block_diag(mixing[:, :count].T, jnp.eye(block, dtype=mixing.dtype))
        basis = _in_place(jnp.pad(rows, ((0, width - count), (0, 0))), state.basis)
        projected = jnp.zeros_like(state.projected).at[:count, :count].set(jnp.diag(values[:count]))
        filled, restart = jnp.array(kept), state.restart + 1
        state = _State(basis, projected, state.coupling, filled, restart, state.products)
        return jax.lax.while_loop(fillable, step, state)

    groups = jnp.stack([jnp.sum(start[i::block], axis=0) for i in range(block)])
    basis = jnp.pad(_orthonormal(groups)[0], ((0, width), (0, 0)))
    projected = jnp.zeros((width, width), start.dtype)
    coupling = jnp.zeros((block, block), start.dtype)
    none = jnp.zeros((), int)
    state = _State(basis, projected, coupling, none, none, none)
    state = jax.lax.while_loop(fillable, step, state)
    state = jax.lax.while_loop(unfinished, again, state)
    values, mixing, residuals = _ritz(state, block)
    # Zeros for the residual block: without it the basis would be copied.
    vectors = jnp.pad(mixing[:, :k].T, ((0, 0), (0, block))) @ state.basis
    return Found(values[:k], vectors, residuals[:k], state.products)


def _ritz(state: _State, block: int) -> tuple[Array, Array, Array]:
    """Return Ritz values (falling), their vectors in columns by the basis, and residuals."""
    count = state.filled * block
    upper = jnp.triu(state.projected)  # below it a column knows nothing of later vectors
    empty = jnp.arange(len(upper)) >= count
    last = -1 - jnp.linalg.norm(upper)  # below all eigenvalues, so that they come first
    matrix = upper + jnp.triu(upper, 1).T + jnp.diag(jnp.where(empty, last, 0))
    values, mixing = jnp.linalg.eigh(matrix)
    values, mixing = values[::-1], mixing[:, ::-1]
    ends = jax.lax.dynamic_slice_in_dim(mixing, count - block, block)
    return values, mixing, jnp.linalg.norm(state.coupling @ ends, axis=0)


def _in_place(mixing: Array, basis: Array) -> Array:
    """Return mixing @ basis, some columns at a time: a second basis would be the peak of memory."""
    size = basis.shape[1]
    columns = min(size, COLUMNS)

    def mix(i: Array, basis: Array) -> Array:
        begin = jnp.minimum(i * columns, size - columns)
        piece = jax.lax.dynamic_slice_in_dim(basis, begin, columns, 1)
        # The last piece begins within the one before.
        mixed = jnp.where(begin + jnp.arange(columns) >= i * columns, mixing @ piece, piece)
        return jax.lax.dynamic_update_slice_in_dim(basis, mixed, begin, 1)

    return jax.lax.fori_loop(0, -(-size // columns), mix, basis)


def _new_directions(rows: Array, basis: Array) -> tuple[Array, Array]:
    """Return Q, orthonormal and orthogonal to the basis, and C with rows = C^T Q within its span.

    Twice is enough, unless nothing but rounding is left of the rows: then until it is not.
    """

    def again(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        fresh, coupling, _, passes = state
        fresh, turned = _orthonormal(_without(fresh, basis)[0])
        return fresh, turned @ coupling, jnp.min(jnp.abs(jnp.diag(turned))), passes + 1

    fresh, coupling = _orthonormal(rows)
    begin = (fresh, coupling, jnp.zeros((), rows.dtype), jnp.zeros((), int))
    lost = lambda state: (state[2] < LOST) & (state[3] < PASSES)
    return jax.lax.while_loop(lost, again, begin)[:2]


def _without(rows: Array, basis: Array) -> tuple[Array, Array]:
    """Return what of the rows is orthogonal to the basis, and the coefficients of the rest."""
    # The barrier keeps XLA from the transpose, rows @ basis.T: eight times as slow.
    along = jax.lax.optimization_barrier(basis @ rows.T)
    return rows - along.T @ basis, along


def _orthonormal(rows: Array) -> tuple[Array, Array]:
    """Return orthonormal rows Q and C with rows = C^T Q."""
    q, r = jnp.linalg.qr(rows.T)
    return q.T, r
