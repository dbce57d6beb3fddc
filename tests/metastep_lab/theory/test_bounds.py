"""Every closed form and bound against sums and integrals that share nothing with it.

Where a bound is attained, that it is; where it never is, against the printed inequality in exact
fractions.
"""

from fractions import Fraction
from itertools import product

import mpmath
import numpy as np
import pytest

from metastep_lab.theory import least_squares, maml, transfer, truncation
from metastep_lab.theory import quadratic_step_size as quadratic

mp = mpmath.mp.clone()
mp.dps = 50


def rotated(eigenvalues, coordinates):
    """Return H and w_0 with these eigenvalues and coordinates in a basis without zeros."""
    size = len(eigenvalues)
    basis = np.linalg.qr(np.cos(1.0 + np.add.outer(np.arange(size) ** 2, 2.0 * np.arange(size))))[0]
    hessian = basis * np.array(eigenvalues, float) @ basis.T
    return (hessian + hessian.T) / 2, basis @ np.array(coordinates, float)


# The step size on a quadratic


SPECTRUM, START = (1, 2.5, 4), (0.6, -0.3, 0.8)


def loss_by_steps(eta, horizon):
    """f(w_T) by T steps of descent in each coordinate, in 50 digits."""
    weights = [mp.mpf(c) for c in START]
    for _ in range(horizon):
        weights = [w - eta * mp.mpf(value) * w for w, value in zip(weights, SPECTRUM, strict=True)]
    return sum(mp.mpf(value) * w**2 for w, value in zip(weights, SPECTRUM, strict=True)) / 2


@pytest.mark.parametrize("horizon", [1, 2, 7, 40])
@pytest.mark.parametrize("eta", [0.0, 0.1, 0.3, 0.55, 3.0])
def test_derivatives_of_the_step_size_are_those_of_descent(eta, horizon):
    problem = rotated(SPECTRUM, START)
    log_loss = lambda x: mp.log(loss_by_steps(x, horizon)) / horizon
    value, slope, curvature = (mp.diff(log_loss, eta, order) for order in range(3))
    plain = mp.diff(lambda x: loss_by_steps(x, horizon), eta)
    found = (
        quadratic.meta_objective(eta, *problem, horizon),
        quadratic.meta_gradient(eta, *problem, horizon),
        quadratic.meta_curvature(eta, *problem, horizon),
    )
    sign, magnitude = quadratic.log_plain_gradient(eta, *problem, horizon)
    # The rounding of the rotation, times the power 2 T of the factors.
    expected = [float(x) for x in (value, slope, curvature)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert sign == mp.sign(plain)
    np.testing.assert_allclose(magnitude, float(mp.log(abs(plain))), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("horizon", [1, 2, 7, 40])
def test_the_best_step_size_is_the_root_of_the_derivative(horizon):
    slope = lambda x: mp.diff(lambda y: mp.log(loss_by_steps(y, horizon)), x)
    root = mp.findroot(slope, (mp.mpf(1) / 4, 1), solver="anderson", tol=1e-30)
    found = quadratic.optimal_step_size(*rotated(SPECTRUM, START), horizon)
    np.testing.assert_allclose(found, float(root), rtol=1e-13)


def test_the_bounds_of_theorem_3_are_attained():
    """A start along the steepest direction, up to 1e-9: only that direction is left in the sums."""
    hessian, start = rotated((1, 2, 4), (1e-9, 0.0, 1.0))
    for eta, horizon in ((0.45, 3), (0.49, 12), (0.01, 1)):
        _, found = quadratic.log_plain_gradient(eta, hessian, start, horizon)
        bound = quadratic.log_plain_gradient_bound(eta, hessian, start, horizon)
        # At small step sizes the slowest direction is the flattest one.
        slack = (2 * horizon - 1) * np.log((1 - eta) / abs(1 - 4 * eta)) if eta < 0.4 else 0
        np.testing.assert_allclose(bound - found, slack, atol=1e-7)
    for eta, horizon in ((0.55, 3), (0.6, 8)):
        _, found = quadratic.log_plain_gradient(eta, hessian, start, horizon)
        bound = quadratic.log_plain_gradient_bound(eta, hessian, start, horizon)
        # T L^2 (c^2 (eta L - 1)^(2T-1) - |w_0|^2): the second term is all that is lost.
        lost = np.log1p(-((4 * eta - 1.0) ** -(2 * horizon - 1)))
        np.testing.assert_allclose(bound - found, lost, rtol=1e-6)


# alpha, L, c_min^2, epsilon, M, and by hand Claim 2's bound and Claim 3's floor.
CLAIMS = [
    (1, 4, Fraction(9, 25), Fraction(1, 8), 10, Fraction(6400, 27), Fraction(9, 10_000)),
    (1, 4, Fraction(9, 25), Fraction(1, 5), 2, Fraction(6400, 27), Fraction(9, 250)),
    (2, 3, Fraction(9, 25), Fraction(1, 4), 1, Fraction(150), Fraction(9, 50)),
    (1, 100, Fraction(9, 25), Fraction(1, 200), 3, Fraction(10**8, 891), Fraction(9, 250_000)),
]


@pytest.mark.parametrize(("low", "high", "least", "distance", "top", "bound", "floor"), CLAIMS)
@pytest.mark.parametrize("length", [1.0, 7.0])
def test_claims_2_and_3_in_fractions(low, high, least, distance, top, bound, floor, length):
    """4 L^3 / (c^2 alpha (L - alpha)); 2 epsilon c^2 min(alpha^3 / L, 1 / M^2), for |w_0| = 1."""
    shortest = float(least) ** 0.5
    hessian, start = rotated((low, high), (length * shortest, length * 0.8))
    found = quadratic.meta_gradient_bound(hessian, start)
    np.testing.assert_allclose(found, float(bound), rtol=1e-12)
    found = quadratic.meta_gradient_floor(float(distance), float(top), hessian, start)
    np.testing.assert_allclose(found, float(floor), rtol=1e-12)


# Truncation


@pytest.mark.parametrize("window", [0, 1, 2, 10])
@pytest.mark.parametrize("rate", [0.01, 0.4, 0.97])
def test_equation_10_is_attained_by_equal_eigenvalues(window, rate):
    """The terms that are left out of the series, added one by one, in one direction of three."""
    step, convexity = 0.3, rate / 0.3
    response = step * np.diag([2.0, 1.0, 0.5])
    gradient, left_out = np.array([0.7, 0.0, 0.0]), np.zeros(3)
    adjoint = gradient * (1 - rate) ** window
    while np.linalg.norm(adjoint) > 1e-18 * (1 - rate) ** window:
        left_out, adjoint = left_out + response.T @ adjoint, adjoint * (1 - rate)
    bound = truncation.bias_bound(
        window,
        step_size=step,
        strong_convexity=convexity,
        final_gradient_norm=0.7,
        largest_response=0.6,
    )
    np.testing.assert_allclose(np.linalg.norm(left_out), bound, rtol=1e-12)


HESSIAN = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, -0.2], [0.1, -0.2, 0.6]])


