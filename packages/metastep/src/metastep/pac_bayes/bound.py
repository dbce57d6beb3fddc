"""PAC-Bayes bounds on the error of a Gaussian posterior, and the inverse of the binary KL."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from metastep.checks import require
from metastep.compilation import compiled
from metastep.types import Scalar

NEWTON_STEPS = 40  # a dozen suffice; the rest costs nothing that can be measured
SERIES = tuple(1 / n for n in range(39, 1, -2))  # 1/39, ..., 1/3 of atanh, exact for |r| < 0.35
PRIOR_CEILING = 0.1
LOG_CEILING = math.log(PRIOR_CEILING)
PRIOR_PRECISION = 100


def kl_bernoulli(q: ArrayLike, p: ArrayLike) -> Float[Array, "..."]:
    """Return KL(q || p) = q log(q / p) + (1 - q) log((1 - q) / (1 - p)) of two Bernoulli variables.

    Small relative error, also for p near q. Element-wise, jittable, for shapes that broadcast; NaN
    outside [0, 1].
    """
    q, p = jnp.asarray(q, float), jnp.asarray(p, float)
    usable = (q >= 0) & (q <= 1) & (p >= 0) & (p <= 1)
    return jnp.where(usable, _divergence(q, 1 - q, p - q), jnp.nan)


def kl_inverse(q: ArrayLike, c: ArrayLike) -> Float[Array, "..."]:
    """Return the largest p with KL(q || p) <= c: an upper confidence limit for an error rate q.

    Newton's method on a convex function, started from above so that it cannot overshoot. Exact to
    rounding relative to p, also near 0. Element-wise, jittable.

    Args:
        q: observed rates in [0, 1], any shape.
        c: bounds on the divergence, from 0, a shape that broadcasts with that of `q`.

    Returns:
        p in [q, 1]; NaN if `q` is outside [0, 1] or `c` is negative or NaN.

    Reference:
        Langford and Seeger (2001), Bounds for averaging classifiers; Dziugaite and Roy (2017),
        Computing nonvacuous generalization bounds, Section 2.2.

    Example:
        >>> from metastep.pac_bayes import kl_inverse
        >>> round(float(kl_inverse(0.03373, 0.0769)), 3)
        0.154
    """
    q, c = jnp.broadcast_arrays(jnp.asarray(q, float), jnp.asarray(c, float))
    return q + _gap(q, 1 - q, c)


def kl_inverse_lower(q: ArrayLike, c: ArrayLike) -> Float[Array, "..."]:
    """Return the smallest p with KL(q || p) <= c: a lower confidence limit for an error rate q.

    The counterpart of `kl_inverse` below q, with the same arguments. Exact to rounding, relative
    to q.
    """
    q, c = jnp.broadcast_arrays(jnp.asarray(q, float), jnp.asarray(c, float))
    return q - _gap(1 - q, q, c)


def _gap(q: Array, rest: Array, c: Array) -> Array:
    """Return t >= 0 with KL(q || q + t) = c, where rest = 1 - q is given exactly."""
    # From q log q + (1 - q) log((1 - q) / (1 - p)) <= KL(q || p): never below the solution.
    # Near q = 1 the logarithm is taken of 1 - rest, as q itself is rounded.
    entropy = jnp.where(q < 0.5, jax.scipy.special.entr(q), -q * jnp.log1p(-rest))
    inside = rest > 0
    safe = jnp.where(inside, rest, 1)
    highest = -safe * jnp.expm1(-(c + entropy) / safe)
    # The second limit is the relaxed inverse of McAllester (2003), much nearer for small c.
    start = jnp.minimum(highest, jnp.sqrt(2 * q * c) + 2 * c)

    def newton(_: Array, t: Array) -> Array:
        # d KL / dp = (p - q) / (p (1 - p)) at p = q + t.
        slope = t / ((q + t) * (safe - t))
        step = (_divergence(q, safe, t) - c) / slope
        moved = t - step
        # At the solution rounding may send a step out of the interval, where nothing is defined.
        usable = jnp.isfinite(moved) & (moved > 0) & (moved <= start)
        return jnp.where(usable, moved, t)

    solved = jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)
    gap = jnp.where(inside & (c > 0), jnp.minimum(solved, safe), 0)
    return jnp.where((q >= 0) & (rest >= 0) & (c >= 0), gap, jnp.nan)


def _divergence(q: Array, rest: Array, t: Array) -> Array:
    """Return KL(q || q + t) as a sum of two terms of one sign, to avoid cancellation."""
    # t - q log(1 + t / q) >= 0, which tends to t for q = 0; the same for 1 - q with -t.
    above = jnp.where(q > 0, q * _curved(t / jnp.where(q > 0, q, 1)), t)
    below = jnp.where(rest > 0, rest * _curved(-t / jnp.where(rest > 0, rest, 1)), -t)
    return above + below


def _curved(x: Array) -> Array:
    """Return x - log(1 + x) with a small relative error, also near 0."""
    # log(1 + x) = 2 artanh(r) with r = x / (2 + x): its series converges faster than that of the
    # logarithm. Since x - 2 r = r x, the terms of first order are never subtracted.
    ratio = x / (2 + x)
    near = jnp.abs(ratio) < 0.35
    small = jnp.where(near, ratio, 0)
    square = small * small
    total = jnp.zeros_like(x)
    for coefficient in SERIES:
        total = total * square + coefficient
    return jnp.where(near, small * x - 2 * small * square * total, x - jnp.log1p(x))


def kl_divergence(
    mean: PyTree, log_scale: PyTree, prior_mean: PyTree, log_prior_scale: ArrayLike
) -> Scalar:
    """Return KL(Q || P) of Q = N(mean, diag(exp(2 log_scale))) and P = N(prior_mean, lambda I).

    Here lambda = exp(2 log_prior_scale). `mean` and `prior_mean` are trees of one structure, and
    `log_scale` has as many entries. Since P is isotropic, the variances may refer to another
    orthonormal basis than the means. Exact; linear cost.

    Reference:
        Dziugaite and Roy (2017), Section 3.1. (C.270 of the thesis prints KL(P || Q), a slip.)
    """
    total = lambda tree: sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), jnp.zeros(()))
    distance = total(jax.tree.map(lambda a, b: (a - b) ** 2, mean, prior_mean))
    variance = total(jax.tree.map(lambda leaf: jnp.exp(2 * leaf), log_scale))
    count = sum(leaf.size for leaf in jax.tree.leaves(log_scale))
    rho = jnp.asarray(log_prior_scale)
    inside = (variance + distance) * jnp.exp(-2 * rho) - count + 2 * count * rho
    return inside / 2 - total(log_scale)


def penalty(
    kl: Scalar,
    log_prior_scale: Scalar,
    examples: Scalar,
    delta: Scalar,
    log_ceiling: ArrayLike = LOG_CEILING,
) -> Scalar:
    """Return sqrt(B_RE / 2), the differentiable complexity term that training adds to its loss.

    B_RE = [KL + 2 log(b log(c / lambda)) + log(pi^2 n / (6 delta))] / (n - 1). b log(c / lambda)
    is kept at 1 or above; below 1 the weight in the union bound would be negative.

    Reference:
        Dziugaite and Roy (2017), Equation (10); (C.270) of the thesis.
    """
    j = jnp.maximum(PRIOR_PRECISION * (log_ceiling - 2 * log_prior_scale), 1)
    weight = 2 * jnp.log(j) + jnp.log(math.pi**2 * examples / (6 * delta))
    return jnp.sqrt((kl + weight) / (2 * (examples - 1)))


@dataclass(frozen=True)
class Bound:
    """An upper bound on the error of a posterior on new examples, and its parts.

    Attributes:
        value: the bound, which holds with probability `confidence`.
        confidence: 1 - delta, minus the probability that the Monte Carlo estimate fails.
        uncorrected: the bound for an exact estimate of the training error, as in the literature.
            It holds with probability 1 - delta only if the estimate is exact.
        training_error: upper limit of the posterior's training error, from `draws` draws.
        complexity: [KL + 2 log j + log(pi^2 n / (6 delta))] / (n - 1).
    """

    value: float
    confidence: float
    uncorrected: float
    training_error: float
    complexity: float


def bound(
    error: float,
    kl: float,
    examples: int,
    *,
    j: int,
    delta: float = 0.025,
    draws: int | None = None,
    draw_delta: float = 0.01,
) -> Bound:
    """Bound the error of a Gaussian posterior by the PAC-Bayes theorem, in float64.

    The prior's variance is one of lambda = c exp(-j / b), j = 1, 2, ..., fixed before the data are
    seen. A union bound gives the j-th the share 6 / (pi^2 j^2) of `delta`. The training error is a
    mean over draws, each an independent pair of weights and a training example (or any number of
    examples, the same for each). A Chernoff bound turns it into an upper limit that fails with
    probability `draw_delta`.

    Args:
        error: mean error of the draws, in [0, 1].
        kl: KL(Q || P) with the variance of the j-th prior, from 0.
        examples: training examples n, from 2.
        j: index of the prior's variance, from 1.
        delta: probability that the theorem fails, in (0, 1).
        draws: independent draws; None if `error` is exact, which needs no correction.
        draw_delta: probability that the limit for the training error fails, in (0, 1).

    Returns:
        The bound with and without the correction. A value of 1 is vacuous, and for two balanced
        classes so is a value of 0.5 or more.

    Reference:
        Dziugaite and Roy (2017), Theorem 2.1 and Section 5; Langford and Caruana (2002), (Not)
        bounding the true error.

    Example:
        >>> from metastep.pac_bayes import bound
        >>> found = bound(0.02347, 3766.1, 60000, j=28, draws=150_000)
        >>> round(found.uncorrected, 3), round(found.value, 3), found.confidence
        (0.12, 0.122, 0.965)
    """
    require(0 <= error <= 1, "error", error, "numbers in [0, 1]: the mean of a bounded error")
    require(0 <= kl < math.inf, "kl", kl, "finite numbers from 0")
    require(examples >= 2, "examples", examples, "integers from 2")
    require(j >= 1 and j == int(j), "j", j, "integers from 1: the union bound starts there")
    require_probability("delta", delta)
    require_probability("draw_delta", draw_delta)
    require(draws is None or draws >= 1, "draws", draws, "None and integers from 1")
    spent = delta if draws is None else delta + draw_delta
    require(spent < 1, "delta + draw_delta", spent, "a sum below 1")
    weight = 2 * math.log(j) + math.log(math.pi**2 * examples / (6 * delta))
    complexity = (kl + weight) / (examples - 1)
    # With the 2 of the papers, although a limit on one side alone would do without.
    estimate = 0.0 if draws is None else math.log(2 / draw_delta) / draws
    # Whatever JAX's default: in float32 the limits could be rounded down.
    with jax.enable_x64(True):
        limits = _inverses(jnp.array([error, estimate, complexity])).tolist()
    training_error, value, uncorrected = limits
    return Bound(value, 1 - spent, uncorrected, training_error, complexity)


@compiled
def _inverses(numbers: Float[Array, "3"]) -> Float[Array, "3"]:
    error, estimate, complexity = numbers
    training_error = kl_inverse(error, estimate)
    both = kl_inverse(jnp.stack([training_error, error]), complexity)
    return jnp.concatenate([training_error[None], both])


def require_probability(name: str, value: float) -> None:
    """Raise a `ValueError` unless `value` is strictly between 0 and 1."""
    require(0 < value < 1, name, value, "numbers strictly between 0 and 1")
