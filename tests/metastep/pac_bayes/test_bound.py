"""The inverse of the binary KL, the KL of Gaussians, and the bound, against independent sums."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate, stats

from metastep import pac_bayes
from metastep.pac_bayes.bound import penalty

RATES = (0.0, 1e-20, 1e-8, 1e-3, 0.03, 0.3, 0.5, 0.9, 1 - 1e-8, 1 - 2**-53, 1.0)
LIMITS = (0.0, 1e-24, 1e-16, 1e-5, 0.01, 0.3, 1.0, 5.0, 30.0)


def exact_gap(q, rest, c):
    """Return t with KL(q || q + t) = c by bisection in 80 digits; rest = 1 - q."""
    if c == 0 or rest == 0:
        return mpmath.mpf(0)
    term = lambda a, b: a * mpmath.log(a / b) if a else mpmath.mpf(0)
    low, high = mpmath.mpf(0), rest
    while high - low > mpmath.mpf(10) ** -22 * high:
        middle = (low + high) / 2
        if term(q, q + middle) + term(rest, rest - middle) > c:
            high = middle
        else:
            low = middle
    return low


def test_inverses_are_exact_to_rounding(x64):
    rates, limits = np.meshgrid(RATES, LIMITS, indexing="ij")
    upper, lower = jax.jit(
        lambda q, c: (pac_bayes.kl_inverse(q, c), pac_bayes.kl_inverse_lower(q, c))
    )(rates, limits)
    with mpmath.workdps(80):
        for place, q in np.ndenumerate(rates):
            q, c = mpmath.mpf(float(q)), mpmath.mpf(float(limits[place]))
            above, below = q + exact_gap(q, 1 - q, c), q - exact_gap(1 - q, q, c)
            # Two roundings of float64: relative to the limit above, to the rate below.
            assert abs(float(upper[place]) - above) <= 4.5e-16 * above
            assert abs(float(lower[place]) - below) <= 4.5e-16 * q


def test_inverses_are_nan_outside_their_domain():
    q, c = jnp.array([-0.1, 1.1, 0.5, jnp.nan, 0.5]), jnp.array([0.1, 0.1, -1.0, 0.1, jnp.nan])
    assert np.all(np.isnan(pac_bayes.kl_inverse(q, c)))
    assert np.all(np.isnan(pac_bayes.kl_inverse_lower(q, c)))


def test_divergence_of_coins(x64):
    q, p = np.array([0.0, 0.2, 0.5, 1.0, 0.3]), np.array([0.1, 0.7, 0.5, 0.9, 0.3 + 1e-9])
    # stats.entropy is accurate to rounding where nothing cancels; (p - q)^2 / 2q(1 - q) near p = q.
    expected = stats.entropy([q, 1 - q], [p, 1 - p])
    expected[-1] = 1e-18 / (2 * 0.3 * 0.7)
    # 0.3 + 1e-9 is rounded: 1e-7 of the difference, twice that of its square.
    assert np.allclose(pac_bayes.kl_bernoulli(q, p), expected, rtol=3e-7, atol=0)
    outside = pac_bayes.kl_bernoulli(
        np.array([1.2, -0.1, 0.5, 0.5]), np.array([0.1, 0.1, 1.2, -0.1])
    )
    assert np.all(np.isnan(outside))


def test_divergence_of_gaussians_is_an_integral(x64):
    mean, sigma, rho = 0.7, -0.4, 0.3
    q, p = stats.norm(mean, np.exp(sigma)), stats.norm(-0.2, np.exp(rho))
    integral = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -8, 8)[0]
    one = pac_bayes.kl_divergence(jnp.array(mean), jnp.array(sigma), jnp.array(-0.2), rho)
    # The quadrature's own error estimate is below 1e-8.
    assert np.isclose(one, integral, rtol=1e-7, atol=0)
    leaves = [jnp.full((2, 3), value) for value in (mean, sigma, -0.2)]
    assert np.isclose(pac_bayes.kl_divergence(*leaves, rho), 6 * one)


def test_bound_is_the_theorem_and_both_figures_are_reported():
    error, kl, n, j, draws = 0.03, 500.0, 8000, 7, 1000
    found = pac_bayes.bound(error, kl, n, j=j, draws=draws)
    share = 6 * 0.025 / (np.pi**2 * j**2)
    # McAllester's form: [KL + log(n / delta_j)] / (n - 1).
    assert np.isclose(found.complexity, (kl + np.log(n / share)) / (n - 1), rtol=1e-14, atol=0)
    spent = stats.entropy([error, 1 - error], [found.training_error, 1 - found.training_error])
    assert np.isclose(
        spent, np.log(2 / 0.01) / draws, rtol=1e-10, atol=0
    )  # the root of a smooth function
    exact = pac_bayes.bound(error, kl, n, j=j)
    assert found.uncorrected == exact.value == exact.uncorrected < found.value
    assert (found.confidence, exact.confidence) == (0.965, 0.975)
    many = pac_bayes.bound(error, kl, n, j=j, draws=10**9)
    assert exact.value < many.value < exact.value + 1e-4  # the correction dies out like 1/sqrt
    # Training minimizes the same complexity: float32 rounding of a few operations.
    rho = (np.log(0.1) - j / 100) / 2
    arguments = [jnp.asarray(x, jnp.float32) for x in (kl, rho, n, 0.025)]
    assert np.isclose(penalty(*arguments), np.sqrt(exact.complexity / 2), rtol=1e-4, atol=0)


THEOREM = [(2, 1, 0.0, 0.025), (3, 2, 4.0, 0.5), (10, 7, 1e-3, 0.01), (60_000, 28, 3766.1, 0.025)]


@pytest.mark.parametrize(("examples", "j", "kl", "delta"), THEOREM)
def test_the_complexity_in_50_digits(x64, examples, j, kl, delta):
    """[KL + log(n / delta_j)] / (n - 1), and training's penalty: the root of half of it."""
    with mpmath.workdps(50):
        n, kl_exact = mpmath.mpf(examples), mpmath.mpf(kl)
        total = mpmath.nsum(lambda k: 6 / (mpmath.pi * k) ** 2, [1, mpmath.inf])
        assert abs(total - 1) < 1e-30  # the shares of the union bound
        share = mpmath.mpf(delta) * 6 / (mpmath.pi * j) ** 2
        complexity = (kl_exact + mpmath.log(n) - mpmath.log(share)) / (n - 1)
        root = mpmath.sqrt(complexity / 2)
    found = pac_bayes.bound(0.1, kl, examples, j=j, delta=delta)
    np.testing.assert_allclose(found.complexity, float(complexity), rtol=1e-14)
    rho = (np.log(0.1) - j / 100) / 2
    numbers = [jnp.asarray(x, float) for x in (kl, rho, examples, delta)]
    # j is recovered from rho, which is rounded: 1e-16 of 230 against a j of 1.
    np.testing.assert_allclose(penalty(*numbers), float(root), rtol=1e-12)