@pytest.mark.parametrize(("window", "horizon"), [(1, 2), (1, 9), (4, 9), (9, 9)])
def test_the_descent_ratio_is_attained_at_both_ends(window, horizon):
    """J = H commutes with H; h and d are the two sums, term by term."""
    step = 0.4
    contraction = np.eye(3) - step * HESSIAN
    summed = lambda count: sum(
        step * HESSIAN @ np.linalg.matrix_power(contraction, k) for k in range(count)
    )
    ratios = []
    for direction in np.linalg.eigh(HESSIAN)[1].T:
        truncated, whole = summed(window) @ direction, summed(horizon) @ direction
        ratios.append(truncated @ whole / (whole @ whole))
    found = truncation.descent_ratio_bounds(HESSIAN, step, window, horizon)
    np.testing.assert_allclose(found, (min(ratios), max(ratios)), rtol=1e-12)


@pytest.mark.parametrize("exponent", [0, 1, 2, 7])
def test_the_power_of_a_step(exponent):
    expected = np.linalg.matrix_power(np.eye(3) - 0.4 * HESSIAN, exponent)
    found = truncation.power_of_step(HESSIAN, 0.4, exponent)
    np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize(("window", "horizon"), [(1, 3), (2, 3), (3, 3), (5, 20)])
