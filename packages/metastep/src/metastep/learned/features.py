"""The 31 input features of the MLP optimizer for every parameter.

The matrix of the network has one row for each, in the order of the published code: gradient,
mean / sqrt(square) (5), the parameter itself, mean (5), square (5), 1 / sqrt(square) (5), and nine
of time. Those of a tensor's entries are stored as (features, entries): rows are contiguous, and one
small matrix times all entries of a tensor is a single product.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
TIME_SCALES = (3, 10, 30, 100, 300, 1000, 3000, 10000, 300000)
PARAMETER = 1 + len(DECAYS)
PER_ENTRY = 2 + 4 * len(DECAYS)
FEATURES = PER_ENTRY + len(TIME_SCALES)
SQUARE_OFFSET = 1e-6
NORMALIZER_OFFSET = 1e-5
PIECES = 16


def update_moments(
    mean: Float[Array, "5 entries"],
    square: Float[Array, "5 entries"],
    grad: Float[Array, " entries"],
) -> tuple[Float[Array, "5 entries"], Float[Array, "5 entries"]]:
    """Return the running means of a gradient and of its square at the five `DECAYS`.

    The means start at zero and are not corrected for this.
    """
    # Subtracted in double precision: in single precision 1 - 0.9999 has a relative error of 3e-4.
    decay, rest = (jnp.asarray(one, grad.dtype)[:, None] for one in (DECAYS, 1 - np.array(DECAYS)))
    return decay * mean + rest * grad, decay * square + rest * grad**2


def entry_features(
    grad: Float[Array, " entries"],
    mean: Float[Array, "5 entries"],
    square: Float[Array, "5 entries"],
) -> Float[Array, "22 entries"]:
    """Return all features of each entry except the parameter, not normalized, and a row of ones.

    The order is: gradient, mean / sqrt(square) (5), mean (5), square (5), 1 / sqrt(square) (5),
    with square roots of square + 1e-6; and 1, which multiplies the bias. The means include this
    gradient. The caller adds the parameter, since in a first-order meta-gradient it alone carries a
    derivative.

    Reference:
        Metz et al. (2019), Understanding and correcting pathologies in the training of learned
        optimizers, in the order of their published code.
    """
    # Inside of the root: the derivative at a square of zero stays finite.
    inverse_root = jax.lax.rsqrt(square + SQUARE_OFFSET)
    ones = jnp.ones_like(grad)
    rows = (grad[None], mean * inverse_root, mean, square, inverse_root, ones[None])
    return jnp.concatenate(rows)


def time_features(step: Int[Array, ""], dtype: jnp.dtype) -> Float[Array, " 9"]:
    """Return tanh(step / s - 1) for the nine `TIME_SCALES` s; the first step has number 1."""
    # In float32 at least: float16 has no numbers above 65504, and bfloat16 few integers above 256.
    wide = jnp.promote_types(dtype, jnp.float32)
    ratio = jnp.asarray(step, wide) / jnp.asarray(TIME_SCALES, wide)
    return jnp.tanh(ratio - 1).astype(dtype)


def scale_of_tensor(features: Float[Array, "rows entries"]) -> Float[Array, " rows"]:
    """Return the factors that normalize the features of one tensor: 1 / sqrt(1e-5 + mean square).

    As in the authors' code, features are not centered, and each tensor is normalized alone.
    """
    # In float32 at least: in float16 the square of a feature above 255 is infinite.
    wide = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    mean_square = _sum_of_squares(wide) / max(features.shape[1], 1)
    return jax.lax.rsqrt(NORMALIZER_OFFSET + mean_square).astype(features.dtype)


@jax.custom_jvp
def _sum_of_squares(rows: Float[Array, "rows entries"]) -> Float[Array, " rows"]:
    # XLA adds the numbers of a row in sequence; adding pieces of it is five times as fast.
    width = rows.shape[1] // PIECES
    pieces = [rows[:, at * width : (at + 1) * width] ** 2 for at in range(PIECES)]
    rest = rows[:, PIECES * width :] ** 2
    return jnp.sum(sum(pieces[1:], start=pieces[0]), axis=1) + jnp.sum(rest, axis=1)


# The derivative of the pieces would be slices and additions again; this is one product and one sum.
@_sum_of_squares.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _sum_of_squares(*primals), 2 * jnp.sum(primals[0] * tangents[0], axis=1)


def standardized(tensors: list[Array]) -> list[Array]:
    """Return features with mean 0 and standard deviation 1 over the entries of all tensors.

    As in the text of the paper. The variance has 1e-5 added to it, as in the authors' code.
    """
    entries = max(sum(one.shape[1] for one in tensors), 1)
    dtype = jnp.promote_types(jnp.result_type(*tensors), jnp.float32)
    wide = [one.astype(dtype) for one in tensors]

    def average(parts: list[Array]) -> Array:
        totals = jnp.stack([jnp.sum(part, axis=1) for part in parts])
        return jnp.sum(totals, axis=0)[:, None] / entries

    # The mean first, not E x^2 - (E x)^2, which cancels for features far from zero.
    mean = average(wide)
    centered = [one - mean for one in wide]
    scale = jax.lax.rsqrt(NORMALIZER_OFFSET + average([one**2 for one in centered]))
    return [(one * scale).astype(old.dtype) for one, old in zip(centered, tensors, strict=True)]
