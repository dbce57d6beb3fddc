"""Block Lanczos for eigenpairs, with full reorthogonalization and restarts."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from metastep.checks import require_count
from metastep.compilation import compiled
from metastep.curvature.eigen.method import AbstractEigenMethod, Found
from metastep.curvature.operators.base import AbstractOperator

LOST = 0.9  # a unit vector that keeps this much of its length is orthogonal to within rounding
# Distance of a unit row from the others, in roots of the precision. The squared condition of the
# rows then stays below about 1 / (100 precision): one division leaves errors near 1 %, two none.
INDEPENDENT = 10
PASSES = 5  # two are the rule; random directions, if rounding alone is left, take a few more
CHECKS = 8  # convergence checks while a basis is filled; each takes as long as a product
COLUMNS = 4096  # the number of basis columns that are multiplied at a time


class Lanczos(AbstractEigenMethod):
    """Block Lanczos with full reorthogonalization and thick restarts.

    Time: the products, and basis * size multiplications for each. Memory: basis + block vectors.
    Of a multiple eigenvalue, a single vector (block 1) first finds one copy; a block finds as many
    as it has vectors.

    Attributes:
        tolerance: relative residual at which a pair has converged.
        basis: the number of vectors kept, rounded up to whole blocks. None for
            k + max(20, k // 2), with a block at least k + 50; at most the dimension.
        block: the number of vectors multiplied at the same time. None for 1 up to k = 32, then 8,
            since reading the basis then costs more than the products.
        restarts: the largest number of restarts, each of which keeps the best half of the basis.
            Pairs that have not converged after them are returned, marked.

    Reference:
        Wu, Simon (2000), Thick-restart Lanczos method for large symmetric eigenvalue problems.
    """

    tolerance: float = 1e-3
    basis: int | None = None
    block: int | None = None
    restarts: int = 100

    def __check_init__(self):
        require_count("basis", self.basis, none="by k")
        require_count("block", self.block, none="by k")
        require_count("restarts", self.restarts, least=0)

    def starts(self, k: int) -> int:
        """Return the size of a block."""
        return self.block or (1 if k <= 32 else 8)

    def find(self, operator: AbstractOperator, k: int, start: Array) -> Found:
        """Return k pairs with the residuals of the recurrence."""
        size = operator.size
        block = min(self.starts(k), max(1, size // 2))
        wanted = self.basis or k + max(20 if block == 1 else 50, k // 2)
        # Room for k kept vectors and a new block; the recurrence reads two blocks at a time.
        blocks = max(2, -(-min(max(wanted, k + 1), size) // block))
        if (blocks + 1) * block > size:  # the residual block would not fit beside the basis
            return _dense(operator, k)
        # Half of the vectors beyond the k wanted stay, too, or would have to be found again.
        kept = -(-(k + (blocks * block - k) // 2) // block)
        kept = min(max(kept, -(-k // block)), blocks - 1)
        return _lanczos(operator, k, start, block, blocks, kept, self.restarts, self.tolerance)


@compiled
def _dense(operator: AbstractOperator, k: int) -> Found:
    matrix = operator.as_matrix()
    # `eigh` symmetrizes what it is given, and the residuals must be those of the same matrix.
    matrix = (matrix + matrix.T) / 2
    values, vectors = jnp.linalg.eigh(matrix)
    values, vectors = values[::-1][:k], vectors.T[::-1][:k]
    residuals = jnp.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    return Found(values, vectors, residuals, jnp.array(operator.size))


class _State(eqx.Module):
    """The basis in rows, the projected operator, and the coefficients of the residual block.

    The first `filled` blocks of the basis are valid; the residual block follows them.
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
    """Fill the basis and restart from the best Ritz vectors, until k pairs have converged."""
    width = blocks * block
    product = operator.prepare().flat_mm

    def step(state: _State) -> _State:
        j = state.filled
        rows = jax.lax.dynamic_slice_in_dim(state.basis, j * block, block)
        fresh, coupling, along = _new_directions(product(rows), state.basis, (j - 1) * block)
        basis = jax.lax.dynamic_update_slice_in_dim(state.basis, fresh, (j + 1) * block, 0)
        projected = jax.lax.dynamic_update_slice_in_dim(
            state.projected, along[:width], j * block, 1
        )
        return _State(basis, projected, coupling, j + 1, state.restart, state.products + block)

    def converged(ritz: _Ritz) -> Array:
        return jnp.all(ritz.residuals[:k] <= tolerance * jnp.abs(ritz.values[:k]))

    def fillable(state: _State) -> Array:
        # Just after a restart the residual block couples to all kept vectors, not only the last.
        known = (state.filled != kept) | (state.restart == 0)
        due = (state.filled * block > k) & (state.filled % max(1, blocks // CHECKS) == 0)
        check = lambda state: converged(_ritz(state, block))
        # A full basis is looked at after the loop.
        worth = known & due & (state.filled < blocks)
        done = jax.lax.cond(worth, check, lambda state: jnp.array(False), state)
        return (state.filled < blocks) & ~done

    def unfinished(now: tuple[_State, _Ritz]) -> Array:
        state, ritz = now
        # NaN fails every test of convergence, and would use up all restarts.
        finite = jnp.all(jnp.isfinite(state.coupling))
        return ~converged(ritz) & (state.restart < restarts) & finite

    def filled(state: _State) -> tuple[_State, _Ritz]:
        state = jax.lax.while_loop(fillable, step, state)
        return state, _ritz(state, block)

    def again(now: tuple[_State, _Ritz]) -> tuple[_State, _Ritz]:
        state, (values, mixing, _) = now
        count = kept * block
        # The residual block moves behind the kept vectors, so that the recurrence goes on with it.
        rows = jax.scipy.linalg.block_diag(mixing[:, :count].T, jnp.eye(block, dtype=mixing.dtype))
        basis = _in_place(jnp.pad(rows, ((0, width - count), (0, 0))), state.basis)
        # Diagonal for Ritz vectors; their coupling to the residual block comes with its column.
        projected = jnp.zeros_like(state.projected).at[:count, :count].set(jnp.diag(values[:count]))
        begin = jnp.array(kept), state.restart + 1
        return filled(_State(basis, projected, state.coupling, *begin, state.products))

    groups = jnp.stack([jnp.sum(start[i::block], axis=0) for i in range(block)])
    # Orthonormalized twice, since one pass is accurate only to the squared condition.
    basis = jnp.pad(_orthonormal(_orthonormal(groups)[0])[0], ((0, width), (0, 0)))
    projected = jnp.zeros((width, width), start.dtype)
    coupling = jnp.zeros((block, block), start.dtype)
    none = jnp.zeros((), int)
    state = _State(basis, projected, coupling, none, none, none)
    state, ritz = jax.lax.while_loop(unfinished, again, filled(state))
    values, mixing, residuals = ritz
    # Padding with zeros includes the residual block: slicing it off would copy the basis.
    vectors = jnp.pad(mixing[:, :k].T, ((0, 0), (0, block))) @ state.basis
    return Found(values[:k], vectors, _with_rounding(values, residuals)[:k], state.products)


def _with_rounding(values: Array, residuals: Array) -> Array:
    # The recurrence takes the products for exact. It cannot lower their rounding, so this counts
    # in the result only, not in the test that ends the loop.
    return jnp.hypot(residuals, jnp.finfo(values.dtype).eps * jnp.abs(values[0]))


class _Ritz(NamedTuple):
    """Ritz values (descending), Ritz vectors in columns by the basis, and residuals."""

    values: Array
    mixing: Array
    residuals: Array


def _ritz(state: _State, block: int) -> _Ritz:
    count = state.filled * block
    upper = jnp.triu(state.projected)  # a column has no entries for later vectors
    empty = jnp.arange(len(upper)) >= count
    # Empty places sort behind the wanted pairs. The squares of all eigenvalues sum to less than
    # 2 |upper|^2, so at most one lies below -|upper|, and more than k are looked at.
    last = -1 - jnp.linalg.norm(upper)
    matrix = upper + jnp.triu(upper, 1).T + jnp.diag(jnp.where(empty, last, 0))
    values, mixing = jnp.linalg.eigh(matrix)
    values, mixing = values[::-1], mixing[:, ::-1]
    # Only the last block is coupled to the residual block, so H y - theta y has no other part.
    ends = jax.lax.dynamic_slice_in_dim(mixing, count - block, block)
    return _Ritz(values, mixing, jnp.linalg.norm(state.coupling @ ends, axis=0))


def _in_place(mixing: Array, basis: Array) -> Array:
    """Return mixing @ basis, some columns at a time, which saves the memory of a second basis."""
    size = basis.shape[1]
    columns = min(size, COLUMNS)

    def mix(i: Array, basis: Array) -> Array:
        begin = jnp.minimum(i * columns, size - columns)
        piece = jax.lax.dynamic_slice_in_dim(basis, begin, columns, 1)
        # The last piece overlaps the one before, whose columns must not be mixed again.
        mixed = jnp.where(begin + jnp.arange(columns) >= i * columns, mixing @ piece, piece)
        return jax.lax.dynamic_update_slice_in_dim(basis, mixed, begin, 1)

    return jax.lax.fori_loop(0, -(-size // columns), mix, basis)


def _new_directions(rows: Array, basis: Array, near: Array) -> tuple[Array, Array, Array]:
    """Return Q, C and A: rows = A^T basis + C^T Q, Q orthonormal and orthogonal to the basis.

    In exact arithmetic the rows have components along two blocks of the basis only, the one that
    begins at `near` and the next. These go first, at no cost; the whole basis then takes away what
    rounding left, and is read twice, not four times. If a pass removes more than that (just after a
    restart, or by cancellation), it is repeated until the rows keep most of their length (Kahan's
    "twice is enough").
    """

    def again(state: tuple[Array, ...]) -> tuple[Array, ...]:
        fresh, coupling, along, _, passes = state
        fresh, more = _without(fresh, basis)
        fresh, turned = _orthonormal(fresh)
        kept = jnp.min(jnp.abs(jnp.diag(turned)))
        return fresh, turned @ coupling, along + more @ coupling, kept, passes + 1

    block = len(rows)
    near = jnp.maximum(near, 0)
    rest, along = _without(rows, jax.lax.dynamic_slice_in_dim(basis, near, 2 * block))
    along = jax.lax.dynamic_update_slice_in_dim(
        jnp.zeros((len(basis), block), rows.dtype), along, near, 0
    )
    # Zero length kept: the pass against the whole basis runs at least once.
    begin = (*_orthonormal(rest), along, jnp.zeros((), rows.dtype), jnp.zeros((), int))
    lost = lambda state: (state[3] < LOST) & (state[4] < PASSES)
    fresh, coupling, along, *_ = jax.lax.while_loop(lost, again, begin)
    return fresh, coupling, along


def _without(rows: Array, basis: Array) -> tuple[Array, Array]:
    """Return the rows' component orthogonal to the basis, and their coefficients along it."""
    # The barrier keeps XLA from transposing to rows @ basis.T, which is eight times as slow.
    along = jax.lax.optimization_barrier(basis @ rows.T)
    return rows - along.T @ basis, along


def _orthonormal(rows: Array) -> tuple[Array, Array]:
    """Return Q with orthonormal rows and C with rows = C^T Q.

    By the Cholesky factor of the rows' Gram matrix, in a tenth of the time of Householder's
    reflections. Q is orthonormal to the precision times the square of the rows' condition, so that
    a second call makes it orthonormal to rounding. Rows that depend on each other are reflected.
    """
    lengths = jnp.linalg.norm(rows, axis=1)
    scale = jnp.where(lengths > 0, lengths, 1)
    unit = rows / scale[:, None]
    factor = jnp.linalg.cholesky(unit @ unit.T)
    independent = jnp.min(jnp.diag(factor)) > INDEPENDENT * jnp.finfo(rows.dtype).eps ** 0.5

    def reflect(rows: Array) -> tuple[Array, Array]:
        q, r = jnp.linalg.qr(rows.T)
        return q.T, r

    def divide(rows: Array) -> tuple[Array, Array]:
        del rows
        return jax.scipy.linalg.solve_triangular(factor, unit, lower=True), (
            scale[:, None] * factor
        ).T

    return jax.lax.cond(independent, divide, reflect, rows)