def test_where_truncation_ends_with_interference(window, horizon):
    """Descent on the outer loss itself, differentiated by steps through the last K of them."""
    step, start, target = 0.3, 2.0, 1.0

    def end(outer):
        w = start
        for _ in range(horizon):
            w = w - step * (w - outer)
        return w

    def descend(seen):
        outer = 0.0
        for _ in range(4000):
            response = sum(step * (1 - step) ** k for k in range(seen))
            outer -= 0.1 * (outer - target + end(outer) * response)
        return outer

    limits, truth = truncation.interference_limits(
        [window], step_size=step, horizon=horizon, start=start, target=target
    )
    np.testing.assert_allclose([limits[0], truth], [descend(window), descend(horizon)], rtol=1e-12)


@pytest.mark.parametrize("window", [1, 3, 20])
def test_the_worst_cosine_by_single_terms(window):
    """Over the documented grid of angles, with the series added term by term."""
    hessian, coupling = np.array([[5.0, -2.0], [-2.0, 1.0]]), np.diag([1.0, 0.25])
    curvature, step = np.array([[1.0, -2.0], [-2.0, 5.0]]), 0.05
    angles = np.linspace(0, np.pi, 20001)
    outer = np.stack([np.cos(angles), np.sin(angles)])
    force = curvature @ np.linalg.inv(hessian) @ coupling @ outer
    adjoint, total = force, np.zeros_like(force)
    for _ in range(window):
        total, adjoint = total + step * coupling @ adjoint, adjoint - step * hessian @ adjoint
    exact = coupling @ np.linalg.inv(hessian) @ force
    length = lambda vectors: np.linalg.norm(vectors, axis=0)
    expected = np.min(np.sum(total * exact, axis=0) / length(total) / length(exact))
    found = truncation.worst_cosine(hessian, coupling, curvature, step, window)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# Least squares in the limit of Marchenko and Pastur


def average(function, ratio):
    """E function(l) over the density sqrt((b - l)(l - a)) / (2 pi ratio l) and its atom at 0."""
    root = mp.sqrt(ratio)
    low, high = (1 - root) ** 2, (1 + root) ** 2
    density = lambda x: mp.sqrt((high - x) * (x - low)) / (2 * mp.pi * ratio * x)
    atom = max(mp.mpf(0), 1 - 1 / ratio)
    inside = mp.quad(lambda x: function(x) * density(x), [low, (low + high) / 2, high])
    return inside + atom * function(mp.mpf(0))


@pytest.mark.parametrize(
    ("ratio", "eta", "noise", "horizon"), [(0.25, 0.3, 2.0, 3), (4, 0.1, 0.5, 6)]
)
def test_population_objectives_are_integrals(ratio, eta, noise, horizon):
    with mpmath.workdps(20):
        mp.dps, ratio, eta = 20, mp.mpf(ratio), mp.mpf(eta)
        kept = lambda x: (1 - eta * x) ** horizon
        learned = lambda x: (1 - kept(x)) ** 2 / x if x else mp.mpf(0)
        error = average(lambda x: kept(x) ** 2, ratio) + noise**2 * ratio * average(learned, ratio)
        # |X w - y|^2 / n of coordinate i is l (kept w*)^2 + noise^2 / n (kept or untouched)^2.
        residual = average(lambda x: x * kept(x) ** 2, ratio)
        trace = ratio * (average(lambda x: kept(x) ** 2 if x else 0, ratio) + 0)
        unfitted = max(mp.mpf(0), 1 - ratio)
        training = (residual + noise**2 * (trace + unfitted)) / 2
    setting = {"ratio": float(ratio), "noise": noise, "horizon": horizon}
    found = (
        least_squares.mean_squared_error(float(eta), **setting),
        least_squares.train_by_validation(float(eta), **setting),
        least_squares.train_by_train(float(eta), **setting),
    )
    expected = [float(x) for x in (error, (error + noise**2) / 2, training)]
    # The quadrature is good to about 1e-12 at the roots of the density's ends.
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("samples", [5, 8, 40])
def test_the_least_squares_error_by_the_factors_of_bartlett(samples):
    """E 1 / chi^2 by integration; (X^T X)^-1 of two columns is made of two such factors."""
    inverse = lambda freedom: float(
        mp.quad(lambda x: x ** (mp.mpf(freedom) / 2 - 2) * mp.exp(-x / 2), [0, freedom, mp.inf])
        / (2 ** (mp.mpf(freedom) / 2) * mp.gamma(mp.mpf(freedom) / 2))
    )
    first, second = inverse(samples), inverse(samples - 1)
    one = least_squares.least_squares_error(dim=1, samples=samples, noise=0.5)
    two = least_squares.least_squares_error(dim=2, samples=samples, noise=0.5)
    np.testing.assert_allclose(one, 0.25 * first, rtol=1e-10)
    np.testing.assert_allclose(two, 0.25 * (first + second + first * second), rtol=1e-10)


