"""Trace, diagonal, log-determinant and spectral density from products with random vectors."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matfree import stochtrace

from metastep.checks import require, require_count
from metastep.compilation import compiled
from metastep.curvature.operators.base import AbstractOperator
from metastep.trees import mean_and_error
from metastep.types import RandomKey

# Products under one `vmap`: each holds the model's intermediate values for all of its examples.
AT_A_TIME = 16
LARGEST_EXPONENT = 120  # of a power of two that is finite in float32


class StochasticEstimate(eqx.Module):
    """A stochastic estimate and its standard error.

    Attributes:
        value: the estimate.
        standard_error: its estimated standard deviation; NaN for a single sample.
        products: the number of products with the operator.
    """

    value: Float[Array, "*shape"]
    standard_error: Float[Array, "*shape"]
    products: int = eqx.field(static=True)


class SpectralDensity(eqx.Module):
    """The distribution of eigenvalues as weighted points, one row for each random vector.

    Attributes:
        nodes: Ritz values, `[probes, steps]`.
        weights: their weights; each row sums to one.
        size: the dimension of the operator.
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    size: int = eqx.field(static=True)

    def on(self, grid: Float[Array, " points"], width: float) -> Float[Array, " points"]:
        """Return the density on a grid, each point widened to a normal of deviation `width`."""
        bumps = jnp.exp(-(((grid[:, None, None] - self.nodes) / width) ** 2) / 2)
        height = jnp.sqrt(2 * jnp.pi) * width * len(self.nodes)
        return jnp.einsum("gps,ps->g", bumps, self.weights) / height

    def trace_of(self, function: Callable[[Array], Array]) -> StochasticEstimate:
        """Return the trace of a function of the operator, one quadrature for each vector."""
        # z^T f(H) z of a random unit vector z has the expectation trace / size.
        samples = self.size * jnp.sum(self.weights * function(self.nodes), axis=1)
        return _summary(samples, self.nodes.size)


def hutchinson_trace(
    operator: AbstractOperator, samples: int, *, key: RandomKey
) -> StochasticEstimate:
    """Estimate the trace by the mean of z^T H z over vectors z of random signs.

    Unbiased; the standard error falls like 1 / sqrt(samples). `samples` is the number of random
    vectors and of products, from 2.

    Reference:
        Hutchinson (1989), A stochastic estimator of the trace of the influence matrix.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from metastep.curvature import SymmetricMatrix, hutchinson_trace
        >>> diagonal = SymmetricMatrix(jnp.diag(jnp.arange(4.0)))
        >>> float(hutchinson_trace(diagonal, 2, key=jax.random.key(0)).value)
        6.0
    """
    require_count("samples", samples, least=2)
    return _summary(_hutchinson(operator, samples, key)["trace"], samples)


def diagonal(operator: AbstractOperator, samples: int, *, key: RandomKey) -> StochasticEstimate:
    """Estimate the diagonal by the mean of z * H z over vectors z of random signs.

    Unbiased; an entry's variance is the sum of squares of the other entries of its row. `samples`
    is the number of random vectors and of products, from 2. The value is one array `[size]`.

    Reference:
        Bekas, Kokiopoulou, Saad (2007), An estimator for the diagonal of a matrix.
    """
    require_count("samples", samples, least=2)
    return _summary(_hutchinson(operator, samples, key)["diagonal"], samples)


