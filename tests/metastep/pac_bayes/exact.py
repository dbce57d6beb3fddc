"""A certificate's moments, KL and bounds from its posterior and prior, in 40 digits."""

import jax
import mpmath
import numpy as np


def moments_and_bounds(certificate):
    """What `exact` computes, as the certificate has it."""
    return (
        certificate.distance_squared,
        certificate.variance_sum,
        certificate.log_variance_sum,
        certificate.kl,
        certificate.bound,
        certificate.uncorrected,
    )


def exact(certificate, posterior, prior):
    """The same from the definition: every number is taken as it is, none is rounded on the way."""
    leaves = lambda tree: map(np.ravel, jax.tree.leaves(tree))
    numbers = lambda tree: [mpmath.mpf(float(x)) for leaf in leaves(tree) for x in leaf]
    scales = numbers((posterior.log_scale, posterior.other_log_scale))
    with mpmath.workdps(40):
        pairs = zip(numbers(posterior.mean), numbers(prior), strict=True)
        distance = sum((a - b) ** 2 for a, b in pairs)
        variance = sum(mpmath.exp(2 * x) for x in scales)
        width = mpmath.mpf(certificate.prior_ceiling) * mpmath.exp(-mpmath.mpf(certificate.j) / 100)
        logs, count = 2 * sum(scales), len(scales)
        kl = ((variance + distance) / width - count + count * mpmath.log(width) - logs) / 2
        bounds = by_bisection(certificate, kl)
    return [float(x) for x in (distance, variance, logs, kl, *bounds)]


def by_bisection(certificate, kl):
    """The theorem with the share 6 / (pi j)^2 of delta, and Chernoff's limit for the draws."""
    n, m = certificate.examples, certificate.draws
    share = 6 * mpmath.mpf(certificate.delta) / (mpmath.pi * certificate.j) ** 2
    complexity = (kl + mpmath.log(n / share)) / (n - 1)
    measured = mpmath.mpf(certificate.error_sum) / m
    limit = inverse(measured, mpmath.log(2 / mpmath.mpf(certificate.draw_delta)) / m)
    return inverse(limit, complexity), inverse(measured, complexity)


def inverse(q, c):
    """The largest p with KL(q || p) <= c, by bisection."""
    term = lambda a, b: a * mpmath.log(a / b) if a else mpmath.mpf(0)
    low, high = q, mpmath.mpf(1)
    for _ in range(120):
        middle = (low + high) / 2
        above = term(q, middle) + term(1 - q, 1 - middle) > c
        low, high = (low, middle) if above else (middle, high)
    return low