# MAML


NODES = {2: [(-1.0, 0.5), (1.0, 0.5)], 3: [(-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6)]}


def gaussian(shape, nodes):
    """Yield standard normal arrays and weights, exact for polynomials of degree 2 nodes - 1."""
    points = np.array(list(product(NODES[nodes], repeat=int(np.prod(shape)))))
    return points[..., 0].reshape(-1, *shape), np.prod(points[..., 1], axis=1)


@pytest.mark.parametrize("rate", [-0.7, 0.0, 0.4])
def test_the_loss_given_the_variance_by_quadrature(rate):
    """One inner step on n_r = 2 examples of a new task in two dimensions, added up exactly."""
    noise, variability, offset = 0.6, 0.8, np.array([0.5, -0.3])
    inputs, input_weights = gaussian((2, 2), 3)
    others, other_weights = gaussian((4,), 2)
    center = variability / np.sqrt(2) * others[:, :2]  # the task's coefficients around w_0 = 0
    noises = noise * others[:, 2:]
    targets = np.einsum("ind,jd->ijn", inputs, center) + noises
    residual = np.einsum("ind,d->in", inputs, offset)[:, None] - targets
    adapted = offset - rate / 2 * np.einsum("ind,ijn->ijd", inputs, residual)
    losses = (np.sum((adapted - center) ** 2, axis=-1) + noise**2) / 2
    expected = input_weights @ losses @ other_weights
    setting = dict(dim=2, target_samples=2, noise=noise, variability=variability)
    found = maml.loss_given_variance(offset @ offset, rate, **setting)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_best_test_rate_is_the_vertex_of_a_parabola():
    setting = dict(dim=7, target_samples=3, noise=0.6, variability=0.8)
    low, middle, high = (
        maml.loss_given_variance(0.3, rate, **setting) for rate in (-1.0, 0.0, 1.0)
    )
    vertex = (low - high) / (2 * (low - 2 * middle + high))
    np.testing.assert_allclose(maml.optimal_test_rate(0.3, **setting), vertex, rtol=1e-12)