def hutchpp_trace(
    operator: AbstractOperator, samples: int, *, key: RandomKey
) -> StochasticEstimate:
    """Estimate the trace exactly on a random subspace, and by Hutchinson's method on the rest.

    Unbiased; for a positive operator the error falls like 1 / samples. `samples` is the number of
    products, a multiple of 3 from 6, up to three times the dimension. The standard error is that of
    Hutchinson's part.

    Reference:
        Meyer, Musco, Musco, Woodruff (2021), Hutch++: optimal stochastic trace estimation.
    """
    require_count("samples", samples, least=6, most=3 * operator.size)
    require(samples % 3 == 0, "samples", samples, "multiples of 3")
    exact, rest = _hutchpp(operator, samples // 3, key)
    summary = _summary(rest, samples)
    return StochasticEstimate(exact + summary.value, summary.standard_error, samples)


def xtrace(operator: AbstractOperator, samples: int, *, key: RandomKey) -> StochasticEstimate:
    """Estimate the trace by Hutch++, averaged over leaving out each vector in turn.

    Unbiased and at least as accurate as Hutch++ at equal products, usually much more. `samples` is
    the number of products, an even number from 4, up to the dimension; one more sets the scale. The
    samples of the standard error are not independent.

    Reference:
        Epperly, Tropp, Webber (2024), XTrace: making the most of every sample in stochastic trace
        estimation.
    """
    require_count("samples", samples, least=4, most=operator.size)
    require(samples % 2 == 0, "samples", samples, "even numbers")
    return _summary(_xtrace(operator, samples // 2, key), samples + 1)


def spectral_density(
    operator: AbstractOperator, *, steps: int, probes: int = 1, key: RandomKey
) -> SpectralDensity:
    """Approximate the distribution of eigenvalues by stochastic Lanczos quadrature.

    Moments up to degree 2 steps - 1 are unbiased; each probe is one random vector. Full
    reorthogonalization needs memory for `steps` vectors.

    Args:
        operator: any operator of this package.
        steps: Lanczos steps, and products, of each probe; up to the dimension.
        probes: random vectors.
        key: random key.

    Returns:
        Points and weights; `.on(grid, width)` is the density.

    Reference:
        Ubaru, Chen, Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature;
        Ghorbani, Krishnan, Xiao (2019).
    """
    require_count("steps", steps, most=operator.size)
    require_count("probes", probes)
    return SpectralDensity(*_quadrature(operator, steps, probes, key), operator.size)


def log_determinant(
    operator: AbstractOperator, *, damping: float, steps: int, probes: int = 8, key: RandomKey
) -> StochasticEstimate:
    """Estimate log det (H + damping I) of a positive semidefinite operator by quadrature.

    Biased by the quadrature, which converges geometrically in `steps` at a rate set by the
    condition number of H + damping I.

    Args:
        operator: positive semidefinite; if H + damping I is not positive at a node, NaN.
        damping: positive.
        steps: Lanczos steps of each probe.
        probes: random vectors, from 2.
        key: random key.
    """
    require(damping > 0, "damping", damping, "positive numbers")
    require_count("probes", probes, least=2)
    density = spectral_density(operator, steps=steps, probes=probes, key=key)
    return density.trace_of(lambda nodes: jnp.log(nodes + damping))


def _summary(samples: Array, products: int) -> StochasticEstimate:
    return StochasticEstimate(*mean_and_error(samples), products)


def _signs(operator: AbstractOperator, count: int, key: RandomKey) -> Array:
    # Signs, since z_i^2 = 1 removes the diagonal from the variance: a diagonal matrix is exact.
    return stochtrace.sampler_signs(jnp.zeros(operator.size, operator.dtype), num=count)(key)


def _products(operator: AbstractOperator, rows: Array) -> Array:
    return jax.lax.map(operator.flat_mv, rows, batch_size=AT_A_TIME)


@compiled
def _hutchinson(operator: AbstractOperator, samples: int, key: RandomKey) -> dict[str, Array]:
    product = operator.prepare().flat_mv
    sample = stochtrace.monte_carlo_trace_and_diagonal()
    signs = _signs(operator, samples, key)
    return jax.lax.map(lambda z: sample(product, z), signs, batch_size=AT_A_TIME)


@compiled
def _hutchpp(operator: AbstractOperator, third: int, key: RandomKey) -> tuple[Array, Array]:
    """Hutch++, implemented here because traceax and matfree return no standard error."""
    operator = operator.prepare()
    first, second = jax.random.split(key)
    basis = jnp.linalg.qr(_products(operator, _signs(operator, third, first)).T)[0].T
    exact = jnp.sum(basis * _products(operator, basis))
    rest = _signs(operator, third, second)
    # The trace outside of the subspace alone: the subspace has its exact part already.
    rest = rest - (rest @ basis.T) @ basis
    return exact, jnp.sum(rest * _products(operator, rest), axis=1)


@compiled
def _xtrace(operator: AbstractOperator, half: int, key: RandomKey) -> Array:
    product, signs = operator.prepare().flat_mv, _signs(operator, half, key)
    # matfree compares products with the precision as it is: those of a small operator would count
    # as dependent, and a part of the trace as all of it. A power of two rounds nothing.
    exponent = jnp.frexp(jnp.linalg.norm(product(signs[0])))[1]
    factor = jnp.ldexp(jnp.ones((), operator.dtype), jnp.minimum(-exponent, LARGEST_EXPONENT))
    # Resphering assumes rotationally invariant vectors, which signs are not.
    leave_one_out = stochtrace.leave_one_out_xtrace(apply_resphering=False)
    return leave_one_out(lambda vector: factor * product(vector), signs) / factor


@compiled
def _quadrature(
    operator: AbstractOperator, steps: int, probes: int, key: RandomKey
) -> tuple[Array, Array]:
    """Lanczos, implemented here because matfree's divides by zero in an exhausted Krylov space."""
    operator = operator.prepare()

    def probe(key: RandomKey) -> tuple[Array, Array]:
        start = jax.random.normal(key, (operator.size,), operator.dtype)
        basis = jnp.zeros((steps + 1, operator.size), operator.dtype)
        basis = basis.at[0].set(start / jnp.linalg.norm(start))

        def step(basis: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
            moved = operator.flat_mv(basis[j])
            along = basis @ moved
            # Against the whole basis and twice: with three terms alone, converged eigenvalues would
            # come back as copies.
            moved = moved - along @ basis
            moved = moved - (basis @ moved) @ basis
            # Zero in an exhausted Krylov space: the rest of the tridiagonal matrix is decoupled,
            # its eigenvectors have no first component, and its nodes no weight.
            length = jnp.linalg.norm(moved)
            fresh = jnp.where(length > 0, moved / jnp.where(length > 0, length, 1), 0)
            return basis.at[j + 1].set(fresh), (along[j], length)

        _, (centre, off) = jax.lax.scan(step, basis, jnp.arange(steps))
        tridiagonal = jnp.diag(centre) + jnp.diag(off[:-1], 1) + jnp.diag(off[:-1], -1)
        nodes, vectors = jnp.linalg.eigh(tridiagonal)
        # Gauss quadrature: the weights are the squared first components of the eigenvectors.
        return nodes, vectors[0] ** 2

    # One probe after the other, as each holds a whole basis.
    return jax.lax.map(probe, jax.random.split(key, probes))