def test_the_bound_is_float64_whatever_the_default():
    """Without float64 enabled, against bisection in 80 digits."""
    found = pac_bayes.bound(0.03, 500.0, 8000, j=7, draws=1000)
    with mpmath.workdps(80):
        q, n = mpmath.mpf(0.03), 8000
        spent = mpmath.log(2 / mpmath.mpf(0.01)) / 1000
        complexity = (500 + mpmath.log(n * (7 * mpmath.pi) ** 2 / (6 * mpmath.mpf(0.025)))) / (
            n - 1
        )
        limit = q + exact_gap(q, 1 - q, spent)
        value = limit + exact_gap(limit, 1 - limit, complexity)
        plain = q + exact_gap(q, 1 - q, complexity)
    numbers = found.training_error, found.value, found.uncorrected
    np.testing.assert_allclose(numbers, [float(x) for x in (limit, value, plain)], rtol=1e-14)


def test_the_divergence_of_gaussians_in_50_digits(x64):
    mean, log_scale, prior = [0.7, -1e-3], [-0.4, -5.0], [-0.2, 0.0]
    with mpmath.workdps(50):
        kl = mpmath.mpf(0)
        for m, s, p in zip(mean, log_scale, prior, strict=True):
            ratio = mpmath.exp(2 * (mpmath.mpf(s) - mpmath.mpf(0.3)))
            shift = (mpmath.mpf(m) - mpmath.mpf(p)) ** 2 * mpmath.exp(-2 * mpmath.mpf(0.3))
            kl += (ratio + shift - 1 - mpmath.log(ratio)) / 2
    found = pac_bayes.kl_divergence(*(jnp.array(x) for x in (mean, log_scale, prior)), 0.3)
    np.testing.assert_allclose(found, float(kl), rtol=1e-14)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"error": 1.2}, "error is 1.2"),
        ({"error": float("nan")}, "error is nan"),
        ({"kl": -1.0}, "kl is -1"),
        ({"kl": float("inf")}, "kl is inf"),
        ({"examples": 1}, "examples is 1"),
        ({"j": 0}, "j is 0; allowed are integers from 1"),
        ({"delta": 0.0}, "delta is 0"),
        ({"delta": 1.0}, "delta is 1"),
        ({"draw_delta": 1.5}, "draw_delta is 1.5"),
        ({"draws": 0}, "draws is 0"),
        ({"delta": 0.6, "draw_delta": 0.6, "draws": 9}, "delta \\+ draw_delta is 1.2"),
        ({"delta": 0.5, "draw_delta": 0.5, "draws": 9}, "delta \\+ draw_delta is 1.0"),
    ],
)
def test_bad_arguments(changed, message):
    good = {"error": 0.1, "kl": 10.0, "examples": 100, "j": 1}
    with pytest.raises(ValueError, match=message):
        pac_bayes.bound(**(good | changed))