@pytest.mark.parametrize("rate", [-0.7, 0.4])
def test_theorem_3_with_a_step_by_quadrature(rate):
    """H = E (I - a S) Sigma (I - a S) from every set of two examples, put into Eqs. 14 to 16."""
    factor = np.array([[1.0, 0.0, 0.0], [0.5, 1.4, 0.0], [-0.6, 0.3, 0.7]])
    sigma, spread = factor @ factor.T, np.diag([0.2, 0.5, 0.1])
    normal, weights = gaussian((2, 3), 3)
    inputs = normal @ factor.T

    def contraction(step, samples):
        gram = np.einsum("knp,knq->kpq", inputs[:, :samples], inputs[:, :samples]) / samples
        moved = np.eye(3) - step * gram
        return np.einsum("k,kpq,qr,krs->ps", weights, moved, sigma, moved)

    train, test = contraction(rate, 2), contraction(0.3, 1)
    noisy = lambda step, samples: 0.25 * (1 + step**2 * np.trace(sigma @ sigma) / samples)
    learned = 2 * np.trace(train @ test) / np.trace(train) ** 2
    drawn = np.trace(train @ spread) + noisy(rate, 2)
    expected = (np.trace(test @ spread) + noisy(0.3, 1) + learned * drawn) / 2
    found = maml.expected_test_loss_general(
        rate,
        0.3,
        covariance=sigma,
        task_covariance=spread,
        train_samples=2,
        validation_samples=1,
        target_samples=1,
        tasks=2,
        noise=0.5,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def outer_problems(rng, runs, dim, validation_samples, tasks, rate):
    """Solve the outer problem of a train rate by least squares, for many draws of one seed."""
    noise, variability, samples = 0.6, 0.8, 3
    normal = rng.standard_normal
    distance = np.array([0.9] + [0.0] * (dim - 1))  # omega_0 - w_0
    centers = variability / np.sqrt(dim) * normal((runs, tasks, dim))
    train, valid = (
        normal((runs, tasks, samples, dim)),
        normal((runs, tasks, validation_samples, dim)),
    )
    targets = lambda x: np.einsum("rtnd,rtd->rtn", x, centers) + noise * normal(x.shape[:-1])
    train_targets, valid_targets = targets(train), targets(valid)
    # y - <theta, x> with theta = omega - (a / n) X^T (X omega - y) is linear in omega.
    cross = np.einsum("rtvd,rtnd->rtvn", valid, train) * rate / samples
    rows = (valid - cross @ train).reshape(runs, -1, dim)
    right = (valid_targets - np.einsum("rtvn,rtn->rtv", cross, train_targets)).reshape(runs, -1)
    change = np.linalg.pinv(rows) @ (right - rows @ distance)[..., None]
    return np.sum((distance + change[..., 0]) ** 2, axis=1)


@pytest.mark.parametrize(("dim", "validation_samples", "tasks"), [(11, 2, 2), (4, 3, 5)])
def test_the_exact_values_at_train_rate_zero(dim, validation_samples, tasks):
    """Value and slope within four standard errors of 4000 problems, with common random numbers."""
    draw = lambda rate: outer_problems(
        np.random.default_rng(1), 4000, dim, validation_samples, tasks, rate
    )
    width = 1e-3
    setting = dict(dim=dim, validation_samples=validation_samples, target_samples=4, tasks=tasks)
    judge = lambda variance: maml.loss_given_variance(
        variance, 0.2, dim=dim, target_samples=4, noise=0.6, variability=0.8
    )
    losses, slopes = judge(draw(0.0)), (judge(draw(width)) - judge(draw(-width))) / (2 * width)
    found = (
        maml.loss_at_zero(0.2, **setting, noise=0.6, variability=0.8, init_distance=0.9),
        maml.slope_at_zero(0.2, **setting, noise=0.6),
    )
    for samples, expected in zip((losses, slopes), found, strict=True):
        error = samples.std() / np.sqrt(samples.size)
        assert abs(samples.mean() - expected) < 4 * error < 0.4 * abs(expected)


# Transfer


@pytest.mark.parametrize(("probability", "shift"), [(1e-3, 5.0), (0.3, 0.01), (0.9, 40.0)])
def test_the_divergence_of_a_silenced_word_is_a_sum_over_words(probability, shift):
    p, s = mp.mpf(probability), mp.mpf(shift)
    total = p * mp.exp(-s) + (1 - p)
    student = [p * mp.exp(-s) / total, (1 - p) / total]
    expected = sum(a * mp.log(a / b) for a, b in zip((p, 1 - p), student, strict=True))
    found = transfer.silencing_divergence(probability, shift)
    np.testing.assert_allclose(found, float(expected), rtol=1e-12)


@pytest.mark.parametrize(("margin", "error"), [(0.5, 0.0), (2.0, 0.25), (6.0, 0.1)])
def test_the_ratio_at_the_boundary_is_that_of_two_distributions(margin, error):
    teacher = [mp.exp(margin) / 4, mp.mpf(1)]
    student = [mp.exp(2 * mp.mpf(error)) / 4, mp.mpf(1)]
    teacher, student = ([x / sum(weights) for x in weights] for weights in (teacher, student))
    divergence = sum(a * mp.log(a / b) for a, b in zip(teacher, student, strict=True))
    expected = teacher[1] ** 2 * mp.mpf(margin) ** 2 / divergence
    np.testing.assert_allclose(transfer.boundary_ratio(margin, error), float(expected), rtol=1e-11)


def test_the_exact_constant_is_the_supremum_and_the_others_follow_from_it():
    """Gamma^2 / (KL / p_b^2) over all that the theorem allows, by its own lower bound."""
    margins = np.geomspace(1e-4, 6, 40)
    worst = max(
        float(margin**2 / transfer.flip_divergence(margin, error, least_threshold=b, words=1))
        for margin in margins
        for error in (0.0, margin / 16, margin / 8)
        for b in (error - np.log(4), error - np.log(4) + 1)
    )
    np.testing.assert_allclose(worst, transfer.EXACT_CONSTANT, rtol=1e-3)
    # Pinsker's KL >= 2 TV^2 with TV half of the sum |p* - p|: four times what was printed.
    assert transfer.PROVEN_CONSTANT == 4 * transfer.PRINTED_CONSTANT == 4 * 288
